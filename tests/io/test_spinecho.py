"""Spin echoes beside gradient echoes: on the same grid, on another, and where they do not reach."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from paradia.errors import GeometryError, MetadataError
from paradia.grid import Grid
from paradia.io.acquisition import Acquisition
from paradia.io.spinecho import with_spin_echoes
from paradia.scan import Scan

SHAPE = (12, 11, 10)
TIMES = (0.012, 0.024, 0.036)
AFFINE = np.array([[1.5, 0, 0, -8], [0, 1.5, 0, 3], [0, 0, 2.0, 5], [0, 0, 0, 1]])


@pytest.fixture
def gradient():
    images = torch.ones(2, *SHAPE)
    return Acquisition(images, images, Grid.from_affine(SHAPE, AFFINE), Scan((0.005, 0.01), 3.0), AFFINE, notes=("First.",))


@pytest.fixture
def image():
    return 50 + 50 * np.random.default_rng(0).random((*SHAPE, 3))


def test_how_their_echo_times_are_stated_is_told(gradient, image, tmp_path):
    path = write(tmp_path / "mese.nii.gz", image)
    path.with_name("mese.json").unlink()
    with pytest.raises(MetadataError, match=r"echo times of .*mese\.nii\.gz are not known.*, or state --spin-echo-times\.$"):
        with_spin_echoes(gradient, path)


def write(path, image, affine=AFFINE, b0=3.0):
    nib.save(nib.Nifti1Image(image.astype(np.float32), affine), path)
    path.with_name("mese.json").write_text(json.dumps({"EchoTime": TIMES, **({} if b0 is None else {"MagneticFieldStrength": b0})}))
    return path


def test_on_the_same_grid_they_are_left_as_they_are(gradient, image, tmp_path):
    path = write(tmp_path / "mese.nii.gz", image)
    got = with_spin_echoes(gradient, path)
    np.testing.assert_array_equal(got.spin_echo, np.moveaxis(image.astype(np.float32), -1, 0))
    assert got.spin_echo_scan.echo_times == TIMES
    assert got.sources[-1] == path
    assert got.notes == ("First.", "Spin echoes at 12, 24, 36 ms were found.")
    assert got.board["spin_echo_magnitude"] is got.spin_echo
    assert torch.equal(got.magnitude, gradient.magnitude)


def test_on_another_grid_they_are_sampled_where_the_gradient_echoes_lie(gradient, tmp_path):
    """A slope stays a slope, whatever the voxels; the header alone tells where."""
    other = AFFINE @ np.diag([0.75, 0.75, 0.5, 1]) @ np.array([[1, 0, 0, -3], [0, 1, 0, -3], [0, 0, 1, -3], [0, 0, 0, 1]])
    x, y, z = np.moveaxis(np.indices((24, 24, 30)), 0, -1).reshape(-1, 3).T
    world = (other @ [x, y, z, np.ones(x.size)])[:3]
    slope = (100 + world[0] + 2 * world[1] - world[2]).reshape(24, 24, 30)
    got = with_spin_echoes(gradient, write(tmp_path / "mese.nii.gz", np.stack([slope, 2 * slope, slope], -1), other))
    place = np.moveaxis(np.indices(SHAPE), 0, -1) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    expected = 100 + place[..., 0] + 2 * place[..., 1] - place[..., 2]
    np.testing.assert_allclose(got.spin_echo[1], 2 * expected, rtol=1e-3)
    assert "24 × 24 × 30 voxels of 1.12 × 1.12 × 1 mm) were resampled to the gradient echoes by their headers alone" in got.notes[-1]


def test_where_they_do_not_reach_is_said_and_most_has_to_be_reached(gradient, image, tmp_path):
    got = with_spin_echoes(gradient, write(tmp_path / "mese.nii.gz", image[:, :, :7]))
    assert not got.spin_echo[:, :, :, 7:].any()
    assert "The spin echoes leave 30 % of the gradient echoes' volume uncovered: there R2 is a guess" in " ".join(got.notes)
    with pytest.raises(GeometryError, match="cover 40 % of the gradient echoes"):
        with_spin_echoes(gradient, write(tmp_path / "mese.nii.gz", image[:, :, :4]))


def test_voxels_without_a_number_are_said(gradient, image, tmp_path):
    image[3, 4, 5, 1] = np.nan
    got = with_spin_echoes(gradient, write(tmp_path / "mese.nii.gz", image))
    assert got.spin_echo[:, 3, 4, 5].tolist() == [0, 0, 0]
    assert "1 voxels of the spin echoes hold NaN or Inf and were set to zero: there R2 is a guess" in got.notes[-1]


def test_both_scans_are_of_one_magnet(gradient, image, tmp_path):
    with pytest.raises(MetadataError, match="was taken at 7 T, the gradient echoes at 3 T"):
        with_spin_echoes(gradient, write(tmp_path / "mese.nii.gz", image, b0=7.0))
    exact = replace(gradient, scan=Scan((0.005, 0.01), 2.894))
    assert with_spin_echoes(exact, write(tmp_path / "mese.nii.gz", image)).spin_echo_scan.b0 == 3.0
    assert with_spin_echoes(exact, write(tmp_path / "mese.nii.gz", image, b0=None)).spin_echo_scan.b0 == 2.894
