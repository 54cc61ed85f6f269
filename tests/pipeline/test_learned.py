"""The protocol of the networks, from images to maps, files and report."""

from __future__ import annotations

import json
import re

import nibabel as nib
import numpy as np
import pytest
import torch

from paradia.cli import main
from paradia.grid import Grid
from paradia.metrics.quality import judge
from paradia.nets import store
from paradia.pipeline.execute import execute
from paradia.pipeline.protocol import Protocol
from paradia.pipeline.store import code_version
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.head import head

GRID, SCAN = Grid((40, 48, 35), (4.4, 4.2, 5.0), (0.0, 0.17, 0.98)), Scan((0.004, 0.012, 0.020), 3.0)
MAPS = {"chi", "chi_noise", "residual", "local_field", "local_noise"}


@pytest.fixture(scope="module")
def board():
    truth = head(GRID, seed=1)
    echoes = gre(truth, SCAN, snr=100.0, seed=1)
    return {"magnitude": echoes.abs(), "phase": echoes.angle(), "grid": GRID, "scan": SCAN, "mask": truth.mask}, truth


@pytest.mark.slow
def test_images_become_maps_with_their_trust(board):
    outcome = execute(Protocol.load("learned"), board[0])
    assert MAPS | {"novelty", "total_field", "r2star"} <= set(outcome.maps)
    assert [step.stage for step in outcome.steps] == ["unwrap", "fieldmap", "relaxometry", "singlestep", "reference"]
    mask, truth = outcome.maps.get("local_mask", outcome.maps["mask"]), board[1]
    chi = outcome.maps["chi"]
    assert abs(float(chi[mask].mean())) < 1e-6
    a, b = chi[mask], truth.chi[mask] - truth.chi[mask].mean()
    assert float((a @ b) / (a.norm() * b.norm())) > 0.6
    assert outcome.maps["novelty"].shape == ()


def test_two_networks_one_after_the_other(board):
    text = '[background]\nmethod = "bgnet"\nstart = 20\nrounds = 2\nmax_iter = 5\n[inversion]\nmethod = "varnet"\nstages = 1\n'
    given = {**board[0], "total_field": board[1].total_field * board[1].mask, "noise": 0.003 * board[1].mask}
    outcome = execute(Protocol.parse(text, "pair"), given)
    assert MAPS | {"novelty", "field_novelty"} <= set(outcome.maps)
    assert outcome.steps[1].gives == ("chi", "chi_noise", "residual", "novelty")


def test_files_and_report_hold_what_is_to_be_trusted(board, tmp_path, capsys):
    data, truth = board
    affine = np.diag([*GRID.voxel_size, 1.0])
    for name in ("magnitude", "phase"):
        nib.save(nib.Nifti1Image(np.moveaxis(data[name].numpy(), 0, -1), affine), tmp_path / f"{name}.nii")
    nib.save(nib.Nifti1Image(truth.mask.numpy().astype(np.uint8), affine), tmp_path / "mask.nii")
    out = tmp_path / "out"
    words = [str(tmp_path / "magnitude.nii"), str(tmp_path / "phase.nii"), str(out), "--mask", str(tmp_path / "mask.nii")]
    words += ["--b0-dir", "0.0", "0.17", "0.98", "--echo-times", "0.004", "0.012", "0.020", "--b0", "3", "--protocol", "learned"]
    words += [word for knob in ("fieldmap.method=linear", "singlestep.start=20", "singlestep.rounds=2") for word in ("--set", knob)]
    assert main(["qsm", *words]) == 0, capsys.readouterr().err
    for suffix in ("Chimap", "desc-noise_Chimap", "desc-residual_localfield", "localfield", "desc-noise_localfield"):
        assert np.isfinite(nib.load(out / f"{suffix}.nii.gz").get_fdata()).all()
        sidecar = json.loads((out / f"{suffix}.json").read_text())
        assert sidecar["Weights"] == {name: store.cards()[name]["sha256"] for name in ("bgnet", "varnet")}
        assert isinstance(sidecar["Novelty"], float)
        assert sidecar["EstimationAlgorithm"] == "singlestep/nextqsm"
    page = (out / "report.html").read_text()
    assert {"chi", "chi_noise", "residual", "local_field", "local_noise"} <= set(re.findall(r'<figure id="(\w+)"', page))
    assert "unlike the training" in page
    assert "10.1016/j.media.2022.102700" in page


def test_other_weights_make_other_keys(monkeypatch, tmp_path):
    """A kept result is not taken for one of weights that were released later."""
    keys = []
    for text in ("a", "b"):
        (tmp_path / "weights.toml").write_text(text)
        monkeypatch.setattr("paradia.pipeline.store.FOLDER", tmp_path)
        code_version.cache_clear()
        keys.append(code_version("singlestep", ""))
    code_version.cache_clear()
    assert keys[0] != keys[1]


def test_the_flag_is_judged(board):
    verdicts = {value: [f.verdict for f in judge({"novelty": torch.tensor(value)})] for value in (0.5, 1.2, 4.0)}
    assert verdicts == {0.5: ["good"], 1.2: ["check"], 4.0: ["bad"]}
    assert judge({"novelty": torch.tensor(0.5), "field_novelty": torch.tensor(2.0)})[0].verdict == "bad"
    assert judge({}) == []
