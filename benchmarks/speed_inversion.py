"""Time, iterations, memory and error of background removal and inversion on a simulated head.

    python benchmarks/speed_inversion.py [--shape 192 192 128] [--voxel 1 1 1.2] [--repeat 3] [--methods joint tv ...]

Times are the least of the repeats, in seconds and in pairs of real transforms of the whole volume timed in the same run.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch
from _machine import best_of, fft_pair_seconds, machine, peak_gb, save
from scipy.ndimage import binary_erosion

from paradia.errors import ConvergenceWarning
from paradia.grid import Grid
from paradia.metrics.accuracy import nrmse
from paradia.registry import load, methods
from paradia.simulate.head import head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(192, 192, 128))
    parser.add_argument("--voxel", type=float, nargs=3, default=(1.0, 1.0, 1.2))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--noise", type=float, default=0.0015, help="standard deviation of the field, ppm")
    parser.add_argument("--methods", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)

    grid = Grid(tuple(options.shape), tuple(options.voxel), (0.05, -0.12, 0.99))
    truth = head(grid)
    mask = truth.mask
    noise = options.noise * mask
    error = noise * torch.randn(grid.shape, generator=torch.Generator().manual_seed(0))
    inner = torch.from_numpy(binary_erosion(mask.numpy(), iterations=5))
    pair = fft_pair_seconds(grid.shape)
    size = f"{' × '.join(map(str, grid.shape))} voxels of {' × '.join(map(str, grid.voxel_size))} mm"
    lines = [f"# Background removal and inversion: simulated head, {size}, each stage fed the truth with noise", "", machine()]
    said = f"Field noise {1e3 * options.noise:g} ppb; one pair of transforms {1e3 * pair:.1f} ms; errors about the mean."
    heads = ("method", "s", "FFT pairs", "iterations", "NRMSE %", "five voxels inside", "mask kept", "peak GB so far")
    lines += ["", said, "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    data: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
        "background": (mask * (truth.total_field + error), mask * truth.local_field),
        "inversion": (mask * (truth.local_field + error), mask * truth.chi),
    }
    for stage, (given, wanted) in data.items():
        for name in options.methods or methods(stage):
            if name not in methods(stage):
                continue
            method = load(stage, name)
            knobs: dict[str, Any] = {}
            iterations = [0]
            if "noise" in method.takes:
                knobs["noise"] = noise
            if method.reports_progress:
                knobs["callback"] = lambda i, _, iterations=iterations: iterations.__setitem__(0, i)
            seconds, result = best_of(lambda: method.function(given, mask, grid, **knobs), options.repeat)  # noqa: B023
            image, valid = result if isinstance(result, tuple) else (result, mask)
            lines.append(
                f"| {stage} {name} | {seconds:.2f} | {seconds / pair:.0f} | {iterations[0] or '–'} | {nrmse(image, wanted, valid):.1f} "
                f"| {nrmse(image, wanted, inner & valid):.1f} | {float(valid.sum() / mask.sum()):.2f} | {peak_gb():.2f} |"
            )
    save("speed-inversion", lines)


if __name__ == "__main__":
    main()
