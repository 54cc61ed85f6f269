import math

import nibabel as nib
import numpy as np
import pytest
import torch

from paradia.errors import InputError, MaskError
from paradia.grid import Grid
from paradia.mask import _morphology as morphology
from paradia.mask._reliability import bridged, otsu, reliability
from paradia.mask._surface import icosphere, neighbours, normals, voxels_inside
from paradia.mask.bet import bet
from paradia.mask.combined import combined
from paradia.mask.quality import quality
from paradia.scan import Scan
from paradia.simulate._tissue import LABELS
from paradia.simulate.gre import gre
from paradia.simulate.head import head

GRID = Grid((97, 112, 80), (2.0, 2.0, 2.0), (0.1, -0.2, 0.97))
SCAN = Scan((0.004, 0.012, 0.020), 3.0)


@pytest.fixture(scope="module")
def case():
    truth = head(GRID, seed=0)
    return truth, gre(truth, SCAN, seed=0)


def ball(grid, radius):
    axes = [(torch.arange(n) - (n - 1) / 2) * v for n, v in zip(grid.shape, grid.voxel_size, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return (x.square() + y.square() + z.square()).sqrt() < radius


def test_icosphere_is_closed_and_points_outwards():
    vertices, faces = icosphere(4)
    assert vertices.shape == (2562, 3)
    assert len(faces) == 5120
    np.testing.assert_allclose(normals(vertices, faces), vertices, atol=0.02)
    table = neighbours(4)
    assert ((table == np.arange(2562)[:, None]).sum(1) == 1).sum() == 12
    assert np.linalg.norm(vertices[table] - vertices[:, None], axis=2).max() < 0.1


@pytest.mark.parametrize("shift", [0.0, 14.0])
def test_voxels_inside_a_sphere(shift):
    grid = Grid((40, 31, 36), (1.0, 1.3, 1.2))
    vertices, faces = icosphere(4)
    centre = (np.asarray(grid.shape) - 1) / 2 * np.asarray(grid.voxel_size) + [shift, 0, 0]  # shifted, it leaves the field of view
    inside = voxels_inside((11.0 * vertices + centre).astype(np.float32), faces, grid)
    places = np.stack(np.meshgrid(*(np.arange(n) * v for n, v in zip(grid.shape, grid.voxel_size, strict=True)), indexing="ij"), -1)
    expected = np.linalg.norm(places - centre, axis=-1) < 11.0
    assert (inside ^ expected).sum() < 0.02 * expected.sum()


def test_brain_extraction_neither_leaves_skull_nor_eats_cortex(case):
    truth, signal = case
    mask = bet(signal.abs(), GRID)
    assert float((truth.mask & ~mask).sum() / truth.mask.sum()) < 0.002
    skull = torch.isin(truth.labels, torch.tensor([LABELS[n] for n in ("air", "bone", "marrow", "fat")]))
    assert float((mask & skull).sum() / mask.sum()) < 0.015


def test_noise_does_not_stop_the_surface():
    """At a signal-to-noise ratio of four the brain is still found, within a voxel of its edge."""
    truth = head(GRID, seed=1)
    signal = gre(truth, Scan((0.02,), 3.0), snr=8.0, seed=1)
    mask = bet(signal.abs(), GRID)
    assert 2 * float((mask & truth.mask).sum()) / float(mask.sum() + truth.mask.sum()) > 0.93


def test_brain_may_leave_the_field_of_view(case):
    truth, signal = case
    slab = (slice(None), slice(None), slice(34, 58))
    mask = bet(signal.abs()[:, :, :, 34:58], GRID.with_shape((97, 112, 24)))
    inside = truth.mask[slab]
    assert float((inside & ~mask).sum() / inside.sum()) < 0.01
    assert float((mask & ~inside & (truth.labels[slab] != LABELS["csf"])).sum() / inside.sum()) < 0.03


def test_a_ridge_of_bone_between_two_lobes_stays_out():
    """The gap is narrower than what is closed, but there is no signal in it; where a vein lies in it, it is closed."""
    grid = Grid((62, 70, 65), (2.0, 1.8, 2.0))
    brain = ball(grid, 50.0)
    x, y, _ = torch.meshgrid(
        *((torch.arange(n) - (n - 1) / 2) * v for n, v in zip(grid.shape, grid.voxel_size, strict=True)), indexing="ij"
    )
    ridge = brain & (x.abs() < 2.5) & (y > 46)
    noise = 0.02 * torch.rand(grid.shape, generator=torch.Generator().manual_seed(0))
    for signal, least, most in ((0.0, 0.0, 0.5), (0.35, 0.8, 1.0)):
        image = brain * 1.0
        image[ridge] = signal
        found = bet((image + noise)[None], grid)
        assert least <= float(found[ridge].float().mean()) <= most
        assert float((brain & ~ridge & ~found).sum() / brain.sum()) < 0.01


def test_a_larger_fraction_gives_a_smaller_brain(case):
    magnitude = case[1].abs()
    assert bet(magnitude, GRID, fraction=0.8, snap=0.0).sum() < bet(magnitude, GRID, fraction=0.3, snap=0.0).sum()


@pytest.mark.parametrize(
    "knobs", [{"fraction": 55.0}, {"fraction": 0.0}, {"fraction": math.nan}, {"smoothness": -1.0}, {"snap": math.nan}, {"max_iter": 0}]
)
def test_bet_refuses_knobs_out_of_range(knobs):
    (name,) = knobs
    with pytest.raises(InputError, match=f"{name}.*, got .*{knobs[name]}"):
        bet(torch.ones(1, 8, 9, 7), Grid((8, 9, 7), (4.0, 4.0, 4.0)), **knobs)


def test_an_echo_without_signal_is_told_from_one_with(case):
    """The brain is in the other echoes; how far its phase can be trusted is not."""
    grid = Grid((40, 38, 36), (4.0, 4.0, 4.0))
    echo = ball(grid, 50.0) * 1.0 + 0.02 * torch.rand(grid.shape, generator=torch.Generator().manual_seed(0))
    both = torch.stack([torch.zeros_like(echo), echo])
    assert torch.equal(bet(both, grid, max_iter=30), bet(echo[None], grid, max_iter=30))
    for method in (quality, combined):
        with pytest.raises(MaskError, match="the magnitude of the first echo is zero"):
            method(torch.zeros_like(both), both, grid, Scan((0.004, 0.012)))


@pytest.mark.parametrize("axis", [0, 2])
def test_a_lost_slice_does_not_halve_the_brain(axis):
    """In all echoes, in the first, or in the last of them, one plane or two."""
    grid = Grid((64, 75, 40), (3.0, 3.0, 4.0), (0.2, -0.3, 0.93))
    truth = head(grid, seed=4)
    signal = gre(truth, SCAN, seed=4)
    middle = grid.shape[axis] // 2
    for echoes, width in ((slice(None), 1), (slice(None), 2), (slice(1), 2), (slice(2, 3), 2)):
        lost = signal.clone()
        lost.movedim(axis + 1, 1)[echoes, middle : middle + width] = 0
        pairs = [(quality, (lost.angle(), lost.abs(), grid, SCAN)), (combined, (lost.angle(), lost.abs(), grid, SCAN))]
        for method, data in [*pairs, (bet, (lost.abs(), grid))]:
            mask = method(*data)
            assert float((mask & truth.mask).sum() / truth.mask.sum()) > 0.95


def test_planes_at_the_end_and_other_images_are_left_as_they_are():
    image = torch.rand(2, 5, 6, 7) + 0.1
    image[0, :, :, :2] = 0
    image[1, 2] = 0
    phase = torch.rand(2, 5, 6, 7)
    filled, beside = bridged(image, phase)
    assert torch.equal(filled[0], image[0])
    assert torch.equal(beside[0], phase[0])
    rest = [0, 1, 3, 4]
    assert torch.equal(filled[1][rest], image[1][rest])
    assert torch.equal(filled[1][2], image[1][1])
    assert torch.equal(beside[1][2], phase[1][1])
    assert torch.equal(bridged(torch.zeros(1, 4, 5, 6))[0], torch.zeros(1, 4, 5, 6))


def test_a_piece_that_is_left_out_is_told_of():
    mask = torch.zeros(20, 21, 22, dtype=torch.bool)
    mask[2:10], mask[11:13, :10] = True, True
    with pytest.warns(UserWarning, match=r"the brain is in pieces, and 11 % of it were left out.*Give a mask"):
        kept = morphology.largest(mask, "the brain")
    assert torch.equal(kept[:10], mask[:10])
    assert not kept[10:].any()
    assert torch.equal(morphology.largest(mask), kept)
    mask[11:13], mask[15, 3, 4] = False, True
    assert int((mask ^ morphology.largest(mask, "the brain")).sum()) == 1


def test_reliable_is_tissue_and_not_noise(case):
    truth, signal = case
    weight = reliability(signal.angle(), signal.abs(), SCAN)
    assert float(weight.max()) <= 1
    assert float(weight[truth.mask].median()) > 0.7
    assert float(weight[truth.labels == 0].median()) < 0.2


def test_threshold_is_obeyed(case):
    _, signal = case
    few, many = (quality(signal.angle(), signal.abs(), GRID, SCAN, threshold=t) for t in (0.7, 0.3))
    assert few.sum() < many.sum()
    with pytest.raises(MaskError, match="Lower its threshold"):
        quality(signal.angle(), signal.abs(), GRID, SCAN, threshold=0.9999)


def test_combined_keeps_small_dark_things_and_drops_what_is_lost_at_the_edge(case):
    truth, signal = case
    signal = signal.clone()
    generator = torch.Generator().manual_seed(1)

    def spoil(region):
        noise = torch.complex(torch.randn(GRID.shape, generator=generator), torch.randn(GRID.shape, generator=generator))
        signal[:, region] = 0.01 * noise[region]

    x, y, z = torch.meshgrid(*(torch.arange(n) for n in GRID.shape), indexing="ij")
    bleed = ((x - 60).square() + (y - 50).square() + (z - 45).square()) <= 9
    front = torch.nonzero(truth.mask)[:, 1].max()
    dropout = truth.mask & (y > front - 6)
    spoil(bleed)
    spoil(dropout)
    mask = combined(signal.angle(), signal.abs(), GRID, SCAN)
    assert mask[bleed].all()
    assert float(mask[dropout].float().mean()) < 0.35
    assert float((truth.mask & ~dropout & ~mask).sum() / truth.mask.sum()) < 0.01


def test_morphology_works_in_mm():
    grid = Grid((48, 37, 40), (1.0, 1.5, 2.0))
    small, large = ball(grid, 8.0), ball(grid, 14.0)
    grown = morphology.dilate(small, grid, 6.0)
    assert float((grown ^ large).sum() / large.sum()) < 0.3  # corners and whole steps
    for axis in range(3):
        width = grown.any(dim=tuple(a for a in range(3) if a != axis)).sum() * grid.voxel_size[axis]
        assert float(width) == pytest.approx(28.0, abs=2.5 * grid.voxel_size[axis])
    assert torch.equal(morphology.closed(small, grid, 3.0) | small, morphology.closed(small, grid, 3.0))
    assert not (morphology.opened(large, grid, 3.0) & ~large).any()


def test_erosion_stops_at_the_field_of_view():
    grid = Grid((20, 21, 10), (1.0, 1.0, 2.0))
    column = torch.zeros(grid.shape, dtype=torch.bool)
    column[5:15, 5:15] = True
    assert morphology.erode(column, grid, 2.0)[10, 10].all()


def test_holes_are_filled_and_inlets_are_not():
    mask = ball(Grid((30, 31, 32)), 12.0)
    hollow = mask & ~ball(Grid((30, 31, 32)), 4.0)
    assert torch.equal(morphology.filled(hollow), mask)
    hollow[15, 15, 16:] = False
    assert torch.equal(morphology.filled(hollow), hollow)


def test_largest_piece():
    mask = torch.zeros((12, 11, 10), dtype=torch.bool)
    mask[1:4, 1:4, 1:4] = True
    mask[8, 8, 8] = True
    assert int(morphology.largest(mask).sum()) == 27


def test_otsu_parts_two_heaps():
    generator = torch.Generator().manual_seed(0)
    heaps = torch.cat([0.1 + 0.03 * torch.randn(4000, generator=generator), 0.8 + 0.05 * torch.randn(1000, generator=generator)])
    assert 0.2 < otsu(heaps) < 0.65


def test_slab_with_strong_sinus(shared_data):
    folder = shared_data / "slab-3t-te30"
    magnitude, phase, given = (
        torch.from_numpy(np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj, dtype=np.float32))
        for name in ("magnitude", "phase", "mask")
    )
    grid, scan = Grid(tuple(magnitude.shape), (1.8, 1.8, 3.0)), Scan((0.03,))
    mask = combined(phase[None], magnitude[None], grid, scan)
    inside = given > 0  # made to be safe: smaller than the brain
    assert float((inside & ~mask).sum() / inside.sum()) < 0.01
    assert int(mask.sum()) < 1.6 * int(inside.sum())
    assert float(magnitude[mask].quantile(0.02)) > 0.1 * float(magnitude[mask].median())


@pytest.mark.parametrize(
    "knobs", [{"threshold": -0.1}, {"threshold": 1.0}, {"threshold": math.nan}, {"closing": math.inf}, {"closing": -1.0}]
)
@pytest.mark.parametrize("method", [quality, combined])
def test_knobs_out_of_range_are_refused(method, knobs):
    images = torch.ones(3, 6, 7, 5)
    with pytest.raises(InputError, match=f"{next(iter(knobs))} must be"):
        method(0 * images, images, Grid((6, 7, 5)), SCAN, **knobs)


def test_a_hole_in_a_single_slice_is_filled():
    slice_ = torch.ones(7, 6, 1, dtype=torch.bool)
    slice_[3, 3], slice_[0, 2] = False, False
    for axis in range(3):
        mask = morphology.filled(slice_.movedim(2, axis)).movedim(axis, 2)
        assert mask[3, 3].all()
        assert not mask[0, 2].any()
    assert not morphology.filled(torch.zeros(1, 1, 1, dtype=torch.bool)).any()
