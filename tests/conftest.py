"""What all tests share: shape checking at run time, real data when it is there, an awkward grid."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Physics modules have their shapes checked at every call; the import hook must come before the first import.
STAGES = [
    "combine",
    "mask",
    "unwrap",
    "fieldmap",
    "background",
    "inversion",
    "singlestep",
    "relaxometry",
    "reference",
    "separation",
    "contrast",
]
for layer in ["operators", "solvers", "simulate", "sources", "metrics", *STAGES]:
    install_import_hook(f"paradia.{layer}", "beartype.beartype")

import torch  # noqa: E402

from paradia.grid import Grid  # noqa: E402

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real inputs beside the repository; the test is skipped where there is none."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real inputs are absent: no folder shared/data beside the repository")
    return folder


@pytest.fixture
def grid() -> Grid:
    """Never cubic, never isotropic, one side odd, B0 oblique."""
    return Grid((36, 27, 32), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))


@pytest.fixture
def generator() -> torch.Generator:
    """Random numbers that are the same every time."""
    return torch.Generator().manual_seed(20260)
