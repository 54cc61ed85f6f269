import math

import pytest
import torch

from paradia.errors import GeometryError, InputError
from paradia.grid import Grid
from paradia.simulate.anatomy import Anatomy
from paradia.simulate.subject import subject
from paradia.simulate.tissue import LABELS

GRID = Grid((40, 44, 36), (2.0, 2.0, 2.5), (0.0, 0.2, 0.98))


def coordinates(grid):
    axes = [(torch.arange(n) - (n - 1) / 2) * size for n, size in zip(grid.shape, grid.voxel_size, strict=True)]
    return torch.meshgrid(*axes, indexing="ij")


def bare(labels, mask, grid):
    zeros = torch.zeros(grid.shape)
    return Anatomy(labels, mask, zeros, zeros, None, grid)


def ball_head(grid):
    """Draw a brain of two halves in skull and skin, with a nucleus, at any resolution."""
    x, y, z = coordinates(grid)
    r = (x.square() + y.square() + z.square()).sqrt()
    labels = torch.zeros(grid.shape, dtype=torch.uint8)
    for name, region in (
        ("muscle", r < 40),
        ("bone", r < 36),
        ("csf", r < 32),
        ("grey_matter", r < 30),
        ("white_matter", r < 22),
        ("putamen", (x.abs() - 10).square() + y.square() + z.square() < 36),
    ):
        labels.masked_fill_(region, LABELS[name])
    return bare(labels, r < 30, grid)


def test_field_of_a_sphere_through_the_whole_chain():
    grid = Grid((56, 52, 54), (1.0, 1.0, 1.0), (0.3, 0.1, 0.95))
    x, y, z = coordinates(grid)
    r = (x.square() + y.square() + z.square()).sqrt()
    labels = torch.full(grid.shape, LABELS["csf"], dtype=torch.uint8)
    labels[r < 7] = LABELS["bone"]
    truth = subject(0, anatomy=bare(labels, r < 24, grid))
    moment = float((truth.chi - 0.019)[r < 12].double().sum())
    assert moment == pytest.approx(-(2.1 + 0.019) * 4 / 3 * math.pi * 7**3, rel=0.03)
    cosine = (grid.b0_dir[0] * x + grid.b0_dir[1] * y + grid.b0_dir[2] * z) / r.clamp(min=0.1)
    expected = moment / (4 * math.pi * r.clamp(min=1) ** 3) * (3 * cosine.square() - 1)
    shell = (r > 9.5) & (r < 18)
    error = (truth.local_field - expected)[shell]
    assert float(error.square().mean().sqrt() / expected[shell].square().mean().sqrt()) < 0.02
    assert float(truth.local_field[r < 4].abs().max()) < 0.03 * 2.1


@pytest.mark.parametrize("tilt", [0.0, 54.7356, 90.0])
def test_field_in_a_cylinder_through_the_whole_chain(tilt):
    angle = math.radians(tilt)
    grid = Grid((120, 40, 42), (1.0, 1.0, 1.0), (math.cos(angle), 0.0, math.sin(angle)))
    x, y, z = coordinates(grid)
    labels = torch.full(grid.shape, LABELS["csf"], dtype=torch.uint8)
    wall = (y.square() + z.square()).sqrt()
    labels[wall < 5] = LABELS["bone"]
    mask = (wall < 17) & (x.abs() < 58)
    labels[~mask] = LABELS["csf"]
    truth = subject(0, anatomy=bare(labels, mask, grid))
    middle = (wall < 3) & (x.abs() < 8)
    expected = -(2.1 + 0.019) / 2 * (math.cos(angle) ** 2 - 1 / 3)
    assert float(truth.local_field[middle].mean()) == pytest.approx(expected, abs=0.015 * 2.1)


def test_total_field_is_local_and_background_and_shimmed():
    truth = subject(1, anatomy=ball_head(GRID))
    inside = truth.mask
    assert abs(float(truth.total_field[inside].mean())) < 1e-3
    assert float((truth.total_field - truth.local_field)[inside].std()) > 0.01
    assert torch.equal(truth.r2star, truth.r2 + truth.r2prime)
    torch.testing.assert_close(truth.chi[inside], (truth.chi_pos - truth.chi_neg)[inside])


def test_same_seed_same_person_bit_for_bit():
    one, same, other = (subject(seed, anatomy=ball_head(GRID), lesions=("plaque", "microbleed")) for seed in (3, 3, 4))
    for a, b in zip(one, same, strict=True):
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b)
    assert (one.age, one.sex) == (same.age, same.sex)
    assert one.age != other.age
    assert not torch.equal(one.chi, other.chi)


def test_age_and_sex_are_drawn_unless_given():
    grid = Grid((8, 8, 8), (5.0, 5.0, 5.0))
    drawn = [subject(seed, anatomy=ball_head(grid)) for seed in range(12)]
    assert all(20 <= one.age <= 80 for one in drawn)
    assert {one.sex for one in drawn} == {"female", "male"}
    given = subject(0, anatomy=ball_head(grid), age=33.0, sex="male")
    assert (given.age, given.sex) == (33.0, "male")


def test_older_people_have_more_iron():
    young, old = (subject(5, anatomy=ball_head(GRID), age=age) for age in (20.0, 75.0))
    region = young.region("putamen")
    ratio = float(old.chi_pos[region].mean() / young.chi_pos[region].mean())
    assert 1.5 < ratio < 1.9  # the curve gives 14.35 / 8.51
    assert float(old.r2star[region].mean()) > float(young.r2star[region].mean()) + 2


def test_relaxivities_are_kept():
    truth = subject(2, anatomy=ball_head(GRID), b0=7.0, dr_pos=300.0)
    assert (truth.b0, truth.dr_pos) == (7.0, 300.0)
    assert truth.dr_neg == pytest.approx(137 * 7 / 3)
    inside = truth.mask
    torch.testing.assert_close(truth.r2prime[inside], (300 * truth.chi_pos + truth.dr_neg * truth.chi_neg)[inside])


def test_finer_making_gives_partial_volumes_and_the_same_fields():
    plain, finer = (subject(6, grid=GRID, anatomy=ball_head, oversample=n, age=40.0) for n in (1, 2))
    assert finer.grid == GRID
    assert finer.chi.shape == GRID.shape
    assert torch.equal(finer.r2star, finer.r2 + finer.r2prime)
    assert float((finer.labels == plain.labels).float().mean()) > 0.93
    both = finer.mask & plain.mask
    assert float(both.sum()) > 0.95 * float(plain.mask.sum())
    deep = ball_head(GRID).labels == LABELS["white_matter"]
    for a, b in ((finer.total_field, plain.total_field), (finer.local_field, plain.local_field)):
        assert float(torch.corrcoef(torch.stack([a[deep], b[deep]]))[0, 1]) > 0.9
    values = finer.chi_pos[both]
    between = (values > 0.014) & (values < 0.026)  # of neither grey nor white matter
    coarse = plain.chi_pos[both]
    assert float(between.float().mean()) > 1.1 * float(((coarse > 0.014) & (coarse < 0.026)).float().mean())


def test_finer_rates_are_weighted_by_what_is_left_of_the_signal():
    grid = Grid((4, 4, 4), (2.0, 2.0, 2.0))
    fine = Grid((8, 8, 8), (1.0, 1.0, 1.0))
    labels = torch.full(fine.shape, LABELS["csf"], dtype=torch.uint8)
    labels[::2] = LABELS["bone"]
    truth = subject(0, grid=grid, oversample=2, anatomy=bare(labels, torch.zeros(fine.shape, dtype=torch.bool), fine))
    assert float(truth.r2star.max()) < 10  # half bone, but what is seen is fluid
    assert float(truth.density[0, 0, 0]) == pytest.approx(0.54, abs=0.01)
    assert float(truth.chi_neg[0, 0, 0]) == pytest.approx(1.05)


def test_fibres_are_averaged_as_axes():
    grid = Grid((4, 4, 4), (2.0, 2.0, 2.0))
    fine = Grid((8, 8, 8), (1.0, 1.0, 1.0))
    fibres = torch.zeros(3, *fine.shape)
    fibres[2] = 1.0
    fibres[:, ::2] *= -1
    anatomy = ball_head(fine)._replace(fibres=fibres)
    truth = subject(0, grid=grid, oversample=2, anatomy=anatomy)
    torch.testing.assert_close(truth.anatomy.fibres[2], torch.ones(grid.shape))


def test_lesions_are_listed_and_labelled():
    truth = subject(7, anatomy=ball_head(GRID), lesions=("calcification", "haemorrhage"))
    assert [lesion.kind for lesion in truth.lesions] == ["calcification", "haemorrhage"]
    assert set(truth.lesion_labels.unique().tolist()) <= {0, 1, 2}
    assert int((truth.lesion_labels == 2).sum()) > 10
    bled = truth.lesion_labels == 2
    assert float(truth.chi_pos[bled].mean()) == pytest.approx(truth.lesions[1].chi_pos, rel=0.6)
    assert subject(7, anatomy=ball_head(GRID)).lesions == ()


def test_regions_have_names():
    truth = subject(1, anatomy=ball_head(GRID))
    assert torch.equal(truth.region("putamen"), truth.labels == LABELS["putamen"])
    assert truth.names[LABELS["dentate"]] == "dentate"
    assert not truth.region("bone").any()  # no brain
    with pytest.raises(InputError, match="Did you mean 'putamen'"):
        truth.region("putamne")


@pytest.mark.slow
def test_a_head_of_the_bank():
    grid = Grid((48, 56, 48), (4.0, 4.0, 4.0), (0.0, 0.17, 0.985))
    truth = subject(11, grid=grid)
    assert 900e3 < float(truth.mask.sum()) * grid.voxel_volume < 2000e3
    assert float(truth.total_field[truth.mask].std()) > 0.05
    for image in (truth.chi, truth.r1, truth.r2star, truth.density, truth.local_field, truth.total_field):
        assert image.isfinite().all()


@pytest.mark.parametrize(
    ("knobs", "error", "message"),
    [
        ({"oversample": 0}, InputError, "oversample is a whole number"),
        ({"age": 150.0}, InputError, "age must be between"),
        ({"sex": "both"}, InputError, "sex is 'female'"),
        ({"b0": 300.0}, InputError, "field strength must be in tesla"),
        ({"lesions": ("plague",)}, InputError, "Did you mean 'plaque'"),
        ({"dr_neg": -3.0}, InputError, "dr_neg is a rate"),
        ({"grid": Grid((8, 8, 8), (20.0, 20.0, 20.0))}, GeometryError, "too coarse for a head"),
        ({"grid": Grid((8, 8, 8), (2.0, 2.0, 2.0))}, GeometryError, "the anatomy lives on"),
        ({"oversample": 3}, GeometryError, "cannot be averaged by 3"),
    ],
)
def test_bad_input_is_refused(knobs, error, message):
    with pytest.raises(error, match=message):
        subject(0, anatomy=ball_head(GRID), **knobs)
