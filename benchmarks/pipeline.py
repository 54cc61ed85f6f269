"""The whole main job on simulated heads: how far each protocol is from the truth, and how long each step takes.

``python benchmarks/pipeline.py [--b0 7] [--shape 192 192 128] [--seeds 0 1]`` writes into ``benchmarks/results/``. Times are
also given in pairs of real Fourier transforms of that size, measured in the same run, which carries over between machines.
"""

from __future__ import annotations

import argparse
import time

from _machine import fft_pair_seconds, machine, peak_gb, save

from paradia.grid import Grid
from paradia.metrics._masks import erode
from paradia.metrics.accuracy import nrmse, xsim
from paradia.operators.dipole import Dipole
from paradia.pipeline.execute import Outcome, execute
from paradia.pipeline.protocol import Protocol
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.head import Head, head

ECHO_TIMES = (0.004, 0.012, 0.020, 0.028)


def score(outcome: Outcome, truth: Head) -> dict[str, float]:
    """Compare with the truth over the brain that the run mapped, and five voxels inside it."""
    found = outcome.maps["local_mask"]
    mask, chi = found & truth.mask, outcome.maps["chi"]
    inner = erode(mask, 5)
    local_field = Dipole(truth.grid, padding=2)(truth.chi * found)  # local is what the mask holds, fluid around the brain as well
    error = 1000 * (outcome.maps["total_field"] - truth.total_field).abs()
    return {
        "total field, median error, ppb": error[mask].median().item(),
        "total field, brain off by > 20 ppb, in 10,000 voxels": 1e4 * (error[outcome.maps["mask"] & truth.mask] > 20).float().mean().item(),
        "the same where the run says it holds": 1e4 * (error[mask] > 20).float().mean().item(),
        "local field, NRMSE %": nrmse(outcome.maps["local_field"], local_field, mask),
        "local field, NRMSE % five voxels inside": nrmse(outcome.maps["local_field"], local_field, inner),
        "χ, NRMSE %": nrmse(chi, truth.chi, mask),
        "χ, NRMSE % five voxels inside": nrmse(chi, truth.chi, inner),
        "χ, XSIM re-referenced": xsim((chi - chi[mask].mean()) * mask, (truth.chi - truth.chi[mask].mean()) * mask, mask),
        "brain mapped, %": 100 * mask.sum().item() / truth.mask.sum().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(192, 192, 128))
    parser.add_argument("--voxel", type=float, nargs=3, default=(1.0, 1.0, 1.2))
    parser.add_argument("--b0", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--protocols", nargs="+", default=["fast", "consensus"])
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()

    grid = Grid(tuple(given.shape), tuple(given.voxel), (0.0, 0.17, 0.985))
    scan = Scan(ECHO_TIMES, given.b0)
    pair = fft_pair_seconds(grid.shape, given.device)
    size = f"{' × '.join(map(str, grid.shape))} voxels of {' × '.join(map(str, grid.voxel_size))} mm"
    lines = [f"# The main job: {size}, {len(ECHO_TIMES)} echoes, {given.b0:g} T, SNR 100", "", machine()]
    lines += ["", f"One real-to-complex FFT pair of this size: {pair * 1000:.1f} ms in this run.", ""]
    for seed in given.seeds:
        truth = head(grid, seed=seed, b0=given.b0)
        echoes = gre(truth, scan, snr=100.0, seed=seed)
        board = {"magnitude": echoes.abs(), "phase": echoes.angle(), "grid": grid, "scan": scan}
        for name in given.protocols:
            start = time.perf_counter()
            outcome = execute(Protocol.load(name), board, device=given.device)
            total = time.perf_counter() - start
            lines += [f"## `{name}`, head {seed}: {total:.1f} s of computing", "", "| step | s | FFT pairs |", "|---|---|---|"]
            lines += [f"| {s.stage} {s.method} | {s.seconds:.2f} | {s.seconds / pair:.0f} |" for s in outcome.steps]
            lines += ["", "| figure | value |", "|---|---|"]
            lines += [f"| {what} | {value:.3g} |" for what, value in score(outcome, truth).items()]
            lines += ["", *(f"- {message}" for message in outcome.messages), ""]
    lines.append(f"Peak memory of the whole process: {peak_gb():.1f} GB.")
    save(f"pipeline-{given.b0:g}t", lines)


if __name__ == "__main__":
    main()
