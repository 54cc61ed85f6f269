"""What the sidecar of a map says of the step that made it, and of no other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paradia.cli.provenance import sidecar as sidecar_of
from paradia.grid import Grid
from paradia.io.acquisition import Acquisition
from paradia.pipeline.execute import Outcome, StepRecord
from paradia.scan import Scan

SHAPE = (4, 5, 3)

STEPS = [
    StepRecord("relaxometry", "arlo", {"maximum": 500.0}, "10.1/arlo", ("r2star", "r2star_noise"), 0.1),
    StepRecord("background", "bgnet", {}, "", ("local_field", "mask", "local_noise", "field_novelty"), 0.1),
    StepRecord("inversion", "varnet", {"stages": 1}, "10.1/varnet", ("chi", "chi_noise", "residual", "novelty"), 0.1),
    StepRecord("reference", "whole_brain", {}, "10.1/zero", ("chi",), 0.1),
    StepRecord("separation", "sepnet_r2star", {"dr_pos": None, "dr_neg": 99.0}, "", ("chi_pos", "chi_neg", "source_novelty"), 0.1),
]


@pytest.fixture
def acquisition():
    images = torch.ones(3, *SHAPE)
    return Acquisition(images, images, Grid(SHAPE, (1.0, 1.0, 2.0)), Scan((0.004, 0.012, 0.02), 7.0), np.eye(4))


@pytest.fixture
def sidecar(acquisition):
    maps = {name: torch.ones(SHAPE) for step in STEPS for name in step.gives}
    maps |= {"novelty": torch.tensor(0.25), "field_novelty": torch.tensor(0.5), "source_novelty": torch.tensor(2.0)}
    maps |= {"mask": torch.ones(SHAPE, dtype=torch.bool), "local_mask": torch.ones(SHAPE, dtype=torch.bool)}
    return lambda name: sidecar_of(name, acquisition, Outcome(maps, STEPS), maps)


@pytest.mark.parametrize(
    ("name", "method", "novelty", "weights"),
    [
        ("r2star", "relaxometry/arlo", {}, ()),
        ("local_field", "background/bgnet", {"FieldNovelty": 0.5}, ("bgnet",)),
        ("local_noise", "background/bgnet", {"FieldNovelty": 0.5}, ("bgnet",)),
        ("chi", "inversion/varnet", {"Novelty": 0.25}, ("varnet",)),
        ("chi_noise", "inversion/varnet", {"Novelty": 0.25}, ("varnet",)),
        ("chi_pos", "separation/sepnet_r2star", {"SourceNovelty": 2.0}, ("sepnet",)),
        ("chi_neg", "separation/sepnet_r2star", {"SourceNovelty": 2.0}, ("sepnet",)),
    ],
)
def test_a_map_tells_of_the_step_that_made_it(name, method, novelty, weights, sidecar):
    told = sidecar(name)
    assert told["EstimationAlgorithm"] == method
    assert {key: value for key, value in told.items() if "Novelty" in key} == novelty
    assert tuple(told.get("Weights", {})) == weights


def test_the_zero_of_chi_is_told_beside_its_inversion(sidecar):
    told = sidecar("chi")
    assert (told["Reference"], told["DOI"], told["Parameters"]) == ("whole_brain", "10.1/varnet", {"stages": 1})
    assert "Reference" not in sidecar("chi_pos")


def test_of_a_single_voxel_no_spread_and_no_novelty_is_told(acquisition):
    """JSON has no NaN."""
    maps = {"chi": torch.full(SHAPE, 0.3), "novelty": torch.tensor(torch.nan), "mask": torch.zeros(SHAPE, dtype=torch.bool)}
    maps["mask"][1, 2, 1] = True
    told = sidecar_of("chi", acquisition, Outcome(maps, STEPS), maps)
    assert (told["WholeBrainMean"], told["WholeBrainSD"]) == (pytest.approx(0.3), 0)
    assert "Novelty" not in told


def test_relaxivities_are_those_that_were_counted_with(sidecar):
    told = sidecar("chi_pos")
    assert (told["ParamagneticRelaxivity"], told["DiamagneticRelaxivity"]) == (pytest.approx(137 * 7 / 3), 99)
    assert "ParamagneticRelaxivity" not in sidecar("chi")
