"""From a protocol with a contrast to its files and its place in the report."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import torch

from paradia.grid import Grid
from paradia.io.derivatives import OUTPUTS, write_dataset_description, write_map
from paradia.pipeline.execute import execute
from paradia.pipeline.protocol import Protocol
from paradia.registry import STAGES
from paradia.report.page import render
from paradia.report.record import RunRecord
from paradia.scan import Scan

PROTOCOL = '[contrast]\nmethod = "swi"\nslab = 6.0\n'


def test_a_contrast_is_run_written_and_shown(tmp_path, generator):
    grid, scan = Grid((16, 13, 12), (1.0, 1.2, 1.5)), Scan((0.01, 0.02))
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[2:-2, 2:-2, 2:-2] = True
    board = {
        "magnitude": 50 + torch.rand((2, *grid.shape), generator=generator),
        "phase": torch.rand((2, *grid.shape), generator=generator),
    }
    outcome = execute(Protocol.parse(PROTOCOL, "own"), {**board, "mask": mask, "grid": grid, "scan": scan})
    assert outcome.messages == []
    assert set(STAGES["contrast"].gives) <= set(outcome.maps)
    for name in STAGES["contrast"].gives:
        path = write_map(tmp_path, "sub-1", name, outcome.maps[name], np.eye(4), {})
        assert path.name == f"sub-1_{'minIP' if name == 'minip' else name}.nii.gz"
        np.testing.assert_allclose(nib.load(path).get_fdata(), outcome.maps[name].numpy())
        assert json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())["Units"] == OUTPUTS[name].units
    write_dataset_description(tmp_path, version="1")
    assert {"*_swi.*", "*_minIP.*"} <= set((tmp_path / ".bidsignore").read_text().split())
    page = render(RunRecord("own", grid, scan, steps=outcome.steps), {**board, **outcome.maps})
    for heading in ("Susceptibility-weighted image<", "Minimum-intensity projection<", "Susceptibility-weighted imaging"):
        assert heading in page


def test_a_contrast_without_phase_is_left_out_and_said(generator):
    grid = Grid((8, 7, 6))
    board = {"magnitude": torch.rand((1, *grid.shape), generator=generator), "mask": torch.ones(grid.shape, dtype=torch.bool), "grid": grid}
    outcome = execute(Protocol.parse(PROTOCOL, "own"), board)
    assert "contrast swi was left out: it needs phase" in outcome.messages[0]
