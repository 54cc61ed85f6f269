"""The whole main job on simulated heads: how far each protocol is from the truth, and how long each step takes.

``python benchmarks/pipeline.py [--voxel 1.0] [--shape 192 192 128] [--seeds 0 1]`` writes ``benchmarks/results/pipeline.md``. Times are also given in units of one pair of
real Fourier transforms of the same size, measured in the same run, which carries over between machines.
"""

from __future__ import annotations

import argparse
import time

import torch
from _machine import fft_pair_seconds, machine, peak_gb, save

from paradia.grid import Grid
from paradia.metrics.accuracy import detrended_nrmse, nrmse, xsim
from paradia.pipeline.execute import Outcome, execute
from paradia.pipeline.protocol import Protocol
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.head import Head, head

ECHO_TIMES = (0.004, 0.012, 0.020, 0.028)


def erode(mask: torch.Tensor, voxels: int) -> torch.Tensor:
    """Peel a mask, face by face."""
    outside = (~mask)[None, None].float()
    kernel = torch.nn.functional.max_pool3d
    for _ in range(voxels):
        outside = kernel(outside, 3, 1, 1)
    return outside[0, 0] == 0


def score(outcome: Outcome, truth: Head) -> dict[str, float]:
    """Compare with the truth: over the mask the run found, and five voxels inside it."""
    mask = outcome.maps["local_mask"] & truth.mask
    inner = erode(mask, 5)
    chi = truth.chi
    field, local = outcome.maps["total_field"], outcome.maps["local_field"]
    shifted = (field - truth.total_field)[mask]
    shifted = (shifted - shifted.median()).abs() * 1000
    return {
        "field, RMSE ppb": shifted.square().mean().sqrt().item(),
        "field, voxels > 20 ppb in 10,000": 1e4 * (shifted > 20).float().mean().item(),
        "local field, NRMSE %": nrmse(local, truth.local_field, mask).item(),
        "local field, inner": nrmse(local, truth.local_field, inner).item(),
        "χ, NRMSE %": nrmse(outcome.maps["chi"], chi, mask).item(),
        "χ, inner": nrmse(outcome.maps["chi"], chi, inner).item(),
        "χ, detrended": detrended_nrmse(outcome.maps["chi"], chi, mask).item(),
        "χ, XSIM": xsim(outcome.maps["chi"] - outcome.maps["chi"][mask].mean(), chi - chi[mask].mean(), mask).item(),
        "coverage of the brain %": 100 * mask.sum().item() / truth.mask.sum().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(192, 192, 128))
    parser.add_argument("--voxel", type=float, nargs=3, default=(1.0, 1.0, 1.0))
    parser.add_argument("--b0", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--protocols", nargs="+", default=["fast", "consensus"])
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()

    grid = Grid(tuple(given.shape), tuple(given.voxel), (0.0, 0.17, 0.985))
    scan = Scan(ECHO_TIMES, given.b0)
    pair = fft_pair_seconds(grid.shape, given.device)
    lines = [f"# The main job on {' × '.join(map(str, grid.shape))} voxels of {grid.voxel_size} mm, {len(ECHO_TIMES)} echoes, {given.b0} T, SNR 100", "", machine()]
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
    save("pipeline", lines)


if __name__ == "__main__":
    main()
