"""Heads made of anything: the outlines stay, the contents do not, the physics does."""

from __future__ import annotations

import pytest
import torch

from paradia.grid import Grid
from paradia.simulate.anatomical import anatomical
from paradia.simulate.anatomy import Anatomy
from paradia.simulate.randomised import EXTRA, OUTSIDE, PARTS, SOURCES, randomised
from paradia.simulate.tissue import LABELS, maps

GRID = Grid((44, 54, 44), (4.0, 4.0, 4.0))
DR = {"dr_pos": 120.0, "dr_neg": 150.0}


@pytest.fixture(scope="module")
def anatomy():
    return anatomical(GRID, seed=3, age=40.0)


@pytest.fixture(scope="module")
def tissue(anatomy):
    return maps(anatomy, seed=3, **DR)


@pytest.fixture(scope="module")
def drawn(tissue, anatomy):
    return [randomised(tissue, anatomy, seed=seed, **DR) for seed in range(8)]


def test_rates_are_those_of_the_sources(drawn, anatomy):
    solid = anatomy.labels != LABELS["air"]
    for found in drawn:
        torch.testing.assert_close(found.r2prime[solid], (120.0 * found.chi_pos + 150.0 * found.chi_neg)[solid])
        assert found.r2prime[~solid].abs().max() == 0
        assert torch.equal(found.r2star, found.r2 + found.r2prime)
        for image in found:
            assert image.isfinite().all()
            assert image.min() >= 0


def test_sources_stay_within_their_range(drawn, tissue, anatomy):
    inside = anatomy.mask
    for found in drawn:
        for name in ("chi_pos", "chi_neg"):
            old, new = getattr(tissue, name)[inside], getattr(found, name)[inside]
            assert (new >= SOURCES[0] * old - 1e-6).all()
            assert (new <= SOURCES[1] * old + EXTRA[1] + 1e-6).all()
            assert torch.equal(found.density[~inside], tissue.density[~inside])


def test_what_lies_around_is_scaled_tissue_by_tissue(drawn, tissue, anatomy):
    bone = (anatomy.labels == LABELS["bone"]) & ~anatomy.mask
    ratios = []
    for found in drawn:
        ratio = (found.chi_neg / tissue.chi_neg)[bone & (tissue.chi_neg > 0.1)]
        assert float(ratio.max() - ratio.min()) < 1e-4
        ratios.append(float(ratio.mean()))
    assert OUTSIDE[0] <= min(ratios) < max(ratios) <= OUTSIDE[1]
    assert max(ratios) > 1.2 * min(ratios)


@pytest.fixture(scope="module")
def halves():
    """White matter and pallidum, half a box each."""
    labels = torch.full((40, 36, 32), LABELS["white_matter"], dtype=torch.uint8)
    labels[20:] = LABELS["pallidum_external"]
    nothing = torch.zeros(labels.shape)
    anatomy = Anatomy(labels, torch.ones(labels.shape, dtype=torch.bool), nothing, nothing, None, Grid(tuple(labels.shape)))
    return anatomy, maps(anatomy, seed=1, texture=0.0, **DR)


def test_no_tissue_keeps_its_rank(halves):
    """The pallidum has more iron than white matter in all people, not here."""
    anatomy, tissue = halves
    assert tissue.chi_pos[25:].min() > 10 * tissue.chi_pos[:15].max()
    found = [randomised(tissue, anatomy, seed=seed, **DR).chi_pos for seed in range(12)]
    apart = [float(chi[25:].min() / chi[:15].max()) for chi in found]
    assert min(apart) < 1  # some white matter holds more than some pallidum
    assert max(apart) > 2


def test_a_tissue_is_of_few_even_parts(halves):
    """Within a part the factor is constant but for borders, where voxels are shared."""
    anatomy, tissue = halves
    most = 0
    for seed in range(4):
        ratio = (randomised(tissue, anatomy, seed=seed, **DR).density / tissue.density)[:18]
        _, counts = torch.unique((ratio * 1e4).round(), return_counts=True)
        large = counts[counts > 0.02 * ratio.numel()]
        assert 1 <= len(large) <= PARTS
        assert large.sum() > 0.6 * ratio.numel()
        most = max(most, len(large))
    assert most > 1


def test_borders_between_tissues_are_shared(halves):
    """The plane beside the other tissue has some of its factor, the next but one has none."""
    anatomy, tissue = halves
    for seed in range(3):
        ratio = randomised(tissue, anatomy, seed=seed, **DR).density / tissue.density
        beside, inside = ((ratio[x] - ratio[x - 1]).abs() > 1e-5 for x in (19, 17))
        assert beside.float().mean() > 0.8
        assert inside.float().mean() < 0.3  # where a part of the tissue ends


def test_seeds_draw_everything(tissue, anatomy):
    first, again = (randomised(tissue, anatomy, seed=5, **DR) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.chi_pos, randomised(tissue, anatomy, seed=6, **DR).chi_pos)
