"""Known motions are found again, and resampling is exact where it can be."""

import math
import sys

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from paradia.errors import GeometryError, InputError, MaskError, MissingDependencyError, NonFiniteError
from paradia.registration.resample import resample
from paradia.registration.rigid import Rigid, rigid

SHAPE = (40, 45, 36)
AFFINE = np.diag([2.0, 2.2, 2.5, 1.0])
AFFINE[:3, 3] = -AFFINE[:3, :3] @ (np.array(SHAPE) - 1) / 2
TURN = Rotation.from_euler("xyz", (12, -9, 15), degrees=True).as_matrix()
MOTION = np.eye(4)
MOTION[:3, :3], MOTION[:3, 3] = TURN, (3.0, -4.0, 2.0)


def blobs(points):
    """Return a lopsided, smooth head-like function of places in the world, exact anywhere."""
    generator = np.random.default_rng(0)
    total = 1.0 / (1 + np.exp((np.sqrt((points[..., 0] / 30) ** 2 + (points[..., 1] / 38) ** 2 + (points[..., 2] / 32) ** 2) - 1) * 8))
    for _ in range(25):
        centre, width = generator.uniform(-22, 22, 3), generator.uniform(4, 8)
        total = total + generator.uniform(-0.4, 0.6) * np.exp(-((points - centre) ** 2).sum(-1) / (2 * width**2))
    return torch.from_numpy(total.astype(np.float32))


def places(shape=SHAPE, affine=AFFINE, motion=None):
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    return world if motion is None else world @ motion[:3, :3].T + motion[:3, 3]


def test_a_known_motion_is_found():
    """The moving image is the formula itself at turned places, on a grid with other axes: no interpolation helps."""
    turned_axes = AFFINE[:, [1, 2, 0, 3]] * [1, -1, 1, 1]
    shape = (45, 36, 40)
    turned_axes[:3, 3] = -turned_axes[:3, :3] @ (np.array(shape) - 1) / 2
    moving = blobs(places(shape, turned_axes, np.linalg.inv(MOTION)))
    found = rigid(blobs(places()), AFFINE, moving, turned_axes)
    again = rigid(blobs(places()), AFFINE, moving, turned_axes)
    np.testing.assert_array_equal(found.matrix, again.matrix)
    left = Rigid(found.matrix @ np.linalg.inv(MOTION))
    assert left.angle < 0.8  # smooth blobs of two-millimetre voxels; heads do ten times better
    assert np.abs(left.matrix[:3, 3]).max() < 0.3
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(found.turn([0, 0, 1]), TURN[2], atol=0.014)  # the sine of that angle


def test_directions_turn_with_the_head():
    """B0 along z of the second scan: seen from the head, it turned the other way; by scipy's rotations."""
    motion = Rigid(MOTION)
    expected = Rotation.from_matrix(TURN).inv().apply([0, 0, 1])
    np.testing.assert_allclose(motion.turn([0, 0, 1]), expected, atol=1e-12)
    assert math.isclose(motion.angle, math.degrees(Rotation.from_matrix(TURN).magnitude()), rel_tol=1e-9)


def test_resampling_follows_the_formula():
    """Cubic resampling of the sampled formula equals the formula at the moved places."""
    image = blobs(places())
    moved = resample(image, AFFINE, (30, 33, 31), AFFINE, MOTION)
    exact = blobs(places((30, 33, 31), AFFINE, MOTION))
    reached = resample(torch.ones(SHAPE), AFFINE, (30, 33, 31), AFFINE, MOTION, order=1)
    assert set(reached.unique().tolist()) == {0.0, 1.0}
    whole = torch.zeros(SHAPE)
    whole[1:-1, 1:-1, 1:-1] = 1
    inside = resample(whole, AFFINE, (30, 33, 31), AFFINE, MOTION, order=1) > 0
    assert inside.float().mean() > 0.5
    assert (moved - exact)[inside].abs().max() < 0.01
    assert (moved - exact)[reached > 0].abs().max() < 0.02, "beyond the middle of the last voxel it goes on as there"
    torch.testing.assert_close(resample(image, AFFINE, SHAPE, AFFINE), image, atol=1e-5, rtol=0)
    assert resample(image.double(), AFFINE, SHAPE, AFFINE).dtype == torch.float64


@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_same_grid_gives_the_same_image_up_to_its_borders(order, generator):
    """Places off by rounding counted as outside, and a whole plane was zero; so did the outer halves of the border's voxels."""
    image = 1 + torch.rand((9, 8, 7), generator=generator)
    turn, _ = np.linalg.qr(np.array([[0.9, 0.3, -0.2], [-0.25, 0.95, 0.1], [0.2, -0.05, 0.97]]))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * np.array([0.7, 0.9, 2.3]), (-31.7, 12.9, 7.3)
    again = resample(image, affine, image.shape, affine.astype(np.float32), order=order)
    torch.testing.assert_close(again, image, rtol=0, atol=1e-3)
    fine = affine.copy()
    fine[:3, 2] /= 2
    fine[:3, 3] -= affine[:3, 2] / 4  # two thin slices in each thick one
    thin = resample(image, affine, (9, 8, 16), fine, order=order)
    assert (thin[..., :14] > 0.5).all()
    assert not thin[..., 14:].any()


def test_the_border_of_a_mask_does_not_ring():
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[10:30, 12:33, 9:27] = True
    plain = torch.where(mask, 1.0, 0.0)
    kept = resample(plain, AFFINE, SHAPE, AFFINE, MOTION, mask=mask)
    inside = resample(plain, AFFINE, SHAPE, AFFINE, MOTION, order=1) > 0.99
    assert (kept[inside] - 1).abs().max() < 1e-4
    assert (resample(plain, AFFINE, SHAPE, AFFINE, MOTION)[inside] - 1).abs().max() > 0.02


def test_what_cannot_be_registered_is_named():
    image = blobs(places())
    with pytest.raises(InputError, match="the moving image is zero everywhere"):
        rigid(image, AFFINE, torch.zeros_like(image), AFFINE)
    with pytest.raises(GeometryError, match="4×4 affine"):
        rigid(image, AFFINE[:3], image, AFFINE)


def test_absent_ants_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ants", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'paradia\[registration\]'"):
        rigid(torch.ones(3, 3, 3), np.eye(4), torch.ones(3, 3, 3), np.eye(4))


def test_what_cannot_be_resampled_is_refused():
    image, mask = blobs(places()), torch.ones(SHAPE, dtype=torch.bool)
    with pytest.raises(MaskError, match="the mask is empty"):
        resample(image, AFFINE, SHAPE, AFFINE, mask=~mask)
    with pytest.raises(GeometryError, match="the mask has shape"):
        resample(image, AFFINE, SHAPE, AFFINE, mask=mask[1:])
    with pytest.raises(InputError, match="order must be that of a spline"):
        resample(image, AFFINE, SHAPE, AFFINE, order=7)
    for wrong in (np.full((4, 4), math.nan), np.zeros((4, 4)), np.eye(3)):
        with pytest.raises(GeometryError, match="affine must be a 4×4 affine that can be inverted"):
            resample(image, wrong, SHAPE, AFFINE)
        with pytest.raises(GeometryError, match="moving_affine must be a 4×4 affine that can be inverted"):
            rigid(image, AFFINE, image, wrong)
    image[3, 4, 5], mask[3, 4, 5] = math.nan, False
    with pytest.raises(NonFiniteError, match="image is NaN or Inf in 1 voxels"):
        resample(image, AFFINE, SHAPE, AFFINE)
    assert resample(image, AFFINE, SHAPE, AFFINE, mask=mask).isfinite().all()
    with pytest.raises(NonFiniteError, match="moving is NaN or Inf in 1 voxels"):
        rigid(blobs(places()), AFFINE, image, AFFINE)
