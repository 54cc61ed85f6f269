"""``paradia lesions``: tables, picture, two pipelines, a study, and what is refused."""

from __future__ import annotations

import csv
import json
import re

import nibabel as nib
import numpy as np
import pytest

from .conftest import save

AFFINE = np.array([[1.5, 0, 0, -30], [0, 1.5, 0, -40], [0, 0, 2.0, 5], [0, 0, 0, 1]])
SHAPE = (40, 42, 30)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three lesions: brighter, like and darker than the tissue; a second map on which the second is brighter too."""
    folder = tmp_path_factory.mktemp("lesions")
    rng = np.random.default_rng(3)
    x, y, z = np.indices(SHAPE)
    labels = np.zeros(SHAPE)
    for number, (a, b, c) in enumerate([(10, 12, 10), (28, 12, 18), (20, 32, 14)], 1):
        labels[(1.5 * (x - a)) ** 2 + (1.5 * (y - b)) ** 2 + (2 * (z - c)) ** 2 < 36] = number
    noise = 0.004 * rng.standard_normal((2, *SHAPE))
    first = 0.02 + 0.05 * (labels == 1) - 0.015 * (labels == 3) + noise[0]
    other = 0.02 + 0.05 * (labels == 1) + 0.03 * (labels == 2) - 0.015 * (labels == 3) + noise[1]
    made = {"labels": labels, "mask": labels > 0, "first": first, "other": other, "brain": np.ones(SHAPE)}
    return {name: save(folder / f"{name}.nii.gz", values, AFFINE) for name, values in made.items()}


def rows(path):
    with path.open() as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_tables_and_picture(command, files, tmp_path):
    out = tmp_path / "out"
    told = command("lesions", out, "--lesions", files["labels"], "--maps", f"chi_pos={files['first']}", "--mask", files["brain"])
    assert told.status == 0, told.err
    assert sorted(path.name for path in out.iterdir()) == ["lesions.json", "lesions.png", "lesions.tsv"]
    table = rows(out / "lesions.tsv")
    assert [row["class"] for row in table] == ["hyper", "iso", "hypo"]
    assert [row["unit"] for row in table] == ["ppm"] * 3
    assert float(table[0]["mean"]) == pytest.approx(0.07, abs=1e-3)
    assert float(table[0]["volume_mm3"]) == pytest.approx(4 / 3 * np.pi * 216, rel=0.1)
    place = [float(table[0][f"{axis}_mm"]) for axis in "xyz"]
    np.testing.assert_allclose(place, (AFFINE @ [10, 12, 10, 1])[:3], atol=0.05)
    record = json.loads((out / "lesions.json").read_text())
    assert "2 to 5 mm outside its border" in record["rule"]
    profile = record["subjects"][0]["lesions"][0]["maps"]["chi_pos"]["profile"]
    assert profile[0]["mean"] == pytest.approx(0.07, abs=5e-3)
    assert profile[-1]["mean"] == pytest.approx(0.02, abs=1e-3)
    assert (out / "lesions.png").read_bytes().startswith(b"\x89PNG")


def test_lesions_that_the_mask_leaves_out_are_named(command, files, tmp_path):
    brain = np.ones(SHAPE)
    brain[:, :, :10] = 0  # cuts the first lesion
    brain[:, 27:] = 0  # leaves out the third
    words = ("--lesions", files["labels"], "--maps", f"chi_pos={files['first']}", "--mask")
    told = command("lesions", tmp_path / "out", *words, save(tmp_path / "brain.nii.gz", brain, AFFINE))
    assert told.status == 0, told.err
    said = re.sub(r"\s+", " ", told.err)
    assert "2 lesions" in said
    assert "outside the mask and left out: 3; partly outside it, measured where it holds: 1" in said
    assert [row["lesion"] for row in rows(tmp_path / "out" / "lesions.tsv")] == ["1", "2"]
    whole = command("lesions", tmp_path / "whole", *words, files["brain"])
    assert "3 lesions" in whole.err
    assert "outside" not in whole.err


def test_a_mask_is_taken_apart_and_two_pipelines_are_compared(command, files, tmp_path):
    out = tmp_path / "out"
    words = ["--maps", f"chi_pos={files['first']}", "--against", f"chi_pos={files['other']}"]
    told = command("lesions", out, "--lesions", files["mask"], *words)
    assert told.status == 0, told.err
    table = rows(out / "lesions.tsv")
    pairs = [(row["class"], row["other_class"]) for row in table]
    assert sorted(pairs) == [("hyper", "hyper"), ("hypo", "hypo"), ("iso", "hyper")]
    (agreed,) = rows(out / "agreement.tsv")
    assert (agreed["lesions"], agreed["agreement_percent"], agreed["iso_hyper"]) == ("3", "66.67", "1")
    assert float(agreed["kappa"]) == pytest.approx(0.5)
    assert "66.7 % of 3" in told.out
    assert json.loads((out / "lesions.json").read_text())["agreement"]["chi_pos"]["number"] == 3


def test_a_study(command, files, tmp_path):
    """Lesions and maps are found by the names of the subjects."""
    import nibabel as nib

    for label in ("01", "02"):
        for folder, name in (("a", "first"), ("b", "other")):
            image = nib.load(files[name]).get_fdata()
            save(tmp_path / folder / f"sub-{label}" / "anat" / f"sub-{label}_run-1_desc-paramagnetic_Chimap.nii.gz", image, AFFINE)
        save(tmp_path / "a" / f"sub-{label}" / "anat" / f"sub-{label}_run-1_mask.nii.gz", np.ones(SHAPE), AFFINE)
        labels = nib.load(files["labels"]).get_fdata()
        save(tmp_path / "drawn" / f"sub-{label}" / f"sub-{label}_run-1_desc-lesions_dseg.nii.gz", labels, AFFINE)
    words = ["--lesions", tmp_path / "drawn", "--derivatives", tmp_path / "a", "--against", tmp_path / "b"]
    told = command("lesions", tmp_path / "out", *words)
    assert told.status == 0, told.err
    table = rows(tmp_path / "out" / "lesions.tsv")
    assert [row["subject"] for row in table] == ["sub-01_run-1"] * 3 + ["sub-02_run-1"] * 3
    (agreed,) = rows(tmp_path / "out" / "agreement.tsv")
    assert (agreed["map"], agreed["lesions"], agreed["agreement_percent"]) == ("chi_pos", "6", "66.67")
    for label in ("01", "02"):  # χ of one subject alone is in both
        save(tmp_path / "a" / f"sub-{label}" / "anat" / f"sub-{label}_run-1_Chimap.nii.gz", image, AFFINE)
    save(tmp_path / "b" / "sub-02" / "anat" / "sub-02_run-1_Chimap.nii.gz", image, AFFINE)
    (tmp_path / "b" / "sub-02" / "anat" / "sub-02_run-1_desc-paramagnetic_Chimap.nii.gz").unlink()
    told = command("lesions", tmp_path / "mixed", *words)
    assert told.status == 0, told.err
    assert [(row["map"], row["lesions"]) for row in rows(tmp_path / "mixed" / "agreement.tsv")] == [("chi_pos", "3"), ("chi", "3")]
    assert [row["other_class"] for row in rows(tmp_path / "mixed" / "lesions.tsv")].count("n/a") == 6

    def refused(message):
        told = command("lesions", tmp_path / "again", *words)
        assert told.status != 0
        assert message in re.sub(r"\s+", " ", told.err)
        assert not (tmp_path / "again").exists()

    other = save(tmp_path / "drawn" / "sub-02" / "sub-02_run-1_desc-brain_mask.nii.gz", np.ones(SHAPE), AFFINE)
    refused("sub-02_run-1 has two files of lesions")
    other.unlink()
    save(tmp_path / "drawn" / "sub-02" / "sub-02_run-1_desc-lesions_dseg.nii.gz", np.zeros(SHAPE), AFFINE)
    told = command("lesions", tmp_path / "one", *words)
    assert told.status == 0, told.err
    assert "sub-02_run-1: 0 lesions" in told.err
    record = json.loads((tmp_path / "one" / "lesions.json").read_text())
    assert [len(subject["lesions"]) for subject in record["subjects"]] == [3, 0]
    assert "left_out" not in record
    for path in (tmp_path / "a" / "sub-02" / "anat").glob("*Chimap.nii.gz"):
        path.unlink()
    told = command("lesions", tmp_path / "gone", *words)
    assert told.status == 1
    assert "1 of 2 left out: sub-02_run-1" in told.err
    record = json.loads((tmp_path / "gone" / "lesions.json").read_text())
    assert f"{tmp_path / 'a'} holds no map of sub-02_run-1" in record["left_out"]["sub-02_run-1"]
    assert [row["subject"] for row in rows(tmp_path / "gone" / "lesions.tsv")] == ["sub-01_run-1"] * 3 * 2
    save(tmp_path / "drawn" / "sub-01" / "sub-01_run-1_desc-lesions_dseg.nii.gz", np.zeros(SHAPE), AFFINE)
    refused("has a lesion to tell of: 1 of 2 could not be measured")
    (tmp_path / "drawn" / "sub-02" / "sub-02_run-1_desc-lesions_dseg.nii.gz").unlink()
    refused("has a lesion to tell of: every mask of lesions is empty")


def test_voxels_without_a_number_outside_lesions_and_tissue_do_no_harm(command, files, tmp_path):
    """Maps of others are NaN outside the brain, and single voxels may be near a lesion."""
    import nibabel as nib

    image = nib.load(files["first"]).get_fdata()
    image[10, 16, 10] = np.nan  # outside the border, nearer than the shell
    image[:, 34:] = np.nan  # beside the third lesion
    words = ("--lesions", files["labels"], "--maps", f"chi={save(tmp_path / 'chi.nii.gz', image, AFFINE)}")
    told = command("lesions", tmp_path / "out", *words)
    assert told.status == 0, told.err
    assert [row["class"] for row in rows(tmp_path / "out" / "lesions.tsv")] == ["hyper", "iso", "hypo"]
    told = command("lesions", tmp_path / "whole", *words, "--mask", files["brain"])
    assert told.status == 2
    assert "chi is NaN or Inf in or around lesion 3" in re.sub(r"\s+", " ", told.err)
    assert not (tmp_path / "whole").exists()


def test_what_does_not_fit_is_refused(command, files, tmp_path):
    def refused(message, *words):
        told = command("lesions", tmp_path / "out", *words)
        assert told.status == 2
        assert message in re.sub(r"\s+", " ", told.err)
        assert not (tmp_path / "out").exists()

    maps = ("--maps", f"chi_pos={files['first']}")
    small = save(tmp_path / "small.nii.gz", np.ones((10, 42, 30)), AFFINE)
    empty = save(tmp_path / "empty.nii.gz", np.zeros(SHAPE), AFFINE)
    refused("has shape (10, 42, 30)", "--lesions", files["labels"], "--maps", f"chi_pos={small}")
    refused("the lesion mask is empty", "--lesions", empty, *maps)
    refused("normal-appearing tissue", "--lesions", files["labels"], *maps, "--exclude", files["brain"])
    refused("a map is given as name=file", "--lesions", files["labels"], "--maps", files["first"])
    refused("the map a is given twice", "--lesions", files["labels"], "--maps", "a=x.nii", "a=y.nii")
    refused("either as --maps name=file or", "--lesions", files["labels"])
    numbers = nib.load(files["labels"]).get_fdata() * 1e9
    huge = save(tmp_path / "huge.nii.gz", numbers, AFFINE)
    refused(f"holds the label {numbers.max():.0f}; the largest that can be is 65535", "--lesions", huge, *maps)
    refused("numbers that are not whole", "--lesions", files["first"], *maps)
    refused("no map in common", "--lesions", files["labels"], *maps, "--against", f"chi_neg={files['first']}")
    refused("Leave them out", "--lesions", tmp_path, "--derivatives", tmp_path, "--mask", files["brain"])
    refused("there is no folder", "--lesions", tmp_path / "nowhere", "--derivatives", tmp_path)
