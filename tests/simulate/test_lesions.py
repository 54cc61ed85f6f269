import math

import pytest
import torch

from paradia.errors import InputError, MaskError
from paradia.grid import Grid
from paradia.simulate.anatomy import Anatomy
from paradia.simulate.lesions import KINDS, draw, lesion_labels
from paradia.simulate.tissue import LABELS, maps

GRID = Grid((80, 84, 76), (1.5, 1.5, 1.5), (0.0, 0.2, 0.98))


def coordinates(grid):
    axes = [(torch.arange(n) - (n - 1) / 2) * size for n, size in zip(grid.shape, grid.voxel_size, strict=True)]
    return torch.meshgrid(*axes, indexing="ij")


@pytest.fixture(scope="module")
def brain():
    """Grey matter around white matter around a ventricle, with a pineal gland."""
    x, y, z = coordinates(GRID)
    r = (x.square() + y.square() + z.square()).sqrt()
    labels = torch.zeros(GRID.shape, dtype=torch.uint8)
    for name, region in (
        ("bone", r < 56),
        ("csf", r < 54),
        ("grey_matter", r < 52),
        ("white_matter", r < 44),
        ("csf", (x / 9).square() + (y / 18).square() + (z / 9).square() < 1),
        ("pineal", x.square() + (y + 24).square() + z.square() < 36),
    ):
        labels.masked_fill_(region, LABELS[name])
    zeros = torch.zeros(GRID.shape)
    anatomy = Anatomy(labels, r < 52, zeros, zeros, None, GRID)
    return anatomy, maps(anatomy, texture=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_moment_is_that_of_what_was_drawn(brain, kind):
    anatomy, plain = brain
    changed, _, (lesion,) = draw(plain, anatomy, seed=3, kinds=(kind,))
    before = float((lesion.share * plain.chi_neg[lesion.box]).sum())
    moment = float((changed.chi_neg - plain.chi_neg).sum())
    assert moment == pytest.approx(lesion.chi_neg * float(lesion.share.sum()) - before, abs=1e-3)
    if kind in ("plaque", "microbleed", "calcification"):  # of one χ+ throughout
        before = float((lesion.share * plain.chi_pos[lesion.box]).sum())
        moment = float((changed.chi_pos - plain.chi_pos).sum())
        assert moment == pytest.approx(lesion.chi_pos * float(lesion.share.sum()) - before, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_volume_is_about_that_of_a_ball(brain, kind):
    anatomy, plain = brain
    ratios = []
    for seed in range(8):
        _, _, (lesion,) = draw(plain, anatomy, seed=seed, kinds=(kind,))
        ball = 4 / 3 * math.pi * lesion.radius_mm**3
        ratios.append(float(lesion.share.sum()) * GRID.voxel_volume / ball)
    assert 0.7 < sum(ratios) / 8 < 1.6
    assert max(ratios) - min(ratios) > 0.05  # no two alike


def test_r2prime_follows_the_sources(brain):
    anatomy, _ = brain
    plain = maps(anatomy, seed=1, dr_pos=90.0, dr_neg=160.0)
    changed, _, lesions = draw(plain, anatomy, seed=4, kinds=KINDS)
    inside = anatomy.mask
    expected = 90 * changed.chi_pos + 160 * changed.chi_neg
    torch.testing.assert_close(changed.r2prime[inside], expected[inside], rtol=1e-3, atol=1e-2)
    assert torch.equal(changed.r2star, changed.r2 + changed.r2prime)
    assert len(lesions) == len(KINDS)


def test_plaques_lie_in_white_matter_near_the_ventricles(brain):
    anatomy, plain = brain
    for seed in range(10):
        _, _, (lesion,) = draw(plain, anatomy, seed=seed, kinds=("plaque",))
        x, y, z = lesion.centre_mm
        outside_ventricle = math.sqrt((x / 9) ** 2 + (y / 18) ** 2 + (z / 9) ** 2)
        assert outside_ventricle > 1
        assert math.sqrt(x * x + y * y + z * z) < 44
        assert min(abs(outside_ventricle - 1) * 9, 99) < lesion.radius_mm + 14


def test_calcification_is_in_the_gland(brain):
    anatomy, plain = brain
    for seed in range(5):
        _, _, (lesion,) = draw(plain, anatomy, seed=seed, kinds=("calcification",))
        x, y, z = lesion.centre_mm
        assert x * x + (y + 24) ** 2 + z * z < 40


def test_plaques_are_less_diamagnetic_and_rims_hold_iron(brain):
    anatomy, plain = brain
    x, y, z = coordinates(GRID)
    white = plain.chi_pos[40, 42, 62] - plain.chi_neg[40, 42, 62]
    for seed in range(4):
        changed, _, (lesion,) = draw(plain, anatomy, seed=seed, kinds=("rim_plaque",))
        r = sum((u - c).square() for u, c in zip((x, y, z), lesion.centre_mm, strict=True)).sqrt()
        core = (changed.chi_pos - changed.chi_neg)[r < 1.5].mean()
        assert 0.005 < float(core - white) < 0.05
        assert lesion.rim > 4 * lesion.chi_pos
        full = torch.zeros(GRID.shape)
        full[lesion.box] = lesion.share
        assert float(changed.chi_pos[full > 0.9].max()) > 0.8 * lesion.rim
        assert float(changed.chi_pos[r < 1.0].mean()) < 0.35 * lesion.rim
        assert float(changed.r2[r < 1.5].mean()) < 0.7 * 1e3 / 70.1
        assert float(changed.r1[r < 1.5].mean()) < 0.7 * 1e3 / 850


def test_labels_tell_where(brain):
    anatomy, plain = brain
    _, marked, lesions = draw(plain, anatomy, seed=2, kinds=("haemorrhage", "calcification"))
    places = lesion_labels(lesions, GRID)
    assert set(places.unique().tolist()) == {0, 1, 2}
    assert (marked.labels[places == 2] == LABELS["calcification"]).all()
    assert torch.equal(marked.labels[places == 0], anatomy.labels[places == 0])
    x, y, z = coordinates(GRID)
    centre = [float(u[places == 1].mean()) for u in (x, y, z)]
    assert math.dist(centre, lesions[0].centre_mm) < 0.5 * lesions[0].radius_mm + 1


def test_nothing_is_drawn_outside_the_brain(brain):
    anatomy, plain = brain
    changed, _, _ = draw(plain, anatomy, seed=9, kinds=KINDS * 3)
    for name in ("chi_pos", "chi_neg", "r2star", "density"):
        assert torch.equal(getattr(changed, name)[~anatomy.mask], getattr(plain, name)[~anatomy.mask]), name


def test_what_was_given_is_not_changed(brain):
    anatomy, plain = brain
    copies = [image.clone() for image in plain], anatomy.labels.clone()
    draw(plain, anatomy, seed=1, kinds=KINDS)
    assert all(torch.equal(a, b) for a, b in zip(copies[0], plain, strict=True))
    assert torch.equal(copies[1], anatomy.labels)
    assert draw(plain, anatomy, seed=1, kinds=()) == (plain, anatomy, ())


def test_anatomies_without_white_matter_have_lesions_anywhere_inside(brain):
    anatomy, plain = brain
    strange = anatomy._replace(labels=torch.full_like(anatomy.labels, LABELS["procedural"]))
    for kind in KINDS:
        _, _, (lesion,) = draw(plain, strange, seed=1, kinds=(kind,))
        assert math.hypot(*lesion.centre_mm) < 52
        assert float(lesion.share.sum()) > 0


def test_seed_decides(brain):
    anatomy, plain = brain
    one, same, other = (draw(plain, anatomy, seed=seed, kinds=("haemorrhage",))[0] for seed in (1, 1, 2))
    assert torch.equal(one.chi_pos, same.chi_pos)
    assert not torch.equal(one.chi_pos, other.chi_pos)


def test_bad_input_is_refused(brain):
    anatomy, plain = brain
    with pytest.raises(InputError, match="Did you mean 'microbleed'"):
        draw(plain, anatomy, seed=0, kinds=("microblead",))
    with pytest.raises(MaskError, match="nowhere to draw a lesion"):
        draw(plain, anatomy._replace(mask=torch.zeros_like(anatomy.mask)), seed=0, kinds=("plaque",))
