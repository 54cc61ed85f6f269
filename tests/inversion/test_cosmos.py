"""Several orientations: the laws that every inversion keeps, and what only cosmos can do."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch

from paradia.errors import ConvergenceWarning, GeometryError, InputError, MaskError
from paradia.fft import crop, pad
from paradia.grid import Grid
from paradia.inversion.cosmos import cosmos
from paradia.operators.dipole import Dipole

DIRECTIONS = torch.tensor([[0.1, -0.2, 0.97], [0.5, 0.1, 0.86], [-0.2, 0.55, 0.81], [-0.3, -0.4, 0.87]])
DIRECTIONS = DIRECTIONS / DIRECTIONS.norm(dim=1, keepdim=True)


class Case(NamedTuple):
    chi: torch.Tensor
    fields: torch.Tensor
    mask: torch.Tensor
    grid: Grid
    noise: torch.Tensor


def fields_of(chi, grid, directions):
    wide = [2 * n for n in grid.shape]
    return torch.stack([crop(Dipole(Grid(wide, grid.voxel_size, tuple(b)))(pad(chi, wide)), grid.shape) for b in directions.tolist()])


@pytest.fixture(scope="module")
def case():
    """One χ under four directions of B0; the last scan is the noisiest, and all are noisier towards one side."""
    grid = Grid((40, 37, 34), (1.0, 1.2, 1.5), (0, 0, 1))
    x, y, z = torch.meshgrid(*((torch.arange(n) - n / 2) / n for n in grid.shape), indexing="ij")
    mask = (x / 0.42) ** 2 + (y / 0.4) ** 2 + (z / 0.41) ** 2 < 1
    chi = 0.1 * (((x - 0.1) / 0.12) ** 2 + (y / 0.1) ** 2 + (z / 0.12) ** 2 < 1) - 0.06 * (
        ((x + 0.15) / 0.1) ** 2 + (y - 0.1) ** 2 / 0.01 + z**2 / 0.01 < 1
    )
    chi = (chi + 0.2 * ((x.abs() < 0.06) & ((y + 0.2).abs() < 0.04) & (z.abs() < 0.25))) * mask
    noise = 0.001 * (1 + torch.linspace(0, 2, 40))[:, None, None] * torch.tensor([1.0, 1.0, 1.0, 4.0])[:, None, None, None]
    noise = noise.expand(4, *grid.shape).contiguous()
    fields = fields_of(chi, grid, DIRECTIONS)
    fields = (fields + noise * torch.randn(fields.shape, generator=torch.Generator().manual_seed(1))) * mask
    return Case(chi.float(), fields.float(), mask, grid, noise)


def error(chi, case):
    a, b = chi[case.mask], case.chi[case.mask]
    return float(((a - a.mean()) - (b - b.mean())).norm() / (b - b.mean()).norm())


@pytest.fixture(params=["uniform", "mapped"])
def invert(request, case):
    noise = case.noise if request.param == "mapped" else None
    return lambda fields, mask, grid, directions=DIRECTIONS, **knobs: cosmos(
        fields, mask, grid, directions, None if noise is None else noise.to(fields), **knobs
    )


def test_recovers_the_truth(invert, case):
    chi = invert(case.fields, case.mask, case.grid)
    assert chi.shape == case.chi.shape
    assert chi.dtype == torch.float32
    assert chi[~case.mask].abs().max() == 0
    assert error(chi, case) < 0.3
    a, b = chi[case.mask], case.chi[case.mask]
    slope = float(((a - a.mean()) * (b - b.mean())).sum() / (b - b.mean()).square().sum())
    assert abs(slope - 1) < 0.1


def test_keeps_the_laws_of_inversion(invert, case):
    """Odd, zero for zero, blind to what lies outside the mask, the same every time, precise when asked, its input left alone."""
    before = case.fields.clone()
    chi = invert(case.fields, case.mask, case.grid)
    torch.testing.assert_close(invert(-case.fields, case.mask, case.grid), -chi)
    assert invert(torch.zeros_like(case.fields), case.mask, case.grid).abs().max() == 0
    torch.testing.assert_close(invert(torch.where(case.mask, case.fields, 5.0), case.mask, case.grid), chi)
    assert torch.equal(invert(case.fields, case.mask, case.grid), chi)
    assert invert(case.fields.double(), case.mask, case.grid).dtype == torch.float64
    assert torch.equal(case.fields, before)


def test_a_batch_changes_nothing(invert, case):
    batch = torch.stack([case.fields, 0.5 * case.fields.flip(-1)])[None]
    result = invert(batch, case.mask, case.grid)
    assert result.shape == (1, 2, *case.grid.shape)
    for got, fields in zip(result[0], batch[0], strict=True):
        torch.testing.assert_close(got, invert(fields, case.mask, case.grid), rtol=1e-4, atol=1e-6)


def test_turns_with_the_axes(case):
    axes = (1, 2, 0)
    turned = [image.permute(0, *(a + 1 for a in axes)) for image in (case.fields, case.noise)]
    got = cosmos(turned[0], case.mask.permute(axes), case.grid.permute(axes), DIRECTIONS[:, axes], turned[1])
    expected = cosmos(case.fields, case.mask, case.grid, DIRECTIONS, case.noise).permute(axes)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


def test_noise_maps_help(case):
    told = error(cosmos(case.fields, case.mask, case.grid, DIRECTIONS, case.noise), case)
    assert told < 0.9 * error(cosmos(case.fields, case.mask, case.grid, DIRECTIONS), case)
    thrice = cosmos(case.fields, case.mask, case.grid, DIRECTIONS, 3 * case.noise)
    torch.testing.assert_close(thrice, cosmos(case.fields, case.mask, case.grid, DIRECTIONS, case.noise), rtol=1e-3, atol=1e-5)


def test_a_constant_of_each_field_is_no_source(case):
    lifted = case.fields + 0.005 * torch.tensor([1.0, -0.5, 1.2, 0.3])[:, None, None, None] * case.mask
    chi, same = (cosmos(fields, case.mask, case.grid, DIRECTIONS, case.noise) for fields in (case.fields, lifted))
    assert float((same - chi).norm() / chi.norm()) < 0.01


def test_an_orientation_of_unknown_noise_does_not_count(case):
    unknown = case.noise.clone()
    unknown[3] = 0.0
    got = cosmos(case.fields, case.mask, case.grid, DIRECTIONS, unknown, weight=0.0)
    expected = cosmos(case.fields[:3], case.mask, case.grid, DIRECTIONS[:3], case.noise[:3], weight=0.0)
    assert float((got - expected).norm() / expected.norm()) < 0.02


@pytest.mark.parametrize(
    ("knob", "wrong"), [("weight", -1.0), ("weight", math.nan), ("tol", -1.0), ("tol", math.nan), ("max_iter", 0), ("max_iter", -1)]
)
def test_knobs_out_of_range_are_refused(knob, wrong, case):
    with pytest.raises(InputError, match=f"{knob} must be .*, got {wrong}"):
        cosmos(case.fields, case.mask, case.grid, DIRECTIONS, case.noise, **{knob: wrong})


def test_a_voxel_of_no_noise_to_speak_of_does_not_count_for_all_others(case):
    spoilt = case.noise.clone()
    spoilt[1, 20, 18, 17] = 1e-9
    usual = cosmos(case.fields, case.mask, case.grid, DIRECTIONS, case.noise)
    got = cosmos(case.fields, case.mask, case.grid, DIRECTIONS, spoilt)
    assert float((got - usual).norm() / usual.norm()) < 0.01


def test_noise_that_is_known_nowhere_changes_nothing(case):
    got = cosmos(case.fields, case.mask, case.grid, DIRECTIONS, torch.zeros_like(case.noise))
    torch.testing.assert_close(got, cosmos(case.fields, case.mask, case.grid, DIRECTIONS))


def test_a_uniform_noise_weighs_whole_orientations(case):
    """A scan that is told to be worthless hardly changes anything."""
    noise = torch.tensor([1.0, 1.0, 1.0, 1e4])[:, None, None, None].expand_as(case.fields).contiguous()
    spoilt = case.fields.clone()
    spoilt[3] *= -3
    torch.testing.assert_close(
        cosmos(spoilt, case.mask, case.grid, DIRECTIONS, noise, weight=0.0),
        cosmos(case.fields[:3], case.mask, case.grid, DIRECTIONS[:3], noise[:3], weight=0.0),
        rtol=1e-2,
        atol=2e-4,
    )


def test_more_orientations_beat_one(case):
    from paradia.inversion.tkd import tkd

    one = tkd(case.fields[0], case.mask, Grid(case.grid.shape, case.grid.voxel_size, tuple(DIRECTIONS[0].tolist())))
    assert error(cosmos(case.fields[:3], case.mask, case.grid, DIRECTIONS[:3]), case) < 0.7 * error(one, case)


def test_equals_dense_normal_equations_of_numpy():
    """On a tiny grid that the window leaves as it is: the matrix of every orientation written out, weighted and masked."""
    grid, generator = Grid((6, 4, 4), (3.0, 4.0, 4.5)), torch.Generator().manual_seed(3)
    big = Grid((20, 18, 16), grid.voxel_size)
    mask = torch.zeros(big.shape, dtype=torch.bool)
    mask[2:8, 3:7, 4:8] = True
    fields = torch.randn((3, *big.shape), generator=generator, dtype=torch.float64) * mask
    noise = (1 + torch.rand((3, *big.shape), generator=generator)).float()
    got = cosmos(fields, mask, big, DIRECTIONS[:3], noise, weight=0.01, max_iter=400, tol=1e-12)
    from paradia.fft import Window
    from paradia.inversion._inputs import MARGIN

    window = Window.around(mask, big, MARGIN)
    n = math.prod(window.grid.shape)
    inside = window.mask.flatten().numpy()
    weights = (1 / noise)[:, mask].numpy()
    weights = np.minimum(weights / weights.mean(), 3.0)
    normal, right = 0.03 * np.eye(n), np.zeros(n)
    identity = torch.eye(n, dtype=torch.float64).reshape(n, *window.grid.shape)
    for k in range(3):
        kernel = Dipole(Grid(window.grid.shape, grid.voxel_size, tuple(DIRECTIONS[k].tolist()))).double()
        matrix = kernel(identity).reshape(n, n).T.numpy()[inside] * weights[k][:, None]
        matrix -= np.outer(weights[k], weights[k] @ matrix) / (weights[k] @ weights[k])  # a constant of each field is free
        normal, right = normal + matrix.T @ matrix, right + matrix.T @ (weights[k] * fields[k][mask].numpy())
    expected = np.linalg.solve(normal, right)
    expected -= expected.mean()
    np.testing.assert_allclose(got[mask].numpy(), expected[inside], atol=2e-5)


def test_what_cannot_work_is_told(case):
    with pytest.raises(InputError, match="two or more orientations, got 1"):
        cosmos(case.fields[:1], case.mask, case.grid, DIRECTIONS[:1])
    with pytest.raises(InputError, match="within 5° of each other"):
        cosmos(case.fields[:2], case.mask, case.grid, torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.03, -1.0]]))
    with pytest.raises(InputError, match="must have a length"):
        cosmos(case.fields[:2], case.mask, case.grid, torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    with pytest.raises(GeometryError, match="for 3 directions"):
        cosmos(case.fields, case.mask, case.grid, DIRECTIONS[:3])
    with pytest.raises(GeometryError, match="mask has shape"):
        cosmos(case.fields[:, 1:], case.mask[1:], case.grid, DIRECTIONS)
    with pytest.raises(MaskError, match="empty"):
        cosmos(case.fields, torch.zeros_like(case.mask), case.grid, DIRECTIONS)


def test_progress_and_limits_are_told(case):
    told: list[int] = []
    with pytest.warns(ConvergenceWarning, match="cosmos stopped after 2 iterations"):
        cosmos(case.fields, case.mask, case.grid, DIRECTIONS, case.noise, max_iter=2, callback=lambda i, _: told.append(i))
    assert told == [1, 2]
