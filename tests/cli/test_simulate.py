"""``paradia simulate``: files that are read again, repeat byte for byte, and go on where they stopped."""

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from paradia.cli import simulate, study
from paradia.fft import from_kspace
from paradia.io import bids
from paradia.io.ismrmrd import read_raw
from paradia.io.nifti import read_image
from paradia.io.simulated import RAW, TRUTH, begin, write_participants
from paradia.metrics.accuracy import nrmse
from paradia.scan import Scan
from paradia.simulate.subject import subject

COARSE = ("--voxel-size", "7", "6.5", "7.5")
FULL = (*COARSE, "--mese", "--raw", "--coils", "4", "--acceleration", "1.5", "--sampling", "poisson", "--lesions", "haemorrhage")


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(autouse=True, scope="module")
def quick(onion):
    """Heads in shells instead of drawn ones; these have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "subject", partial(subject, anatomy=onion))
        yield


@pytest.fixture(scope="module")
def one(quick, tmp_path_factory):
    """A subject with everything."""
    from paradia.cli import main

    root = tmp_path_factory.mktemp("simulate") / "bids"
    assert main(["simulate", "subject", str(root), *FULL, "--echo-times", "0.005", "0.012", "--seed", "4"]) == 0
    return root


def table(root):
    header, *rows = [line.split("\t") for line in (root / "participants.tsv").read_text().splitlines()]
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.mark.parametrize("name", ["subject", "cohort", "phantom", "bank"])
def test_every_command_has_help(name, command):
    told = command("simulate", name, "--help")
    assert told.status == 0
    assert f"Usage: paradia simulate {name}" in told.out
    assert name in command("simulate", "--help").out


def test_a_subject_is_a_data_set_that_runs(one, command):
    (entry,) = bids.find(one)
    assert entry.name == "sub-01"
    scan = bids.load(entry)
    assert scan.scan.echo_times == (0.005, 0.012)
    assert scan.grid.voxel_size == pytest.approx((7, 6.5, 7.5))
    told = command("run", one, one / "derivatives" / "paradia", "--dry-run")
    assert told.status == 0
    assert "sub-01: 2 magnitude, 2 phase" in told.out
    mask, _ = read_image(bids.find_mask(entry, one / TRUTH))
    field, _ = read_image(one / TRUTH / "sub-01" / "anat" / "sub-01_fieldmap.nii.gz")
    turned = torch.polar(torch.ones_like(scan.phase[0]), scan.phase[1] - scan.phase[0] - Scan((0.01,), 3.0).rad_per_ppm(0.007) * field)
    off = turned.angle()[mask > 0].abs()
    assert off.median() < 0.03  # the noise of two phases at a signal-to-noise ratio of 100
    names = {path.name for path in (one / "sub-01" / "anat").iterdir()}
    assert {"sub-01_T1w.nii.gz", "sub-01_echo-10_MESE.nii.gz", "sub-01_T1w.json"} <= names
    (person,) = table(one)
    assert person["participant_id"] == "sub-01"
    assert 20 <= float(person["age"]) <= 80


def test_samples_of_k_space_are_of_the_same_head(one):
    raw = read_raw(one / RAW / "sub-01" / "anat" / "sub-01_MEGRE.h5")
    scan = bids.load(bids.find(one)[0])
    assert raw.samples.shape == (2, 4, *scan.magnitude.shape[1:])
    assert raw.sampled.numel() / raw.sampled.sum() == pytest.approx(1.5, rel=0.02)
    assert not torch.equal(raw.sampled[0], raw.sampled[1])
    np.testing.assert_allclose(raw.affine, scan.affine, atol=1e-4)
    mask = read_image(one / TRUTH / "sub-01" / "anat" / "sub-01_mask.nii.gz")[0] > 0
    images = from_kspace(raw.samples)
    turned = (images[1] * images[0].conj()).sum(0).angle()
    wanted = scan.phase[1] - scan.phase[0]
    off = torch.polar(torch.ones_like(turned), turned - wanted).angle()[mask].abs()
    assert off.median() < 0.15  # undersampled, and yet the same field
    assert raw.noise.shape == (4, study.SILENCE)
    record = json.loads((one / TRUTH / "sub-01" / "anat" / "sub-01_provenance.json").read_text())
    assert record["coils"] == 4


def test_the_same_seed_is_the_same_files(one, command, tmp_path):
    told = command("simulate", "subject", tmp_path / "again", *FULL, "--echo-times", "0.005", "0.012", "--seed", "4")
    assert told.status == 0
    first, second = contents(one), contents(tmp_path / "again")
    assert first == second
    assert len(first) > 40


def test_what_is_there_is_not_made_again_and_not_overwritten(one, command):
    before = contents(one)
    told = command("simulate", "subject", one, *FULL, "--echo-times", "0.005", "0.012", "--seed", "4")
    assert told.status == 0
    assert "already" in told.err
    told = command("simulate", "subject", one, *COARSE)
    assert told.status == 2
    assert "sub-01" in told.err
    assert "was made with" in told.err
    assert contents(one) == before


@pytest.mark.slow
def test_a_cohort_goes_on_and_grows(command, tmp_path, monkeypatch):
    made = []
    plain = study.subject
    monkeypatch.setattr(study, "subject", lambda seed, **more: made.append(seed) or plain(seed, **more))
    root = tmp_path / "cohort"
    asked = ("simulate", "cohort", root, "--age", "30-70", "--repeat", "2", *COARSE, "--echo-times", "0.01", "--seed", "2")
    assert command(*asked, "--n", "1").status == 0
    first = contents(root)
    assert command(*asked, "--n", "2").status == 0
    assert len(made) == 4
    assert made[0] == made[1] != made[2]
    later = contents(root)
    changed = {name for name in first if first[name] != later[name]}
    assert changed == {"participants.tsv"}
    entries = bids.find(root)
    assert [entry.name for entry in entries] == [f"sub-00{n}_ses-{session}" for n in (1, 2) for session in (1, 2)]
    one, other = (bids.load(entry) for entry in entries[:2])
    assert not torch.equal(one.magnitude, other.magnitude)
    assert one.grid.b0_dir != other.grid.b0_dir
    people = table(root)
    assert [person["participant_id"] for person in people] == ["sub-001", "sub-002"]
    assert all(30 <= float(person["age"]) <= 70 for person in people)
    (root / TRUTH / "sub-002" / "ses-1" / "anat" / "sub-002_ses-1_provenance.json").unlink()  # as if it had been interrupted
    assert command(*asked, "--n", "2").status == 0
    assert len(made) == 5
    assert contents(root) == later


def test_ages_fill_their_range(monkeypatch, command, tmp_path):
    ages = []
    monkeypatch.setattr("paradia.cli.simulate.make", lambda root, person, *rest: ages.append(person.age))
    assert command("simulate", "cohort", tmp_path / "x", "--n", "59", "--age", "18-75").status == 0
    ages = np.sort(ages)
    assert 18 <= ages[0] < 22
    assert 71 < ages[-1] <= 75
    assert np.diff(ages).max() < 2.5
    assert len(table(tmp_path / "x")) == 59


def test_a_phantom_has_the_field_it_is_said_to_have(command, tmp_path):
    root = tmp_path / "bottle"
    asked = ("simulate", "phantom", root, "--voxel-size", "4", "--b0", "7", "--snr", "inf", "--echo-times", "0.003", "0.005")
    assert command(*asked).status == 0
    scan = bids.load(bids.find(root)[0])
    place = root / TRUTH / "sub-phantom" / "anat"
    field, mask = (read_image(place / f"sub-phantom_{name}.nii.gz")[0] for name in ("fieldmap", "mask"))
    turned = torch.polar(torch.ones_like(scan.phase[0]), scan.phase[1] - scan.phase[0]).angle() / Scan((0.01,), 7.0).rad_per_ppm(0.002)
    assert nrmse(turned, field, mask > 0) < 1
    assert command(*asked).status == 0
    assert "was made with seed 0, not 1" in command(*asked, "--seed", "1").err


def test_the_bank_is_built_where_it_is_asked_for(command, tmp_path, monkeypatch):
    monkeypatch.setattr("paradia.io.bank.build", lambda out: out / "bank.safetensors")
    told = command("simulate", "bank", tmp_path)
    assert told.status == 0
    assert "bank.safetensors" in told.err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--echo-times", "0.004", "0.05"], "comes after the repetition time of 0.04 s"),
        (["--echo-times", "4", "8"], "Milliseconds?"),
        (["--snr", "-3"], "signal-to-noise ratio must be positive"),
        (["--snr", "0"], "signal-to-noise ratio must be positive"),
        (["--raw", "--acceleration", "0.5"], "acceleration must be 1 or more, got 0.5"),
        (["--raw", "--acceleration", "900"], "fewer than the"),
        (["--raw", "--acceleration", "2.5", "--sampling", "uniform"], "whole number"),
        (["--acceleration", "2"], "--raw"),
        (["--raw", "--coils", "0"], "1 to 128 loops"),
        (["--voxel-size", "30"], "too coarse for a head"),
        (["--voxel-size", "1", "2"], "one positive number or three"),
        (["--voxel-size", "-1"], "one positive number or three"),
        (["--b0", "-1"], "field strength"),
        (["--lesions", "microbled"], "Did you mean 'microbleed'?"),
        (["--errors", "9"], "between 0 and 5"),
        (["--oversample", "0"], "from 1 to 8"),
        (["--flip", "200"], "180 degrees"),
        (["--seed", "-1"], "--seed must be zero or more"),
    ],
)
@pytest.mark.parametrize("kind", ["subject", "cohort"])
def test_impossible_protocols_are_told_before_anything_is_made(kind, given, message, command, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "subject", None)
    told = command("simulate", kind, tmp_path / "out", *given)
    assert told.status == 2
    assert message in told.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["subject", "--label", "a/b"], "letters and digits"),
        (["subject", "--age", "150"], "between 0 and 120"),
        (["subject", "--sex", "m"], "female or male"),
        (["cohort", "--age", "75-18"], "as 18-75"),
        (["cohort", "--age", "old"], "as 18-75"),
        (["cohort", "--n", "0"], "number of subjects from 1"),
        (["cohort", "--repeat", "0"], "--repeat must be 1"),
        (["phantom", "--snr", "-1"], "signal-to-noise"),
        (["phantom", "--voxel-size", "9"], "too coarse for spheres"),
        (["phantom", "--echo-times", "0.02", "0.01"], "increase"),
        (["phantom", "--seed", "-2"], "--seed must be zero or more"),
    ],
)
def test_other_bad_input_is_told_too(given, message, command, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "subject", None)
    told = command("simulate", given[0], tmp_path / "out", *given[1:])
    assert told.status == 2
    assert message in told.err
    assert not (tmp_path / "out").exists()


def test_somebody_else_s_data_are_left_alone(command, tmp_path):
    call = ("simulate", "phantom", tmp_path, "--voxel-size", "4")
    for makers in ("[]", "null", '["a word"]', '{"Name": "paradia"}', '[{"Name": "paradia"}]'):
        (tmp_path / "dataset_description.json").write_text(f'{{"Name": "Real", "BIDSVersion": "1.10.0", "GeneratedBy": {makers}}}')
        told = command(*call)
        assert told.status == 2
        assert "was not simulated" in told.err
    (tmp_path / "dataset_description.json").unlink()
    (tmp_path / "README").write_text("mine")
    told = command(*call)
    assert told.status == 2
    assert "holds README of something else" in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["README"]
    assert (tmp_path / "README").read_text() == "mine"


def test_a_data_set_whose_beginning_was_interrupted_is_gone_on_with(tmp_path):
    begin(tmp_path, "Simulated heads", "1.0")
    (tmp_path / "dataset_description.json").unlink()
    begin(tmp_path, "Simulated heads", "1.0")
    assert (tmp_path / "dataset_description.json").is_file()


def test_heads_lie_as_people_do():
    directions = np.array([study.position(seed)[0] for seed in range(300)])
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    tilt = np.degrees(np.arctan2(directions[:, 1], directions[:, 2]))
    assert tilt.mean() == pytest.approx(study.TILT[0], abs=4 * study.TILT[1] / math.sqrt(300))
    assert tilt.std() == pytest.approx(study.TILT[1], rel=0.2)


def test_commands_that_write_into_one_data_set_at_once_lose_nobody(tmp_path, monkeypatch):
    def slowly(*given):
        time.sleep(0.05)
        return write_participants(*given)

    monkeypatch.setattr(simulate, "write_participants", slowly)
    begin(tmp_path, "Simulated heads", "1.0")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda label: simulate._enlist(tmp_path, {f"sub-{label}": (30.0 + label, "female")}), range(4)))
    _, *rows = (tmp_path / "participants.tsv").read_text().splitlines()
    assert rows == [f"sub-{label}\t{30 + label:.1f}\tfemale" for label in range(4)]
