import ast
import inspect
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import paradia
from paradia import registry
from paradia.errors import UnknownMethodError, UnknownStageError

EVERY = [(stage, method) for stage in registry.STAGES for method in registry.methods(stage)]


def test_every_stage_has_a_method():
    assert all(registry.methods(stage) for stage in registry.STAGES)


@pytest.mark.parametrize(("stage", "name"), EVERY)
def test_method_declares_itself(stage, name):
    method = registry.load(stage, name)
    assert method.summary == registry.summary(stage, name)
    assert method.summary.endswith(".")
    assert method.cite == "" or method.cite.startswith("10.")
    kinds = {p.kind for p in method.parameters}
    assert kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(("stage", "name"), EVERY)
def test_docstring_describes_every_parameter_and_no_other(stage, name):
    method = registry.load(stage, name)
    lines = inspect.getdoc(method.function).splitlines()
    start = lines.index("Parameters") + 2
    section = []
    for line, underline in zip(lines[start:], [*lines[start + 1 :], ""], strict=True):
        if underline.startswith("---"):
            break
        section.append(line)
    described = {name.strip() for line in section if line and not line.startswith(" ") for name in line.split(":")[0].split(",")}
    assert described - {"callback"} == {*method.takes, *method.knobs}


@pytest.mark.parametrize(("stage", "name"), EVERY)
def test_method_is_the_only_public_name_of_its_file(stage, name):
    tree = ast.parse((Path(paradia.__file__).parent / stage / f"{name}.py").read_text())
    public = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    assert public == [name]


def test_listing_imports_no_method():
    code = (
        "import sys; from paradia import registry; [registry.summary(s, m) for s in registry.STAGES for m in registry.methods(s)]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_names_offer_the_nearest():
    with pytest.raises(UnknownStageError, match="no stage 'inversoin'. Did you mean 'inversion'"):
        registry.methods("inversoin")
    with pytest.raises(UnknownMethodError, match="inversion has no method 'tkdd'. Did you mean 'tkd'"):
        registry.load("inversion", "tkdd")


def test_a_plugin_is_a_method_like_any_other(monkeypatch):
    point = EntryPoint("mine", "paradia.inversion.tkd:tkd", "paradia.inversion")
    real = registry.entry_points

    def entry_points(**selection):
        named = selection.get("name", "mine") == "mine"
        return [point] if selection["group"] == "paradia.inversion" and named else list(real(**selection))

    monkeypatch.setattr(registry, "entry_points", entry_points)
    registry.methods.cache_clear()
    try:
        assert "mine" in registry.methods("inversion")
        assert "threshold" in registry.load("inversion", "mine").knobs
    finally:
        registry.methods.cache_clear()
        registry.load.cache_clear()
