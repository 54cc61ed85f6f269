import math

import pytest
import torch

from paradia.errors import InputError
from paradia.grid import Grid
from paradia.simulate import tissue
from paradia.simulate.anatomy import Anatomy
from paradia.simulate.tissue import LABELS, TISSUES, iron, maps, static_dephasing, venous_chi

GRID = Grid((24, 27, 22), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))


def blocks(*names, grid=GRID, fibres=None, detail=None):
    """Lay tissues side by side along x, all of it brain but the rim."""
    labels = torch.zeros(grid.shape, dtype=torch.uint8)
    edges = torch.linspace(0, grid.shape[0], len(names) + 1).round().int().tolist()
    for name, low, high in zip(names, edges, edges[1:], strict=False):
        labels[low:high] = LABELS[name]
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[:, 2:-2, 2:-2] = True
    zeros = torch.zeros(grid.shape)
    return Anatomy(labels, mask, zeros, zeros if detail is None else detail, fibres, grid)


def core(anatomy, name):
    """Return the voxels of a tissue that have no other beside them."""
    here = (anatomy.labels == LABELS[name]) & anatomy.mask
    return -torch.nn.functional.max_pool3d(-here.float()[None], 3, 1, 1)[0] > 0.5


def test_names_are_those_agreed():
    names = (
        "air muscle fat bone marrow csf grey_matter white_matter caudate putamen pallidum_external pallidum_internal thalamus "
        "subthalamic substantia_nigra red_nucleus dentate vein artery dura choroid pineal eye corpus_callosum internal_capsule "
        "optic_radiation lesion calcification haemorrhage procedural"
    )
    assert [t.name for t in TISSUES] == names.split()
    assert [LABELS[t.name] for t in TISSUES] == list(range(30))


def test_pallidum_as_a_whole_is_that_of_the_phantom():
    outer, inner = TISSUES[LABELS["pallidum_external"]], TISSUES[LABELS["pallidum_internal"]]
    assert 0.7 * outer.chi_pos + 0.3 * inner.chi_pos == pytest.approx(0.143723, abs=5e-4)
    assert 0.7 * outer.chi_neg + 0.3 * inner.chi_neg == pytest.approx(0.013223, abs=5e-4)


@pytest.mark.parametrize("name", [t.name for t in TISSUES[1:]])
def test_without_texture_every_voxel_has_the_table_s_values(name):
    anatomy, row = blocks(name, "csf"), TISSUES[LABELS[name]]
    made = maps(anatomy, texture=0.0)
    inside = core(anatomy, name)
    inside[:2] = False  # the softened border of the grid's first plane is no border of a tissue
    for image, value in ((made.chi_pos, row.chi_pos), (made.chi_neg, row.chi_neg), (made.density, row.density), (made.fat, row.fat)):
        torch.testing.assert_close(image[inside], torch.full_like(image[inside], value), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(made.r1[inside], torch.full_like(made.r1[inside], 1e3 / row.t1))
    torch.testing.assert_close(made.r2[inside], torch.full_like(made.r2[inside], 1e3 / row.t2))


def test_people_and_textures_vary_about_the_table():
    anatomy = blocks("white_matter", "putamen", "thalamus")
    rows = [(name, TISSUES[LABELS[name]], core(anatomy, name)) for name in ("white_matter", "putamen", "thalamus")]
    made = [maps(anatomy, seed=seed) for seed in range(24)]
    for name, row, inside in rows:
        means = torch.stack([one.chi_pos[inside].mean() for one in made])
        assert float(means.mean()) == pytest.approx(row.chi_pos, rel=0.12), name
        assert 0.4 * row.between < float(means.std()) / row.chi_pos < 2.5 * row.between + 0.1, name
        spread = float(torch.stack([one.chi_neg[inside].std() for one in made]).mean())
        assert 0.4 * row.spread_neg < spread < 1.3 * row.spread_neg, name


def test_rates_add_up_exactly():
    made = maps(blocks("grey_matter", "putamen", "calcification"), seed=3, b0=7.0, dr_pos=250.0, dr_neg=320.0)
    assert torch.equal(made.r2star, made.r2 + made.r2prime)
    torch.testing.assert_close(made.r2prime, 250 * made.chi_pos + 320 * made.chi_neg)
    assert float(min(image.min() for image in made)) >= 0


def test_default_relaxivity_grows_with_the_field():
    anatomy = blocks("putamen", "csf")
    three, seven = (maps(anatomy, b0=b0, texture=0.0) for b0 in (3.0, 7.0))
    torch.testing.assert_close(three.r2prime, 137 * (three.chi_pos + three.chi_neg))
    torch.testing.assert_close(seven.r2prime, three.r2prime * 7 / 3)


def test_rates_at_seven_tesla_are_those_the_table_came_from():
    anatomy = blocks("white_matter", "csf")
    three, seven = (maps(anatomy, b0=b0, texture=0.0) for b0 in (3.0, 7.0))
    inside = core(anatomy, "white_matter")
    assert 1e3 / float(seven.r2[inside].median()) == pytest.approx(45.54, rel=0.01)  # ms
    assert float((seven.r1 / three.r1)[inside].median()) == pytest.approx(0.725, rel=1e-4)


def test_iron_is_what_others_computed_for_thirty_years():
    # mg per 100 g; an independent evaluation of the published curves
    for name, expected in (("caudate", 7.835), ("putamen", 10.677), ("pallidum_external", 20.341)):
        assert iron(name, 30.0) == pytest.approx(expected, abs=2e-3)
    assert iron("csf", 30.0) == 0


def test_iron_grows_with_age_and_myelin_does_not():
    anatomy = blocks("putamen", "white_matter")
    young, reference, old = (maps(anatomy, age=age, texture=0.0) for age in (20.0, None, 75.0))
    inside = core(anatomy, "putamen")
    for made, age in ((young, 20.0), (old, 75.0)):
        ratio = float((made.chi_pos / reference.chi_pos)[inside].mean())
        assert ratio == pytest.approx(iron("putamen", age) / iron("putamen", tissue.REFERENCE_AGE), rel=1e-4)
    assert torch.equal(young.chi_neg, old.chi_neg)
    assert float(old.r2[inside].mean()) > float(young.r2[inside].mean()) + 0.2
    assert torch.equal(maps(anatomy, age=tissue.REFERENCE_AGE, texture=0.0).chi_pos, reference.chi_pos)


def test_constants_of_theory():
    assert static_dephasing(3.0) == pytest.approx(323.5, rel=1e-3)
    assert venous_chi(0.65) == pytest.approx(0.4988, rel=1e-3)
    assert venous_chi(0.81) == pytest.approx(TISSUES[LABELS["vein"]].chi_pos, rel=0.01)


def test_haematocrit_is_higher_in_men():
    anatomy = blocks("vein", "csf")
    inside = core(anatomy, "vein")
    woman, man = (float(maps(anatomy, sex=sex, texture=0.0).chi_pos[inside].mean()) for sex in ("female", "male"))
    assert man / woman == pytest.approx(0.45 / 0.40, rel=1e-4)


@pytest.mark.parametrize("name", ["white_matter", "corpus_callosum"])
def test_myelin_is_less_diamagnetic_along_the_fibres(name):
    grid = Grid(GRID.shape, GRID.voxel_size, (0.0, 0.6, 0.8))
    row = TISSUES[LABELS[name]]
    values = {}
    for which, direction in (("along", (0.0, 0.6, 0.8)), ("across", (1.0, 0.0, 0.0)), ("magic", (0.0, 0.0, 0.0))):
        fibres = torch.tensor(direction)[:, None, None, None].expand(3, *grid.shape).clone()
        anatomy = blocks(name, "csf", grid=grid, fibres=fibres)
        made = maps(anatomy, texture=0.0, dr_pos=0.0, dr_neg=100.0)
        inside = core(anatomy, name)
        inside[:2] = False
        values[which] = float(made.chi_neg[inside].mean()), float((made.r2prime / made.chi_neg)[inside].mean())
    assert values["across"][0] - values["along"][0] == pytest.approx(row.anisotropy, rel=1e-4)
    assert values["magic"] == pytest.approx((row.chi_neg, 100.0), rel=1e-4)
    assert values["across"][1] == pytest.approx(100 * (1 + tissue.TURNING / 2), rel=1e-4)
    assert values["along"][1] == pytest.approx(100 * (1 - tissue.TURNING), rel=1e-4)


def test_fibres_can_be_left_out():
    fibres = torch.zeros(3, *GRID.shape)
    fibres[0] = 1
    anatomy = blocks("white_matter", "csf", fibres=fibres)
    straight = maps(anatomy, seed=1, b0_dir_fibres=False)
    assert torch.equal(straight.chi_neg, maps(anatomy._replace(fibres=None), seed=1).chi_neg)
    assert not torch.equal(straight.chi_neg, maps(anatomy, seed=1).chi_neg)


def test_veins_share_voxels():
    anatomy = blocks("white_matter", "white_matter")
    veins = torch.zeros(GRID.shape)
    veins[8:16, 8:16, 6:14] = 0.25
    plain, mixed = (maps(anatomy._replace(veins=v), texture=0.0) for v in (torch.zeros_like(veins), veins))
    at = (12, 12, 10)
    assert float(mixed.chi_pos[at]) == pytest.approx(0.75 * 0.0059 + 0.25 * 0.27, rel=1e-4)
    share = 0.25 * 0.8 / (0.25 * 0.8 + 0.75 * 0.7)
    assert float(mixed.r2[at]) == pytest.approx(float(plain.r2[at]) * (1 - share) + share * 1e3 / 55, rel=1e-4)
    assert torch.equal(mixed.chi_pos[:, :, :4], plain.chi_pos[:, :, :4])


def test_detail_follows_myelin_and_leaves_means_alone():
    generator = torch.Generator().manual_seed(0)
    detail = torch.randn(GRID.shape, generator=generator) + 3.0  # an offset that a tissue's mean takes away
    anatomy = blocks("white_matter", "putamen")
    plain, fine = (maps(anatomy._replace(detail=d * anatomy.mask), seed=1) for d in (torch.zeros(GRID.shape), detail))
    inside = core(anatomy, "white_matter")
    change = (fine.chi_neg - plain.chi_neg)[inside]
    assert abs(float(change.mean())) < 0.1 * TISSUES[LABELS["white_matter"]].spread_neg
    assert float(torch.corrcoef(torch.stack([change, detail[inside]]))[0, 1]) > 0.6
    assert float(torch.corrcoef(torch.stack([(fine.r1 - plain.r1)[inside], detail[inside]]))[0, 1]) > 0.6


def test_texture_is_the_same_at_any_resolution():
    fine = Grid((48, 27, 22), (0.5, 1.2, 1.5), GRID.b0_dir)
    coarse_maps, fine_maps = (maps(blocks("thalamus", "thalamus", grid=g), seed=5) for g in (GRID, fine))
    merged = fine_maps.chi_pos.view(24, 2, 27, 22).mean(1)
    inside = core(blocks("thalamus", "thalamus"), "thalamus")
    assert float(torch.corrcoef(torch.stack([merged[inside], coarse_maps.chi_pos[inside]]))[0, 1]) > 0.97


def test_borders_are_soft_in_the_brain_and_sharp_at_its_surface():
    anatomy = blocks("putamen", "white_matter")
    anatomy.labels[:, :2] = LABELS["bone"]
    made = maps(anatomy, texture=0.0)
    border = made.chi_pos[11:13, 12, 10]
    assert TISSUES[LABELS["white_matter"]].chi_pos < float(border[1]) < float(border[0]) < TISSUES[LABELS["putamen"]].chi_pos
    assert float(made.chi_neg[:, 1].min()) == pytest.approx(2.1)
    assert float(made.chi_neg[:, 2:-2, 2:-2].max()) < 0.05


def test_nothing_decays_in_air():
    made = maps(blocks("air", "csf"), texture=0.0)
    assert float(made.r2star[:9, 0].abs().max()) == 0
    assert float(made.chi_pos[0, 0, 0]) == pytest.approx(9.4)


def test_seed_decides():
    anatomy = blocks("putamen", "white_matter")
    for a, b in zip(maps(anatomy, seed=1), maps(anatomy, seed=1), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(maps(anatomy, seed=1).chi_pos, maps(anatomy, seed=2).chi_pos)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"b0": 0.0}, "field strength must be in tesla"),
        ({"b0": math.nan}, "field strength must be in tesla"),
        ({"age": -1.0}, "age must be between 0 and 120"),
        ({"sex": "x"}, "sex is 'female', 'male' or None"),
        ({"dr_pos": -1.0}, "dr_pos is a rate per ppm"),
        ({"dr_neg": math.inf}, "dr_neg is a rate per ppm"),
        ({"texture": -0.5}, "texture is a factor and not negative"),
    ],
)
def test_bad_input_is_refused(knobs, message):
    with pytest.raises(InputError, match=message):
        maps(blocks("csf", "csf"), **knobs)
