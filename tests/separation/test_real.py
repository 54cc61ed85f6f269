"""Gradient echoes alone, in vivo: a crop around veins at 7 T, and R2* of twelve echoes at 3 T."""

from __future__ import annotations

import json
import math

import nibabel as nib
import numpy as np
import pytest
import torch

from paradia.grid import Grid
from paradia.pipeline.execute import execute
from paradia.pipeline.protocol import Protocol
from paradia.registry import load
from paradia.scan import Scan


def echoes(path):
    return torch.from_numpy(np.moveaxis(nib.load(path).get_fdata(dtype=np.float32), -1, 0).copy())


@pytest.fixture(scope="module")
def crop(shared_data):
    """All that separations ask for; R2′ is R2* less the usual R2."""
    folder = shared_data / "megre-crop-small"
    affine = nib.load(folder / "magnitude.nii.gz").affine
    grid = Grid.from_affine((51, 51, 41), affine)
    board = {"magnitude": echoes(folder / "magnitude.nii.gz"), "phase": echoes(folder / "phase.nii.gz") * (math.pi / 0.003674378)}
    board |= {"grid": grid, "scan": Scan((0.004, 0.008, 0.012), 7.0), "mask": torch.ones(grid.shape, dtype=torch.bool)}
    maps = execute(Protocol.load("fast"), board).maps
    board |= maps | {"mask": maps["local_mask"]}
    constant = load("relaxometry", "r2prime_constant").function(board["r2star"], board["mask"], board["scan"], board["r2star_noise"])
    return board | constant._asdict()


@pytest.mark.filterwarnings("ignore:decompose stopped after")  # three noisy echoes
@pytest.mark.parametrize("name", ["closed_form", "r2star_qsm", "chisep_medi", "chisep_ilsqr", "wavesep", "decompose"])
def test_veins_are_paramagnetic(name, crop):
    method, mask, chi = load("separation", name), crop["mask"], crop["chi"]
    found = method.function(**{key: crop[key] for key in method.takes if key in crop})
    veins = mask & (chi > torch.quantile(chi[mask], 0.99))
    calm = mask & (chi.abs() < 0.01)
    for source in found:
        assert torch.isfinite(source).all()
        assert source.min() >= 0
        assert 0 < float(source[calm].mean()) < 0.06
    assert float(found.chi_pos[veins].mean()) > 2 * float(found.chi_neg[veins].mean())
    assert float(found.chi_pos[veins].mean()) > 2 * float(found.chi_pos[calm].mean())


@pytest.mark.parametrize("name", ["arlo", "nonlinear", "r2star"])
def test_r2star_of_a_brain(name, shared_data):
    """As the literature has it at 3 T: the middle of the head, which is tissue for the most part, decays with some 20 1/s."""
    folder = shared_data / "multi-te-magnitude"
    about = json.loads((folder / "scan.json").read_text())
    magnitude = echoes(folder / "magnitude.nii.gz")
    mask = magnitude[0] > 0.15 * magnitude[0].max()
    mask[:60], mask[130:], mask[:, :60], mask[:, 140:] = False, False, False, False
    found = load("relaxometry", name).function(magnitude, mask, Scan(tuple(about["EchoTime"]), about["MagneticFieldStrength"]))
    assert 17 < float(found.r2star[mask].median()) < 27
    assert float(found.r2star_noise[mask].median()) < 1.5
