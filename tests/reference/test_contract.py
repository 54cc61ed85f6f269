import inspect
import math

import pytest
import torch

from paradia.errors import GeometryError, InputError, MaskError, NonFiniteError
from paradia.grid import Grid
from paradia.pipeline.step import Step
from paradia.reference._shift import shift
from paradia.registry import load, methods

GRID = Grid((60, 51, 44), (1.5, 1.8, 2.0), (0.2, -0.3, 0.93))


@pytest.fixture(scope="module")
def board():
    """A round brain: grey rim, white inside with a lower χ and another R2*, fluid in the middle."""
    generator = torch.Generator().manual_seed(3)
    axes = [(torch.arange(n) - (n - 1) / 2) * v for n, v in zip(GRID.shape, GRID.voxel_size, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    radius = (x.square() + y.square() + z.square()).sqrt()
    mask, white, fluid = radius < 38, radius < 30, radius < 9
    chi = torch.where(fluid, 0.019, torch.where(white, -0.030, 0.020))
    r2star = torch.where(fluid, 1.5, torch.where(white, 21.0, 15.0))
    return {
        "chi": (chi + 0.004 * torch.randn(GRID.shape, generator=generator)) * mask + 0.05 * mask,
        "mask": mask,
        "grid": GRID,
        "r2star": (r2star + 0.5 * torch.randn(GRID.shape, generator=generator)) * mask,
        "region": radius < 5,
        "white": white & ~fluid,
        "fluid": fluid,
    }


def run(name, board):
    return Step("reference", name).run(board)["chi"]


@pytest.mark.parametrize("name", methods("reference"))
def test_shape_and_mask_are_kept(name, board):
    chi = run(name, board)
    assert chi.shape == board["chi"].shape
    assert chi.dtype == board["chi"].dtype
    assert not chi[~board["mask"]].any()


@pytest.mark.parametrize("name", methods("reference"))
def test_only_a_constant_is_subtracted(name, board):
    difference = (board["chi"] - run(name, board))[board["mask"]]
    assert difference.max() - difference.min() < 1e-6


@pytest.mark.parametrize("name", [m for m in methods("reference") if m != "none"])
def test_a_constant_in_chi_makes_no_difference_and_doing_it_twice_neither(name, board):
    once = run(name, board)
    assert torch.allclose(run(name, {**board, "chi": board["chi"] + 0.3 * board["mask"]}), once, atol=1e-6)
    assert torch.allclose(run(name, {**board, "chi": once}), once, atol=1e-6)


@pytest.mark.parametrize("name", methods("reference"))
def test_each_map_of_a_batch_has_its_own_zero(name, board):
    both = torch.stack([board["chi"], 2 * board["chi"]])
    if name == "white_matter":  # in the second map the other half of the white matter is low
        both = torch.stack([board["chi"], torch.where(board["white"], -board["chi"], board["chi"] + 0.1) * board["mask"]])
    for image, single in zip(run(name, {**board, "chi": both}), both, strict=True):
        assert torch.allclose(image, run(name, {**board, "chi": single}), atol=1e-6)


@pytest.mark.parametrize(("name", "where"), [("whole_brain", "mask"), ("region", "region"), ("csf", "fluid")])
def test_zero_is_where_it_should_be(name, where, board):
    assert abs(run(name, board)[board[where]].mean()) < 1e-3


def test_white_matter_is_found_without_being_told(board):
    assert abs(run("white_matter", board)[board["white"]].mean()) < 0.004


@pytest.mark.parametrize("name", [m for m in methods("reference") if m != "none"])
def test_nothing_to_refer_to_is_an_error(name, board):
    empty = torch.zeros_like(board["mask"])
    with pytest.raises(MaskError, match="is empty inside the mask. Choose another reference"):
        load("reference", name).function(**{k: {**board, "mask": empty, "region": empty}[k] for k in load("reference", name).takes})


def test_a_region_of_another_shape_is_refused(board):
    with pytest.raises(GeometryError, match=r"reference region has shape \(3, 3, 3\)"):
        shift(board["chi"], board["mask"], torch.ones(3, 3, 3, dtype=torch.bool), "reference region")


@pytest.mark.parametrize("name", methods("reference"))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_lies_outside_the_mask_does_not_matter(name, value, board):
    spoilt = {**board, **{key: torch.where(board["mask"], board[key], value) for key in ("chi", "r2star")}}
    assert torch.equal(run(name, spoilt), run(name, board))


@pytest.mark.parametrize("name", [m for m in methods("reference") if m != "none"])
def test_chi_that_is_no_number_inside_the_mask_is_refused(name, board):
    chi = board["chi"].clone()
    chi[30, 25, 30] = math.nan
    with pytest.raises(NonFiniteError, match="chi is NaN or Inf in 1 voxels"):
        run(name, {**board, "chi": chi})


@pytest.mark.parametrize("name", methods("reference"))
def test_images_of_another_shape_are_refused(name, board):
    method = load("reference", name)
    for other in {"mask", "r2star"} & set(method.takes):
        spoilt = {**board, other: board[other][:, :, :1]}  # which would broadcast
        with pytest.raises(GeometryError, match=f"{other} has shape"):
            inspect.unwrap(method.function)(**{k: spoilt[k] for k in method.takes})


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("csf", {"threshold": 0.0}),
        ("csf", {"threshold": math.inf}),
        ("csf", {"radius": math.nan}),
        ("csf", {"pieces": 0}),
        ("white_matter", {"spread": 0.0}),
        ("white_matter", {"depth_mm": math.nan}),
        ("white_matter", {"depth_mm": -1.0}),
    ],
)
def test_knobs_that_find_nothing_are_refused(name, knobs, board):
    method = load("reference", name)
    with pytest.raises(InputError, match=f"{next(iter(knobs))} must be .*, got"):
        method.function(**{k: board[k] for k in method.takes}, **knobs)
