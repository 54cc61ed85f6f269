import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.eulerangles import euler2mat

from paradia.errors import GeometryError
from paradia.grid import Grid

angles = st.floats(-np.pi, np.pi)
sizes = st.tuples(*[st.floats(0.3, 4.0)] * 3)


@given(angles, angles, angles, sizes, st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
def test_from_affine_turns_the_scanner_axis_into_array_axes(z, y, x, voxel, flips):
    rotation = euler2mat(z, y, x) * np.array(flips)
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.array(voxel)
    grid = Grid.from_affine((4, 5, 7), affine)
    assert grid.voxel_size == pytest.approx(voxel)
    assert rotation @ grid.b0_dir == pytest.approx([0, 0, 1], abs=1e-9)


def test_b0_of_a_sagittal_scan_lies_along_its_second_axis():
    affine = np.array([[0, 0, 1.2, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
    assert Grid.from_affine((4, 5, 7), affine).b0_dir == pytest.approx((0, -1, 0))


def test_a_given_direction_overrules_the_affine():
    assert Grid.from_affine((4, 5, 7), np.eye(4), b0_dir=(0, 3, 4)).b0_dir == pytest.approx((0, 0.6, 0.8))


def test_sheared_affine_is_refused():
    affine = np.eye(4)
    affine[0, 1] = 0.1
    with pytest.raises(GeometryError, match=r"sheared.*84\.29°"):
        Grid.from_affine((4, 5, 7), affine)


def test_singular_affine_is_refused():
    with pytest.raises(GeometryError, match="no valid voxel axes"):
        Grid.from_affine((4, 5, 7), np.diag([1, 0, 1, 1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4, 5),), "three positive sizes"),
        (((4, 5, 0),), "three positive sizes"),
        (((4, 5, 6.5),), "whole numbers"),
        (((4, 5, 6), (1, 1, -1)), "three positive numbers in mm"),
        (((4, 5, 6), (1, 1, float("nan"))), "three positive numbers in mm"),
        (((4, 5, 6), (1, 1.2, 1e6)), r"voxels of 1 × 1\.2 × 1e\+06 mm cannot be meant.*from 0\.005 to 100 mm.*xyzt_units"),
        (((4, 5, 6), (0.001, 0.001, 0.0012)), "voxels of 0.001 × 0.001 × 0.0012 mm cannot be meant.*Metres or micrometres"),
        (((4, 5, 6), (1, 1, 1), (0, 0, 0)), "must be a direction"),
        (((4, 5, 6), (1, 1, 1), (0, float("inf"), 0)), "must be a direction"),
    ],
)
def test_impossible_geometry_is_refused(arguments, message):
    with pytest.raises(GeometryError, match=message):
        Grid(*arguments)


def test_lengths_in_other_units_are_refused_where_the_header_is_read():
    """A header in metres, or in micrometres, is a sentence and no want of memory."""
    for scale in (1e-3, 1e3):
        with pytest.raises(GeometryError, match="cannot be meant.*Write millimetres into it"):
            Grid.from_affine((4, 5, 7), np.diag([scale, scale, 2 * scale, 1]))
    assert Grid((4, 5, 6), (0.005, 1.0, 100.0)).voxel_size == (0.005, 1.0, 100.0)


def test_equal_grids_are_one_key():
    assert len({Grid((4, 5, 6), b0_dir=(0, 0, 2)), Grid((4, 5, 6))}) == 1


def test_permute_follows_the_image():
    grid = Grid((4, 5, 7), (1, 2, 3), (0.6, 0, 0.8)).permute((2, 0, 1))
    assert grid == Grid((7, 4, 5), (3, 1, 2), (0.8, 0.6, 0))


def test_sizes():
    grid = Grid((4, 5, 7), (1, 2, 3))
    assert grid.extent == (4, 10, 21)
    assert grid.voxel_volume == 6
    assert grid.with_shape((8, 8, 8)) == Grid((8, 8, 8), (1, 2, 3))
