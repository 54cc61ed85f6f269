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


@pytest.mark.parametrize(("stage", "name", "everything"), list(choices()))
def test_a_method_runs_there_and_gives_the_same(stage, name, everything, board, device, monkeypatch):
    method = registry.load(stage, name)
    monkeypatch.setattr("paradia.mask.combined.bet", partial(bet, max_iter=QUICK["max_iter"]))  # which has no such knob
    data = data_of(method, board, everything)
    expected = run(method, data)
    found = run(method, {key: value.to(device) if isinstance(value, Tensor) else value for key, value in data.items()})
    check(found, expected, device, HALF if networks_of(method) else ROUNDING)
