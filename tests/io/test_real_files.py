"""The readers on real files of several makers."""

import math

import nibabel as nib
import numpy as np
import pytest
import torch

from paradia.errors import FileError, GeometryError, PhaseError
from paradia.io.loose import from_files


def folder(shared_data, name):
    return shared_data / name / "magnitude.nii.gz", shared_data / name / "phase.nii.gz"


def test_slab(shared_data):
    got = from_files(*folder(shared_data, "slab-3t-te30"), flip_sign=True, mask=shared_data / "slab-3t-te30" / "mask.nii.gz")
    raw = nib.load(folder(shared_data, "slab-3t-te30")[1]).get_fdata(dtype=np.float32)
    assert got.scan.echo_times == (0.03,)
    assert got.scan.b0 == 3
    assert got.grid.b0_dir == (0, 0, 1)
    np.testing.assert_array_equal(got.phase[0], -raw)
    assert 0.1 < got.mask.float().mean() < 0.5


def test_scaled_float_phase_of_the_crop(shared_data):
    got = from_files(*folder(shared_data, "megre-crop-small"), echo_times=(0.004, 0.008, 0.012), b0=7.0)
    raw = nib.load(folder(shared_data, "megre-crop-small")[1]).get_fdata(dtype=np.float32)
    assert tuple(got.phase.shape) == (3, 51, 51, 41)
    np.testing.assert_allclose(got.phase, np.moveaxis(raw, 3, 0) * (math.pi / 0.003674377), atol=1e-4)
    assert any("recognised by its values" in note for note in got.notes)


@pytest.mark.parametrize("name", ["megre-crop-small2", "unwrap-reference"])
def test_plain_radians(shared_data, name):
    got = from_files(*folder(shared_data, name), echo_times=(0.02,), b0=3.0)
    np.testing.assert_array_equal(got.phase[0], nib.load(folder(shared_data, name)[1]).get_fdata(dtype=np.float32))


def test_phantom_with_nan(shared_data):
    path, scan = folder(shared_data, "phase-with-nan")[1], {"echo_times": (0.004, 0.008), "b0": 3.0}
    with pytest.raises(PhaseError, match=r"phase-with-nan.*from -4\.657.* to 4\.709.*--phase-units"):
        from_files((), path, **scan)
    got = from_files((), path, phase_units="rad", **scan)
    assert int(got.nonfinite.sum()) == 640
    assert got.phase.abs().max() <= np.float32(math.pi)


def test_unwrapped_phase_is_told(shared_data):
    files = folder(shared_data, "unwrap-reference")[0], shared_data / "unwrap-reference" / "unwrapped.nii.gz"
    with pytest.raises(PhaseError, match="already unwrapped"):
        from_files(*files, echo_times=(0.02,), b0=3.0)
    wrapped = from_files(*folder(shared_data, "unwrap-reference"), echo_times=(0.02,), b0=3.0).phase
    again = from_files(*files, echo_times=(0.02,), b0=3.0, phase_units="rad").phase
    inside = again != 0
    assert (torch.cos(wrapped - again) > 0.999)[inside].float().mean() > 0.98


def test_magnitude_alone(shared_data):
    files = folder(shared_data, "multi-te-magnitude")
    with pytest.raises(PhaseError, match="there is no phase, only .*multi-te-magnitude"):
        from_files(files[0], ())
    got = from_files(files[0], (), need_phase=False)
    assert len(got.scan.echo_times) == len(got.magnitude) == 12


def test_single_coils(shared_data):
    with pytest.raises(GeometryError, match="single coils"):
        from_files(*folder(shared_data, "phantom-32ch"), echo_times=(0.005, 0.01), b0=3.0)


def test_pointer_in_place_of_an_image(shared_data):
    with pytest.raises(FileError, match="git lfs pull"):
        from_files(shared_data / "nuclei-7t" / "7TAMI_T1w_30.nii.gz", folder(shared_data, "slab-3t-te30")[1])


@pytest.mark.parametrize(
    ("magnitude", "phase", "b0"),
    [
        ("8_gre_field_mapping_e2", "9_gre_field_mapping_e2_ph", 2.8950),
        ("Si_2_gre_field_magph_e2", "Si_3_gre_field_magph_e2_ph", 2.8948),
        ("Si_5_gre_field_mag_e2", "Si_4_gre_field_ph_e2_ph", 2.8948),
    ],
)
def test_siemens_phase_with_its_sidecars(shared_data, magnitude, phase, b0):
    maps = shared_data / "vendor-fieldmaps"
    got = from_files(maps / f"{magnitude}.nii", maps / f"{phase}.nii")
    raw = nib.load(maps / f"{phase}.nii").get_fdata()
    np.testing.assert_allclose(got.phase[0], raw / 4096 * math.pi, atol=1e-5)
    assert got.scan.b0 == pytest.approx(b0, abs=1e-4)
    axes = nib.load(maps / f"{phase}.nii").affine[:3, :3]
    assert np.allclose(got.grid.b0_dir, (axes / np.linalg.norm(axes, axis=0))[2], atol=1e-6)
    assert got.metadata["Manufacturer"] == "Siemens"


@pytest.mark.parametrize("name", ["GE_2_3db0maps_patient", "GE_3_3db0maps_patient", "GE_6_CV_Neuro_HH_Adv"])
def test_field_maps_are_no_phase(shared_data, name):
    maps = shared_data / "vendor-fieldmaps"
    with pytest.raises(PhaseError, match="is a field map in Hz by its sidecar"):
        from_files(maps / f"{name}.nii", maps / f"{name}_fieldmaphz.nii")


@pytest.mark.parametrize("name", ["8_gre_field_mapping_e1", "Si_5_gre_field_mag_e1", "Si_2_gre_field_magph_e1", "Ph_801_WIP_B0_NS_e1"])
def test_magnitudes_are_no_phase(shared_data, name):
    with pytest.raises(PhaseError, match="cannot be told"):
        from_files((), shared_data / "vendor-fieldmaps" / f"{name}.nii")
