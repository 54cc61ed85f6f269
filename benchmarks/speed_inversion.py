"""Time, iterations, memory and error of background removal and inversion on a simulated head.

    python benchmarks/speed_inversion.py [--shape 192 192 128] [--voxel 1 1 1.2] [--repeat 3] [--methods joint tv ...]

Times are the least of the repeats, in seconds and in pairs of real transforms of the whole volume timed in the same run.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from scipy.ndimage import binary_erosion

from paradia.errors import ConvergenceWarning
from paradia.fft import irfftn, rfftn
from paradia.grid import Grid
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
    pair, _ = least(lambda: irfftn(rfftn(error), grid.shape), 5)
    print(f"{grid.shape} voxels of {grid.voxel_size} mm, {options.threads} threads, one pair of transforms {1e3 * pair:.1f} ms")
    print(f"{'':10s} {'s':>7s} {'pairs':>6s} {'iter':>5s} {'NRMSE':>6s} {'eroded':>6s} {'kept':>5s} {'GB':>5s}")
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
            seconds, result = least(lambda: method.function(given, mask, grid, **knobs), options.repeat)  # noqa: B023
            image, valid = result if isinstance(result, tuple) else (result, mask)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(
                f"{name:10s} {seconds:7.2f} {seconds / pair:6.0f} {iterations[0]:5d} {nrmse(image, wanted, valid):6.1f} "
                f"{nrmse(image, wanted, inner & valid):6.1f} {float(valid.sum() / mask.sum()):5.2f} {peak:5.2f}"
            )


def least(function: Callable[[], Any], repeat: int) -> tuple[float, Any]:
    """Return the least time of some calls and the last result."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return min(times), result


def nrmse(result: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> float:
    """Return the error in percent of the truth, both about their means over the mask."""
    a, b = result[mask].double(), truth[mask].double()
    a, b = a - a.mean(), b - b.mean()
    return float(100 * (a - b).norm() / b.norm())


if __name__ == "__main__":
    main()
