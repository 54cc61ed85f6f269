from __future__ import annotations

import math

import pytest
import torch

from paradia.errors import InputError
from paradia.grid import Grid
from paradia.mask._morphology import filled
from paradia.simulate import _deform
from paradia.simulate._fill import sample
from paradia.simulate._table import LABELS
from paradia.simulate.anatomical import CENTRE, anatomical
from paradia.simulate.anatomy import Anatomy
from paradia.simulate.bank import Map, load

HEAD = Grid((100, 121, 112), (2.0, 1.9, 2.1), (0.1, -0.2, 0.97))
DEEP = Grid((90, 120, 85), (1.0, 1.0, 1.0))
# cm³ on one side; the ranges over people, wider than the standard errors of the mean that the bank cites
RANGES = {
    "caudate": (2.4, 6.3),
    "putamen": (3.0, 6.4),
    "pallidum_external": (0.7, 1.7),
    "pallidum_internal": (0.25, 0.75),
    "thalamus": (4.5, 9.0),
    "subthalamic": (0.08, 0.22),
    "substantia_nigra": (0.3, 0.9),
    "red_nucleus": (0.15, 0.45),
    "dentate": (0.5, 1.7),
}


@pytest.fixture(scope="module")
def subjects() -> list[Anatomy]:
    return [anatomical(HEAD, seed=seed) for seed in (11, 12, 13)]


def _volume(anatomy: Anatomy, *names: str) -> float:
    return sum(int((anatomy.labels == LABELS[name]).sum()) for name in names) * anatomy.grid.voxel_volume / 1000


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nuclei_have_published_volumes_on_both_sides(seed: int):
    whole = anatomical(Grid((90, 150, 110)), seed=seed)
    deformation = _deformation(seed)
    middle = deformation.to_subject(torch.tensor([[0.0, y, z] for y in (-60, -20, 10) for z in (-30, 0, 10)])).mean(0)[0]
    cut = round(45 + float(middle))
    for name, (low, high) in RANGES.items():
        here = whole.labels == LABELS[name]
        for side in (here[:cut], here[cut:]):
            assert low < float(side.sum()) / 1000 < high, name


def test_everything_is_there(subjects: list[Anatomy]):
    absent = {"lesion", "calcification", "haemorrhage", "procedural"}
    for name in set(LABELS) - absent:
        assert (subjects[0].labels == LABELS[name]).any(), name
    for name in absent:
        assert not (subjects[0].labels == LABELS[name]).any()


def test_two_subjects_share_no_shape(subjects: list[Anatomy]):
    for one, two in ((0, 1), (0, 2), (1, 2)):
        a, b = (subjects[i].labels == LABELS["grey_matter"] for i in (one, two))
        dice = 2 * int((a & b).sum()) / int(a.sum() + b.sum())
        assert 0.2 < dice < 0.65


def test_strength_zero_is_the_bank():
    one, two = (anatomical(HEAD, seed=seed, age=40, sex="female", strength=0.0) for seed in (1, 2))
    same = one.labels == two.labels
    assert float(same.float().mean()) > 0.995  # veins and arteries still have their own courses
    for name in ("thalamus", "grey_matter", "eye"):
        both = one.labels == LABELS[name]
        assert float((both == both.flip(0)).float().mean()) > 0.999


def test_maps_of_a_bank_that_is_gone_are_not_taken_for_those_of_another():
    """The memory of one is given to the next."""
    places = torch.zeros(1, 3)
    for code in range(100, 130):
        here = Map(torch.full((1, 40, 40, 40), code, dtype=torch.uint8), (-20.0, -20.0, -20.0), 1.0, (4.0,))
        assert float(sample(here, places)) == (code - 128) / 4


def test_size_of_the_brain():
    volumes = {sex: [_volume_of_brain(seed, sex) for seed in range(3)] for sex in ("female", "male")}
    assert all(1050 < v < 1750 for v in volumes["female"] + volumes["male"])
    for woman, man in zip(volumes["female"], volumes["male"], strict=True):
        assert man / woman == pytest.approx((1.019 / 0.981) ** 3, rel=0.01)


def _volume_of_brain(seed: int, sex: str) -> float:
    grid = Grid((54, 66, 60), (3.2, 3.2, 3.2))
    return float(anatomical(grid, seed=seed, age=30, sex=sex).mask.sum()) * grid.voxel_volume / 1000


@pytest.mark.parametrize("seed", [4, 5])
def test_ventricles_and_sulci_widen_with_age(seed: int):
    grid = Grid((64, 84, 64), (2.2, 2.2, 2.2))
    water, deep = [], []
    for age in (20, 50, 80):
        anatomy = anatomical(grid, seed=seed, age=age, sex="male")
        water.append(float(((anatomy.labels == LABELS["csf"]) & anatomy.mask).sum()))
        deep.append(float((anatomy.labels[24:40, 28:60, 26:48] == LABELS["csf"]).sum()))
    assert water[0] < water[1] < water[2]
    assert deep[2] > 1.25 * deep[0]


@pytest.mark.parametrize("seed", range(4))
def test_nothing_folds(seed: int):
    """Finite differences of where neighbours come from, on a grid of its own."""
    deformation = _deformation(seed)
    axes = [torch.arange(-100.0, 101.0, 3.0), torch.arange(-125.0, 126.0, 3.0), torch.arange(-120.0, 121.0, 3.0)]
    places = deformation.on(axes).reshape(*(len(axis) for axis in axes), 3)
    columns = [
        torch.diff(places, dim=i)[: -1 if i != 0 else None, : -1 if i != 1 else None, : -1 if i != 2 else None] / 3 for i in range(3)
    ]
    determinant = torch.linalg.det(torch.stack(columns, -1))
    assert float(determinant.min()) > 0.15
    assert float(determinant.std()) > 0.05


def test_the_way_back_leads_back():
    deformation = _deformation(9)
    points = torch.tensor(CENTRE) + 60 * (torch.rand((500, 3), generator=torch.Generator().manual_seed(0)) - 0.5)
    there = deformation.to_bank(deformation.to_subject(points))
    assert float((there - points).norm(dim=1).max()) < 0.6


def _deformation(seed: int) -> _deform.Deformation:
    from paradia.simulate.anatomical import Traits

    generator = torch.Generator().manual_seed(seed)
    traits = Traits(generator, None, None, 1.0)
    return _deform.draw(traits.matrix, torch.tensor(CENTRE), load().widening, traits.widen, generator, 1.0)


def test_a_crop_is_a_crop():
    large = anatomical(Grid((80, 90, 70), (2.0, 2.0, 2.0)), seed=3)
    small = anatomical(Grid((40, 50, 30), (2.0, 2.0, 2.0)), seed=3)
    box = (slice(20, 60), slice(20, 70), slice(20, 50))
    assert float((large.labels[box] == small.labels).float().mean()) > 0.9999
    assert float((large.mask[box] == small.mask).float().mean()) > 0.9999
    assert float((large.veins[box] - small.veins).abs().mean()) < 1e-4
    assert large.fibres is not None
    assert small.fibres is not None
    assert float((large.fibres[(slice(None), *box)] * small.fibres).sum(0).abs().sum() / small.fibres.square().sum()) > 0.9999


def test_voxel_size_keeps_volumes():
    fine = anatomical(Grid((132, 150, 120), (1.0, 1.0, 1.0)), seed=6)
    coarse = anatomical(Grid((60, 75, 80), (2.2, 2.0, 1.5)), seed=6)
    for name in ("grey_matter", "white_matter", "thalamus", "putamen", "caudate"):
        assert _volume(coarse, name) == pytest.approx(_volume(fine, name), rel=0.03), name
    blood = [float(a.veins.sum()) * a.grid.voxel_volume for a in (fine, coarse)]
    assert blood[1] == pytest.approx(blood[0], rel=0.2)


def test_air_lies_beside_the_brain_and_never_in_it(subjects: list[Anatomy]):
    counts = []
    for anatomy in subjects:
        air = anatomy.labels == LABELS["air"]
        assert not (air & anatomy.mask).any()
        outside = air.clone()
        head = _span(~air)
        counts.append(int((air & head).sum()) * anatomy.grid.voxel_volume / 1000)
        assert outside[0].all()
        assert outside[-1].all()
    assert min(counts) > 8
    assert max(counts) < 300
    assert max(counts) > 1.1 * min(counts)  # cm³ of cavities differ


def _span(solid: torch.Tensor) -> torch.Tensor:
    """What has solid matter left and right of it, before and behind it."""
    result = torch.ones_like(solid)
    for axis in (0, 1):
        result &= (solid.int().cumsum(axis) > 0) & (solid.flip(axis).int().cumsum(axis).flip(axis) > 0)
    return result


def test_the_brain_is_wrapped(subjects: list[Anatomy]):
    """No brain touches bone or air: water or dura lies between, within a voxel."""
    for anatomy in subjects:
        brain = (anatomy.labels == LABELS["grey_matter"]) & anatomy.mask
        scalp = (anatomy.labels == LABELS["fat"]) | (anatomy.labels == LABELS["air"])
        near = torch.nn.functional.max_pool3d(brain[None, None].float(), 3, 1, 1)[0, 0] > 0
        assert int((near & scalp).sum()) < 30


def test_the_neck_goes_on_below():
    anatomy = anatomical(Grid((60, 60, 120), (4.0, 4.0, 4.0)), seed=2)
    low = anatomy.labels[:, :, 2]
    solid = (low != LABELS["air"]).float().mean()
    assert 0.05 < float(solid) < 0.4
    assert (low == LABELS["bone"]).any()
    assert (low == LABELS["white_matter"]).any()
    assert not anatomy.mask[:, :, :30].any()
    assert (anatomy.labels[:, :, -5:] == LABELS["air"]).all()


def test_fibres_are_unit_vectors_along_known_bundles():
    anatomy = anatomical(DEEP, seed=8, strength=0.3)
    assert anatomy.fibres is not None
    white = torch.zeros_like(anatomy.mask)
    for name in ("white_matter", "corpus_callosum", "internal_capsule", "optic_radiation"):
        white |= anatomy.labels == LABELS[name]
    length = anatomy.fibres.norm(dim=0)
    torch.testing.assert_close(length[white], torch.ones(int(white.sum())))
    assert float((length * ~white).max()) < 1e-6 or (anatomy.veins[(length > 0) & ~white] > 0).all()
    middle = (anatomy.labels == LABELS["corpus_callosum"])[40:50]
    assert float(anatomy.fibres[0, 40:50][middle].abs().mean()) > 0.8
    capsule = anatomy.labels == LABELS["internal_capsule"]
    assert float(anatomy.fibres[2][capsule].abs().mean()) > 0.6


def test_detail_has_unit_spread_in_the_brain(subjects: list[Anatomy]):
    for anatomy in subjects:
        values = anatomy.detail[anatomy.mask]
        assert abs(float(values.mean())) < 0.3
        assert 0.5 < float(values.std()) < 1.6
        assert not anatomy.detail[~anatomy.mask].any()


def test_veins_are_shares(subjects: list[Anatomy]):
    for anatomy in subjects:
        assert float(anatomy.veins.min()) >= 0
        assert 0.95 < float(anatomy.veins.max()) <= 1
        assert 5 < float(anatomy.veins.sum()) * anatomy.grid.voxel_volume / 1000 < 30  # cm³, sinuses and all


def test_the_same_seed_is_the_same_subject():
    grid = Grid((30, 37, 33), (5.0, 4.0, 6.0))
    one, two, other = (anatomical(grid, seed=s) for s in (1, 1, 2))
    for a, b in zip(one[:5], two[:5], strict=True):
        assert isinstance(a, torch.Tensor)
        assert isinstance(b, torch.Tensor)
        assert torch.equal(a, b)
    assert not torch.equal(one.labels, other.labels)


def test_b0_does_not_turn_the_head():
    one = anatomical(Grid((20, 24, 20), (8.0, 8.0, 8.0)), seed=1)
    two = anatomical(Grid((20, 24, 20), (8.0, 8.0, 8.0), (0.0, 0.6, 0.8)), seed=1)
    assert torch.equal(one.labels, two.labels)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"age": -1}, "between 0 and 110"),
        ({"age": math.nan}, "between 0 and 110"),
        ({"sex": "m"}, "'female', 'male'"),
        ({"strength": -0.1}, "between 0 and 2"),
        ({"strength": math.inf}, "between 0 and 2"),
    ],
)
def test_what_cannot_be_is_refused(kwargs, match):
    with pytest.raises(InputError, match=match):
        anatomical(Grid((8, 8, 8)), seed=0, **kwargs)


def test_the_brain_has_no_holes(subjects: list[Anatomy]):
    for anatomy in subjects:
        assert not (filled(anatomy.mask) & ~anatomy.mask).any()


def test_bone_surrounds_the_spinal_canal():
    """Below the skull no muscle lies within 2 mm of the dura."""
    frame = anatomical(Grid((100, 130, 170), (1.5, 1.5, 1.5)), seed=0, age=40, strength=0.0)
    column = slice(8, 20)
    labels = frame.labels[:, :, column]
    cord = torch.isin(labels, torch.tensor([LABELS[n] for n in ("white_matter", "csf", "dura")], dtype=labels.dtype))
    assert cord.any()
    near = (torch.nn.functional.max_pool3d(cord[None].float(), 3, 1, 1)[0] > 0) & ~cord
    assert float((labels[near] == LABELS["bone"]).float().mean()) > 0.95


def test_two_sides_are_more_alike_than_two_people(subjects: list[Anatomy]):
    for anatomy in subjects:
        size = torch.stack([(anatomy.labels == LABELS[name]).sum((1, 2)).float() for name in ("putamen", "caudate", "thalamus")])
        middle = round(float((size.sum(0) * torch.arange(size.shape[1])).sum() / size.sum()))
        left, right = size[:, :middle].sum(1), size[:, middle + 1 :].sum(1)
        assert ((left - right).abs() < 0.2 * (left + right)).all()
