"""What a reader is told exists: links, pictures, commands with their options, knobs, snippets, methods, quoted tables."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import tomllib
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from cyclopts.exceptions import CycloptsError

from paradia.cli.app import app
from paradia.errors import ParadiaError
from paradia.grid import Grid
from paradia.metrics.quality import CHECKS
from paradia.operators.dipole import Dipole
from paradia.pipeline.protocol import Protocol, protocol_names
from paradia.registry import STAGES, methods

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
NAMED = (
    "paradia compare OUT",
    "paradia cosmos OUT.nii.gz",
    "paradia simulate subject OUT",
    "paradia simulate bank OUT",
    "paradia train volumes",
)
"""Commands of which a table names the output only."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text(page):
    return page.read_text(encoding="utf-8")


def blocks(page, *languages):
    """Return the fenced code of some languages, and indented code as such without one."""
    found = [code for language, code in FENCE.findall(text(page)) if language in languages]
    if "" in languages:
        found += re.findall(r"(?:^    \S.*\n)+", FENCE.sub("", text(page)), re.MULTILINE)
    return found


def commands(page):
    """Return every command line of the program, comments and placeholders for optional things left out."""
    lines = "".join(blocks(page, "", "bash", "sh")).replace("\\\n", " ").splitlines()
    stripped = [re.sub(r"\s+# .*", "", line).strip() for line in lines]
    inline = re.findall(r"`(paradia [a-z][^`]*)`", FENCE.sub("", text(page)))
    whole = [line for line in [*stripped, *inline] if line.startswith("paradia ") and "…" not in line]
    return [line for line in whole if not re.search(r"\b(STAGE|METHOD)\b", line)]


@cache
def options():
    """Return every option of every command."""
    names, waiting = set(), [app()]
    while waiting:
        one = waiting.pop()
        subcommands = [name for name in one if not name.startswith("-")]
        waiting += [one[name] for name in subcommands]
        if not subcommands:
            names |= {name for argument in one.assemble_argument_collection() for name in argument.names if name.startswith("--")}
    return names | {"--help", "--version"}


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", title).lower()).replace(" ", "-") for title in titles}


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_are_there(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text(page))):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)} points to {target}"
        assert not anchor or anchor in anchors(file), f"{name_of(page)}: no heading {anchor} in {file.name}"


def test_no_picture_lies_about_unused():
    shown = "".join(text(page) for page in PAGES)
    assert [p.name for p in (ROOT / "docs" / "images").iterdir() if p.name not in shown] == []


@pytest.mark.parametrize(("page", "line"), [(page, line) for page in PAGES for line in commands(page)], ids=lambda x: str(x)[-60:])
def test_commands_are_understood(page, line):
    """The parser takes the command: it exists, and so does every option, with a value of the right kind."""
    words = shlex.split(line)[1:]
    if "damped" in words:  # the example of a method that a reader adds
        return
    tree, depth = app(), 0
    while depth < len(words) and words[depth] in list(tree):
        tree, depth = tree[words[depth]], depth + 1
    if depth == len(words) or line in NAMED:
        return
    try:
        app().parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        pytest.fail(f"{name_of(page)}: {line}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_in_the_text_exist(page):
    named = set(re.findall(r"`(--[a-z][a-z0-9-]*)", FENCE.sub("", text(page))))
    assert named - options() == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_knobs_in_the_text_can_be_turned(page):
    for knob in set(re.findall(rf"\b((?:{'|'.join(STAGES)})\.[a-z_0-9]+=[^\s`,]+)", text(page))):
        assert any(turns(name, knob) for name in protocol_names()), f"{name_of(page)}: {knob}"


def turns(protocol, knob):
    try:
        return Protocol.load(protocol).turned([knob])
    except ParadiaError:
        return None


SNIPPETS = [(page, code) for page in PAGES for code in blocks(page, "python")]


@pytest.mark.parametrize(("page", "code"), SNIPPETS, ids=lambda x: x.name if isinstance(x, Path) else "")
def test_snippets_compile_and_their_imports_exist(page, code):
    for node in ast.walk(ast.parse(code, name_of(page))):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        elif isinstance(node, ast.Import):
            assert all(importlib.import_module(alias.name) for alias in node.names)


def test_the_method_in_ten_lines_is_one(generator):
    """It runs as printed and inverts the dipole where this can be done: its field is that of the truth but for the penalty."""
    (code,) = blocks(ROOT / "CONTRIBUTING.md", "python")
    space = {}
    exec(compile(code.replace("from __future__ import annotations", ""), "CONTRIBUTING.md", "exec"), space)
    grid = Grid((24, 21, 18), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    mask = torch.ones(grid.shape, dtype=torch.bool)
    chi = torch.randn(grid.shape, generator=generator)
    field = Dipole(grid)(chi)
    found = space["damped"](field, mask, grid, weight=1e-6)
    assert float((Dipole(grid)(found) - field).norm() / field.norm()) < 0.02
    assert space["CITE"].startswith("10.")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tables_of_protocols_name_stages_methods_and_knobs(page):
    for code in blocks(page, "toml"):
        tree = tomllib.loads(code)
        if "project" in tree:  # entry points of another package
            assert all(group.removeprefix("paradia.") in STAGES for group in tree["project"]["entry-points"])
            continue
        for stage, tables in tree.items():
            for table in tables if isinstance(tables, list) else [tables]:
                turned = [f"{stage}.{knob}={value}" for knob, value in table.items() if knob != "method"]
                assert table["method"] in methods(stage)
                Protocol.parse(f'[{stage}]\nmethod = "{table["method"]}"\n', "of the page").turned(turned)


def test_the_tables_of_methods_name_every_method_and_no_other():
    page = text(ROOT / "docs" / "methods.md")
    rows = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    named = {part for row in rows for name in re.findall(r"`([^`]+)`", row) for part in name.split("+")}
    known = {method for stage in STAGES for method in methods(stage)}
    assert named <= known
    assert known - set(re.findall(r"[a-z0-9_]+", page + text(ROOT / "docs" / "learned.md"))) == set()


def test_the_methods_are_counted():
    count = sum(len(methods(stage)) for stage in STAGES)
    numbers = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"]
    assert f"{count} methods in {numbers[len(STAGES)]} stages" in text(ROOT / "README.md")


def rows_of(page, first, last=None):
    """Return the rows of tables between two headings as cells, by the first of them."""
    part = page[page.index(first) : len(page) if last is None else page.index(last)]
    rows = [[cell.strip(" `") for cell in line.strip("| ").split("|")] for line in part.splitlines() if line.startswith("|")]
    return {row[0]: row for row in rows}


def test_accuracy_and_speed_are_those_that_were_measured():
    """The tables of methods.md are the last columns of accuracy.md, and the times of speed.md."""
    page = text(ROOT / "docs" / "methods.md")
    measured = text(ROOT / "benchmarks" / "results" / "accuracy.md")
    timed = text(ROOT / "benchmarks" / "results" / "speed.md")
    here = ["**Local field from the total field**", "**χ from the true local field**", "**χ from the total field in one step**"]
    here += ["**χ from the total field by two steps**", "Every method on every head"]
    there = ["## Local field", "## χ, fed", "## χ in a single step", "## χ by background", None]
    speeds = ["## background", "## inversion", "## singlestep", "## contrast"]
    checked = 0
    for number, ((first, last), (start, end)) in enumerate(zip(pairwise(here), pairwise(there), strict=True)):
        true = rows_of(measured, start, end)
        seconds = rows_of(timed, speeds[number], speeds[number + 1]) if number < 3 else {}
        for name, row in rows_of(page, first, last).items():
            if name in ("method", "pair", "---"):
                continue
            assert row[1].partition(",")[0] == true[name][-1], name
            if number < 3:
                assert row[2] == seconds[name][1], name
            checked += 1
    assert checked == 40


def test_the_numbers_of_the_simulator_are_those_that_were_measured():
    """Rows of its tables of fields, regions and maps stand in the results word for word."""
    measured = set(text(ROOT / "benchmarks" / "results" / "simulator.md").splitlines())
    page = text(ROOT / "docs" / "simulator.md")
    rows = page[page.index("| region |") : page.index("## Speed")].splitlines()
    rows = [row for row in rows if row.startswith("|") and any(c.isdigit() for c in row)]
    assert len(rows) == 26
    assert [row for row in rows if row not in measured] == []


def test_the_numbers_of_the_report_are_explained_with_their_limits():
    page = rows_of(text(ROOT / "docs" / "report.md"), "| number |", "**Then the notes**")
    for check in CHECKS:
        assert re.search(rf"(?<![\d.]){re.sub('^-', '−', f'{check.good:g}')}(?![\d.])", page[check.name][2]), check.name
