"""Every method of every stage runs on the device, leaves its results there, and gives what it gives on the CPU."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from torch import Tensor

from paradia import registry
from paradia.errors import ParadiaWarning
from paradia.mask.bet import bet
from paradia.pipeline.step import networks_of
from paradia.scan import Scan

QUICK = {"max_iter": 2, "rounds": 1, "start": 3}
"""Iterations; the device must be kept in each."""

ROUNDING = 1e-6
HALF = 0.02
"""Autocast of CUDA rounds other operations to half precision than that of the CPU: what a network says differs by this much."""

EVERY = [(stage, method) for stage in registry.STAGES for method in registry.methods(stage)]
EITHER = {"mdi": "phase", "clearswi": "phase"}
"""Data that a method names optional and needs one of."""


def choices():
    """Each method with the data it needs, and, where it can use more, with all of them."""
    for stage, name in EVERY:
        method = registry.load(stage, name)
        yield pytest.param(stage, name, False, id=f"{stage}-{name}")
        if len(method.takes) > len(method.needs):
            yield pytest.param(stage, name, True, id=f"{stage}-{name}-all")


def turned(board):
    """The same head under three directions of B0; that the fields are not those of them does not matter here."""
    directions = torch.tensor([[0.1, -0.2, 0.97], [0.5, 0.1, 0.86], [-0.2, 0.55, 0.81]])
    return board | {
        "directions": directions / directions.norm(dim=1, keepdim=True),
        "local_field": torch.stack([share * board["local_field"] for share in (1.0, 0.9, 0.8)]),
        "noise": torch.stack([share * board["noise"] for share in (1.0, 1.1, 1.2)]),
    }


def data_of(method, board, everything):
    board = turned(board) if method.name == "cosmos" else board
    names = method.takes if everything else (*method.needs, *([EITHER[method.name]] if method.name in EITHER else ()))
    return {name: board[name] for name in names}


def run(method, data):
    """Return what a method gives, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParadiaWarning)  # so few iterations are too few
        result = method.function(**data, **{name: value for name, value in QUICK.items() if name in method.knobs})
    return result._asdict() if hasattr(result, "_asdict") else {method.gives[0]: result}


def check(found, expected, device, tolerance):
    """Hold results of the device against those of the CPU."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None
            continue
        assert found[name].device == device, f"{name} is on {found[name].device}"
        other = found[name].cpu()
        assert (other.shape, other.dtype) == (value.shape, value.dtype)
        if value.is_floating_point():
            limit = tolerance * float(value.abs().max())
            assert float((other - value).abs().max()) <= limit, name
        else:
            assert torch.equal(other, value), name


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few iterations for the one method that has them without a knob."""
    monkeypatch.setattr("paradia.mask.combined.bet", partial(bet, max_iter=QUICK["max_iter"]))


@pytest.mark.parametrize(("stage", "name", "everything"), list(choices()))
def test_a_method_runs_there_and_gives_the_same(stage, name, everything, board, device):
    method = registry.load(stage, name)
    compare(method, data_of(method, board, everything), device)


def compare(method, data, device):
    expected = run(method, data)
    found = run(method, {key: value.to(device) if isinstance(value, Tensor) else value for key, value in data.items()})
    check(found, expected, device, HALF if networks_of(method) else ROUNDING)


def noisy(board):
    """So noisy that noise would pass for tissue."""
    magnitude = board["magnitude"]
    noise = 0.12 * float(magnitude.max()) * torch.randn((2, *magnitude.shape), generator=torch.Generator().manual_seed(1))
    return {"magnitude": torch.hypot(magnitude + noise[0], noise[1])}


def halves(board):
    """A mask of two pieces."""
    mask = board["mask"].clone()
    mask[12:14] = False
    return {"mask": mask}


def pair(board):
    """Two echoes, from which no spread can be told."""
    return {
        "scan": Scan(board["scan"].echo_times[:2]),
        **{name: board[name][:2] for name in ("phase", "magnitude", "coil_images", "unwrapped")},
    }


def backwards(board):
    """Every other echo read backwards."""
    ramp = torch.linspace(-2, 2, board["phase"].shape[1])[:, None, None] * torch.tensor([0.0, 1.0, 0.0])[:, None, None, None]
    return {"unwrapped": (board["unwrapped"] + ramp) * board["mask"], "coil_images": board["coil_images"] * torch.exp(1j * ramp[:, None])}


def unknown(board):
    """Noise that is not known everywhere, and numbers that are none outside the mask."""
    noise, field = board["noise"].clone(), board["local_field"].masked_fill(~board["mask"], float("nan"))
    noise[13, 15, 10:14] = 0.0
    return {"noise": noise, "local_field": field}


OTHER = [
    *(("unwrap", name, halves) for name in registry.methods("unwrap")),
    *(("mask", name, noisy) for name in registry.methods("mask")),
    *(("fieldmap", name, other) for name in registry.methods("fieldmap") for other in (halves, pair, backwards)),
    *(("inversion", name, unknown) for name in ("tv", "l1bayes", "medi", "ilsqr", "hdqsm")),
]


@pytest.mark.parametrize(("stage", "name", "changed"), OTHER, ids=lambda value: getattr(value, "__name__", value))
def test_other_data_take_other_ways(stage, name, changed, board, device):
    method = registry.load(stage, name)
    compare(method, data_of(method, board | changed(board), everything=name != "mdi"), device)
