import json

import nibabel as nib
import numpy as np
import pytest
import torch

from paradia.errors import FileError
from paradia.io.derivatives import OUTPUTS, folder, map_path, write_dataset_description, write_map, write_provenance

AFFINE = np.diag([1.0, 1.2, 1.5, 1.0])


@pytest.mark.parametrize(
    ("prefix", "where"),
    [("sub-01", "sub-01/anat"), ("sub-a1_ses-2_acq-x_run-3", "sub-a1/ses-2/anat"), ("", "."), ("scan", ".")],
)
def test_files_lie_where_bids_has_them(tmp_path, prefix, where):
    assert folder(tmp_path, prefix) == (tmp_path / where)


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_map_has_an_image_and_a_sidecar_with_units(tmp_path, name):
    image = torch.rand(3, 4, 5) if OUTPUTS[name].units != "1" else torch.rand(3, 4, 5) > 0.5
    path = write_map(tmp_path, "sub-01_ses-2", name, image, AFFINE, {"EstimationAlgorithm": "inversion/tkd"})
    assert path == map_path(tmp_path, "sub-01_ses-2", name)
    read = nib.load(path)
    assert np.allclose(read.get_fdata(), image.numpy())
    assert np.allclose(read.affine, AFFINE)
    assert read.header.get_xyzt_units()[0] == "mm"
    sidecar = json.loads((path.parent / path.name.replace(".nii.gz", ".json")).read_text())
    assert sidecar["Units"] == OUTPUTS[name].units
    assert sidecar["EstimationAlgorithm"] == "inversion/tkd"


def test_names_of_maps_are_unique():
    assert len({output.suffix for output in OUTPUTS.values()}) == len(OUTPUTS)


def test_the_design_names_are_kept():
    design = {
        "chi": "Chimap",
        "t2star": "T2starmap",
        "r2star": "R2starmap",
        "mask": "mask",
        "total_field": "fieldmap",
        "local_field": "localfield",
    }
    assert {name: OUTPUTS[name].suffix for name in design} == design


def test_the_output_says_what_it_is(tmp_path):
    write_dataset_description(tmp_path, version="1.2")
    description = json.loads((tmp_path / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"] == [{"Name": "paradia", "Version": "1.2"}]
    ignored = (tmp_path / ".bidsignore").read_text().split()
    assert "*_localfield.*" in ignored


def test_provenance_lies_beside_the_maps(tmp_path):
    path = write_provenance(tmp_path, "sub-01", {"command": "paradia"})
    assert path == tmp_path / "sub-01/anat/sub-01_provenance.json"
    assert json.loads(path.read_text()) == {"command": "paradia"}


def test_a_failed_write_leaves_no_image(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("paradia.io.atomic.os.fsync", full)
    with pytest.raises(FileError, match="The disk is full"):
        write_map(tmp_path, "", "chi", torch.zeros(2, 2, 2), AFFINE, {})
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
