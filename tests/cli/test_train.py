"""``paradia train``: volumes, a training that goes on, a release, all from the command line."""

from __future__ import annotations

import csv
import io
import tomllib

import pytest
import torch
from PIL import Image
from rich.console import Console

from paradia.cli import train as command_module
from paradia.cli.progress import Progress
from paradia.errors import FileError
from paradia.fft import Window
from paradia.grid import Grid
from paradia.nets.store import unpack
from paradia.report.curves import draw_curves
from paradia.simulate.examples import Recipe
from paradia.training import NETWORKS, SYSTEMS, TOGETHER
from paradia.training.tasks import TASKS, Lesson, Task
from paradia.training.volumes import Prepared, write


def toy(volume, generator):
    image = volume.maps["r2star"]
    return Lesson(image[None], image[None], 0.5 * image[None], torch.ones_like(image)[None], volume.window.mask)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Volumes of a map that says little, and a network in place of `varnet` that learns it."""
    monkeypatch.setitem(TASKS, "varnet", Task("varnet", {"inputs": 1, "outputs": 2, "widths": (4,)}, toy))
    folder = tmp_path / "volumes"
    folder.mkdir()
    mask = torch.ones((12, 11, 10), dtype=torch.bool)
    for number in (0, 1, 1000, 1001, 1002, 1003, 1004):
        window = Window.around(mask, Grid((12, 11, 10), (1.0, 1.2, 1.5)), 2.0)
        image = window.take(torch.randn(mask.shape, generator=torch.Generator().manual_seed(number)))
        write(folder / f"{number:07d}.safetensors", Prepared(window, {"r2star": image}, 3.0, 137.0, 137.0))
    return folder


def width(path):
    with Image.open(path) as image:
        return image.width


def test_every_network_has_its_command(command):
    told = command("train", "--help")
    for name in (*NETWORKS, *SYSTEMS, "volumes", "release"):
        assert name in told.out
        assert command("train", name, "--help").status == 0
    assert set(NETWORKS) == set(TASKS)
    assert set(SYSTEMS) == set(TOGETHER)
    assert {part for parts in SYSTEMS.values() for part in parts} <= set(TASKS)
    assert "Did you mean" in command("train", "varnte").err


def test_training_goes_on_is_drawn_and_is_released(command, folder, tmp_path):
    run = tmp_path / "run"
    words = ("train", "varnet", "--volumes", folder, "--output", run, "--batch", 1, "--crop", 8, "--every", 2, "--device", "cpu")
    told = command(*words, "--steps", 4)
    assert told.status == 0, told.err
    assert '"step": 4' in told.out
    assert width(run / "curves.png") > 600
    assert "going on from step 4" in command(*words, "--steps", 6).out
    with (run / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4", "6"]
    card = (run / "varnet.md").read_text()
    assert "version trained" in card, card[:300]
    assert unpack((run / "varnet.safetensors").read_bytes()).about["step"] == "6"
    places = ("--weights", tmp_path / "weights", "--cards", tmp_path / "models")
    told = command("train", "release", "varnet", "--run", run, "--volumes", folder, "--version", "1", *places)
    assert told.status == 0, told.err
    assert "% of the validation errors lie within one deviation" in told.out
    entry = tomllib.loads((tmp_path / "weights" / "weights.toml").read_text())["varnet"]
    assert entry["steps"] == 6
    assert entry["command"] == "paradia train varnet --volumes volumes --output run"
    assert (tmp_path / "models" / "varnet.md").is_file()
    again = ("--version", "2", "--after", tmp_path / "weights" / "varnet.safetensors", *places)
    assert command("train", "release", "varnet", "--run", run, "--volumes", folder, *again).status == 0
    assert "after those of version 1" in (tmp_path / "models" / "varnet.md").read_text()


def test_networks_of_a_method_are_trained_one_after_the_other(command, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "bgnet", Task("bgnet", TASKS["varnet"].architecture, toy))
    words = ("train", "nextqsm", "--volumes", folder, "--batch", 1, "--crop", 8, "--every", 2, "--device", "cpu", "--steps", 2)
    told = command(*words, "--output", tmp_path / "runs")
    assert told.status == 0, told.err
    for name in ("bgnet", "varnet"):
        entry = tomllib.loads((tmp_path / "runs" / name / "weights.toml").read_text())[name]
        assert entry["steps"] == 2
        assert width(tmp_path / "runs" / name / "curves.png") > 600
    begun = tmp_path / "begun"
    begun.mkdir()
    for name in ("bgnet", "varnet"):
        (begun / f"{name}.safetensors").write_bytes((tmp_path / "runs" / name / f"{name}.safetensors").read_bytes())
    assert command(*words, "--output", tmp_path / "more", "--start", begun).status == 0
    (begun / "varnet.safetensors").unlink()
    told = command(*words, "--output", tmp_path / "none", "--start", begun)
    assert told.status == 2
    assert "varnet.safetensors" in told.err
    assert not (tmp_path / "none").exists(), "an hour of the first before the second is missed"


def test_training_without_volumes_that_validate_has_no_card(command, folder, tmp_path):
    for number in (0, 1):
        (folder / f"{number:07d}.safetensors").unlink()
    words = ("--batch", 1, "--crop", 8, "--every", 1, "--steps", 2, "--device", "cpu")
    told = command("train", "varnet", "--volumes", folder, "--output", tmp_path / "run", *words)
    assert told.status == 0, told.err
    assert "no card" in told.err
    assert not (tmp_path / "run" / "varnet.md").exists()


def test_what_a_command_answers_goes_to_standard_output_past_the_spinner(capsys):
    """A live terminal catches what is written to standard output and prints it where it draws itself, so that a pipe gets nothing."""
    drawn = io.StringIO()
    progress = Progress()
    progress.console = Console(file=drawn, force_terminal=True)
    with progress:
        progress.show("busy")
        progress.answer("done")
    assert capsys.readouterr().out == "done\n"
    assert "done" not in drawn.getvalue()


def test_volumes_are_asked_for_as_said(command, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(command_module, "produce", lambda folder, recipe, **numbers: asked.append((folder, recipe, numbers)))
    told = command(
        "train",
        "volumes",
        tmp_path / "new",
        "--count",
        3,
        "--first",
        2000,
        "--procedural",
        0.5,
        "--randomised",
        0.2,
        "--averaged",
        0,
        "--eroded",
        0.1,
        "--flush",
        0.7,
        "--voxel-size",
        1.0,
        1.5,
    )
    assert told.status == 0, told.err
    recipe = Recipe(procedural=0.5, randomised=0.2, averaged=0.0, eroded=0.1, flush=0.7, voxel_size=(1.0, 1.5))
    assert asked == [(tmp_path / "new", recipe, {"first": 2000, "count": 3})]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("volumes", "new", "--count", 0), "--count must be at least 1"),
        (("volumes", "new", "--count", 1, "--procedural", 2), "procedural is a share between 0 and 1"),
        (("bgnet", "--volumes", "nowhere", "--output", "run"), "there is no folder nowhere. Simulate volumes first"),
        (("bgnet", "--volumes", ".", "--output", "run", "--steps", 0), "must be positive"),
        (("release", "bgnet", "--run", "nowhere", "--volumes", ".", "--version", "1"), "there are no weights nowhere"),
        (("release", "bgnte", "--run", "nowhere", "--volumes", ".", "--version", "1"), "bgnte"),
    ],
)
def test_what_cannot_be_done_is_said(words, message, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = command("train", *words)
    assert told.status == 2
    assert message in told.err


def test_an_interrupted_training_says_that_it_goes_on(command, folder, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_module, "train", interrupted)
    told = command("train", "varnet", "--volumes", folder, "--output", tmp_path / "run")
    assert told.status == 130
    assert "goes on from there" in told.err


def test_curves_of_a_training_without_validation(tmp_path):
    (tmp_path / "log.csv").write_text("step,seconds,loss\n10,1.0,0.5\n20,2.0,0.4\n")
    draw_curves(tmp_path / "log.csv", tmp_path / "curves.png")
    assert width(tmp_path / "curves.png") < 500
    (tmp_path / "log.csv").write_text("a,b\n")
    with pytest.raises(FileError, match="no log of a training"):
        draw_curves(tmp_path / "log.csv", tmp_path / "curves.png")
    with pytest.raises(FileError, match="cannot read the log"):
        draw_curves(tmp_path / "none.csv", tmp_path / "curves.png")
