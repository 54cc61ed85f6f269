"""Simulated data sets: names, sidecars, numbers, bytes, and what the pipeline makes of them."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from paradia.errors import GeometryError, InputError
from paradia.grid import Grid
from paradia.io import bids
from paradia.io.simulated import TRUTH, Series, affine_of, begin, made_before, write_participants, write_series, write_truth
from paradia.simulate.phantom import phantom
from paradia.simulate.subject import subject

GRID = Grid((40, 48, 36), (4.6, 4.6, 5.0), (0.06, -0.17, 0.98))
RECORD = {"seed": 3, "lesions": ("microbleed", "rim_plaque"), "b0": 3.0}


def drawn(onion):
    return subject(3, grid=GRID, age=41.0, sex="female", lesions=("microbleed", "rim_plaque"), anatomy=onion)


@pytest.fixture(scope="module")
def person(onion):
    return drawn(onion)


def scans(person):
    times = (0.005, 0.013)
    phase = torch.stack([person.total_field * 800 * t for t in times])
    echoes = torch.polar(torch.stack([person.density * torch.exp(-t * person.r2star) for t in times]), phase)
    return [
        Series("MEGRE", echoes, times, 3.0, {"RepetitionTime": 0.03, "FlipAngle": 15.0}),
        Series("MESE", echoes.abs(), (0.02, 0.04), 3.0),
        Series("T1w", echoes[:1].abs(), (0.003,), 3.0),
    ]


def fill(root, person):
    affine = affine_of(person.grid, (1.0, 2.0, 3.0))
    begin(root, "Two heads", "0.test")
    for session in (1, 2):
        prefix = f"sub-07_ses-{session}"
        for series in scans(person):
            write_series(root, prefix, series, affine)
        write_truth(root, prefix, person, affine, RECORD)
    write_participants(root, [("sub-07", 41.0, "female"), ("sub-08", None, None)])
    return affine


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, person):
    root = tmp_path_factory.mktemp("simulated") / "bids"
    return root, fill(root, person)


def test_the_pipeline_finds_and_reads_every_scan(dataset, person):
    root, affine = dataset
    entries = bids.find(root)
    assert [entry.name for entry in entries] == ["sub-07_ses-1", "sub-07_ses-2"]
    read = bids.load(entries[1])
    megre = scans(person)[0]
    torch.testing.assert_close(read.magnitude, megre.images.abs(), rtol=1e-6, atol=1e-7)
    assert torch.angle(torch.polar(torch.ones_like(read.phase), read.phase - megre.images.angle())).abs().max() < 1e-5
    assert read.scan.echo_times == megre.echo_times
    assert read.scan.b0 == 3.0
    np.testing.assert_allclose(read.affine, affine, atol=1e-5)
    np.testing.assert_allclose(read.grid.b0_dir, GRID.b0_dir, atol=1e-6)
    mask = bids.find_mask(entries[0], root / TRUTH)
    assert mask.name == "sub-07_ses-1_mask.nii.gz"


def test_files_have_the_names_and_sidecars_of_bids(dataset):
    root, _ = dataset
    place = root / "sub-07" / "ses-1" / "anat"
    names = {path.name for path in place.iterdir() if path.suffix == ".gz"}
    assert names == {
        *(f"sub-07_ses-1_echo-{n}_part-{part}_MEGRE.nii.gz" for n in (1, 2) for part in ("mag", "phase")),
        *(f"sub-07_ses-1_echo-{n}_MESE.nii.gz" for n in (1, 2)),
        "sub-07_ses-1_T1w.nii.gz",
    }
    about = json.loads((place / "sub-07_ses-1_echo-2_part-phase_MEGRE.json").read_text())
    assert about == {
        "EchoTime": 0.013,
        "EchoNumber": 2,
        "MagneticFieldStrength": 3.0,
        "RepetitionTime": 0.03,
        "FlipAngle": 15.0,
        "Units": "rad",
    }
    assert "Units" not in json.loads((place / "sub-07_ses-1_echo-2_part-mag_MEGRE.json").read_text())
    for where, kind in ((root, "raw"), (root / TRUTH, "derivative")):
        description = json.loads((where / "dataset_description.json").read_text())
        assert description["DatasetType"] == kind
        assert description["GeneratedBy"][0]["Version"] == "0.test"
    assert (root / "participants.tsv").read_text() == "participant_id\tage\tsex\nsub-07\t41.0\tfemale\nsub-08\tn/a\tn/a\n"


@pytest.mark.parametrize(
    ("suffix", "name", "units"),
    [
        ("Chimap", "chi", "ppm"),
        ("desc-paramagnetic_Chimap", "chi_pos", "ppm"),
        ("desc-diamagnetic_Chimap", "chi_neg", "ppm"),
        ("R2map", "r2", "1/s"),
        ("R2starmap", "r2star", "1/s"),
        ("R2primemap", "r2prime", "1/s"),
        ("R1map", "r1", "1/s"),
        ("PDmap", "density", "1"),
        ("fieldmap", "total_field", "ppm"),
        ("localfield", "local_field", "ppm"),
        ("mask", "mask", "1"),
        ("dseg", "labels", None),
        ("desc-lesions_dseg", "lesion_labels", None),
    ],
)
def test_the_truth_is_written_as_it_is(dataset, person, suffix, name, units):
    root, affine = dataset
    path = root / TRUTH / "sub-07" / "ses-2" / "anat" / f"sub-07_ses-2_{suffix}.nii.gz"
    image = nib.load(path)
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    values = np.asarray(image.dataobj)
    np.testing.assert_array_equal(values, getattr(person, name).numpy().astype(values.dtype))
    if units is None:
        assert image.get_data_dtype() == np.uint8
        rows = [line.split("\t") for line in path.with_name(path.name.replace(".nii.gz", ".tsv")).read_text().splitlines()]
        assert rows[0] == ["index", "name"]
        assert set(np.unique(values)) <= {int(row[0]) for row in rows[1:]}
    else:
        assert json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())["Units"] == units


def test_lesions_are_listed(dataset, person):
    lines = (dataset[0] / TRUTH / "sub-07" / "ses-1" / "anat" / "sub-07_ses-1_lesions.tsv").read_text().splitlines()
    assert len(lines) == 3
    first = dict(zip(lines[0].split("\t"), lines[1].split("\t"), strict=True))
    assert first["kind"] == person.lesions[0].kind
    assert float(first["chi_pos"]) == pytest.approx(person.lesions[0].chi_pos, rel=1e-5)
    assert len(first["centre_mm"].split(",")) == 3


def test_the_same_head_is_the_same_bytes(dataset, onion, tmp_path):
    fill(tmp_path / "bids", drawn(onion))
    one, other = ({p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()} for root in (dataset[0], tmp_path / "bids"))
    assert one == other
    assert len(one) > 60


def test_what_was_made_is_told_from_what_was_not(dataset):
    root, _ = dataset
    assert made_before(root, "sub-07_ses-1", RECORD)
    assert not made_before(root, "sub-07_ses-3", RECORD)
    with pytest.raises(InputError, match=r"was made with b0 3\.0, not 7\.0"):
        made_before(root, "sub-07_ses-1", {**RECORD, "b0": 7.0})


def test_a_phantom_is_written_with_what_it_has(tmp_path):
    truth = phantom(Grid((44, 44, 44), (4.0, 4.0, 4.0)))
    begin(tmp_path, "A bottle", "0.test")
    write_truth(tmp_path, "sub-phantom", truth, affine_of(truth.grid), {})
    names = {p.name for p in (tmp_path / TRUTH / "sub-phantom" / "anat").iterdir() if p.suffix == ".gz"}
    wanted = ("Chimap", "R2starmap", "fieldmap", "localfield", "mask", "dseg")
    assert names == {f"sub-phantom_{suffix}.nii.gz" for suffix in wanted}


@pytest.mark.parametrize("b0_dir", [(0.0, 0.0, 1.0), (0.3, -0.5, 0.8), (1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, -0.1, -1.0)])
def test_an_affine_points_b0_where_the_grid_has_it(b0_dir):
    grid = Grid((5, 6, 7), (1.0, 2.0, 3.0), b0_dir)
    affine = affine_of(grid, (7.0, 8.0, 9.0))
    np.testing.assert_allclose(Grid.from_affine(grid.shape, affine).b0_dir, grid.b0_dir, atol=1e-9)
    np.testing.assert_allclose(affine @ [2, 2.5, 3, 1], [7, 8, 9, 1], atol=1e-9)
    assert np.linalg.det(affine) == pytest.approx(6)


def test_echoes_without_times_are_refused(tmp_path):
    with pytest.raises(GeometryError, match="2 images and 1 echo times"):
        write_series(tmp_path, "sub-1", Series("MEGRE", torch.zeros(2, 3, 3, 3), (0.01,), 3.0), np.eye(4))
