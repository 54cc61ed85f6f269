"""Draw the pictures of docs/learned.md: simulated heads beside their truth, and real scans, which need ../shared/data.

python benchmarks/pictures_learned.py [simulated real training]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import torch
from _heads import judged
from accuracy import data
from learned import SUBJECTS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from paradia.cli import main as paradia
from paradia.metrics.accuracy import nrmse
from paradia.pipeline.step import Step

mpl.use("Agg")

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def save(figure: Figure, name: str) -> None:
    """Write a picture for the docs."""
    path = IMAGES / f"learned-{name}.webp"
    figure.savefig(path, dpi=90, pil_kwargs={"quality": 80, "method": 6})
    plt.close(figure)
    print(f"{path.name}: {path.stat().st_size // 1000} kB")


def show(axes: Axes, image: Tensor | np.ndarray, low: float, high: float, title: str, aspect: float = 1.0) -> None:
    """Draw a slice, its first axis to the right and its second upwards."""
    axes.imshow(np.asarray(image).T, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="nearest", aspect=aspect)
    axes.set_title(title, fontsize=9)
    axes.axis("off")


def simulated() -> None:
    """Compare with the truth: a head of the training's simulator and one of another anatomy."""
    for name in ("subject-lesions", "zubal-coarse"):
        case = SUBJECTS[name]() if name in SUBJECTS else judged(name)
        board = data(case, "cpu")
        blind = {key: value for key, value in board.items() if key != "local_field"}
        cleared = Step("background", "joint").run(blind)
        maps: dict[str, dict[str, Any]] = {
            "l1bayes, true local field": Step("inversion", "l1bayes").run(board),
            "varnet, true local field": Step("inversion", "varnet").run(board),
            "joint + l1bayes, total field": Step("inversion", "l1bayes").run({**blind, **cleared}),
            "nextqsm, total field": Step("singlestep", "nextqsm").run(blind),
        }
        figure, axes = plt.subplots(3, 5, figsize=(12.5, 8.4), layout="constrained")
        middle = [int(m) for m in case.mask.nonzero().float().mean(0)]
        z = middle[2]
        true = (case.chi - case.chi[case.mask].mean()) * case.mask
        show(axes[0, 0], true[:, :, z], -0.1, 0.15, "truth, −0.1 to 0.15 ppm")
        show(axes[1, 0], true[:, middle[1], :], -0.1, 0.15, "truth")
        axes[2, 0].axis("off")
        for column, (label, found) in enumerate(maps.items(), 1):
            chi = (found["chi"] - found["chi"][case.mask].mean()) * case.mask
            error = nrmse(chi, true, case.mask)
            show(axes[0, column], chi[:, :, z], -0.1, 0.15, f"{label}: {error:.0f} %")
            show(axes[1, column], chi[:, middle[1], :], -0.1, 0.15, "")
            show(axes[2, column], (chi - true).abs()[:, :, z], 0, 0.08, "|error|, 0 to 0.08 ppm")
        spread = maps["nextqsm, total field"]["chi_noise"]
        show(axes[2, 0], spread[:, :, z], 0, 0.08, "standard deviation told by nextqsm")
        save(figure, name)


def real() -> None:
    """Run the protocols on the slab and the crop."""
    slab, crop = SHARED / "slab-3t-te30", SHARED / "megre-crop-small"
    calls = {
        "slab": [slab / "magnitude.nii.gz", slab / "phase.nii.gz", "--mask", slab / "mask.nii.gz", "--echo-times", 0.03, "--flip-sign"],
        "crop": [crop / "magnitude.nii.gz", crop / "phase.nii.gz", "--echo-times", 0.004, 0.008, 0.012],
    }
    extra = {"slab": ["--b0", 3], "crop": ["--b0", 7, "--phase-units=-0.003674:0.003674"]}
    for name, call in calls.items():
        maps = {}
        for protocol in ("consensus", "learned"):
            with tempfile.TemporaryDirectory() as folder:
                words = ["qsm", call[0], call[1], Path(folder) / "out", *call[2:], *extra[name], "--protocol", protocol]
                if paradia([str(word) for word in words]):
                    raise SystemExit(f"{protocol} failed on {name}")
                for kind in ("Chimap", "localfield", "desc-noise_Chimap"):
                    path = Path(folder) / "out" / f"{kind}.nii.gz"
                    if path.exists():
                        image = nib.load(path)
                        maps[protocol, kind], edges = image.get_fdata(dtype=np.float32), image.header.get_zooms()
        some = maps["consensus", "Chimap"]
        box = tuple(slice(int(n.min()), int(n.max()) + 1) for n in np.nonzero(some))
        maps = {key: image[box] for key, image in maps.items()}
        y, z = (n // 2 for n in maps["consensus", "Chimap"].shape[1:])
        figure, axes = plt.subplots(2, 3, figsize=(11, 8), layout="constrained")
        for row, protocol in enumerate(("consensus", "learned")):
            show(axes[row, 0], maps[protocol, "localfield"][:, :, z], -0.05, 0.05, f"{protocol}: local field, ±0.05 ppm")
            show(axes[row, 1], maps[protocol, "Chimap"][:, :, z], -0.12, 0.18, "χ, −0.12 to 0.18 ppm")
        show(axes[0, 2], maps["consensus", "Chimap"][:, y, :], -0.12, 0.18, "consensus: χ", edges[2] / edges[0])
        show(axes[1, 2], maps["learned", "Chimap"][:, y, :], -0.12, 0.18, "learned: χ", edges[2] / edges[0])
        save(figure, name)


if __name__ == "__main__":
    torch.set_num_threads(2)
    for part in sys.argv[1:] or ("simulated", "real"):
        {"simulated": simulated, "real": real}[part]()
