"""What every masking method must do."""

import pytest
import torch

from paradia.errors import GeometryError, MaskError
from paradia.grid import Grid
from paradia.pipeline.step import Step
from paradia.registry import load, methods
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.head import head

GRID = Grid((64, 75, 40), (3.0, 3.0, 4.0), (0.2, -0.3, 0.93))
SCAN = Scan((0.004, 0.012, 0.020), 3.0)


@pytest.fixture(scope="module")
def truth():
    return head(GRID, seed=4)


@pytest.fixture(scope="module")
def board(truth):
    signal = gre(truth, SCAN, seed=4)
    return {"phase": signal.angle(), "magnitude": signal.abs(), "grid": GRID, "scan": SCAN}


def run(name, board, **knobs):
    return Step("mask", name, knobs).run(board)["mask"]


@pytest.mark.parametrize("name", methods("mask"))
def test_brain_is_kept(name, board, truth):
    mask = run(name, board)
    assert mask.shape == GRID.shape
    assert mask.dtype == torch.bool
    assert float((mask & truth.mask).sum() / truth.mask.sum()) > 0.97
    air = truth.labels == 0
    assert float((mask & air).sum() / mask.sum()) < 0.02


@pytest.mark.parametrize("name", methods("mask"))
def test_unit_of_the_magnitude_does_not_matter(name, board):
    mask, scaled = run(name, board), run(name, {**board, "magnitude": 2048.0 * board["magnitude"]})
    assert float((mask ^ scaled).sum() / mask.sum()) < 2e-3


@pytest.mark.parametrize("name", methods("mask"))
def test_same_twice(name, board):
    assert torch.equal(run(name, board), run(name, board))


@pytest.mark.parametrize("name", methods("mask"))
def test_permuted_axes_give_a_permuted_mask(name, board):
    mask = run(name, board)
    turned = {n: board[n].permute(0, 2, 3, 1).contiguous() for n in ("phase", "magnitude")}
    again = run(name, {**board, **turned, "grid": GRID.permute((1, 2, 0))})
    assert float((mask.permute(1, 2, 0) ^ again).sum() / mask.sum()) < 0.02


@pytest.mark.parametrize("name", methods("mask"))
def test_what_is_not_finite_is_outside(name, board, truth):
    away = truth.labels == 0
    phase, magnitude = (board[n].masked_fill(away, float("nan")) for n in ("phase", "magnitude"))
    mask = run(name, {**board, "phase": phase, "magnitude": magnitude})
    assert float((mask & truth.mask).sum() / truth.mask.sum()) > 0.95
    assert float((mask & away).sum() / mask.sum()) < 0.02


@pytest.mark.parametrize("name", methods("mask"))
def test_one_echo_is_enough(name, board, truth):
    single = {"phase": board["phase"][:1], "magnitude": board["magnitude"][:1], "grid": GRID, "scan": Scan(SCAN.echo_times[:1])}
    assert float((run(name, single) & truth.mask).sum() / truth.mask.sum()) > 0.95


@pytest.mark.parametrize("name", methods("mask"))
def test_no_signal_is_an_error(name, board):
    nothing = {**board, "magnitude": torch.zeros_like(board["magnitude"])}
    with pytest.raises(MaskError, match="Check the magnitude"):
        run(name, nothing)


@pytest.mark.parametrize("name", methods("mask"))
def test_another_grid_is_an_error(name, board):
    with pytest.raises(GeometryError, match="Give the"):
        run(name, {**board, "grid": GRID.with_shape((64, 75, 41))})


@pytest.mark.parametrize("name", methods("mask"))
def test_work_is_cited(name):
    assert load("mask", name).cite.startswith("10.")
