"""A training on the device, all but the backward pass, which the pretend device has not: it makes no change to the weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from paradia.grid import Grid
from paradia.nets.store import unpack
from paradia.simulate.examples import Example
from paradia.training import loop
from paradia.training.crops import Pool
from paradia.training.loop import Plan, train
from paradia.training.tasks import TASKS, Task
from paradia.training.volumes import prepare, read, write

PLAN = Plan(steps=2, batch=1, crop=16, pool=1, crops=4, every=1)


@pytest.fixture(scope="module")
def volumes(board, tmp_path_factory):
    """One volume to validate with and one to learn from."""
    mask, half = board["mask"], 0.5 * board["mask"]
    found = Example(
        grid=Grid(board["grid"].shape, (1.4, 1.4, 1.5), (0.2, -0.3, 0.93)),
        mask=mask,
        total_field=board["total_field"],
        noise=board["noise"],
        local_field=board["local_field"],
        leftover=0.002 * mask,
        chi_pos=board["chi"].clamp_min(0),
        chi_neg=-board["chi"].clamp_max(0),
        r2star=board["r2star"],
        r2prime=board["r2prime"],
        r2star_noise=half,
        r2prime_noise=half,
        r2=board["r2"],
        magnitude=board["magnitude"][0],
        b0=3.0,
        dr_pos=137.0,
        dr_neg=120.0,
    )
    folder = tmp_path_factory.mktemp("volumes")
    for number in (0, 1000):
        write(folder / f"{number:07d}.safetensors", prepare(found, 5))
    return folder


@pytest.fixture
def threaded(device, monkeypatch):
    """Let the thread that reads volumes know the device: modes are of one thread."""
    fill = Pool._fill

    (mode,) = torch.utils._python_dispatch._get_current_dispatch_mode_stack()

    def seeing(pool):
        with type(mode)():
            fill(pool)

    monkeypatch.setattr(Pool, "_fill", seeing)


@pytest.mark.parametrize("name", TASKS)
def test_lessons_are_made_there(name, volumes, device):
    here, there = (read(volumes / "0000000.safetensors", place) for place in ("cpu", "cuda"))
    for number in range(4):  # chance decides which branch
        expected, found = (TASKS[name].lesson(volume, torch.Generator().manual_seed(number)) for volume in (here, there))
        for part, value in found._asdict().items():
            assert value.device == device, part
            wanted = getattr(expected, part)
            torch.testing.assert_close(
                value.cpu(), wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()) if value.is_floating_point() else 0
            )


def test_a_training_runs_and_resumes_there(volumes, device, tmp_path, monkeypatch, threaded):
    """Crops, steps, averages, validation, the checkpoint and the weights that are written."""
    seen = []

    def backward(total: Tensor) -> None:
        seen.append(total.device)
        for weight in course_of[-1].net.parameters():
            weight.grad = torch.zeros_like(weight)

    course_of = []
    begin = loop._Course.__init__
    monkeypatch.setattr(loop._Course, "__init__", lambda self, *how: (course_of.append(self), begin(self, *how))[1])
    monkeypatch.setattr(Tensor, "backward", backward)
    task = Task("varnet", {"inputs": 6, "outputs": 2, "widths": (8, 16)}, TASKS["varnet"].lesson)
    for steps in (1, 2):
        average = train(task, volumes, tmp_path, Plan(**{**vars_of(PLAN), "steps": steps}), device="cuda", tell=lambda line: None)
    assert course_of[-1].step == 2
    assert seen == [device, device]
    assert all(weight.device == device for weight in course_of[-1].average.parameters())
    assert all(weight.is_cpu for weight in unpack(average.read_bytes()).parameters())
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3


def vars_of(plan):
    return {name: getattr(plan, name) for name in plan.__dataclass_fields__}
