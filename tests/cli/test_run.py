import errno
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from paradia.cli.output import open_output
from paradia.cli.run import BUG, Result, _one_logged, _result
from paradia.errors import FileError
from paradia.io.simulated import TRUTH, begin

from .conftest import FAST, describe, save, write_subject

MAPS = (
    "mask",
    "fieldmap",
    "desc-noise_fieldmap",
    "localfield",
    "desc-local_mask",
    "Chimap",
    "R2starmap",
    "desc-noise_R2starmap",
    "T2starmap",
)


TIMES = ("--echo-times", "0.004", "0.012", "0.02", "--b0", "3")


def hashes(folder, pattern="*"):
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob(pattern)) if p.is_file()}


def steps(out, name="sub-one"):
    """Which steps of the last run were kept, by stage."""
    record = json.loads((out / "sub-one" / "anat" / f"{name}_provenance.json").read_text())
    return {step["stage"]: step["kept"] for step in record["steps"]}


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """The output of a run over both subjects; tests leave it as it is."""
    from paradia.cli import main

    out = tmp_path_factory.mktemp("finished") / "derivatives"
    before = hashes(dataset)
    assert main(["run", str(dataset), str(out), *FAST]) == 0
    assert hashes(dataset) == before, "raw data were touched"
    return out


@pytest.mark.parametrize("label", ["one", "two"])
def test_every_map_has_a_sidecar_that_says_what_it_is(label, finished, small):
    for suffix in MAPS:
        path = finished / f"sub-{label}" / "anat" / f"sub-{label}_{suffix}.nii.gz"
        image, sidecar = nib.load(path), json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert image.shape == small.mask.shape
        np.testing.assert_allclose(image.affine, small.affine, atol=1e-4)
        assert {"Description", "Units", "Sources", "SoftwareVersions", "EstimationAlgorithm", "Parameters"} <= sidecar.keys(), suffix
        assert len(sidecar["Sources"]) == 6
        assert sidecar["SoftwareVersions"]["paradia"]
        if suffix in ("fieldmap", "localfield", "Chimap"):
            assert sidecar["SignConvention"].startswith("Paramagnetic is positive")
            assert sidecar["Units"] == "ppm"
            assert sidecar["DOI"].startswith("10.")
    assert sidecar["Units"] == "s"


def test_the_susceptibility_says_its_reference(finished):
    sidecar = json.loads((finished / "sub-one" / "anat" / "sub-one_Chimap.json").read_text())
    assert sidecar["EstimationAlgorithm"] == "inversion/tkd"
    assert sidecar["Reference"] == "whole_brain"
    assert abs(sidecar["WholeBrainMean"]) < 1e-6
    assert sidecar["WholeBrainSD"] > 0


def test_real_and_imaginary_parts_give_the_same_maps(finished):
    maps = [nib.load(finished / f"sub-{label}" / "anat" / f"sub-{label}_Chimap.nii.gz").get_fdata() for label in ("one", "two")]
    np.testing.assert_allclose(*maps, atol=1e-4)


def test_the_output_is_a_derivative_data_set(finished):
    description = json.loads((finished / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "paradia"
    assert description["SourceDatasets"]
    assert "*.html" in (finished / ".bidsignore").read_text().split()
    assert "</html>" in (finished / "sub-one.html").read_text()


def test_the_log_has_times_and_every_step(finished):
    lines = (finished / ".paradia" / "run.log").read_text().splitlines()
    assert all(line[:2] == "20" and line[10] == "T" for line in lines)
    assert sum("inversion tkd" in line for line in lines) == 2
    assert lines[-1].endswith("2 of 2 done")


def test_a_second_run_keeps_everything_and_a_turned_knob_what_comes_before(dataset, command, tmp_path, whole, brief):
    call = ("run", dataset, tmp_path / "out", "--participant-label", "one", *FAST)
    assert command(*call).status == 0
    assert not any(steps(tmp_path / "out").values())
    before = hashes(tmp_path / "out", "*.nii.gz")
    assert len(before) == len(MAPS)
    assert command(*call).status == 0
    assert all(steps(tmp_path / "out").values())
    assert hashes(tmp_path / "out", "*.nii.gz") == before
    assert command(*call, "--set", "inversion.threshold=0.3").status == 0
    kept = steps(tmp_path / "out")
    assert {stage for stage, was_kept in kept.items() if not was_kept} == {"inversion", "reference"}
    after = hashes(tmp_path / "out", "*.nii.gz")
    assert {path.name for path in before if before[path] != after[path]} == {"sub-one_Chimap.nii.gz"}
    assert (tmp_path / "out" / ".paradia" / "run.log").read_text().count("1 of 1 done") == 3
    whole(tmp_path / "out")


@pytest.fixture
def half_broken(small, tmp_path):
    """Two subjects, the first without phase."""
    root = write_subject(describe(tmp_path / "half"), "broken", small, ("mag",))
    return write_subject(root, "fine", small)


def test_one_broken_subject_does_not_stop_the_other(half_broken, command, tmp_path, whole, brief):
    out = tmp_path / "out"
    told = command("run", half_broken, out, *FAST)
    assert told.status == 1
    assert "Traceback" not in told.err
    assert "sub-broken has no phase" in told.err.split("1 of 2 failed")[1]
    assert (out / "sub-fine.html").is_file()
    assert not list(out.glob("sub-broken*"))
    log = (out / ".paradia" / "run.log").read_text()
    assert "ERROR   sub-broken: failed: sub-broken has no phase" in log
    assert "Export it from the scanner" in log
    whole(out)


def test_what_is_left_out_is_told_and_logged(small, command, tmp_path, brief):
    root = write_subject(describe(tmp_path / "study"), "one", small)
    save(root / "sub-one" / "anat" / "sub-one_acq-fast_MEGRE.nii.gz", small.magnitude, small.affine)
    told = command("run", root, tmp_path / "out", *FAST)
    assert told.status == 0, told.err
    sentence = "sub-one_acq-fast_MEGRE was left out: it has no phase"
    assert told.err.count(sentence) == 1
    assert (tmp_path / "out" / ".paradia" / "run.log").read_text().count(sentence) == 1


def test_an_interruption_is_logged_and_frees_the_output(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), open_output(tmp_path):
            raise KeyboardInterrupt
    assert (tmp_path / ".paradia" / "run.log").read_text().count("ERROR   stopped: KeyboardInterrupt") == 2


@pytest.mark.slow
def test_several_processes_give_what_one_gives(dataset, finished, command, tmp_path):
    told = command("run", dataset, tmp_path / "out", "--nprocs", "2", *FAST)
    assert told.status == 0, told.err
    for path in sorted(finished.rglob("*.nii.gz")):
        again = nib.load(tmp_path / "out" / path.relative_to(finished)).get_fdata()
        # Sums are split otherwise among other numbers of threads, so the last bits may differ.
        np.testing.assert_allclose(again, nib.load(path).get_fdata(), rtol=1e-3, atol=1e-5, err_msg=path.name)
    log = (tmp_path / "out" / ".paradia" / "run.log").read_text()
    assert log.count("inversion tkd") == 2


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["unwrap-*.safetensors", "*_fieldmap.nii.gz"])
def test_a_killed_run_leaves_nothing_half_written_and_goes_on(sign, dataset, finished, command, tmp_path, whole, brief):
    out = tmp_path / "out"
    call = ["run", str(dataset), str(out), "--participant-label", "one", *FAST]
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # among other numbers the last bits may differ
    process = subprocess.Popen([sys.executable, "-m", "paradia", *call], stderr=subprocess.DEVNULL, env=threads)
    deadline = time.monotonic() + 60
    while not list(out.rglob(sign)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(out.rglob(sign))
    whole(out, hidden=True)
    (out / ".Chimap.nii.gz.0.paradia-part").touch()
    (out / ".paradia" / "steps" / "tmp0.part").touch()
    assert command(*call).status == 0
    assert steps(out)["unwrap"]
    assert not list(out.rglob("*part"))
    whole(out)
    assert hashes(out / "sub-one", "*.nii.gz") == hashes(finished / "sub-one", "*.nii.gz")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SIGTERM", "SIGKILL"])
def test_workers_end_with_the_run_that_began_them(kind, dataset, tmp_path, whole):
    out, number = tmp_path / "out", getattr(signal, kind)
    call = [sys.executable, "-m", "paradia", "run", str(dataset), str(out), "--nprocs", "2"]
    process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(out.rglob("fieldmap-*.safetensors")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    told = process.communicate(timeout=60)[1]  # comes to its end when the last worker has closed its side
    assert process.returncode == (143 if kind == "SIGTERM" else -number)
    whole(out, hidden=kind == "SIGKILL")
    if kind == "SIGTERM":
        assert told.count("paradia: ended by SIGTERM") == 1
        assert "Traceback" not in told
        assert "stopped: SIGTERM" in (out / ".paradia" / "run.log").read_text()


def test_two_runs_at_once_are_refused(dataset, files, command, tmp_path):
    out = tmp_path / "out"
    with open_output(out):
        before = hashes(out)
        calls = ("run", dataset, out), ("qsm", files["magnitude"], files["phase"], out, *TIMES)
        for call in calls:
            told = command(*call, *FAST)
            assert told.status == 2
            assert "another run is writing" in told.err
        assert hashes(out) == before


@pytest.mark.parametrize("after", [0, 5, 30])
def test_a_full_disk_is_told_and_leaves_nothing_half_written(after, dataset, command, tmp_path, whole, monkeypatch, brief):
    out, real, calls = tmp_path / "out", os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    call = ("run", dataset, out, "--participant-label", "one", *FAST)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        told = command(*call)
    assert told.status == (1 if after else 2)
    assert "The disk is full. Free some space" in told.err
    assert "Traceback" not in told.err
    whole(out)
    assert not (out / "sub-one.html").exists()


def test_a_bug_keeps_its_traceback_and_stops_no_other_subject(dataset, command, tmp_path, monkeypatch, brief):
    monkeypatch.setattr("paradia.cli.job.judge", lambda board: 1 / 0)
    told = command("run", dataset, tmp_path / "out", *FAST)
    assert told.status == 1
    assert "2 of 2 failed" in told.err
    assert "ZeroDivisionError" in (tmp_path / "out" / ".paradia" / "run.log").read_text()


def test_a_dry_run_tells_and_does_nothing(dataset, half_broken, command, tmp_path):
    told = command("run", dataset, tmp_path / "out", "--dry-run", *FAST)
    assert told.status == 0
    assert "sub-one: 3 magnitude, 3 phase\n" in told.out
    assert "sub-two: 3 real, 3 imaginary\n" in told.out
    assert "unwrap romeo → fieldmap linear" in told.out
    told = command("run", half_broken, tmp_path / "out", "--dry-run", *FAST)
    assert "sub-broken: 3 magnitude (this one would fail: sub-broken has no phase;" in told.out
    assert "sub-fine: 3 magnitude, 3 phase\n" in told.out
    next(half_broken.glob("sub-fine/**/*echo-2*phase*.nii*")).unlink()
    told = command("run", half_broken, tmp_path / "out", "--dry-run", *FAST)
    assert "sub-fine: 3 magnitude, 2 phase (this one would fail: sub-fine has echoes (1, 2, 3) of the magnitude and (1, 3)" in told.out
    assert not (tmp_path / "out").exists()
    told = command("run", dataset, dataset / "sub-one" / "maps", "--dry-run", *FAST)
    assert told.status == 2
    assert "lies in a subject's folder" in told.err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--participant-label", "onee"), "Did you mean 'one'?"),
        (("--protocol", "fst"), "Did you mean 'fast'?"),
        (("--protocol", "gone.toml"), "gone.toml"),
        (("--set", "inversion.thresh=1"), "Did you mean 'threshold'?"),
        (("--set", "inversoin.threshold=1"), "Did you mean 'inversion'?"),
        (("--set", "inversion.method=tkdd"), "Did you mean 'tkd'?"),
        (("--set", "inversion.threshold=abc"), "must be a number, got 'abc'"),
        (("--set", "unwrap.mode=tree"), "must be one of template, individual"),
        (("--set", "threshold"), "stage.knob=value"),
        (("--set", "reference.method=region"), "needs region"),
        (("--device", "gpu"), "no device 'gpu'"),
        (("--nprocs", "0"), "at least 1"),
        (("--nprocs", "two"), "two"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(more, sentence, dataset, command, tmp_path):
    told = command("run", dataset, tmp_path / "out", *(() if "--protocol" in more else FAST), *more)
    assert told.status == 2
    assert told.err.startswith("paradia: ")
    assert sentence in told.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[inversion]\nmethod = 'tkd'\n", "needs local_field"),
        ("[inverse]\nmethod = 'tkd'\n", "Did you mean 'inversion'?"),
        ("[unwrap]\nmehtod = 'romeo'\n", "names no method"),
        ("[unwrap\n", "not valid TOML"),
        ("description = 'nothing'\n", "has no steps"),
    ],
)
def test_a_protocol_of_the_users_own_is_checked(text, sentence, dataset, command, tmp_path):
    (tmp_path / "own.toml").write_text(text)
    told = command("run", dataset, tmp_path / "out", "--protocol", tmp_path / "own.toml")
    assert told.status == 2
    assert sentence in told.err
    assert not (tmp_path / "out").exists()


def test_cuda_is_refused_where_there_is_none(dataset, command, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    told = command("run", dataset, tmp_path / "out", "--device", "cuda", *FAST)
    assert told.status == 2
    assert "Give --device cpu" in told.err
    assert not (tmp_path / "out").exists()


def test_the_group_level_and_other_folders_are_refused(dataset, command, tmp_path):
    before = hashes(dataset)
    assert "participant" in command("run", dataset, tmp_path / "out", "group").err
    assert "is only read" in command("run", dataset, dataset, *FAST).err
    assert "no folder" in command("run", tmp_path / "gone", tmp_path / "out", *FAST).err
    other = describe(tmp_path / "other")
    assert "holds a data set of raw images" in command("run", dataset, other, *FAST).err
    (tmp_path / "file").write_text("mine")
    told = command("run", dataset, tmp_path / "file", *FAST)
    assert told.status == 2
    assert "cannot write to" in told.err
    assert (tmp_path / "file").read_text() == "mine"
    assert hashes(dataset) == before


def test_maps_go_neither_into_raw_data_nor_into_a_truth(dataset, files, command, tmp_path):
    root = tmp_path / "simulated"
    begin(root, "Simulated heads", "1.0")
    (root / "sub-one" / "anat").mkdir(parents=True)
    before = hashes(tmp_path)
    loose = ("qsm", files["magnitude"], files["phase"])
    instead = f"inputs are only read. Give a folder such as {root / 'derivatives' / 'paradia'}."
    for out, sentence in {
        root: f"holds a data set of raw images, and {instead}",
        root / TRUTH: f"holds the truth about simulated scans, and {instead}",
        root / "sub-one": "lies in a subject's folder of a data set of raw images",
        root / "sub-one" / "anat" / "new": instead,
        root / TRUTH / "sub-one": "lies in a subject's folder of the truth about simulated scans",
    }.items():
        for call in (("run", dataset, out), (*loose, out, *TIMES)):
            told = command(*call, *FAST)
            assert told.status == 2
            assert sentence in told.err
    nameless = ("run", dataset, dataset / "sub-one" / "maps", "--skip-bids-validation", *FAST)
    assert "lies in a subject's folder" in command(*nameless).err
    assert not (dataset / "sub-one" / "maps").exists()
    assert hashes(tmp_path) == before
    for out in (root / "derivatives" / "paradia", root / "derivatives" / "maps" / "sub-one"):
        with open_output(out, root):
            pass
        assert "paradia" in (out / "dataset_description.json").read_text()


def test_maps_of_another_data_set_are_not_overwritten(command, dataset, tmp_path):
    out, other = tmp_path / "out", describe(tmp_path / "other")
    with open_output(out, other):
        pass
    before = hashes(out)
    told = command("run", dataset, out, *FAST)
    assert told.status == 2
    assert f"{out} holds maps of another data set, {other}" in told.err
    assert hashes(out) == before
    with open_output(out):  # loose files come beside: what the others were made from stays said
        pass
    assert str(other) in (out / "dataset_description.json").read_text()
    other.rename(tmp_path / "moved")
    with open_output(out, tmp_path / "moved"):
        pass
    assert str(tmp_path / "moved") in (out / "dataset_description.json").read_text()


def test_masks_of_the_users_own_replace_the_mask_stage(dataset, small, command, tmp_path, brief):
    masks = tmp_path / "masks"
    save(masks / "sub-one" / "anat" / "sub-one_mask.nii.gz", small.mask, small.affine)
    describe(masks)
    told = command("run", dataset, tmp_path / "out", "--participant-label", "sub-one", "--masks", masks, *FAST)
    assert told.status == 0, told.err
    assert "mask" not in steps(tmp_path / "out")
    mask = nib.load(tmp_path / "out" / "sub-one" / "anat" / "sub-one_mask.nii.gz").get_fdata()
    np.testing.assert_array_equal(mask > 0, small.mask)


def test_workers_share_the_threads_that_this_process_may_use(dataset, command, tmp_path, monkeypatch):
    asked = []

    class Pool:
        def __init__(self, *_, initargs, **__):
            asked.extend(initargs)
            raise FileError("enough was seen")

    monkeypatch.setattr("paradia.cli.run.ProcessPoolExecutor", Pool)
    monkeypatch.setattr("os.cpu_count", lambda: 64)  # of the machine, of which a cluster lends a few
    monkeypatch.setattr("torch.get_num_threads", lambda: 6)
    assert "enough" in command("run", dataset, tmp_path / "out", "--nprocs", "2", *FAST).err
    assert asked == [3]


def test_a_worker_that_died_is_a_failure_like_any_other():
    future = Future()
    future.set_exception(BrokenProcessPool("gone"))
    result = _result(future, "sub-one")
    assert result.report is None
    assert "--nprocs" in result.failure


def test_regions_are_found_for_each_subject(dataset, small, command, tmp_path, brief):
    save(tmp_path / "regions" / "sub-one" / "anat" / "sub-one_desc-csf_mask.nii.gz", small.region, small.affine)
    (tmp_path / "regions" / "dataset_description.json").write_text('{"Name": "r", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}')
    told = command("run", dataset, tmp_path / "out", "--regions", tmp_path / "regions", "--two-pass", *FAST)
    assert told.status == 1, "the second subject has no region"
    assert "should hold one _mask for sub-two" in told.err
    anat = tmp_path / "out" / "sub-one" / "anat"
    sidecar = json.loads((anat / "sub-one_Chimap.json").read_text())
    assert sidecar["Reference"] == "region"
    assert sidecar["Passes"] == ["reliable voxels", "all voxels"]
    chi = nib.load(anat / "sub-one_Chimap.nii.gz").get_fdata()
    inside = (nib.load(anat / "sub-one_desc-local_mask.nii.gz").get_fdata() > 0) & small.region
    assert abs(chi[inside].mean()) < 1e-6


def test_a_dry_run_says_that_there_are_two_passes(dataset, command, tmp_path):
    told = command("run", dataset, tmp_path / "out", "--two-pass", "--dry-run", *FAST)
    assert told.status == 0, told.err
    assert "in two passes, on " in told.out
    assert not (tmp_path / "out").exists()


def test_a_failure_is_told_in_one_line_that_says_what_is_wrong():
    wrong = Result("sub-1", None, "a and b have different affines:\n[[1.]]\nGive images of one acquisition.")
    assert wrong.briefly == "a and b have different affines:"
    assert Result("sub-1", None, f"{BUG}\nTraceback\nValueError: x").briefly == f"{BUG} ValueError: x"


def test_what_readers_warn_of_in_a_process_of_its_own_is_told_by_the_first_one(tmp_path, monkeypatch):
    def one(entry, job, reading):
        logging.getLogger("paradia.io.loose").warning("the header contradicts itself")
        logging.getLogger("paradia.cli.job").warning("said as a message")
        return Result(entry, None, "broken", ("said as a message",))

    (tmp_path / ".paradia").mkdir()
    monkeypatch.setattr("paradia.cli.run._one", one)
    assert _one_logged("sub-1", SimpleNamespace(out=tmp_path), {}).messages == ("the header contradicts itself", "said as a message")
