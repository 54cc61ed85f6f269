import pytest
import torch

from paradia.errors import InputError
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.simulate._tissue import TISSUES
from paradia.simulate.head import head

GRID = Grid((66, 75, 54), (3.0, 3.0, 3.2), (0.2, -0.3, 0.93))
FINE = Grid((96, 113, 80), (2.0, 2.0, 2.0))


@pytest.fixture(scope="module")
def coarse():
    return head(GRID, seed=1)


@pytest.fixture(scope="module")
def fine():
    return head(FINE, seed=1)


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def eroded(mask, turns):
    outside = (~mask).float()[None, None]
    for _ in range(turns):
        outside = torch.nn.functional.max_pool3d(outside, 3, 1, 1)
    return outside[0, 0] == 0


def test_maps_are_single_precision_and_finite(coarse):
    for image in (coarse.chi, coarse.magnitude0, coarse.r2star, coarse.local_field, coarse.total_field, coarse.offset):
        assert image.shape == GRID.shape
        assert image.dtype == torch.float32
        assert image.isfinite().all()


def test_brain_has_the_volume_of_a_brain(fine):
    assert 1200e3 < float(fine.mask.sum()) * FINE.voxel_volume < 1700e3


def test_homogeneous_tissues_have_the_table_s_susceptibility():
    truth = head(FINE, seed=2, texture_strength=0.0)
    inside = eroded(truth.mask, 2)
    for tissue in TISSUES[5:15]:  # what fills whole voxels of the brain: from fluid to dentate
        region = truth.chi[truth.region(tissue.name) & inside]
        iron = tissue.chi > 0.05  # small and bright: only the middle is free of partial volume
        value = region.max() if iron else region.median()
        assert float(value) == pytest.approx(tissue.chi, abs=0.025 if iron else 0.004), tissue.name


def test_texture_spreads_about_the_same_mean(fine):
    plain = head(FINE, seed=1, texture_strength=0.0)
    change = (fine.chi - plain.chi)[fine.region("white_matter")]
    assert abs(float(change.mean())) < 1.5e-3
    assert 0.003 < float(change.std()) < 0.009


def test_local_field_is_the_dipole_of_the_brain_alone(coarse):
    expected = Dipole(GRID, padding=2) @ (coarse.chi * coarse.mask)
    torch.testing.assert_close(coarse.local_field, expected, atol=1e-5, rtol=1e-3)


def test_background_is_harmonic_in_the_brain_and_the_local_field_is_not():
    truth = head(FINE, seed=1)
    background = truth.total_field - truth.local_field
    inside = eroded(truth.mask, 3)[1:-1, 1:-1, 1:-1]

    def curvature(field):
        total = -6 * field[1:-1, 1:-1, 1:-1]
        for axis in range(3):
            for shift in (-1, 1):
                total = total + field.roll(shift, axis)[1:-1, 1:-1, 1:-1]
        return total[inside]

    assert float(curvature(background).square().mean().sqrt()) < 0.25 * float(curvature(truth.local_field).square().mean().sqrt())


def test_sinuses_make_a_steep_field_of_parts_per_million(fine):
    calm = head(FINE, seed=1, sinuses=False)
    assert float(fine.total_field[fine.mask].max()) > 1.5
    assert float(calm.total_field[calm.mask].max()) < 0.7 * float(fine.total_field[fine.mask].max())


def test_shim_narrows_the_field_over_the_brain(coarse):
    unshimmed = head(GRID, seed=1, shim=False)
    assert float(coarse.total_field[coarse.mask].std()) < float(unshimmed.total_field[unshimmed.mask].std())
    assert abs(float(coarse.total_field[coarse.mask].mean())) < 1e-3


def test_seed_decides(coarse):
    again, another = head(GRID, seed=1), head(GRID, seed=2)
    assert torch.equal(coarse.chi, again.chi)
    assert torch.equal(coarse.total_field, again.total_field)
    both = coarse.mask & another.mask
    assert correlation(coarse.chi[both], another.chi[both]) < 0.9
    assert correlation(coarse.offset[both], another.offset[both]) < 0.95


def test_b0_turns_the_field_and_not_the_head(coarse):
    upright = head(Grid(GRID.shape, GRID.voxel_size), seed=1)
    assert torch.equal(coarse.chi, upright.chi)
    inside = coarse.mask
    assert correlation(coarse.local_field[inside], upright.local_field[inside]) < 0.97


def test_same_head_on_any_grid(coarse):
    other = head(Grid((66, 75, 108), (3.0, 3.0, 1.6), GRID.b0_dir), seed=1)
    merged = other.chi.reshape(66, 75, 54, 2).mean(-1)
    both = coarse.mask & other.mask.reshape(66, 75, 54, 2).all(-1)  # what lies outside is softened by voxels, not millimetres
    assert both.sum() > 0.95 * coarse.mask.sum()
    assert correlation(merged[both], coarse.chi[both]) > 0.9


def test_small_head_fits_a_small_field_of_view():
    small = head(Grid((40, 45, 36), (2.0, 2.0, 2.0)), scale=0.4)
    assert small.mask.any()
    assert not small.mask[0].any()
    assert not small.mask[:, -1].any()


def test_relaxation_doubles_at_seven_tesla():
    three, seven = (head(GRID, seed=1, b0=b0, texture_strength=0.0) for b0 in (3.0, 7.0))
    region = eroded(three.mask, 2) & three.region("white_matter")
    assert float(seven.r2star[region].median() / three.r2star[region].median()) == pytest.approx(2.0, rel=0.02)


def test_calcification_is_diamagnetic():
    truth = head(FINE, seed=1, calcification=True)
    assert float(truth.chi[truth.mask].min()) < -1.0


def test_offset_spans_about_a_turn(fine):
    span = float(fine.offset[fine.mask].max() - fine.offset[fine.mask].min())
    assert 1.0 < span < 20.0


def test_scale_is_checked():
    with pytest.raises(InputError, match="scale of the head must be positive"):
        head(GRID, scale=0.0)
