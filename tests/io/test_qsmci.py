"""Reading the benchmark's folders: what is wrong is said, what is right comes in the project's units."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from paradia.errors import FileError, GeometryError, InputError, MaskError, MetadataError
from paradia.grid import Grid
from paradia.io.qsmci import file_of, read_config, read_folder, write_folder, write_params
from paradia.scan import Scan

SHAPE, VOXEL, B0_DIR = (9, 7, 8), (1.0, 1.2, 1.5), (0.0, 0.6, 0.8)
PARAMS = {"TE": [0.004, 0.012], "B0": 7.0, "B0_dir": list(B0_DIR), "voxel_size": list(VOXEL)}


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    affine = np.diag([*VOXEL, 1.0])
    mask = np.zeros(SHAPE)
    mask[2:7, 1:6, 2:7] = 1
    images = {
        "phase": random.uniform(-np.pi, np.pi, (*SHAPE, 2)),
        "magnitude": random.uniform(1, 2, (*SHAPE, 2)),
        "mask": mask,
        "totalfield": random.standard_normal(SHAPE) * 0.1,
        "localfield": random.standard_normal(SHAPE) * 0.01,
        "chimap": random.standard_normal(SHAPE) * 0.05,
        "noise": np.full(SHAPE, 0.002),
    }
    for name, values in images.items():
        nib.save(nib.Nifti1Image(values.astype(np.float32), affine), tmp_path / f"{name}.nii.gz")
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    return tmp_path


def change(folder, name, function, affine=None):
    image = nib.load(folder / f"{name}.nii.gz")
    values = function(image.get_fdata().astype(np.float32))
    nib.save(nib.Nifti1Image(values, image.affine if affine is None else affine), folder / f"{name}.nii.gz")


def test_data_come_with_their_names_and_axes(folder):
    board, affine, notes = read_folder(folder, ["phase", "mask", "grid", "scan"], ["magnitude", "noise", "r2star"])
    assert set(board) == {"phase", "mask", "grid", "scan", "magnitude", "noise"}
    assert board["phase"].shape == board["magnitude"].shape == (2, *SHAPE)
    expected = nib.load(folder / "phase.nii.gz").get_fdata()
    np.testing.assert_allclose(board["phase"][1], expected[..., 1], atol=1e-6)
    assert board["mask"].dtype == torch.bool
    assert int(board["mask"].sum()) == 125
    assert board["grid"] == Grid(SHAPE, VOXEL, B0_DIR)
    assert board["scan"] == Scan((0.004, 0.012), 7.0)
    np.testing.assert_allclose(affine, np.diag([*VOXEL, 1.0]), atol=1e-6)
    assert notes == []


def test_what_is_written_is_read_back(folder, tmp_path):
    board, affine, _ = read_folder(folder, ["total_field", "local_field", "mask"])
    out = tmp_path / "out"
    paths = write_folder(out, {name: board[name] for name in ("total_field", "local_field", "mask")}, affine)
    assert [path.name for path in paths] == ["totalfield.nii.gz", "localfield.nii.gz", "mask.nii.gz"]
    assert nib.load(paths[2]).get_data_dtype() == np.uint8
    write_params(out, board["grid"], board["scan"])
    again, *_ = read_folder(out, ["total_field", "local_field", "mask", "scan"])
    for name in board:
        assert torch.equal(again[name], board[name]) if isinstance(board[name], torch.Tensor) else again[name] == board[name]
    assert file_of("chi") == "chimap.nii.gz"


def test_one_echo_needs_no_fourth_axis(folder):
    for name in ("phase", "magnitude"):
        change(folder, name, lambda values: values[..., 0])
    (folder / "params.json").write_text(json.dumps(PARAMS | {"TE": 0.02, "B0": [3.0]}))
    board, *_ = read_folder(folder, ["phase", "magnitude", "scan"])
    assert board["phase"].shape == (1, *SHAPE)
    assert board["scan"] == Scan((0.02,), 3.0)


def test_placeholders_do_for_fields_in_ppm_and_not_for_phase(folder):
    (folder / "params.json").write_text(json.dumps(PARAMS | {"TE": [1.0], "B0": 3.0}))
    assert "scan" not in read_folder(folder, ["local_field", "mask", "grid"], ["scan"]).board
    with pytest.raises(MetadataError, match=r"params.json: echo times must be in seconds, got \(1.0,\)"):
        read_folder(folder, ["phase", "scan"])


def test_where_a_field_is_exactly_zero_the_mask_ends(folder):
    def cut(values):
        values[2] = 0
        return values

    change(folder, "localfield", cut)
    board, _, notes = read_folder(folder, ["local_field", "mask"])
    assert int(board["mask"].sum()) == 100
    assert notes == ["localfield.nii.gz is exactly zero in 25 voxels of the mask, which were left out."]
    change(folder, "localfield", np.zeros_like)
    with pytest.raises(InputError, match="localfield.nii.gz is zero all over the mask"):
        read_folder(folder, ["local_field", "mask"])


def test_a_header_that_says_otherwise_is_told_of(folder):
    (folder / "params.json").write_text(json.dumps(PARAMS | {"voxel_size": [1.0, 1.2, 3.0]}))
    board, _, notes = read_folder(folder, ["local_field", "mask"])
    assert board["grid"].voxel_size == (1.0, 1.2, 3.0)
    assert "1 × 1.2 × 3 mm, but 1 × 1.2 × 1.5 mm" in notes[0]


@pytest.mark.parametrize(
    ("params", "error", "says"),
    [
        ({"TE": None}, MetadataError, "TE in .* must be numbers, got None"),
        ({"B0": "3T"}, MetadataError, "B0 in .* must be a number, got '3T'"),
        ({"B0": [3, 7]}, MetadataError, "B0 in .* must be a number"),
        ({"B0_dir": [0, 1]}, MetadataError, "B0_dir in .* must be three numbers"),
        ({"B0_dir": [0, 0, 0]}, GeometryError, "params.json: b0_dir must be a direction"),
        ({"voxel_size": [1, 1, -1]}, GeometryError, "params.json: voxel sizes must be three positive"),
        ({"TE": [0.004]}, MetadataError, "phase.nii.gz holds 2 echoes, but TE in params.json 1 times"),
        ({"TE": [4, 12]}, MetadataError, "Milliseconds"),
    ],
)
def test_wrong_parameters_are_named(folder, params, error, says):
    (folder / "params.json").write_text(json.dumps(PARAMS | params))
    with pytest.raises(error, match=says):
        read_folder(folder, ["phase", "scan"])


@pytest.mark.parametrize("key", ["TE", "B0", "B0_dir", "voxel_size"])
def test_missing_parameters_are_named(folder, key):
    (folder / "params.json").write_text(json.dumps({k: v for k, v in PARAMS.items() if k != key}))
    with pytest.raises(MetadataError, match=f"has no {key}. It must have TE, B0, B0_dir, voxel_size"):
        read_folder(folder, ["phase"])


def test_missing_files_are_named(folder, tmp_path):
    (folder / "localfield.nii.gz").unlink()
    with pytest.raises(FileError, match="localfield.nii.gz not found in .*, which holds chimap.nii.gz, magnitude.nii.gz"):
        read_folder(folder, ["local_field", "mask"])
    (folder / "params.json").unlink()
    with pytest.raises(FileError, match="there is no .*params.json. Write one with TE, B0"):
        read_folder(folder, ["mask"])
    with pytest.raises(FileError, match="there is no folder"):
        read_folder(tmp_path / "nowhere", ["mask"])
    (folder / "params.json").write_text("{")
    with pytest.raises(FileError, match="not valid JSON"):
        read_folder(folder, ["mask"])
    with pytest.raises(InputError, match="single coils"):
        read_folder(folder, ["coil_images"])


def test_images_that_do_not_fit_are_refused(folder):
    change(folder, "mask", lambda values: values, affine=np.diag([2.0, 1.2, 1.5, 1]))
    with pytest.raises(GeometryError, match="different affines"):
        read_folder(folder, ["local_field", "mask"])
    change(folder, "localfield", lambda values: np.stack([values, values], -1))
    with pytest.raises(GeometryError, match="has 2 volumes. Give one"):
        read_folder(folder, ["local_field"])
    change(folder, "mask", np.zeros_like, affine=np.diag([*VOXEL, 1]))
    with pytest.raises(MaskError, match="mask.nii.gz is empty"):
        read_folder(folder, ["mask"])


def test_voxels_without_a_number_are_left_out(folder):
    def spoil(values):
        values[4, 3, 4] = np.nan
        return values

    change(folder, "phase", spoil)
    board, _, notes = read_folder(folder, ["phase", "mask"])
    assert board["phase"].isfinite().all()
    assert int(board["mask"].sum()) == 124
    assert not board["mask"][4, 3, 4]
    assert notes == ["1 voxels of the mask hold NaN or Inf in some image, and were left out."]
    assert int(read_folder(folder, ["phase"]).board["invalid"].sum()) == 1
    change(folder, "totalfield", lambda values: values * np.nan)
    with pytest.raises(InputError, match="no voxel of the mask holds a number"):
        read_folder(folder, ["total_field", "mask"])


def test_knobs_are_there_or_not(folder):
    assert read_config(folder) == {}
    (folder / "config.json").write_text('{"weight": 0.1}')
    assert read_config(folder) == {"weight": 0.1}
