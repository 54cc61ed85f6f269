"""Speed and accuracy of unwrapping, field maps and R2*, on the simulated head at 3 T and 7 T.

Run ``python benchmarks/phase.py`` for 192×192×128 at 1 mm, ``--small`` for an eighth of it. Times are in seconds and in transform pairs,
a pair being one real-to-complex transform of that size there and back, measured in the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _machine import best_of, fft_pair_seconds, machine, save
from torch import Tensor

from paradia.fieldmap.linear import linear
from paradia.fieldmap.mdi import mdi
from paradia.fieldmap.nonlinear import nonlinear
from paradia.grid import Grid
from paradia.relaxometry.arlo import arlo
from paradia.relaxometry.nonlinear import nonlinear as decay_fit
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.head import head
from paradia.unwrap.best_path import best_path
from paradia.unwrap.laplacian import laplacian
from paradia.unwrap.romeo import romeo
from paradia.unwrap.spun import spun

PROTOCOLS = {3.0: (0.004, 0.012, 0.020, 0.028), 7.0: (0.004, 0.012, 0.020, 0.028)}
"""Echo times, s, by field strength: those of the 2019 challenge head, which at 7 T are hard on voxels beside air."""


def run(grid: Grid, b0: float, repeats: int) -> list[str]:
    scan = Scan(PROTOCOLS[b0], b0)
    truth = head(grid, b0=b0)
    echoes = gre(truth, scan, snr=100.0)
    mask = truth.mask
    magnitude, phase = echoes.abs(), echoes.angle()
    pair = fft_pair_seconds(grid.shape)
    count = int(mask.sum())
    slope = torch.tensor([scan.rad_per_ppm(t) for t in scan.echo_times])[:, None]
    clean = gre(truth, scan, snr=1e6)[:, mask]
    sigma = float((echoes[:, mask] - clean).real.std())
    bound = sigma / (clean.abs() * slope).square().sum(0).sqrt()
    times = ", ".join(f"{1e3 * t:g}" for t in scan.echo_times)
    lines = [f"## {b0:g} T, echoes at {times} ms, {count} voxels in the mask, transform pair {1e3 * pair:.1f} ms", ""]
    lines += ["| method | s | FFT pairs | accuracy |", "|---|---|---|---|"]

    def line(name: str, seconds: float, text: str) -> None:
        lines.append(f"| {name} | {seconds:.2f} | {seconds / pair:.0f} | {text} |")

    def line_of_unwrapping(name: str, method: Callable[[], Tensor]) -> Tensor:
        seconds, unwrapped = best_of(method, repeats)
        turns = (unwrapped[:, mask] - truth.offset[mask] - slope * truth.total_field[mask]) / (2 * torch.pi)
        wrong = (turns - turns.median(1, keepdim=True).values).abs() > 0.5
        share = ", ".join(f"{1e4 * w:.1f}" for w in wrong.double().mean(1).tolist())
        line(name, seconds, f"wrong in 10,000 voxels, by echo: {share}")
        return unwrapped

    for mode in ("individual", "template"):
        line_of_unwrapping(f"spun {mode}", lambda mode=mode: spun(phase, magnitude, mask, scan, mode=mode))
    line_of_unwrapping("best_path", lambda: best_path(phase, mask, scan))
    line_of_unwrapping("romeo individual", lambda: romeo(phase, magnitude, mask, scan, mode="individual"))
    unwrapped = line_of_unwrapping("romeo template", lambda: romeo(phase, magnitude, mask, scan, mode="template"))
    seconds, _ = best_of(lambda: laplacian(phase[:1], mask, grid), 1)
    line("laplacian, one echo", seconds, "")
    fits = {
        "linear": lambda: linear(unwrapped, magnitude, mask, grid, scan),
        "nonlinear": lambda: nonlinear(unwrapped, magnitude, mask, grid, scan),
        "mdi, from wrapped echoes": lambda: mdi(mask, grid, scan, None, phase, magnitude),
    }
    for name, fit in fits.items():
        seconds, result = best_of(fit, repeats)
        error = result.total_field[mask] - truth.total_field[mask]
        shift = error.median()
        wrong = (error - shift).abs() > 0.02
        score = ((error - shift) / bound)[~wrong]
        stated = (result.noise[mask] / bound).median()
        line(
            f"fieldmap {name}",
            seconds,
            f"off by > 20 ppb: {1e4 * float(wrong.double().mean()):.2f} in 10,000 of the brain, "
            f"{1e4 * float(wrong[result.mask[mask]].double().mean()):.2f} where it says it holds; "
            f"rest {float(score.square().mean().sqrt()):.3f} of the Cramér-Rao bound; "
            f"stated noise {float(stated):.3f} of it; overall shift {1e3 * float(shift):.3f} ppb",
        )
    for name, decay in (("arlo", arlo), ("nonlinear", decay_fit)):
        seconds, result = best_of(lambda decay=decay: decay(magnitude, mask, scan), repeats)
        error = result.r2star[mask] - truth.r2star[mask]
        score = error / result.r2star_noise[mask].clamp_min(1e-6)
        line(
            f"R2* {name}",
            seconds,
            f"median error {float(error.abs().median()):.2f} 1/s, {float(score.abs().median() / 0.6745):.2f} of stated noise",
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="half the voxels along each axis")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    step = 2 if given.small else 1
    grid = Grid((192 // step, 192 // step, 128 // step), (float(step),) * 3, (0.1, -0.15, 0.98))
    size = f"{' × '.join(map(str, grid.shape))} voxels of {step} mm"
    lines = [f"# Unwrapping, field maps and R2*: simulated head, {size}, SNR 100", "", machine(), ""]
    for b0 in PROTOCOLS:
        lines += run(grid, b0, given.repeats)
    save("phase" + ("-small" if given.small else ""), lines)


if __name__ == "__main__":
    main()
