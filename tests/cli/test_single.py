import json
import sys

import nibabel as nib
import numpy as np
import pytest

from paradia.cli.app import ELSEWHERE
from paradia.cli.inputs import TIMES_ALONE
from paradia.io.derivatives import NUMBERS
from paradia.registry import STAGES, load, methods

from .conftest import save

METHODS = [(stage, method) for stage in STAGES for method in methods(stage) if (stage, method) not in ELSEWHERE]
TIMES = ("--echo-times", "0.004", "0.012", "0.020", "--b0", "3")


def options(method, files, coils=None):
    """Options that give a method all its data."""
    if "coil_images" in method.needs:
        words = [word for name in ("magnitude", "phase", "coil_noise") for word in (f"--{name.replace('_', '-')}", str(coils[name]))]
        return [*words, *(TIMES if "scan" in method.takes else ())]
    words = [word for name in method.takes if name in files for word in (f"--{name.replace('_', '-')}", str(files[name]))]
    return [*words, *(TIMES if "scan" in method.takes else ())]


@pytest.mark.parametrize(("stage", "name"), METHODS)
def test_every_method_has_help(stage, name, command):
    told = command(stage, name.replace("_", "-"), "--help")
    assert told.status == 0
    for knob in load(stage, name).knobs:
        assert knob.replace("_", "-") in told.out
    assert ":math:" not in told.out


@pytest.mark.parametrize(
    "words", [["inversion", "cosmos", "chi.nii.gz", "--directions", "a.npy"], ["tune", "inversion", "cosmos", "--out", "there"]]
)
def test_what_takes_several_scans_is_sent_to_its_own_command(words, command):
    told = command(*words)
    assert told.status == 2
    assert "takes several scans, not the images of one. Use paradia cosmos" in told.err
    assert "paradia cosmos" in command(*words[: words.index("cosmos") + 1], "--help").out


@pytest.mark.parametrize(("stage", "name"), METHODS)
def test_every_method_works_on_files(stage, name, command, files, coils, small, tmp_path):
    method, out = load(stage, name), tmp_path / "result.nii.gz"
    told = command(stage, name.replace("_", "-"), out, *options(method, files, coils))
    assert told.status == 0, told.err
    gives = ["local_mask" if given == "mask" and stage != "mask" else given for given in load(stage, name).gives]
    numbers = [given for given in gives if given in NUMBERS]
    gives = [given for given in gives if given not in NUMBERS and not given.endswith("_band")]  # bands have to be asked for
    for place, given in enumerate(gives):
        path = out if place == 0 else tmp_path / f"result_{given}.nii.gz"
        image, sidecar = nib.load(path), json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        values = image.get_fdata()
        assert values.shape[:3] == small.mask.shape
        assert np.isfinite(values).all()
        np.testing.assert_allclose(image.affine, small.affine, atol=1e-5)
        assert sidecar["EstimationAlgorithm"] == f"{stage}/{name}"
        assert sidecar["Units"]
        assert set(sidecar["Parameters"]) == set(load(stage, name).knobs)
        assert all(isinstance(sidecar[NUMBERS[number]], float) for number in numbers)
        assert set(sidecar.get("Weights", ())) == set(getattr(sys.modules[method.function.__module__], "WEIGHTS", ()))
    assert np.abs(nib.load(out).get_fdata()).max() > 0


@pytest.mark.parametrize(
    ("stage", "name", "truth", "most"),
    [("relaxometry", "arlo", "r2star", 3.0), ("fieldmap", "linear", "total_field", 1e-6), ("inversion", "tkd", "chi", 0.012)],
)
def test_results_are_those_of_the_scan(stage, name, truth, most, command, files, small, tmp_path):
    out = tmp_path / "result.nii"
    assert command(stage, name, out, *options(load(stage, name), files)).status == 0
    error = np.abs(nib.load(out).get_fdata() - getattr(small, truth))[small.mask]
    assert np.median(error) < most


def coil_options(coils, *, apart=False):
    """Options for the files of coils: one of five axes, or one an echo with the coil last."""
    parts = {part: [coils[f"{part}{echo}"] for echo in range(3)] if apart else [coils[part]] for part in ("magnitude", "phase")}
    return [word for part, paths in parts.items() for word in (f"--{part}", *paths)]


@pytest.mark.parametrize("apart", [False, True])
def test_coils_are_read_from_one_file_or_one_an_echo(apart, command, coils, small, tmp_path):
    out = tmp_path / "combined.nii.gz"
    assert command("combine", "mcpc3ds", out, *coil_options(coils, apart=apart), *TIMES, "--no-prewhiten").status == 0
    magnitude, phase = (np.moveaxis(nib.load(path).get_fdata(), -1, 0) for path in (out, tmp_path / "combined_phase.nii.gz"))
    strength = np.sqrt((np.abs(coils["images"]) ** 2).sum(1))
    assert np.median(np.abs(magnitude / strength - 1)[:, small.mask]) < 0.02
    turn = np.exp(1j * (np.diff(phase, axis=0) - np.diff(small.phase, axis=0)))  # what the coils add is the same in all echoes
    assert np.median(np.abs(np.angle(turn))[:, small.mask]) < 0.05


@pytest.mark.parametrize("stated", [False, True])
@pytest.mark.parametrize("name", ["rss", "mcpc3ds"])
def test_combined_echoes_are_mapped_without_further_options(name, stated, command, coils, files, tmp_path):
    """Echo times and field strength, from options or the coils' sidecars, go on with the combined images."""
    words = [*coil_options(coils), *TIMES]
    if not stated:
        words = []
        for part in ("magnitude", "phase"):
            (tmp_path / f"{part}.nii").symlink_to(coils[part])
            words += [f"--{part}", tmp_path / f"{part}.nii"]
        (tmp_path / "scan.json").write_text(json.dumps({"EchoTime": [0.004, 0.012, 0.020], "MagneticFieldStrength": 2.89}))
    out = tmp_path / "combined" / "magnitude.nii.gz"
    assert command("combine", name, out, *words).status == 0
    for path in (out, tmp_path / "combined" / "magnitude_phase.nii.gz"):
        sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["EchoTime"] == [0.004, 0.012, 0.020]
        assert sidecar["MagneticFieldStrength"] == (3.0 if stated else 2.89)
    if name == "mcpc3ds":
        told = command("qsm", out, path, tmp_path / "maps", "--mask", files["mask"], "--protocol", "fast")
        assert told.status == 0, told.err
    told = command("relaxometry", "arlo", tmp_path / "r2star.nii.gz", "--magnitude", out, "--mask", files["mask"])
    assert told.status == 0, told.err


def test_coils_of_unknown_echo_times_are_combined_all_the_same(command, coils, tmp_path):
    out = tmp_path / "combined.nii.gz"
    assert command("combine", "rss", out, *coil_options(coils)).status == 0
    assert "EchoTime" not in json.loads((tmp_path / "combined.json").read_text())
    told = command("combine", "rss", tmp_path / "again.nii.gz", *coil_options(coils), "--echo-times", "0.004", "--b0", "3")
    assert "3 echoes, but there are 1 echo times" in told.err


@pytest.mark.parametrize("apart", [False, True])
def test_mdi_takes_coils_or_combined_echoes(apart, command, coils, files, small, tmp_path):
    for place, images in enumerate((coil_options(coils, apart=apart), ["--magnitude", files["magnitude"], "--phase", files["phase"]])):
        out = tmp_path / f"{place}.nii"
        assert command("fieldmap", "mdi", out, *images, "--mask", files["mask"], *TIMES).status == 0
        assert np.median(np.abs(nib.load(out).get_fdata() - small.total_field)[small.mask]) < 0.02


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("adaptive", "--magnitude", "{magnitude}", "--phase", "{phase0}"), "holds 1 echoes"),
        (("adaptive", "--magnitude", "{magnitude0}", "{magnitude1}", "--phase", "{phase0}"), "holds 1 echoes"),
        (("rss", "--magnitude", "{magnitude}", "--phase", "{phase}", "--coil-noise", "gone.npy"), "there is no file gone.npy"),
        (("rss", "--magnitude", "{magnitude}", "--phase", "{phase}", "--coil-noise", "{phase}"), "no NumPy file"),
        (("rss", "--magnitude", "{magnitude}"), "--phase"),
    ],
)
def test_mistakes_with_coils_are_told(arguments, sentence, command, coils, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    method, *words = (argument.format(**coils) for argument in arguments)
    told = command("combine", method, "out.nii", *words)
    assert told.status == 2
    assert sentence in told.err
    assert not list(tmp_path.iterdir())


def test_a_file_of_coils_given_to_another_stage_says_what_to_do(command, coils, files, tmp_path):
    told = command("unwrap", "romeo", tmp_path / "o.nii", *coil_options(coils), "--mask", files["mask"], *TIMES)
    assert told.status == 2
    assert "paradia combine" in told.err


def test_relaxometry_needs_no_phase(command, files, tmp_path):
    out = tmp_path / "r2star.nii.gz"
    assert command("relaxometry", "arlo", out, "--magnitude", files["magnitude"], "--mask", files["mask"], *TIMES).status == 0
    assert out.is_file()


@pytest.mark.parametrize(("stage", "method"), sorted(TIMES_ALONE))
def test_the_field_strength_is_asked_for_only_where_it_counts(stage, method, command, files, tmp_path):
    loaded, maps = load(stage, method), []
    data = [word for name in loaded.takes if name in files for word in (f"--{name}", files[name])]
    for more in ((), ("--b0", "7"), ("--b0", "1.5")):
        out = tmp_path / "out.nii"
        told = command(stage, method.replace("_", "-"), out, *data, "--echo-times", *TIMES[1:4], *more)
        assert told.status == 0, told.err
        maps.append(nib.load(out).get_fdata())
        assert "MagneticFieldStrength" not in json.loads(out.with_suffix(".json").read_text())
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])


def test_direction_of_b0_comes_from_the_sidecar_of_a_map(command, files, small, tmp_path):
    field = tmp_path / "field.nii"
    field.write_bytes(files["local_field"].read_bytes())
    given = ("inversion", "tkd", tmp_path / "chi.nii", "--local-field", field, "--mask", files["mask"])
    assert command(*given).status == 0
    by_affine = nib.load(tmp_path / "chi.nii").get_fdata()
    (tmp_path / "field.json").write_text(json.dumps({"B0_dir": [1.0, 0.0, 0.0]}))
    told = command(*given)
    assert told.status == 0
    assert "field.nii: B0 points along (1.0000, 0.0000, 0.0000) in array axes, from B0_dir. The affine says" in told.err
    assert "90° from it, and was not believed" in told.err
    by_sidecar = nib.load(tmp_path / "chi.nii").get_fdata()
    assert np.abs(by_sidecar - by_affine).max() > 0.01
    assert json.loads((tmp_path / "chi.json").read_text())["B0_dir"] == [1, 0, 0]


def test_a_mask_of_shares_holds_above_one_half(command, files, small, tmp_path):
    """As a mask that was resampled: what it touches is not yet inside."""
    shares = np.where(small.mask, 0.9, 0.0) + 0.2
    soft = save(tmp_path / "soft.nii", shares, small.affine)
    out = tmp_path / "chi.nii"
    assert command("inversion", "tkd", out, "--local-field", files["local_field"], "--mask", soft).status == 0
    np.testing.assert_array_equal(nib.load(out).get_fdata() != 0, small.mask)


def test_knobs_reach_the_method(command, files, tmp_path):
    maps = []
    for threshold in ("0.05", "0.5"):
        out = tmp_path / f"{threshold}.nii"
        command("inversion", "tkd", out, "--local-field", files["local_field"], "--mask", files["mask"], "--threshold", threshold)
        maps.append(nib.load(out).get_fdata())
        assert json.loads((tmp_path / f"{threshold}.json").read_text())["Parameters"]["threshold"] == float(threshold)
    assert np.abs(maps[0] - maps[1]).max() > 0.01


def test_an_input_is_never_overwritten(command, files, tmp_path):
    field = tmp_path / "field.nii"
    field.write_bytes(files["local_field"].read_bytes())
    told = command("background", "vsharp", field, "--total-field", field, "--mask", files["mask"])
    assert told.status == 2
    assert "would be overwritten" in told.err
    assert field.read_bytes() == files["local_field"].read_bytes()


def test_a_field_strength_that_is_no_number_names_the_file(command, files, tmp_path):
    for name in ("chi", "r2prime"):
        (tmp_path / f"{name}.nii").write_bytes(files["local_field"].read_bytes())
    (tmp_path / "r2prime.json").write_text('{"MagneticFieldStrength": "3T"}')
    given = ("--chi", tmp_path / "chi.nii", "--r2prime", tmp_path / "r2prime.nii", "--mask", files["mask"])
    told = command("separation", "closed-form", tmp_path / "out.nii", *given)
    assert told.status == 2
    assert "MagneticFieldStrength in the sidecar of r2prime.nii must be a number, got '3T'" in " ".join(told.err.split())


def test_nan_outside_the_mask_is_left_out_and_inside_it_is_refused(command, files, small, tmp_path):
    field = small.local_field.copy()
    given = ("inversion", "tkd", tmp_path / "chi.nii", "--local-field", tmp_path / "field.nii", "--mask", files["mask"])
    for inside in (False, True):
        field[tuple(np.argwhere(small.mask == inside)[5])] = np.nan
        nib.save(nib.Nifti1Image(field.astype(np.float32), small.affine), tmp_path / "field.nii")
        told = command(*given)
        assert told.status == (2 if inside else 0)
    assert "NaN" in told.err
    assert np.isfinite(nib.load(tmp_path / "chi.nii").get_fdata()).all()


def test_a_place_that_cannot_be_written_is_told_before_anything_is_computed(command, files, tmp_path):
    (tmp_path / "file").touch()
    told = command("inversion", "tkd", tmp_path / "file" / "o.nii", "--local-field", files["local_field"], "--mask", files["mask"])
    assert told.status == 2
    assert "cannot write" in told.err
    assert "tkd" not in told.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("inversion", "tkdd"), "Did you mean"),
        (("inversoin", "tkd"), "Did you mean"),
        (("inversion", "tkd", "o.nii", "--local-field", "{local_field}", "--mask", "{mask}", "--thresh", "1"), "--threshold"),
        (("inversion", "tkd", "o.nii", "--local-field", "{local_field}", "--mask", "{mask}", "--threshold", "abc"), "abc"),
        (("inversion", "tkd", "o.nii", "--local-field", "{local_field}"), "--mask"),
        (("inversion", "tkd", "o.txt", "--local-field", "{local_field}", "--mask", "{mask}"), ".nii.gz"),
        (("inversion", "tkd", "o.nii", "--local-field", "{magnitude}", "--mask", "{mask}"), "3 volumes"),
        (("inversion", "tkd", "o.nii", "--local-field", "gone.nii", "--mask", "{mask}"), "gone.nii"),
        (("inversion", "tkd", "o.nii", "--local-field", "{local_field}", "--mask", "{mask}", "--device", "gpu"), "no device 'gpu'"),
    ],
)
def test_mistakes_are_told_in_a_sentence(arguments, sentence, command, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = command(*(argument.format(**files) for argument in arguments))
    assert told.status == 2
    assert told.err.startswith("paradia: ")
    assert sentence in told.err
    assert "Traceback" not in told.err
    assert not list(tmp_path.iterdir())


def test_a_map_of_unknown_orientation_is_not_given_one(command, small, tmp_path):
    paths = {}
    for name in ("local_field", "mask"):
        image = nib.Nifti1Image(np.asarray(getattr(small, name), np.float32), None)
        image.header.set_zooms((4.4, 4.2, 5.0))
        paths[name] = tmp_path / f"{name}.nii.gz"
        nib.save(image, paths[name])
    out = tmp_path / "chi.nii.gz"
    told = command("inversion", "tkd", out, "--local-field", paths["local_field"], "--mask", paths["mask"])
    assert told.status == 0, told.err
    header = nib.load(out).header
    assert header["sform_code"] == header["qform_code"] == 0
    np.testing.assert_allclose(nib.load(out).affine, nib.load(paths["mask"]).affine)
