"""A small drawn head as an example, and volumes of it on disk."""

from __future__ import annotations

import pytest
import torch

from paradia.grid import Grid
from paradia.simulate.examples import Example
from paradia.simulate.head import head
from paradia.training.volumes import prepare, write

GRID = Grid((38, 45, 36), (4.4, 4.4, 4.6), (0.2, -0.3, 0.93))


def drawn(seed: int) -> Example:
    """The drawn head, which networks never learn from, laid out as an example."""
    truth, generator = head(GRID, seed=seed), torch.Generator().manual_seed(seed)
    mask = truth.mask
    noise = 0.002 * (1 + torch.rand(GRID.shape, generator=generator)) * mask
    x = torch.linspace(-1, 1, GRID.shape[0])[:, None, None]
    return Example(
        grid=GRID,
        mask=mask,
        total_field=(truth.total_field + noise * torch.randn(GRID.shape, generator=generator)) * mask,
        noise=noise,
        local_field=truth.local_field * mask,
        leftover=0.002 * x * mask,
        chi_pos=truth.chi.clamp_min(0) * mask,
        chi_neg=(-truth.chi).clamp_min(0) * mask,
        r2star=truth.r2star * mask,
        r2prime=0.5 * truth.r2star * mask,
        r2star_noise=0.5 * mask.float(),
        r2prime_noise=0.7 * mask.float(),
        r2=0.5 * truth.r2star * mask,
        magnitude=truth.magnitude0 * mask,
        b0=3.0,
        dr_pos=137.0,
        dr_neg=120.0,
    )


@pytest.fixture(scope="session")
def example():
    return drawn(1)


@pytest.fixture(scope="session")
def prepared(example):
    return prepare(example, 5)


@pytest.fixture(scope="session")
def folder(prepared, tmp_path_factory):
    """Three validation volumes and six to train on, of three heads."""
    folder = tmp_path_factory.mktemp("volumes")
    heads = [prepared, *(prepare(drawn(seed), seed) for seed in (2, 3))]
    for place, number in enumerate((0, 1, 2, 1000, 1001, 1002, 1003, 1004, 1005)):
        write(folder / f"{number:07d}.safetensors", heads[place % 3])
    return folder
