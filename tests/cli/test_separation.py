"""The protocol `separation`: with spin echoes by R2′, without by R2*, and what is written of either."""

from __future__ import annotations

import json
import re

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import affine_transform

from paradia.nets import store

from .conftest import TIMES, describe, save, write_subject

TRAIN = (0.012, 0.024, 0.036, 0.048)
MAPS = {
    "desc-paramagnetic_Chimap": "ppm",
    "desc-diamagnetic_Chimap": "ppm",
    "desc-paramagneticNoise_Chimap": "ppm",
    "desc-diamagneticNoise_Chimap": "ppm",
    "desc-paramagneticClosedForm_Chimap": "ppm",
    "desc-diamagneticClosedForm_Chimap": "ppm",
    "desc-disagreement_Chimap": "ppm",
    "desc-sourceResidual_localfield": "ppm",
    "desc-residual_R2primemap": "1/s",
}
PLAIN = ("--set", "mask.method=quality", "fieldmap.method=linear")
BRIEF = ("singlestep.start=20", "singlestep.rounds=2", "singlestep.max_iter=5", "singlestep.refine=6")
QUICK = ("--protocol", "separation", *PLAIN, *BRIEF)
RATES = ("R2map", "desc-noise_R2map", "R2primemap", "desc-noise_R2primemap")


def spin_echoes(small):
    """Trains of pulses that refocus ideally, in tissue of the head's own R2."""
    noise = np.random.default_rng(0).normal(0, 1, (len(TRAIN), *small.mask.shape))
    return np.abs(200.0 * np.exp(-np.array(TRAIN)[:, None, None, None] * small.r2) * small.mask + noise)


def write_spin_echoes(root, label, echoes, affine, part="", b0=3.0):
    for number, (image, time) in enumerate(zip(echoes, TRAIN, strict=True), 1):
        path = save(root / f"sub-{label}" / "anat" / f"sub-{label}_echo-{number}_{part}MESE.nii.gz", image, affine)
        sidecar = {"EchoTime": time, "MagneticFieldStrength": b0}
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))


@pytest.fixture(scope="module")
def study(small, tmp_path_factory):
    """One subject with spin echoes on another, coarser grid, and one without."""
    root = describe(tmp_path_factory.mktemp("mese") / "study")
    for label in ("with", "without"):
        write_subject(root, label, small)
    coarse = small.affine @ np.diag([1.25, 1.25, 1.0, 1.0])
    shape = (32, 39, 35)
    other = [affine_transform(echo, np.diag([1.25, 1.25, 1.0]), output_shape=shape, order=1) for echo in spin_echoes(small)]
    write_spin_echoes(root, "with", other, coarse, part="part-mag_")
    return root


@pytest.fixture(scope="module")
def finished(study, tmp_path_factory):
    from paradia.cli import main

    out = tmp_path_factory.mktemp("separated") / "out"
    assert main(["run", str(study), str(out), *QUICK, "separation.dr_pos=140.0", "separation.band=0.2"]) == 0
    return out


def read(out, label, suffix):
    path = out / f"sub-{label}" / "anat" / f"sub-{label}_{suffix}.nii.gz"
    return nib.load(path).get_fdata(), json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("label", "method"), [("with", "sepnet_r2prime"), ("without", "sepnet_r2star")])
def test_maps_and_sidecars(label, method, finished, small):
    for suffix, units in (MAPS | {"desc-paramagneticBand_Chimap": "ppm", "desc-diamagneticBand_Chimap": "ppm"}).items():
        image, sidecar = read(finished, label, suffix)
        assert image.shape == small.mask.shape
        assert sidecar["Units"] == units
        assert sidecar["EstimationAlgorithm"] == f"separation/{method}"
        assert (sidecar["ParamagneticRelaxivity"], sidecar["DiamagneticRelaxivity"]) == (140, 137)
        assert sidecar["RelaxivityUnits"] == "Hz/ppm"
        assert set(sidecar["Weights"]) == {"sepnet"}
        assert isinstance(sidecar["SourceNovelty"], float)
    for sign, word in (("desc-paramagnetic_Chimap", "Paramagnetic is positive"), ("desc-diamagnetic_Chimap", "as a magnitude")):
        image, sidecar = read(finished, label, sign)
        assert word in sidecar["SignConvention"]
        assert image.min() == 0
        assert image.max() > 0.02
    assert "ParamagneticRelaxivity" not in read(finished, label, "Chimap")[1]
    ignored = (finished / ".bidsignore").read_text().split()
    assert {"*_desc-paramagneticNoise_*", "*_desc-diamagneticNoise_*", "*_R2primemap.*"} <= set(ignored)


@pytest.mark.slow
def test_r2_comes_from_the_spin_echoes_on_the_grid_of_the_gradient_echoes(finished, small):
    image, sidecar = read(finished, "with", "R2map")
    assert sidecar["EchoTime"] == list(TRAIN)
    assert read(finished, "with", "R2starmap")[1]["EchoTime"] == list(TIMES)
    inside = small.mask & (image > 0)
    core = inside.copy()
    for axis in range(3):
        core &= np.roll(inside, 1, axis) & np.roll(inside, -1, axis)
    assert np.corrcoef(image[core], small.r2[core])[0, 1] > 0.8
    assert abs(np.median(image[core] / small.r2[core]) - 1) < 0.05
    r2star, r2prime = read(finished, "with", "R2starmap")[0], read(finished, "with", "R2primemap")[0]
    np.testing.assert_allclose(r2prime[inside], np.maximum(r2star - image, 0)[inside], atol=1e-3)
    for suffix in RATES:
        assert not (finished / "sub-without" / "anat" / f"sub-without_{suffix}.nii.gz").exists()


@pytest.mark.slow
def test_the_report_says_which_and_shows_the_closed_form(finished):
    pages = {label: (finished / f"sub-{label}.html").read_text() for label in ("with", "without")}
    for page in pages.values():
        for name in ("chi_pos", "closed_pos", "chi_neg", "closed_neg", "disagreement", "chi_pos_noise", "chi_neg_band", "rate_residual"):
            assert f'<figure id="{name}">' in page, name
    assert "Spin echoes at 12, 24, 36, 48 ms were found" in pages["with"]
    assert "were resampled to the gradient echoes by their headers alone" in pages["with"]
    assert "separation by sepnet_r2star instead of sepnet_r2prime: there is no r2prime" in pages["without"]
    assert "relaxometry r2_epg was left out: there are no spin echoes." in pages["without"]
    assert "R2′ was measured with spin echoes" in pages["with"]
    assert "R2′ was not measured: the network judges by R2*" in pages["without"]
    assert all("Dr+ 140 and Dr− 137 Hz/ppm" in page for page in pages.values())
    record = json.loads((finished / "sub-with" / "anat" / "sub-with_provenance.json").read_text())
    assert [s["method"] for s in record["steps"] if s["stage"] in ("relaxometry", "separation")] == [
        "r2star",
        "r2_epg",
        "r2prime",
        "sepnet_r2prime",
    ]
    assert [s.get("on") for s in record["steps"] if s["method"] == "r2_epg"] == ["spin_echo"]


@pytest.mark.slow
def test_one_echo_gives_chi_and_says_why_no_sources(command, small, tmp_path):
    files = [save(tmp_path / f"{part}.nii.gz", getattr(small, part)[0], small.affine) for part in ("magnitude", "phase")]
    times = ("--echo-times", TIMES[0], "--b0", 3)
    told = command("qsm", *files, tmp_path / "out", *times, "--phase-units", "rad", *QUICK)
    assert told.status == 0, told.err
    said = re.sub(r"\s+", " ", told.err + told.out)
    assert "r2star needs at least 2 echoes, got 1" in said
    assert "separation sepnet_r2star was left out: it needs r2star, and no earlier step gave it" in said
    assert (tmp_path / "out" / "Chimap.nii.gz").is_file()
    assert not (tmp_path / "out" / "desc-paramagnetic_Chimap.nii.gz").exists()


@pytest.mark.slow
def test_loose_spin_echoes(command, small, tmp_path, brief):
    files = [save(tmp_path / f"{part}.nii.gz", getattr(small, part), small.affine) for part in ("magnitude", "phase")]
    spin = save(tmp_path / "mese.nii.gz", spin_echoes(small), small.affine)
    words = ["qsm", *files, tmp_path / "out", "--echo-times", *TIMES, "--b0", 3, "--phase-units", "rad", *QUICK]
    told = command(*words, "--spin-echo", spin, "--spin-echo-times", *TRAIN)
    assert told.status == 0, told.err
    assert (tmp_path / "out" / "R2primemap.nii.gz").is_file()
    assert "resampled" not in told.err
    away = small.affine.copy()
    away[:3, 3] += 150
    told = command(*words, "--spin-echo", save(tmp_path / "far.nii.gz", spin_echoes(small), away), "--spin-echo-times", *TRAIN)
    assert told.status == 2
    assert "% of the gradient echoes" in told.err


def test_a_single_step_says_what_it_takes(command):
    told = command("separation", "sepnet-r2prime", "--help")
    assert told.status == 0
    for option in ("--local-field", "--r2prime", "--r2prime-noise", "--band", "--dr-pos"):
        assert option in told.out
    assert command("separation", "closed-form", "--help").status == 0


def test_a_single_step_writes_both_maps_and_the_relaxivity(command, small, tmp_path):
    mask = small.mask
    names = {"local-field": small.local_field * mask, "r2prime": 0.4 * small.r2star, "mask": mask, "chi": small.chi * mask}
    given = [word for name, image in names.items() for word in (f"--{name}", save(tmp_path / f"{name}.nii.gz", image, small.affine))]
    told = command("separation", "sepnet-r2prime", tmp_path / "out" / "pos.nii.gz", *given)
    assert told.status == 2
    assert "needs the field strength, which no sidecar of the maps tells. Give --b0" in re.sub(r"\s+", " ", told.err)
    (tmp_path / "r2prime.json").write_text('{"MagneticFieldStrength": 7.0}')
    told = command("separation", "sepnet-r2prime", tmp_path / "out" / "pos.nii.gz", *given)
    assert told.status == 0, told.err
    sidecar = json.loads((tmp_path / "out" / "pos_chi_neg.json").read_text())
    assert sidecar["ParamagneticRelaxivity"] == pytest.approx(137 * 7 / 3)
    assert not (tmp_path / "out" / "pos_chi_pos_band.nii.gz").exists()
    assert "SourceNovelty" in sidecar


@pytest.mark.slow
@pytest.mark.parametrize(("label", "method"), [("with", "chisep_medi"), ("without", "r2star_qsm")])
def test_without_a_network(label, method, command, study, tmp_path):
    """The classical protocol needs no weights, with spin echoes and without, and says which it was."""
    words = ("--protocol", "separation-classical", *PLAIN, "background.method=vsharp")
    told = command("run", study, tmp_path / "out", *words, "--participant-label", label)
    assert told.status == 0, told.err
    for suffix in ("desc-paramagnetic_Chimap", "desc-diamagnetic_Chimap"):
        image, sidecar = read(tmp_path / "out", label, suffix)
        assert sidecar["EstimationAlgorithm"] == f"separation/{method}"
        assert "Weights" not in sidecar
        assert image.min() == 0
        assert image.max() > 0.02
    assert (tmp_path / "out" / f"sub-{label}" / "anat" / f"sub-{label}_R2primemap.nii.gz").exists() == (label == "with")
    page = (tmp_path / "out" / f"sub-{label}.html").read_text()
    assert ("separation by r2star_qsm instead of chisep_medi: there is no r2prime" in page) == (label == "without")
    assert '<figure id="chi_pos">' in page


@pytest.mark.parametrize(
    ("protocol", "there", "asked", "other"),
    [
        ("separation", (), "asks the networks bgnet and varnet", "separation-classical"),
        ("separation", ("bgnet", "varnet"), "sepnet_r2prime in the protocol separation asks the network sepnet", "separation-classical"),
        ("learned", ("varnet",), "singlestep nextqsm in the protocol learned asks the network bgnet", "consensus"),
    ],
)  # fmt: skip
def test_missing_weights_are_told_before_anything_is_computed(protocol, there, asked, other, command, study, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "FOLDER", tmp_path)
    (tmp_path / "weights.toml").write_text("".join(f'[{name}]\nfile = "{name}.safetensors"\n' for name in there))
    told = command("run", study, tmp_path / "out", "--protocol", protocol)
    said = re.sub(r"\s+", " ", told.err)
    assert told.status != 0
    assert asked in said
    assert f"Take --protocol {other}, which needs no network" in said
    assert not (tmp_path / "out").exists()


def test_a_dry_run_tells_of_the_spin_echoes(command, study, tmp_path):
    told = command("run", study, tmp_path / "out", "--protocol", "separation", "--dry-run")
    assert "sub-with: 3 magnitude, 3 phase, 4 spin echoes" in told.out
    assert "separation sepnet_r2prime or sepnet_r2star" in told.out


def test_maps_that_cannot_belong_together_are_told(command, small, tmp_path):
    """Other grids, rates of another unit, negative rates beyond noise, and a field strength that nobody measured at."""
    mask = small.mask
    images = {"local-field": small.local_field * mask, "r2prime": 0.4 * small.r2star * mask, "mask": mask}

    def separated(b0=3.0, **other):
        given = images | {name.replace("_", "-"): image for name, image in other.items()}
        words = [word for name, image in given.items() for word in (f"--{name}", save(tmp_path / f"{name}.nii.gz", image, small.affine))]
        told = command("separation", "chisep-medi", tmp_path / "pos.nii.gz", *words, "--b0", b0)
        return told.status, re.sub(r"\s+", " ", told.err)

    status, said = separated(r2prime=images["r2prime"][:-2])
    assert status == 2
    assert "has shape" in said
    status, said = separated(r2prime=images["r2prime"] / 1000)
    assert status == 2
    assert "r2prime must be in 1/s" in said
    status, said = separated(r2prime=-images["r2prime"])
    assert status == 2
    assert "r2prime is negative in" in said
    status, said = separated(b0=14.1)
    assert status == 2
    assert "no relaxivity is known at 14.1 T" in said
    some = images["r2prime"].copy()
    some[:18] *= -1
    status, said = separated(r2prime=some)
    assert status == 0
    assert "more than noise makes" in said
