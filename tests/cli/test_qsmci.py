"""Folders of the QSM-CI benchmark in and out, and submissions run by the benchmark's own program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from qsm_ci.runner import _consumes, _optional, _overrides, _parse_manifest, run_command
from qsm_ci.stages import STAGES as THEIRS

from paradia.cli.qsmci import understand
from paradia.errors import InputError
from paradia.grid import Grid
from paradia.io import qsmci as contract
from paradia.pipeline.chain import with_knobs
from paradia.registry import STAGES, methods

METHODS = [(stage, method) for stage in STAGES for method in methods(stage)]
TIMES = (0.004, 0.012, 0.020)
B0_DIR = [0.0, np.sin(0.17), np.cos(0.17)]
EXTRA = ("noise", "r2star", "r2", "r2prime", "region", "unwrapped")


@pytest.fixture(scope="session")
def inputs(small, tmp_path_factory):
    """A folder with everything that the contract knows, and what some methods want beyond it."""
    folder = tmp_path_factory.mktemp("input")
    for name in (*contract.CONTRACT, *EXTRA):
        if hasattr(small, name):
            values = getattr(small, name)
            values = np.asarray(values * small.mask if name in contract.FIELDS else values, np.float32)
            image = nib.Nifti1Image(np.moveaxis(values, 0, -1) if values.ndim == 4 else values, small.affine)
            nib.save(image, folder / contract.file_of(name))
    grid = Grid.from_affine(small.mask.shape, small.affine)
    (folder / "params.json").write_text(
        json.dumps({"TE": list(TIMES), "B0": 3.0, "B0_dir": B0_DIR, "voxel_size": [float(v) for v in grid.voxel_size]})
    )
    return folder


@pytest.fixture
def linked(inputs, tmp_path):
    """The same files in a folder that a test may change."""
    folder = tmp_path / "in"
    folder.mkdir()
    for path in inputs.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize(
    ("stage", "name"), [pytest.param(*p, marks=[pytest.mark.slow] * (p[0] == "mask")) for p in METHODS if p[0] != "combine"]
)
def test_every_method_works_between_folders(stage, name, command, inputs, small, tmp_path):
    told = command("qsmci", stage, name.replace("_", "-"), "--input", inputs, "--output", tmp_path)
    request = understand(stage, name)
    if not {contract.file_of(need) for need in request.needs if need not in ("grid", "scan")} <= {path.name for path in inputs.iterdir()}:
        assert told.status == 2
        assert "not found in" in told.err or "QSM-CI has no file for" in told.err
        return
    assert told.status == 0, told.err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(contract.file_of(given) for given in request.gives)
    for given in request.gives:
        image = nib.load(tmp_path / contract.file_of(given))
        assert image.shape[:3] == small.mask.shape
        np.testing.assert_allclose(image.affine, small.affine, atol=1e-5)
        assert np.isfinite(image.get_fdata()).all()
        if given in contract.FIELDS:
            assert np.abs(image.get_fdata()[~small.mask]).max() == 0
            assert np.corrcoef(image.get_fdata()[small.mask], getattr(small, given)[small.mask])[0, 1] > 0.3


def test_single_coils_have_no_file(command, inputs, tmp_path):
    for name in methods("combine"):
        told = command("qsmci", "combine", name, "--input", inputs, "--output", tmp_path)
        assert told.status == 2
        assert "no file for the images of single coils" in told.err


@pytest.mark.parametrize(
    ("stage", "method", "goal", "least"),
    [
        ("field-mapping", "romeo+linear", "total_field", 0.99),
        ("field-mapping", "fast", "total_field", 0.99),
        ("bfr", "vsharp", "local_field", 0.8),
        ("dipole", "tkd", "chi", 0.7),
        ("unwrap+bfr", "romeo+linear+vsharp", "local_field", 0.8),
        ("unwrap+bfr", "harperella", "local_field", 0.5),
        ("field-mapping", "mdi", "total_field", 0.95),
        ("bfr+dipole", "vsharp+tkd", "chi", 0.6),
        ("end-to-end", "linear+vsharp+tkd", "chi", 0.5),
        ("end-to-end", "fast", "chi", 0.5),
    ],
)
def test_the_benchmarks_own_stages(stage, method, goal, least, command, inputs, small, tmp_path):
    """Each reads only what the contract mounts for that stage."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    for name in THEIRS[stage]["consumes"]:
        path = "params.json" if name == "params" else f"{name}.nii.gz"
        (mounted / path).symlink_to(inputs / path)
    told = command("qsmci", stage, method, "--input", mounted, "--output", tmp_path / "out")
    assert told.status == 0, told.err
    assert THEIRS[stage]["produces"] == [contract.NAMES.get(goal, goal)]
    found = nib.load(tmp_path / "out" / contract.file_of(goal)).get_fdata()
    inside = small.mask & (found != 0)
    assert np.corrcoef(found[inside], getattr(small, goal)[inside])[0, 1] > least


@pytest.mark.parametrize(
    ("method", "steps"),
    [
        ("closed_form", ["closed_form"]),
        ("chisep_medi", ["arlo", "chisep_medi"]),
        ("r2star_qsm", ["arlo", "r2star_qsm"]),
        ("nonlinear+r2star_qsm", ["nonlinear", "r2star_qsm"]),
        ("sepnet_r2prime", ["sepnet_r2prime"]),
        ("sepnet_r2star", ["arlo", "sepnet_r2star"]),
    ],
)
def test_separation_as_the_benchmark_mounts_it(method, steps, command, inputs, small, tmp_path):
    """R2* comes from the magnitude, which the contract mounts, where a method asks for it."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    for name in THEIRS["chi-separation"]["consumes"]:
        path = "params.json" if name == "params" else f"{name}.nii.gz"
        (mounted / path).symlink_to(inputs / path)
    assert [step.method for step in understand("chi-separation", method).protocol.steps] == steps
    told = command("qsmci", "chi-separation", method, "--input", mounted, "--output", tmp_path / "out")
    assert told.status == 0, told.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        f"{name}.nii.gz" for name in THEIRS["chi-separation"]["produces"]
    )
    pos, neg = (nib.load(tmp_path / "out" / f"{name}.nii.gz").get_fdata() for name in THEIRS["chi-separation"]["produces"])
    assert min(pos.min(), neg.min()) == 0
    assert not (pos + neg)[~small.mask].any()
    assert np.corrcoef((pos - neg)[small.mask], small.chi[small.mask])[0, 1] > 0.5


def test_r2prime_as_the_benchmark_mounts_it(command, inputs, small, tmp_path):
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    for name in THEIRS["r2prime-generation"]["consumes"]:
        path = "params.json" if name == "params" else f"{name}.nii.gz"
        (mounted / path).symlink_to(inputs / path)
    told = command("qsmci", "r2prime-generation", "r2prime_constant", "--input", mounted, "--output", tmp_path / "out")
    assert told.status == 0, told.err
    found = nib.load(tmp_path / "out" / "r2prime.nii.gz").get_fdata()
    inside = small.mask & (small.r2star < 60)
    difference = (found - np.maximum(small.r2star - 13, 0))[inside]
    assert -0.5 < np.median(difference) < 2  # the field changes across such voxels, and that is decay as well


@pytest.mark.parametrize(
    ("stage", "method"), [("chi-separation", "chisep_medi"), ("separation", "wavesep"), ("r2prime-generation", "r2prime_constant")]
)
def test_separations_can_be_submitted(stage, method, command, tmp_path):
    folder = emitted(command, tmp_path, stage, method)
    algorithm = _parse_manifest(folder)
    theirs = "r2prime-generation" if stage.startswith("r2prime") else "chi-separation"
    assert algorithm["stage"] == theirs
    assert {a for a in _consumes(algorithm) if not _optional(algorithm, a)} <= set(THEIRS[theirs]["consumes"])
    for name in THEIRS[theirs]["produces"]:
        assert f"{name}.nii.gz" in (folder / "run.sh").read_text()


def test_a_separation_needs_its_method(command, inputs, tmp_path):
    told = command("qsmci", "chi-separation", "arlo", "--input", inputs, "--output", tmp_path)
    assert told.status == 2
    assert "names no method of separation" in told.err


def test_steps_hand_over_through_folders(command, inputs, linked, small, tmp_path):
    """What one step left out, the next takes out of its mask."""
    assert command("qsmci", "bfr", "vsharp", "--input", inputs, "--output", tmp_path / "local").status == 0
    local = nib.load(tmp_path / "local" / "localfield.nii.gz").get_fdata()
    (linked / "localfield.nii.gz").unlink()
    (linked / "localfield.nii.gz").symlink_to(tmp_path / "local" / "localfield.nii.gz")
    told = command("qsmci", "dipole", "tkd", "--input", linked, "--output", tmp_path / "chi")
    left = int((small.mask & (local == 0)).sum())
    assert left > 0
    assert f"exactly zero in {left} voxels of the mask, which were left out" in told.err
    chi = nib.load(tmp_path / "chi" / "chimap.nii.gz").get_fdata()
    assert ((chi != 0) <= (local != 0)).all()
    told = command("qsmci", "bfr+dipole", "vsharp+tkd", "--input", inputs, "--output", tmp_path / "both")
    np.testing.assert_allclose(nib.load(tmp_path / "both" / "chimap.nii.gz").get_fdata(), chi, atol=1e-6)


def test_direction_and_voxels_are_those_of_the_parameters(command, linked, tmp_path):
    maps = []
    for direction in (B0_DIR, [1, 0, 0]):
        params = json.loads((linked / "params.json").read_text()) | {"B0_dir": direction, "TE": [1.0]}
        (linked / "params.json").unlink()
        (linked / "params.json").write_text(json.dumps(params))
        assert command("qsmci", "inversion", "tkd", "--input", linked, "--output", tmp_path / "out").status == 0
        maps.append(nib.load(tmp_path / "out" / "chimap.nii.gz").get_fdata())
    assert np.abs(maps[0] - maps[1]).max() > 0.01
    (linked / "params.json").write_text(json.dumps(params | {"voxel_size": [1, 1, 1.5]}))
    told = command("qsmci", "inversion", "tkd", "--input", linked, "--output", tmp_path / "out")
    assert "voxel_size in params.json is 1 × 1 × 1.5 mm, but 4.4 × 4.2 × 5 mm" in told.err.replace("\n", " ")


def test_knobs_come_from_the_configuration(command, linked, tmp_path):
    maps = []
    for threshold in (0.1, 0.5):
        (linked / "config.json").write_text(json.dumps({"threshold": threshold}))
        assert command("qsmci", "dipole", "tkd", "--input", linked, "--output", tmp_path / "out").status == 0
        maps.append(nib.load(tmp_path / "out" / "chimap.nii.gz").get_fdata())
    assert np.abs(maps[0] - maps[1]).max() > 0.01


@pytest.mark.parametrize(
    ("config", "stage", "method", "says"),
    [
        ({"treshold": 0.1}, "dipole", "tkd", "no knob 'treshold'. Did you mean 'threshold'?"),
        ({"threshold": "much"}, "dipole", "tkd", "inversion.threshold must be a number, got 'much'"),
        ({"inversion.radius": 1.0}, "bfr+dipole", "vsharp+tkd", "no knob 'inversion.radius'"),
        ({"callback": 1}, "bfr", "pdf", "no knob 'callback'"),
        ([1], "dipole", "tkd", "holds list, not a JSON object"),
    ],
)
def test_knobs_that_nobody_has(config, stage, method, says, command, linked, tmp_path):
    (linked / "config.json").write_text(json.dumps(config))
    told = command("qsmci", stage, method, "--input", linked, "--output", tmp_path / "out")
    assert told.status == 2
    assert says in told.err
    assert not (tmp_path / "out").exists()


def test_what_nothing_asks_for_is_left_out():
    def stages(*words):
        return [step.stage for step in understand(*words).protocol.steps]

    assert stages("field-mapping", "mdi") == ["fieldmap"]
    assert stages("unwrap+bfr", "harperella") == ["background"]
    assert stages("unwrap+bfr", "romeo+harperella") == ["unwrap", "background"]
    assert stages("end-to-end", "tkd") == ["unwrap", "fieldmap", "background", "inversion"]
    assert stages("bfr+dipole", "tgv") == ["singlestep"]
    assert stages("unwrap", "romeo") == ["unwrap", "fieldmap"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("inversoin", "tkd"), "there is no stage 'inversoin'. Did you mean 'inversion'?"),
        (("dipole", "tdk"), "there is no method 'tdk' for dipole at that place. Did you mean 'tkd'?"),
        (("bfr+dipole", "tkd+vsharp"), "there is no method 'vsharp' for bfr+dipole at that place."),
        (("inversion", "tdk"), "inversion has no method 'tdk'. Did you mean 'tkd'?"),
        (("end-to-end", "no.toml"), "cannot read the protocol no.toml"),
    ],
)
def test_names_that_nothing_answers_to(words, says, command, inputs, tmp_path):
    told = command("qsmci", *words, "--input", inputs, "--output", tmp_path)
    assert told.status == 2
    assert says in told.err


def test_a_protocol_without_the_steps_is_refused(command, inputs, tmp_path):
    (tmp_path / "short.toml").write_text('[inversion]\nmethod = "tkd"\n')
    told = command("qsmci", "bfr+dipole", tmp_path / "short.toml", "--input", inputs, "--output", tmp_path)
    assert told.status == 2
    assert "the protocol short has no background, which bfr+dipole needs" in told.err


@pytest.mark.parametrize("name", ["qsmci", "compare"])
def test_help_explains(name, command):
    told = command(name, "--help")
    assert told.status == 0
    assert f"Usage: paradia {name}" in told.out
    assert ":math:" not in told.out


def test_folders_are_needed_and_inputs_stay(command, inputs, linked):
    assert "--output is missing" in command("qsmci", "dipole", "tkd", "--input", inputs).err
    assert "--input is missing" in command("qsmci", "dipole", "tkd").err
    told = command("qsmci", "reference", "whole_brain", "--input", linked, "--output", linked)
    assert told.status == 2
    assert "chimap.nii.gz would be overwritten" in told.err
    told = command("qsmci", "dipole", "tkd", "--emit", linked, "--input", linked)
    assert "runs nothing" in told.err
    told = command("qsmci", "dipole", "tkd", "--input", inputs, "--output", inputs / "params.json" / "out")
    assert told.status == 2
    assert "cannot write" in told.err
    assert "inversion tkd" not in told.err, "nothing is computed for a place that cannot be written"


def emitted(command, root, stage, method, *more) -> Path:
    told = command("qsmci", stage, method, "--emit", root, *more)
    assert told.status == 0, told.err
    (folder,) = root.iterdir()
    return folder


@pytest.mark.parametrize(
    ("stage", "name"), [p for p in METHODS if p[0] in ("mask", "unwrap", "fieldmap", "background", "inversion", "singlestep")]
)
def test_every_method_can_be_submitted(stage, name, command, tmp_path):
    """The benchmark's own reader takes the manifest, and every knob is one of its parameters."""
    told = command("qsmci", stage, name, "--emit", tmp_path)
    request = understand(stage, name)
    if not set(request.needs) <= {*contract.CONTRACT, "grid", "scan"} or told.status:
        assert "which is no stage of the benchmark" in told.err
        return
    (folder,) = tmp_path.iterdir()
    algorithm = _parse_manifest(folder)
    assert algorithm["slug"] == folder.name
    required = {a for a in _consumes(algorithm) if not _optional(algorithm, a)} - {"params"}
    assert required == {contract.NAMES.get(name, name) for name in request.needs} - {"grid", "scan"}
    assert THEIRS[algorithm["stage"]]["produces"] == [contract.NAMES.get(given, given) for given in request.gives]
    knobs = {knob for step in request.protocol.steps for knob in step.loaded.knobs}
    assert {p["name"].rpartition(".")[2] for p in algorithm.get("parameters", [])} == knobs
    assert all(p["description"] for p in algorithm.get("parameters", []))
    assert algorithm["description"].endswith(".")
    assert ":math:" not in (folder / "algorithm.yml").read_text()


@pytest.mark.slow
def test_a_submission_runs_and_is_scored_by_the_benchmarks_program(command, inputs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    folder = emitted(command, tmp_path / "algorithms", "dipole", "tkd", "--author", "A. Name", "--image", "registry/paradia:1")
    manifest = yaml.safe_load((folder / "algorithm.yml").read_text())
    assert manifest["authors"] == [{"name": "A. Name"}]
    assert manifest["image"] == "registry/paradia:1"
    assert os.access(folder / "run.sh", os.X_OK)
    assert _overrides(manifest, ["threshold=0.3"]) == {"threshold": 0.3}
    given = [word for name in ("localfield", "mask", "params") for word in (f"--{name}", str(inputs / THEIRS_FILE[name]))]
    out = tmp_path / "chi.nii.gz"
    words = [str(folder), *given, "--truth", str(inputs / "chimap.nii.gz"), "-o", str(out), "--runner", "local", "--set", "threshold=0.3"]
    said: list[str] = []
    assert run_command(words, log=said.append) == 0, said
    (inputs_with_knob := tmp_path / "in").mkdir()
    for name in ("localfield.nii.gz", "mask.nii.gz", "params.json"):
        (inputs_with_knob / name).symlink_to(inputs / name)
    (inputs_with_knob / "config.json").write_text('{"threshold": 0.3}')
    assert command("qsmci", "inversion", "tkd", "--input", inputs_with_knob, "--output", tmp_path / "own").status == 0
    np.testing.assert_array_equal(nib.load(out).get_fdata(), nib.load(tmp_path / "own" / "chimap.nii.gz").get_fdata())
    assert any("xsim" in line.lower() for line in said)


THEIRS_FILE = {"localfield": "localfield.nii.gz", "mask": "mask.nii.gz", "params": "params.json"}


@pytest.mark.slow
def test_a_submission_that_fails_says_so(command, tmp_path):
    folder = emitted(command, tmp_path / "algorithms", "bfr", "vsharp")
    (tmp_path / "empty").mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", folder / "run.sh", tmp_path / "empty", tmp_path / "out"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "params.json" in done.stderr


def test_knobs_of_one_name_are_told_apart(command, tmp_path):
    folder = emitted(command, tmp_path, "bfr+dipole", "pdf+tv")
    parameters = {p["name"]: p["default"] for p in yaml.safe_load((folder / "algorithm.yml").read_text())["parameters"]}
    assert {"background.max_iter", "inversion.max_iter", "weight"} <= set(parameters)
    protocol = understand("bfr+dipole", "pdf+tv").protocol
    turned = with_knobs(protocol, parameters | {"inversion.max_iter": 3})
    assert [step.knobs["max_iter"] for step in turned.steps] == [parameters["background.max_iter"], 3]
    with pytest.raises(InputError, match=r"background and inversion both have a knob 'max_iter'. Write background.max_iter or"):
        with_knobs(protocol, {"max_iter": 3})


def test_a_protocol_of_ones_own_comes_along(command, tmp_path):
    (tmp_path / "mine.toml").write_text('description = "Mine."\n[background]\nmethod = "vsharp"\nstep = 3.0\n[inversion]\nmethod = "tkd"\n')
    folder = emitted(command, tmp_path / "out", "bfr+dipole", tmp_path / "mine.toml")
    assert folder.name == "paradia-mine"
    assert (folder / "protocol.toml").is_file()
    assert 'bfr+dipole "$(dirname "$0")/protocol.toml" --input' in (folder / "run.sh").read_text()
    manifest = yaml.safe_load((folder / "algorithm.yml").read_text())
    assert manifest["description"] == "Mine."
    assert {"name": "step", "default": 3.0}.items() <= next(p for p in manifest["parameters"] if p["name"] == "step").items()


def test_what_is_no_stage_of_the_benchmark_is_not_submitted(command, tmp_path):
    told = command("qsmci", "relaxometry", "arlo", "--emit", tmp_path)
    assert told.status == 2
    assert "goes from magnitude, mask to r2star" in told.err
    assert not list(tmp_path.iterdir())
