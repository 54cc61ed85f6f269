"""Every method of every stage runs on the device, leaves its results there, and gives what it gives on the CPU."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from torch import Tensor

from paradia import registry
from paradia.errors import ParadiaWarning
from paradia.grid import Grid
from paradia.mask.bet import bet
from paradia.pipeline.step import networks_of
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.head import head

GRID, SCAN = Grid((26, 31, 24), (7.0, 6.6, 7.4), (0.2, -0.3, 0.93)), Scan((0.006, 0.012, 0.018))
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


@pytest.fixture(scope="module")
def board():
    """A head, its echoes in three coils, and whatever a method may ask for."""
    truth = head(GRID, seed=1)
    mask, echoes = truth.mask, gre(truth, SCAN, seed=1)
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in GRID.shape), indexing="ij")
    coils = torch.stack([torch.polar(1 + 0.4 * size, turn) for size, turn in ((x, y), (-y, 0.5 * z), (z, -x))])
    fluid = mask & (x.square() + y.square() + z.square() < 0.1)
    r2star = torch.where(fluid, 2.0, truth.r2star) * mask
    return {
        "grid": GRID,
        "scan": SCAN,
        "coil_images": echoes[:, None] * coils,
        "coil_noise": 2e-4 * torch.eye(3, dtype=torch.complex64) + 2e-5j * torch.tensor([[0, 1, 0], [-1, 0, 0], [0, 0, 0]]),
        "magnitude": echoes.abs(),
        "phase": echoes.angle(),
        "mask": mask,
        "region": fluid,
        "unwrapped": torch.stack([SCAN.rad_per_ppm(t) * truth.total_field + truth.offset for t in SCAN.echo_times]) * mask,
        "total_field": truth.total_field * mask,
        "noise": 0.003 * (1 + x.square()) * mask,
        "local_field": truth.local_field * mask,
        "chi": truth.chi * mask,
        "r2star": r2star,
        "r2": 0.6 * r2star,
        "r2prime": 0.4 * r2star,
        "r2star_noise": 0.5 * mask.float(),
        "r2_noise": 0.6 * mask.float(),
        "r2prime_noise": 0.7 * mask.float(),
    }


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
