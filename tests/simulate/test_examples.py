"""Training examples: whole fields, the same for the same seed, honest about what shares a voxel."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from paradia.errors import InputError
from paradia.operators.dipole import Dipole
from paradia.simulate import examples as simulated
from paradia.simulate.examples import CONSTANT, Recipe, example
from paradia.simulate.fields import fields

PLAIN = Recipe(
    voxel_size=(4.0, 4.5),
    thickness=(1.0, 1.1),
    thickest=5.0,
    procedural=0.0,
    slabs=0.0,
    randomised=0.0,
    averaged=0.0,
    errors=0.0,
    lesions=0.0,
    snr=(25.0, 35.0),
)
COARSE = replace(PLAIN, errors=1.0, lesions=0.5, procedural_side=32, snr=(30.0, 200.0))
ANYTHING = replace(COARSE, randomised=1.0)
SHAPES = Recipe(voxel_size=(4.0, 4.5), thickness=(1.0, 1.1), thickest=5.0, procedural=1.0, procedural_side=36, averaged=0.0)


@pytest.fixture(scope="module")
def head():
    return example(COARSE, 3)


@pytest.fixture(scope="module")
def plain():
    return example(PLAIN, 4)


@pytest.fixture(scope="module")
def shapes():
    return example(SHAPES, 5)


@pytest.fixture(scope="module")
def anything():
    return example(ANYTHING, 3)


@pytest.fixture(scope="module")
def averaged():
    return example(replace(COARSE, lesions=0.0, averaged=1.0), 3)


@pytest.mark.parametrize("kind", ["head", "plain", "shapes", "anything", "averaged"])
def test_an_example_is_whole(kind, request):
    found = request.getfixturevalue(kind)
    maps = {name: value for name, value in found._asdict().items() if isinstance(value, torch.Tensor) and name != "mask"}
    assert found.mask.dtype == torch.bool
    assert 0.05 < found.mask.float().mean() < 0.7
    for name, image in maps.items():
        assert image.shape == found.grid.shape, name
        assert image.dtype == torch.float32, name
        assert torch.isfinite(image).all(), name
        if name != "magnitude":
            assert image[~found.mask].abs().max() == 0, name
    inside = found.mask
    assert found.chi_pos[inside].min() >= 0
    assert found.chi_neg[inside].min() >= 0
    assert found.noise[inside].min() > 0
    assert 1e-4 < found.noise[inside].median() < 0.05
    assert found.total_field[inside].std() > 2 * found.local_field[inside].std()
    assert 0.7 < found.dr_pos / (137 * found.b0 / 3) < 1.3


def test_heads_are_of_all_ages(monkeypatch):
    """Shape and iron are those of one drawn age, the same for the same seed."""
    seen = {"anatomical": [], "maps": []}
    for name, calls in seen.items():
        original = getattr(simulated, name)

        def spy(*args, original=original, calls=calls, **knobs):
            calls.append(knobs["age"])
            return original(*args, **knobs)

        monkeypatch.setattr(simulated, name, spy)
    recipe = replace(PLAIN, voxel_size=(8.0, 8.0), thickest=9.0)
    for seed in (*range(6), 0):
        example(recipe, seed)
    ages = seen["anatomical"]
    assert ages == seen["maps"]
    assert ages[0] == ages[-1]
    assert 18 <= min(ages) < max(ages) - 25 <= 80 - 25
    example(replace(recipe, age=(33.0, 33.0)), 0)
    assert ages[-1] == 33.0


def test_a_slab_is_as_wide_as_a_head_and_holds_its_middle(plain):
    slab = example(replace(PLAIN, slabs=1.0), 4)
    across, along = (size * n for size, n in zip(slab.grid.voxel_size[1:], slab.grid.shape[1:], strict=True))
    assert across >= simulated.HEAD[1]
    assert simulated.SLAB[0] <= along < simulated.SLAB[1] + 8 * slab.grid.voxel_size[2]  # sizes are rounded up to quick ones
    assert plain.grid.shape[2] * plain.grid.voxel_size[2] >= simulated.HEAD[2]
    first, last = (slab.mask[:, :, place].sum() for place in (1, -2))  # next to the rough edge
    assert min(first, last) > 0.3 * slab.mask.sum((0, 1)).max()


def test_a_head_holds_several_lesions_of_a_kind(monkeypatch):
    drawn = []
    original = simulated.draw

    def spy(*args, kinds, **knobs):
        drawn.append(kinds)
        return original(*args, kinds=kinds, **knobs)

    monkeypatch.setattr(simulated, "draw", spy)
    for seed in range(12):
        example(replace(PLAIN, voxel_size=(8.0, 8.0), thickest=9.0, lesions=1.0), seed)
    counts = [kinds.count(kind) for kinds in drawn for kind in simulated.KINDS]
    assert len(drawn) == 12
    assert set(counts) == set(range(simulated.MOST + 1))


def test_the_local_field_is_that_of_all_sources_in_the_mask(plain):
    """By a dipole of its own on three times the field of view: nothing comes back from the other side."""
    chi = plain.chi_pos - plain.chi_neg
    field = Dipole(plain.grid, padding=3)(chi)
    inside = plain.mask
    assert (field - plain.local_field)[inside].norm() < 0.02 * field[inside].norm()
    once = Dipole(plain.grid)(chi)
    assert (once - plain.local_field)[inside].norm() > 2 * (field - plain.local_field)[inside].norm()  # so that wrapping would show


def test_the_total_field_has_the_noise_that_is_stated(plain):
    other = example(PLAIN, 4)
    assert torch.equal(other.total_field, plain.total_field)
    left = plain.total_field - plain.local_field
    rough = left.diff(dim=0).diff(dim=1).diff(dim=2) / math.sqrt(8)  # the background is smooth
    whole = plain.mask[1:, 1:, 1:] & plain.mask[:-1, :-1, :-1]
    size = plain.noise[1:, 1:, 1:]
    assert 0.8 < float((rough / size)[whole].abs().median()) / 0.6745 < 2.0


def test_relaxation_follows_both_sources(plain):
    """R2′ less its noise is Dr times χ, for each source its own."""
    inside = plain.mask
    expected = plain.dr_pos * plain.chi_pos + plain.dr_neg * plain.chi_neg
    left = ((plain.r2prime - expected) / plain.r2prime_noise)[inside]
    assert abs(float(left.median())) < 0.1
    assert float(left.abs().median()) / 0.6745 == pytest.approx(1, abs=0.1)
    left = ((plain.r2star - plain.r2 - expected) / plain.r2star_noise)[inside]
    assert float(left.abs().median()) / 0.6745 == pytest.approx(1, abs=0.1)


def test_seeds_draw_everything(head):
    again, other = example(COARSE, 3), example(COARSE, 7)
    for name, value in head._asdict().items():
        same = getattr(again, name)
        assert torch.equal(same, value) if isinstance(value, torch.Tensor) else same == value, name
    assert other.grid != head.grid


def test_a_careful_mask_leaves_the_rim_to_the_background(plain):
    """Less of the same brain, and the field of what was left out is that of sources outside."""
    found = example(replace(PLAIN, eroded=1.0), 4)
    assert not (found.mask & ~plain.mask).any()
    assert 0.3 * plain.mask.sum() < found.mask.sum() < 0.95 * plain.mask.sum()
    inside, rim = found.mask, plain.mask & ~found.mask
    assert not found.chi_pos[rim].any()
    torch.testing.assert_close(found.chi_pos[inside], plain.chi_pos[inside])
    lost = Dipole(plain.grid, padding=3)((plain.chi_pos - plain.chi_neg) * rim)
    apart = (plain.local_field - lost - found.local_field)[inside]
    assert apart.norm() < 0.05 * lost[inside].norm()


def test_voxels_hold_averages_of_finer_ones():
    """The field is that of finer sources: not of the averaged ones, but near it."""
    for strength, recipe in ((0.02, replace(PLAIN, averaged=1.0)), (None, PLAIN)):
        found = example(recipe, 4)
        chi, inside = found.chi_pos - found.chi_neg, found.mask
        coarse = Dipole(found.grid, padding=3)(chi)
        apart = float((coarse - found.local_field)[inside].norm() / found.local_field[inside].norm())
        if strength is None:
            assert apart < 0.02
        else:
            assert strength < apart < 0.4


def test_leftovers_have_a_constant_of_their_own():
    found = torch.tensor([float(seen.leftover[seen.mask].mean()) for seed in range(12) for seen in [example(COARSE, seed)]])
    assert 0.4 * CONSTANT < found.std() < 2 * CONSTANT


def test_bone_touches_the_mask_in_as_many_averaged_volumes_as_is_said(monkeypatch):
    told = []

    def spied(*args, flush=False, **knobs):
        told.append(flush)
        return fields(*args, flush=flush, **knobs)

    monkeypatch.setattr("paradia.simulate.examples.fields", spied)
    for recipe in (replace(COARSE, averaged=1.0, flush=1.0), replace(COARSE, averaged=1.0), replace(COARSE, averaged=0.0, flush=1.0)):
        example(recipe, 3)
    assert told == [True, False, False]


def test_bone_that_shares_a_voxel_with_the_brain_is_no_source_of_it():
    for seed in range(3):
        found = example(replace(COARSE, lesions=0.0, averaged=1.0), seed)
        assert found.chi_neg[found.mask].max() < 0.3


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"voxel_size": (2.0, 1.0)}, "voxel_size must be a range"),
        ({"snr": (0.0, 10.0)}, "snr must be a range"),
        ({"eroded": 1.5}, "eroded is a share between 0 and 1"),
        ({"age": (60.0, 30.0)}, "age must be a range between 0 and 110 years"),
        ({"age": (20.0, 200.0)}, "age must be a range between 0 and 110 years"),
        ({"procedural": 1.2}, "procedural is a share between 0 and 1, got 1.2"),
        ({"slabs": 2.0}, "slabs is a share between 0 and 1, got 2.0"),
        ({"randomised": -0.1}, "randomised is a share between 0 and 1, got -0.1"),
        ({"b0": ()}, "at least one field strength"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(knobs, message):
    with pytest.raises(InputError, match=message):
        Recipe(**knobs)


def test_heads_made_of_anything_are_of_strange_shape(monkeypatch):
    """Stretched by less than is asked for at most, further from the bank than people are, and filled anew; others are not."""
    shapes, filled = [], []
    draw, fill = simulated.anatomical, simulated.randomised

    def shaped(grid, **knobs):
        shapes.append((grid.voxel_size, knobs.get("strength", 1.0)))
        return draw(grid, **knobs)

    def spied(*args, **knobs):
        filled.append(fill(*args, **knobs))
        return filled[-1]

    monkeypatch.setattr(simulated, "anatomical", shaped)
    monkeypatch.setattr(simulated, "randomised", spied)
    recipe = replace(PLAIN, voxel_size=(8.0, 8.0), thickest=9.0)
    natural = example(recipe, 3)
    assert shapes == [(natural.grid.voxel_size, 1.0)]
    assert not filled
    found = example(replace(recipe, randomised=1.0), 3)
    sizes, strength = shapes[-1]
    low, high = simulated.STRETCH
    ratios = [asked / size for asked, size in zip(found.grid.voxel_size, sizes, strict=True)]
    assert all(low <= ratio <= high for ratio in ratios)
    assert max(ratios) - min(ratios) > 0.01
    assert 1 <= strength <= 2
    torch.testing.assert_close(found.chi_pos, filled[0].chi_pos * found.mask)
