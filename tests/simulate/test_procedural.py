import pytest
import torch

from paradia.errors import InputError
from paradia.grid import Grid
from paradia.simulate.fields import fields
from paradia.simulate.procedural import procedural
from paradia.simulate.tissue import LABELS

GRID = Grid((48, 45, 50), (2.0, 2.2, 1.8), (0.2, -0.3, 0.93))


@pytest.fixture(scope="module")
def drawn():
    return [procedural(GRID, seed=seed) for seed in range(12)]


def test_maps_are_single_precision_and_finite(drawn):
    for anatomy, maps in drawn:
        for image in (*maps, anatomy.veins, anatomy.detail):
            assert image.shape == GRID.shape
            assert image.dtype == torch.float32
            assert image.isfinite().all()
        assert min(float(image.min()) for image in maps) >= 0


def test_rates_add_up(drawn):
    for anatomy, maps in drawn:
        assert torch.equal(maps.r2star, maps.r2 + maps.r2prime)
        inside = anatomy.mask
        torch.testing.assert_close(maps.r2prime[inside], (137 * (maps.chi_pos + maps.chi_neg))[inside])


def test_inside_is_one_solid_piece_away_from_the_edge(drawn):
    for anatomy, _ in drawn:
        assert 0.05 < float(anatomy.mask.float().mean()) < 0.45
        assert (anatomy.labels[anatomy.mask] == LABELS["procedural"]).all()
        for axis in range(3):
            assert not anatomy.mask.select(axis, 0).any()
            assert not anatomy.mask.select(axis, -1).any()


def test_sources_span_orders_of_magnitude_and_are_drawn_apart(drawn):
    means = torch.tensor([[float(maps.chi_pos[a.mask].mean()), float(maps.chi_neg[a.mask].mean())] for a, maps in drawn])
    assert float(means.max() / means.min()) > 5
    assert abs(float(torch.corrcoef(means.T.log())[0, 1])) < 0.8
    widest = [float(maps.chi_pos[a.mask].std()) for a, maps in drawn]
    assert max(widest) > 3 * min(widest)


def test_the_world_outside_makes_a_background(drawn):
    strong = 0
    for anatomy, maps in drawn:
        found = fields(maps.chi_pos - maps.chi_neg, anatomy.mask, GRID, shim=True)
        strong += float((found.total - found.local)[anatomy.mask].std()) > float(found.local[anatomy.mask].std())
        assert float(maps.chi_pos[anatomy.mask].max()) < 5  # no air inside
    assert strong >= 7


def test_nothing_repeats():
    (one, maps), (same, maps_again), (_, others) = (procedural(GRID, seed=seed) for seed in (5, 5, 6))
    for a, b in zip((one.labels, one.mask, one.veins, *maps), (same.labels, same.mask, same.veins, *maps_again), strict=True):
        assert torch.equal(a, b)
    both = one.mask
    assert abs(float(torch.corrcoef(torch.stack([maps.chi_pos[both], others.chi_pos[both]]))[0, 1])) < 0.5


def test_field_strength_changes_rates_and_nothing_else(drawn):
    anatomy, seven = procedural(GRID, seed=0, b0=7.0)
    three = drawn[0][1]
    inside = anatomy.mask
    assert torch.equal(seven.chi_pos, three.chi_pos)
    torch.testing.assert_close(seven.r2prime, three.r2prime * 7 / 3)
    torch.testing.assert_close(seven.r2[inside], three.r2[inside] / 0.65)
    assert float((seven.r1 / three.r1)[inside].median()) == pytest.approx(0.74, abs=0.005)


def test_tubes_are_veins(drawn):
    covered = [anatomy for anatomy, _ in drawn if anatomy.veins.any()]
    assert covered
    for anatomy, maps in drawn:
        full = anatomy.veins > 0.9
        if int(full.sum()) > 30:
            assert float(maps.chi_pos[full].median()) > float(maps.chi_neg[full].median())


def test_any_shape_of_grid():
    anatomy, maps = procedural(Grid((12, 40, 17), (5.0, 1.0, 3.0)), seed=1)
    assert anatomy.mask.any()
    assert maps.r2star.isfinite().all()


def test_field_strength_is_checked():
    with pytest.raises(InputError, match="field strength must be in tesla"):
        procedural(GRID, seed=0, b0=-1.0)
