"""Voxels whose noise is unknown: whatever the field says there, no method listens."""

from __future__ import annotations

import inspect

import pytest
import torch

from paradia.grid import Grid
from paradia.registry import load, methods
from paradia.scan import Scan
from paradia.simulate.head import head

GRID = Grid((40, 44, 36), (2.0, 2.0, 2.4), (0.1, 0.0, 0.995))
FIELDS = {"background": "total_field", "inversion": "local_field", "singlestep": "total_field", "separation": "local_field"}
ELSEWHERE = {"cosmos": "takes several orientations", "decompose": "takes echoes"}


def weighed():
    for stage in FIELDS:
        for name in methods(stage):
            if "noise" in inspect.signature(load(stage, name).function).parameters and name not in ELSEWHERE:
                yield stage, name


@pytest.fixture(scope="module")
def case():
    truth = head(GRID)
    draw = torch.Generator().manual_seed(3)
    unknown = truth.mask & (torch.rand(GRID.shape, generator=draw) < 0.03)
    noise = 0.002 * torch.randn(GRID.shape, generator=draw)
    wild = 0.3 * torch.randn(GRID.shape, generator=draw)
    board = {
        "mask": truth.mask,
        "grid": GRID,
        "noise": torch.where(unknown, 0.0, 0.002),
        "chi": truth.chi * truth.mask,
        "r2prime": 100 * truth.chi.abs() * truth.mask,
        "r2star": (13 + 100 * truth.chi.abs()) * truth.mask,
        "scan": Scan((0.004, 0.012, 0.02), 3.0),
    }
    fields = {name: (getattr(truth, name) + noise) * truth.mask for name in ("total_field", "local_field")}
    return board, fields, {name: torch.where(unknown, wild, field) for name, field in fields.items()}, truth.mask & ~unknown


@pytest.mark.filterwarnings("ignore::paradia.errors.ParadiaWarning")
@pytest.mark.parametrize(("stage", "name"), list(weighed()))
def test_a_field_is_not_heard_where_its_noise_is_unknown(stage, name, case):
    """Three wild voxels in a hundred were taken for noise everywhere, or for model errors beside them, and shown to networks."""
    board, fields, wild, known = case
    method = load(stage, name).function
    asked = inspect.signature(method).parameters
    given = {key: value for key, value in board.items() if key in asked and (stage == "separation" or key in {"mask", "grid", "noise"})}
    here, there = (method(**given, **{FIELDS[stage]: some[FIELDS[stage]]}) for some in (fields, wild))
    if not isinstance(here, torch.Tensor):
        here, there = here[0], there[0]
    assert here.any()
    assert (there - here)[known].norm() < 1e-3 * here[known].norm()
