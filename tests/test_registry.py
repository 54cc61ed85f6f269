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


MASKS_OF_NUMBERS = """
import torch
from paradia import registry
from paradia.errors import MaskError
from paradia.grid import Grid
from paradia.scan import Scan

echoes = {name: torch.rand(3, 6, 5, 4) for name in ("magnitude", "phase", "unwrapped")}
board = {**echoes, "coil_images": torch.rand(3, 2, 6, 5, 4) + 0j, "mask": torch.ones(6, 5, 4, dtype=torch.bool)}
board |= {"region": board["mask"], "directions": torch.eye(3), "grid": Grid((6, 5, 4)), "scan": Scan((0.01, 0.02, 0.03))}
for stage in registry.STAGES:
    for name in registry.methods(stage):
        method = registry.load(stage, name)
        for given in {"mask", "region"} & set(method.takes):
            for kind in (torch.uint8, torch.int64, torch.float32):
                data = {key: board.get(key, torch.rand(6, 5, 4)) for key in {given, *method.needs, *({"phase"} & set(method.takes))}}
                if name == "cosmos":
                    data["local_field"] = torch.rand(3, 6, 5, 4)
                data[given] = data[given].to(kind)
                try:
                    method.function(**data)
                except MaskError as error:
                    assert str(error) == f"{given} must be boolean, got {kind}. Give {given} > 0.", error
                else:
                    raise AssertionError(f"{stage} {name} takes a {given} of {kind}")
"""


def test_a_mask_of_numbers_is_refused_by_every_method():
    """As users call them: where shapes are checked at run time, as in these tests, such a mask does not get as far."""
    subprocess.run([sys.executable, "-c", MASKS_OF_NUMBERS], check=True)


WHOLE_MAGNITUDES = """
import warnings
import torch
from paradia import registry
from paradia.errors import ParadiaWarning
from paradia.grid import Grid
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.head import head

warnings.simplefilter("ignore", ParadiaWarning)  # so few iterations are too few
grid, scan = Grid((20, 24, 18), (9.0, 9.0, 9.0), (0.2, -0.3, 0.93)), Scan((0.006, 0.012, 0.018))
truth = head(grid, seed=1)
echoes = gre(truth, scan, seed=1)
phase, mask = echoes.angle(), truth.mask
magnitude = (20000 * echoes.abs() / echoes.abs().max()).round()
board = {"grid": grid, "scan": scan, "mask": mask, "phase": phase, "unwrapped": phase, "chi": truth.chi, "r2star": truth.r2star * mask}
board |= {"r2prime": 0.4 * board["r2star"], "total_field": truth.total_field * mask, "local_field": truth.local_field * mask}
for stage in registry.STAGES:
    for name in registry.methods(stage):
        method = registry.load(stage, name)
        if "magnitude" in method.takes:
            given = {key: board[key] for key in method.takes if key in board}
            knobs = {knob: value for knob, value in {"max_iter": 4, "rounds": 1}.items() if knob in method.knobs}
            float32, int16 = (method.function(magnitude=m, **given, **knobs) for m in (magnitude, magnitude.to(torch.int16)))
            for one, other in zip(*((r if isinstance(r, tuple) else (r,)) for r in (float32, int16)), strict=True):
                assert one.dtype == other.dtype and torch.allclose(one.float(), other.float(), rtol=1e-5, atol=1e-7), (stage, name)
"""


def test_whole_numbers_are_magnitudes_like_others():
    """As they come from scanners; where types are checked at run time, as in these tests, they do not get as far."""
    subprocess.run([sys.executable, "-c", WHOLE_MAGNITUDES], check=True)
