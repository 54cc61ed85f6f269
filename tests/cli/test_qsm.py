import json
import os
import re

import nibabel as nib
import numpy as np
import pytest

from .conftest import FAST, SHAPE, save

TIMES = ("--echo-times", "0.004", "0.012", "0.02")
B0 = ("--b0", "3")


def maps(folder):
    return sorted(path.name for path in folder.rglob("*.nii.gz"))


def test_two_files_become_maps_and_a_report(files, command, small, tmp_path, whole):
    out = tmp_path / "first try"
    told = command("qsm", files["magnitude"], files["phase"], out, *TIMES, *B0, *FAST)
    assert told.status == 0, told.err
    assert {"Chimap.nii.gz", "R2starmap.nii.gz", "fieldmap.nii.gz", "localfield.nii.gz", "mask.nii.gz"} <= set(maps(out))
    assert "<title>first try" in (out / "report.html").read_text()
    assert str(out / "report.html") in told.err
    assert json.loads((out / "provenance.json").read_text())["protocol"] == "fast"
    mask = nib.load(out / "desc-local_mask.nii.gz").get_fdata() > 0
    found = nib.load(out / "fieldmap.nii.gz").get_fdata()
    assert np.median(np.abs(found - small.total_field)[mask & small.mask]) < 0.02
    whole(out)


def test_real_and_imaginary_parts_give_the_same_map(files, command, tmp_path, brief):
    command("qsm", files["magnitude"], files["phase"], tmp_path / "polar", *TIMES, *B0, *FAST)
    told = command("qsm", files["real"], files["imaginary"], tmp_path / "parts", "--complex", *TIMES, *B0, *FAST)
    assert told.status == 0, told.err
    chi = [nib.load(tmp_path / folder / "Chimap.nii.gz").get_fdata() for folder in ("polar", "parts")]
    np.testing.assert_allclose(*chi, atol=1e-4)


def test_echoes_may_be_files_of_their_own_with_sidecars(small, command, tmp_path, brief):
    paths = {}
    for name in ("magnitude", "phase"):
        for echo, time in enumerate((0.004, 0.012, 0.02)):
            paths[name, echo] = save(tmp_path / f"{name}{echo}.nii", getattr(small, name)[echo], small.affine)
            (tmp_path / f"{name}{echo}.json").write_text(json.dumps({"EchoTime": time, "MagneticFieldStrength": 3}))
    more = [word for name in ("magnitude", "phase") for word in (f"--more-{name}", paths[name, 1], paths[name, 2])]
    told = command("qsm", paths["magnitude", 0], paths["phase", 0], tmp_path / "out", *more, *FAST)
    assert told.status == 0, told.err
    assert len(json.loads((tmp_path / "out" / "Chimap.json").read_text())["Sources"]) == 6


@pytest.mark.parametrize(
    ("stem", "more", "chi", "report"),
    [
        ("scan", (), "Chimap.nii.gz", "report.html"),
        ("scan", ("--name", "patient7"), "patient7_Chimap.nii.gz", "patient7.html"),
        ("sub-07_ses-1_part-mag_MEGRE", (), "sub-07/ses-1/anat/sub-07_ses-1_Chimap.nii.gz", "sub-07_ses-1.html"),
        ("sub-07_part-mag_MEGRE", ("--name", ""), "Chimap.nii.gz", "report.html"),
    ],
)
def test_names_of_the_outputs(stem, more, chi, report, files, command, tmp_path, brief):
    magnitude = tmp_path / f"{stem}.nii"
    magnitude.symlink_to(files["magnitude"])
    told = command("qsm", magnitude, files["phase"], tmp_path / "out", *TIMES, *B0, *FAST, *more)
    assert told.status == 0, told.err
    assert (tmp_path / "out" / chi).is_file()
    assert (tmp_path / "out" / report).is_file()


def test_a_mask_of_the_users_own_replaces_the_mask_stage(files, small, command, tmp_path, brief):
    told = command("qsm", files["magnitude"], files["phase"], tmp_path / "out", "--mask", files["mask"], *TIMES, *B0, *FAST)
    assert told.status == 0, told.err
    np.testing.assert_array_equal(nib.load(tmp_path / "out" / "mask.nii.gz").get_fdata() > 0, small.mask)


def test_maps_that_an_earlier_run_left_are_named(files, small, command, tmp_path, brief):
    call = ("qsm", files["magnitude"], files["phase"], tmp_path, *TIMES, *B0)
    assert command(*call, *FAST).status == 0
    assert "Maps of an earlier run" not in command(*call, *FAST).err
    save(tmp_path / "swi.nii.gz", small.mask, small.affine)  # somebody's own: there is no sidecar
    (tmp_path / "own.toml").write_text('[mask]\nmethod = "quality"\n[unwrap]\nmethod = "romeo"\n[fieldmap]\nmethod = "linear"\n')
    told = command(*call, "--protocol", tmp_path / "own.toml")
    assert told.status == 0, told.err
    said = re.sub(r"\s+", " ", told.err)
    assert "Maps of an earlier run are still there, and were not made by this one: localfield.nii.gz, Chimap" in said
    assert "T2starmap.nii.gz" in said
    assert " fieldmap.nii.gz" not in said
    assert "swi" not in said
    assert "Maps of an earlier run" in (tmp_path / "provenance.json").read_text()


def test_a_mask_in_the_output_folder_is_not_overwritten(files, small, command, tmp_path, brief):
    mask = save(tmp_path / "mask.nii.gz", small.mask, small.affine)
    before = mask.read_bytes()
    told = command("qsm", files["magnitude"], files["phase"], tmp_path, "--mask", mask, *TIMES, *B0, *FAST)
    assert told.status == 2
    assert "would be overwritten" in told.err
    assert mask.read_bytes() == before


def test_without_an_orientation_the_report_has_no_letters(files, small, command, tmp_path, brief):
    for name in ("magnitude", "phase"):
        image = nib.Nifti1Image(np.moveaxis(getattr(small, name), 0, -1), None)
        image.header.set_zooms((4.4, 4.2, 5.0, 1.0))
        image.header["qform_code"] = image.header["sform_code"] = 0
        nib.save(image, tmp_path / f"{name}.nii")
    told = command("qsm", tmp_path / "magnitude.nii", tmp_path / "phase.nii", tmp_path / "out", *TIMES, *B0, *FAST)
    assert told.status == 0, told.err
    assert "oriented" not in (tmp_path / "out" / "report.html").read_text()
    command("qsm", files["magnitude"], files["phase"], tmp_path / "other", *TIMES, *B0, *FAST)
    assert "oriented" in (tmp_path / "other" / "report.html").read_text()


def test_the_sign_may_be_turned(files, command, tmp_path, brief):
    for folder, more in (("kept", ()), ("turned", ("--flip-sign",))):
        command("qsm", files["magnitude"], files["phase"], tmp_path / folder, "--mask", files["mask"], *TIMES, *B0, *FAST, *more)
    chi = [nib.load(tmp_path / folder / "fieldmap.nii.gz").get_fdata().ravel() for folder in ("kept", "turned")]
    assert np.corrcoef(*chi)[0, 1] < -0.9


def changed(name, change):
    """Give one of the files changed, by a function of its values and affine."""

    def make(small, folder):
        values, affine = change(np.array(getattr(small, name)), small.affine.copy())
        return {name: save(folder / f"{name}.nii", values, affine)}

    return make


def first_voxel_of(small):
    return tuple(np.argwhere(small.mask)[0])


def nan_in_mask(small, folder):
    values = small.phase.copy()
    values[(1, *first_voxel_of(small))] = np.nan
    return {"phase": save(folder / "phase.nii", values, small.affine)}


def mask_elsewhere(small, folder):
    magnitude = small.magnitude.copy()
    magnitude[:, :4] = 0
    mask = np.zeros(SHAPE)
    mask[:3] = 1
    return {"magnitude": save(folder / "magnitude.nii", magnitude, small.affine), "mask": save(folder / "mask.nii", mask, small.affine)}


def truncated(small, folder):
    path = save(folder / "phase.nii.gz", small.phase, small.affine)
    path.write_bytes(path.read_bytes()[:20000])
    return {"phase": path}


def sheared(small, folder):
    affine = small.affine.copy()
    affine[0, 1] += 2.0
    return {name: save(folder / f"{name}.nii", getattr(small, name), affine) for name in ("magnitude", "phase", "mask")}


def text(small, folder):
    (folder / "phase.nii").write_text("no image")
    return {"phase": folder / "phase.nii"}


def shift(values, affine):
    affine[0, 3] += 3.0
    return values, affine


@pytest.mark.parametrize(
    ("make", "options", "sentence"),
    [
        (lambda *_: {"phase": "gone.nii"}, TIMES, "gone.nii"),
        (changed("phase", lambda v, a: (np.full_like(v, 0.5), a)), TIMES, "phase"),
        (changed("phase", lambda v, a: (v[:, :, :-1], a)), TIMES, "has shape (40, 47, 35)"),
        (changed("phase", shift), TIMES, "different affines"),
        (changed("phase", lambda v, a: (v[:2], a)), TIMES, "2 echoes"),
        (changed("phase", lambda v, a: (v * 31 + 700, a)), TIMES, "--phase-units"),
        (changed("magnitude", lambda v, a: (v - v.max() / 2, a)), TIMES, "negative"),
        (changed("mask", lambda v, a: (v * 0, a)), TIMES, "empty"),
        (changed("mask", lambda v, a: (v[1:], a)), TIMES, "shape"),
        (mask_elsewhere, TIMES, "does not overlap"),
        (nan_in_mask, TIMES, "NaN or Inf in 1 of"),
        (truncated, TIMES, "phase.nii.gz"),
        (sheared, TIMES, "shear"),
        (text, TIMES, "phase.nii"),
        (None, (), "--echo-times"),
        (None, ("--echo-times", "4", "12", "20"), "Milliseconds?"),
        (None, ("--echo-times", "0.012", "0.004", "0.02"), "must increase"),
        (None, ("--echo-times", "0.004", "0.012"), "2"),
        (None, ("--echo-times", "0.004", "0.012", "nan"), "positive numbers"),
        (None, (*TIMES, "--b0", "3000"), "tesla"),
        (None, (*TIMES, "--b0-dir", "0", "0", "0"), "b0_dir must be a direction"),
        (None, (*TIMES, "--phase-units", "furlong"), "furlong"),
        (None, (*TIMES, "--name", "a/b"), "slash"),
        (None, (*TIMES, "--device", "tpu"), "tpu"),
        (None, (*TIMES, "--protocol", "consensuss"), "Did you mean 'consensus'?"),
        (None, (*TIMES, "--set", "background.radii=3"), "Did you mean 'radius'?"),
        (None, (*TIMES, "--mask"), "--mask"),
        (None, (*TIMES, "--msk", "x.nii"), "--mask"),
    ],
)
def test_bad_input_is_told_in_a_sentence_and_nothing_is_made(make, options, sentence, files, small, command, tmp_path):
    (tmp_path / "in").mkdir()
    given = {name: files[name] for name in ("magnitude", "phase")}
    if "--mask" not in options:
        given["mask"] = files["mask"]
    given |= make(small, tmp_path / "in") if make else {}
    mask = ("--mask", given["mask"]) if "mask" in given else ()
    field = () if "--b0" in options else B0
    protocol = () if "--protocol" in options else FAST
    told = command("qsm", given["magnitude"], given["phase"], tmp_path / "out", *mask, *field, *protocol, *options)
    assert told.status == 2, told.err
    assert told.err.startswith("paradia: ")
    assert sentence in told.err
    assert "Traceback" not in told.err
    assert not maps(tmp_path / "out")
    assert not list(tmp_path.rglob("*part"))


def test_an_output_that_cannot_be_written_is_told(files, command, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        told = command("qsm", files["magnitude"], files["phase"], out, *TIMES, *B0, *FAST)
        assert told.status == 2
        assert told.err.startswith(f"paradia: cannot write to {out}")
        assert "Traceback" not in told.err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_told(files, command, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    told = command("qsm", files["magnitude"], files["phase"], tmp_path / "closed" / "out", *TIMES, *B0, *FAST)
    assert told.status == 2
    assert "cannot write to" in told.err


@pytest.mark.slow
def test_two_passes_are_in_the_maps_the_sidecar_and_the_report(files, command, tmp_path):
    call = ("qsm", files["magnitude"], files["phase"], tmp_path / "out", *TIMES, *B0, *FAST)
    told = command(*call)
    assert told.status == 0, told.err
    one = nib.load(tmp_path / "out" / "Chimap.nii.gz").get_fdata()
    assert "Passes" not in json.loads((tmp_path / "out" / "Chimap.json").read_text())
    told = command(*call, "--two-pass")
    assert told.status == 0, told.err
    assert "Two passes: the first left" in told.err
    two = nib.load(tmp_path / "out" / "Chimap.nii.gz").get_fdata()
    assert np.abs(one - two).max() > 0
    sidecar = json.loads((tmp_path / "out" / "Chimap.json").read_text())
    assert sidecar["Passes"] == ["reliable voxels", "all voxels"]
    assert sidecar["EstimationAlgorithm"] == "inversion/tkd"
    steps = json.loads((tmp_path / "out" / "provenance.json").read_text())["steps"]
    assert [s["pass"] for s in steps if s["stage"] == "inversion"] == ["reliable voxels", "all voxels"]
    assert [s["kept"] for s in steps if s["stage"] == "inversion"] == [False, True]
    page = (tmp_path / "out" / "report.html").read_text()
    for words in ("Dipole inversion (reliable voxels)", "Dipole inversion (all voxels)", "Two passes", "10.1002/mrm.29048", "first left"):
        assert words in page
    command(*call, "--two-pass")
    steps = json.loads((tmp_path / "out" / "provenance.json").read_text())["steps"]
    assert all(s["kept"] for s in steps if s["stage"] != "two_pass")


def test_a_region_of_the_users_own_is_zero(files, small, command, tmp_path, brief):
    told = command("qsm", files["magnitude"], files["phase"], tmp_path, *TIMES, *B0, *FAST, "--region", files["region"])
    assert told.status == 0, told.err
    chi = nib.load(tmp_path / "Chimap.nii.gz").get_fdata()
    inside = (nib.load(tmp_path / "desc-local_mask.nii.gz").get_fdata() > 0) & small.region
    assert abs(chi[inside].mean()) < 1e-6
    sidecar = json.loads((tmp_path / "Chimap.json").read_text())
    assert sidecar["Reference"] == "region"
    assert str(files["region"]) in sidecar["Sources"]
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert any(str(files["region"]) in source for source in provenance["sources"])
    assert any("given region" in message for message in provenance["messages"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--set", "reference.method=region"), "needs region. Give it with --region"),
        (("--region", "gone.nii"), "gone.nii"),
    ],
)
def test_a_region_that_is_not_there_is_told(options, sentence, files, command, tmp_path):
    told = command("qsm", files["magnitude"], files["phase"], tmp_path / "out", *TIMES, *B0, *FAST, *options)
    assert told.status == 2
    assert sentence in told.err
    assert not maps(tmp_path / "out")


PHASE = '[mask]\nmethod = "quality"\n[unwrap]\nmethod = "romeo"\nmode = "template"\n[fieldmap]\nmethod = "linear"\n'
END = '[reference]\nmethod = "whole_brain"\n'


@pytest.fixture
def single_step(monkeypatch):
    """A single step of its own making: thresholded division of the total field."""
    from paradia import registry
    from paradia.cli import provenance
    from paradia.inversion.tkd import tkd
    from paradia.pipeline import step

    def divide(total_field, mask, grid, noise=None, magnitude=None, *, threshold: float = 0.2):
        """Divide at once."""
        return tkd(total_field, mask, grid, threshold=threshold)

    def load(stage, name):
        if (stage, name) == ("singlestep", "divide"):
            return registry.Method(stage, name, divide, "10.1000/divide")
        return registry.load(stage, name)

    for module in (step, provenance):
        monkeypatch.setattr(module, "load", load)


@pytest.mark.parametrize("two_pass", [False, True])
def test_a_protocol_may_hold_a_single_step(single_step, two_pass, files, command, tmp_path):
    (tmp_path / "mine.toml").write_text(PHASE + '[singlestep]\nmethod = "divide"\n' + END)
    passes = ("--two-pass",) if two_pass else ()
    call = ("qsm", files["magnitude"], files["phase"], tmp_path / "out", *TIMES, *B0, "--protocol", tmp_path / "mine.toml", *passes)
    told = command(*call)
    assert told.status == 0, told.err
    assert {"Chimap.nii.gz", "fieldmap.nii.gz", "desc-local_mask.nii.gz"} <= set(maps(tmp_path / "out"))
    assert "localfield.nii.gz" not in maps(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "Chimap.json").read_text())["EstimationAlgorithm"] == "singlestep/divide"
    assert "10.1000/divide" in (tmp_path / "out" / "report.html").read_text()


def test_a_protocol_may_go_from_phase_to_the_local_field(files, command, tmp_path):
    steps = '[mask]\nmethod = "quality"\n[background]\nmethod = "harperella"\n[inversion]\nmethod = "tkd"\n'
    (tmp_path / "mine.toml").write_text(steps + END)
    call = ("qsm", files["magnitude"], files["phase"], tmp_path / "out", *TIMES, *B0, "--protocol", tmp_path / "mine.toml")
    told = command(*call)
    assert told.status == 0, told.err
    assert {"Chimap.nii.gz", "localfield.nii.gz", "desc-local_mask.nii.gz"} <= set(maps(tmp_path / "out"))
    assert "fieldmap.nii.gz" not in maps(tmp_path / "out")
    assert "Local field" in (tmp_path / "out" / "report.html").read_text()
    told = command(*call, "--two-pass")
    assert told.status == 2
    assert "two passes need the noise of the field" in told.err
