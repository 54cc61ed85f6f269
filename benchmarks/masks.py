"""How well the brain is found: simulated heads, a label head, a slab with a mask; writes results/masks.md.

    python benchmarks/masks.py

The rows of `brainextractor`, another implementation of BET, appear where it is installed.  Data that are not in the
repository are looked for in ../shared/data and skipped where absent.
"""

from __future__ import annotations

import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from _machine import RESULTS, machine
from scipy.ndimage import binary_erosion, distance_transform_edt

from paradia.grid import Grid
from paradia.mask.bet import bet
from paradia.mask.combined import combined
from paradia.mask.quality import quality
from paradia.scan import Scan
from paradia.simulate._tissue import LABELS
from paradia.simulate.gre import gre
from paradia.simulate.head import head

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SCAN = Scan((0.004, 0.012, 0.020), 3.0)
DARK = {0: 0.0, 104: 0.0, 4: 0.05, 70: 0.05, 71: 0.05, 76: 0.05, 81: 0.05, 98: 0.9, 22: 0.9, 1: 0.7, 9: 0.55}


def simulated(shape, voxel, seed):
    grid = Grid(shape, voxel, (0.1, -0.2, 0.97))
    truth = head(grid, seed=seed)
    signal = gre(truth, SCAN, seed=seed)
    tolerated = truth.mask | (truth.labels == LABELS["csf"])
    return grid, SCAN, signal.abs(), signal.angle(), truth.mask, tolerated


def zubal():
    """Grey values on the labels, blurred by half a voxel, a bias and noise."""
    folder = DATA / "head-zubal"
    labels = np.asarray(nib.load(folder / "zubal_phantom_1iso.nii.gz").dataobj).astype(int)
    brain = np.asarray(nib.load(folder / "zubalPhantom_brainMask_1iso.nii.gz").dataobj) > 0
    box = (slice(88, 300), slice(50, 334), slice(0, 192))
    table = np.full(labels.max() + 1, 0.6, dtype=np.float32)
    for label, value in DARK.items():
        table[label] = value
    image = np.where(brain, np.where(labels == 83, 0.75, 0.85), table[labels])[box].astype(np.float32)
    pooled = torch.nn.functional.avg_pool3d(torch.from_numpy(image)[None, None], 3, 1, 1)[0, 0]
    x = torch.linspace(-1, 1, pooled.shape[0])[:, None, None]
    noise = torch.randn((2, *pooled.shape), generator=torch.Generator().manual_seed(0)) / 60
    magnitude = torch.hypot(pooled * (1 + 0.25 * x) + noise[0], noise[1])[None]
    truth = torch.from_numpy(brain[box])
    return Grid(tuple(pooled.shape)), None, magnitude, None, truth, truth


def slab():
    folder = DATA / "slab-3t-te30"
    magnitude, phase, mask = (
        np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj, dtype=np.float32) for name in ("magnitude", "phase", "mask")
    )
    truth = torch.from_numpy(mask > 0)
    grid = Grid(tuple(magnitude.shape), (1.8, 1.8, 3.0))
    return grid, Scan((0.03,)), torch.from_numpy(magnitude)[None], -torch.from_numpy(phase)[None], truth, truth


def other(magnitude, grid):
    from brainextractor import BrainExtractor

    image = nib.Nifti1Image(magnitude.square().sum(0).sqrt().numpy(), np.diag([*grid.voxel_size, 1.0]))
    extractor = BrainExtractor(image)
    extractor.run()
    return torch.from_numpy(np.asarray(extractor.compute_mask()) > 0)


def distance(found, truth, grid):
    """Mean distance between the surfaces, mm."""
    edges = [m & ~binary_erosion(m) for m in (found.numpy(), truth.numpy())]
    far = [distance_transform_edt(~edge, sampling=grid.voxel_size) for edge in edges]
    return (far[0][edges[1]].mean() + far[1][edges[0]].mean()) / 2


def main() -> None:
    torch.set_num_threads(2)
    cases = {
        "simulated, 1 mm, seed 0": lambda: simulated((192, 224, 160), (1.0, 1.0, 1.0), 0),
        "simulated, 2 mm, seed 1": lambda: simulated((96, 112, 80), (2.0, 2.0, 2.0), 1),
        "simulated, 1.2 × 1.2 × 3 mm, seed 2": lambda: simulated((160, 188, 54), (1.2, 1.2, 3.0), 2),
        "simulated slab, 1.2 × 1.2 × 2 mm, seed 3": lambda: simulated((160, 188, 35), (1.2, 1.2, 2.0), 3),
        "label head, 1 mm": zubal,
        "in vivo slab, 1.8 × 1.8 × 3 mm, against the mask that came with it": slab,
    }
    rows = []
    for case, make in cases.items():
        try:
            grid, scan, magnitude, phase, truth, tolerated = make()
        except FileNotFoundError:
            print(f"skipped, no data: {case}")
            continue
        methods = {"bet": lambda m=magnitude, g=grid: bet(m, g), "brainextractor": lambda m=magnitude, g=grid: other(m, g)}
        if phase is not None:
            methods["combined"] = lambda p=phase, m=magnitude, g=grid, s=scan: combined(p, m, g, s)
            methods["quality"] = lambda p=phase, m=magnitude, g=grid, s=scan: quality(p, m, g, s)
        for name, method in methods.items():
            start = time.perf_counter()
            try:
                found = method()
            except ImportError:
                continue
            seconds = time.perf_counter() - start
            hit, size = int((found & truth).sum()), int(truth.sum())
            dice = 2 * int((found & tolerated).sum()) / int(found.sum() + tolerated.sum())
            kept = int((found & ~tolerated).sum()) / size
            apart = distance(found, tolerated, grid)
            row = f"| {case} | {name} | {dice:.3f} | {100 * (1 - hit / size):.2f} | {100 * kept:.2f} | {apart:.2f} | {seconds:.1f} |"
            print(row, flush=True)
            rows.append(row)
    head_row = "| head | method | Dice | brain lost, % | non-brain kept, % | surfaces apart, mm | s |\n|---|---|---|---|---|---|---|\n"
    text = "# Brain masks\n\n`python benchmarks/masks.py`. " + machine() + "\n\n" + head_row + "\n".join(rows)
    text += (
        "\n\nDice, non-brain and distance of the simulated heads are against brain and the water around it, which magnitudes cannot part;"
        " brain lost is against the brain alone. The mask that came with the slab was made to be safe:"
        " it leaves out the rim and dark regions.\n"
        "Times are single runs and include nothing but the method.\n"
    )
    (RESULTS / "masks.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
