"""What all tests share: shape checking at run time, real data when it is there, an awkward grid."""

from __future__ import annotations

import hashlib
import os
import shutil
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
for layer in ["operators", "solvers", "simulate", "sources", "nets", "training", "metrics", *STAGES]:
    install_import_hook(f"paradia.{layer}", "beartype.beartype")

import torch  # noqa: E402

from paradia.grid import Grid  # noqa: E402
from paradia.nets import store  # noqa: E402
from paradia.nets.unet import UNet3d  # noqa: E402

NETWORKS = {"varnet": (6, 2), "bgnet": (7, 2), "sepnet": (10, 4)}
"""Channels into and out of the networks that methods ask for."""

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real inputs beside the repository; the test is skipped where there is none."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real inputs are absent: no folder shared/data beside the repository")
    return folder


@pytest.fixture(scope="session", autouse=True)
def stand_ins(tmp_path_factory):
    """Untrained networks, which change nothing, in place of those that have no released weights yet."""
    released = store.cards() if (store.FOLDER / "weights.toml").is_file() else {}
    missing = {name: channels for name, channels in NETWORKS.items() if name not in released}
    if not missing:
        yield
        return
    folder = tmp_path_factory.mktemp("weights")
    lines = []
    for name, card in released.items():
        shutil.copy(store.FOLDER / card["file"], folder)
        lines.append(f'[{name}]\nfile = "{card["file"]}"\nsha256 = "{card["sha256"]}"\n')
    for name, (inputs, outputs) in missing.items():
        architecture = {"inputs": inputs, "outputs": outputs, "widths": (8, 16)}
        content = store.pack(UNet3d(**architecture), architecture, task=name)
        (folder / f"{name}.safetensors").write_bytes(content)
        lines.append(f'[{name}]\nfile = "{name}.safetensors"\nsha256 = "{hashlib.sha256(content).hexdigest()}"\n')
    (folder / "weights.toml").write_text("\n".join(lines))
    kept, store.FOLDER = store.FOLDER, folder
    store.network.cache_clear()
    yield
    store.FOLDER = kept
    store.network.cache_clear()


@pytest.fixture
def grid() -> Grid:
    """Never cubic, never isotropic, one side odd, B0 oblique."""
    return Grid((36, 27, 32), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))


@pytest.fixture
def generator() -> torch.Generator:
    """Random numbers that are the same every time."""
    return torch.Generator().manual_seed(20260)


@pytest.fixture(scope="session")
def onion():
    """Maker of a head in shells, which takes no time: pass it to `subject` as its anatomy."""
    from paradia.simulate.anatomy import Anatomy
    from paradia.simulate.tissue import LABELS

    shells = {"fat": 1.0, "bone": 0.95, "csf": 0.85, "grey_matter": 0.8, "white_matter": 0.72, "putamen": 0.2}

    def make(grid: Grid) -> Anatomy:
        axes = [torch.linspace(-1.15, 1.15, n) for n in grid.shape]
        x, y, z = torch.meshgrid(*axes, indexing="ij")
        radius = (x.square() + y.square() + z.square()).sqrt()
        labels = torch.zeros(grid.shape, dtype=torch.uint8)
        for name, limit in shells.items():
            labels[radius < limit] = LABELS[name]
        mask = radius < shells["csf"]
        return Anatomy(labels, mask, torch.zeros(grid.shape), torch.sin(9 * x) * torch.cos(8 * y) * mask, None, grid)

    return make
