"""Training crops: the same for the same seed, cut where the brain is."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from paradia.errors import InputError
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.simulate.batches import _place, batches, channels, damped, take
from paradia.simulate.examples import Recipe, example

SHAPES = Recipe(voxel_size=(4.0, 4.5), thickness=(1.0, 1.1), thickest=5.0, procedural=1.0, procedural_side=36, averaged=0.0)


@pytest.mark.parametrize("total", [False, True])
def test_batches_have_their_shapes_and_repeat(total):
    knobs = {"crop": 16, "batch": 2, "crops": 4, "seed": 11, "total": total}
    first = list(islice(batches(SHAPES, **knobs), 3))
    for one, again in zip(first, islice(batches(SHAPES, **knobs), 3), strict=True):
        for name, value in one.items():
            assert torch.equal(value, again[name]), name
            assert value.shape == ((2,) if name in ("b0", "dr_pos", "dr_neg") else (2, 1, 16, 16, 16)), name
            assert value.dtype == torch.float32
        assert one["mask"].mean() > 0.05
    assert not torch.equal(first[0]["chi"], first[1]["chi"])  # other places in the same volume
    assert first[1]["b0"].shape == first[2]["b0"].shape
    assert not torch.equal(first[0]["dr_pos"], first[2]["dr_pos"])  # the next volume
    assert torch.equal(first[0]["chi"], first[0]["chi_pos"] - first[0]["chi_neg"])


def test_a_crop_is_a_piece_of_the_volume():
    """Field, sources and mask of a crop lie where they lie in the volume: told by coordinates cut out with them."""
    found = example(SHAPES, 5)
    stack, _ = channels(found, total=True, coarse=False)
    places = torch.stack(torch.meshgrid(*(torch.arange(1.0, n + 1) for n in found.grid.shape), indexing="ij"))
    images = torch.cat([places, torch.stack([stack["field"], stack["chi"], stack["mask"]])])
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        crop = take(images, stack["mask"], 24, generator)
        assert crop.shape == (6, 24, 24, 24)
        x, y, z = (crop[:3, *(0, 0, 0)].long() - 1).tolist()
        piece = images[:, x : x + 24, y : y + 24, z : z + 24]
        assert torch.equal(crop, piece)
        assert crop[5].any()


def test_a_crop_larger_than_the_volume_is_filled_with_zeros():
    images = torch.ones(2, 6, 9, 5)
    crop = take(images, images[0], 8, torch.Generator().manual_seed(0))
    assert crop.shape == (2, 8, 8, 8)
    assert crop[:, :6, :, :5].min() == 1
    assert crop[:, 6:].abs().max() == 0
    assert crop[..., 5:].abs().max() == 0


def test_the_start_does_not_wrap_around():
    """A source beside one face: on a field of view twice as wide its start is nearly the same."""
    grid = Grid((20, 18, 24), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    chi = torch.zeros(grid.shape)
    chi[1:3, 8:11, 1:3] = 1.0
    mask = torch.ones(grid.shape, dtype=torch.bool)
    field = Dipole(grid, padding=3)(chi)
    wide = torch.zeros(40, 36, 48)
    wide[:20, :18, :24] = field
    far = damped(wide, torch.ones(wide.shape, dtype=torch.bool), grid.with_shape(wide.shape))[:20, :18, :24]
    near = damped(field, mask, grid)
    assert (near - far).norm() < 0.15 * far.norm()
    assert near[1:3, 8:11, 1:3].mean() > 0.5


def test_sizes_that_are_not_positive_are_refused():
    with pytest.raises(InputError, match="must be positive, got 0, 4, 96"):
        next(batches(SHAPES, crop=0))


def test_places_are_drawn_evenly_also_in_sparse_masks():
    generator = torch.Generator().manual_seed(0)
    for share in (0.5, 0.001):
        mask = torch.rand((20, 25, 30), generator=generator) < share
        places = [tuple(_place(mask, generator)) for _ in range(600)]
        assert all(mask[place] for place in places)
        low = sum(place[0] < 10 for place in places) / len(places)
        assert low == pytest.approx(float(mask[:10].sum() / mask.sum()), abs=0.08)
