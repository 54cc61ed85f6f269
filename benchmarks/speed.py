"""Time, iterations, memory and error of every method on a simulated head, each in a process of its own.

    python benchmarks/speed.py [--shape 192 192 128] [--voxel 1 1 1.2] [--device cuda] [--stages inversion] [--methods tv l1]

Seconds are the least of the repeats, and also given in pairs of real transforms of the whole volume, timed in the same
process, which carries over between machines. Threads and memory are set as the command line sets them. The first call,
which samples the kernels, is given beside them. Memory is the peak of the process above what it held with its inputs, and
in all. Every method gets all data that it can use, the truth with noise; what fails is said in the table. Beside each time
stands that of QSM.rs where it was measured, at its size alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _machine import best_of, fft_pair_seconds, machine, peak_gb, save
from _peers import PAIR_SECONDS, SECONDS, SHAPE, geometric_mean
from torch import Tensor

from paradia.cli import keep_freed_volumes
from paradia.grid import Grid
from paradia.metrics._masks import erode
from paradia.metrics.accuracy import nrmse
from paradia.pipeline.step import Step
from paradia.registry import load, methods
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.head import head

STAGES = ("combine", "unwrap", "fieldmap", "relaxometry", "background", "inversion", "singlestep", "contrast")
ECHO_TIMES = (0.004, 0.012, 0.020, 0.028)
VOXEL = (1.0, 1.0, 1.2)

LONG = 40.0
"""A first call beyond this is not repeated, s."""

ERRORS = {
    "combine": "phase between first and last echo, RMS, rad",
    "unwrap": "voxels off by more than π, in 10,000",
    "fieldmap": "median error, ppb",
    "relaxometry": "median error, 1/s",
    "background": "NRMSE %, and five voxels inside",
    "inversion": "NRMSE %, and five voxels inside",
    "singlestep": "NRMSE %, and five voxels inside",
    "contrast": "",
}
"""What the error of a stage is."""

COLUMNS = (
    "method",
    "s",
    "first call, s",
    "FFT pairs",
    "iterations",
    "peak GB above inputs",
    "peak GB in all",
    "error",
    "QSM.rs, s",
    "ratio",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--voxel", type=float, nargs=3, default=VOXEL)
    parser.add_argument("--b0", type=float, default=3.0)
    parser.add_argument("--snr", type=float, default=100.0)
    parser.add_argument("--coils", type=int, default=4, help="coils of the images that are combined")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--limit", type=float, default=900.0, help="longest time for a method, s")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--methods", nargs="+", help="only these, in whatever stage")
    parser.add_argument("--name", help="of the result; speed where everything is measured at the usual size")
    parser.add_argument("--one", nargs=3, metavar=("STAGE", "METHOD", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        stage, method, folder = options.one
        print(json.dumps(measure(stage, method, Path(folder), options)))
        return
    with tempfile.TemporaryDirectory(prefix="paradia-speed-") as folder:
        grid = prepare(Path(folder), options)
        lines = report(Path(folder), grid, options)
    save(options.name or _name(options), lines)


def prepare(folder: Path, options: argparse.Namespace) -> Grid:
    """Simulate a head and lay down every kind of data in a file of its own, with the truth beside them."""
    grid = Grid(tuple(options.shape), tuple(options.voxel), (0.05, -0.12, 0.99))
    scan = Scan(ECHO_TIMES, options.b0)
    truth = head(grid, b0=options.b0)
    echoes = gre(truth, scan, snr=options.snr)
    mask = truth.mask
    angles = torch.stack([truth.offset + scan.rad_per_ppm(t) * truth.total_field for t in ECHO_TIMES])
    phase = echoes.angle()
    noise = _noise(echoes.abs(), mask, scan, options.snr)
    error = noise * torch.randn(grid.shape, generator=torch.Generator().manual_seed(0))
    coil_images = _coils(echoes, options.coils, options.snr) if "combine" in options.stages else None
    data: dict[str, Any] = {
        "grid": grid, "scan": scan, "mask": mask, "magnitude": echoes.abs(), "phase": phase,
        "unwrapped": (phase + 2 * math.pi * torch.round((angles - phase) / (2 * math.pi))) * mask, "noise": noise,
        "total_field": (truth.total_field + error) * mask, "local_field": (truth.local_field + error) * mask,
        "chi": truth.chi * mask, "r2star": truth.r2star * mask, "coil_images": coil_images,
    }  # fmt: skip
    wanted = {
        "mask": mask, "phase": angles, "total_field": truth.total_field, "local_field": truth.local_field * mask,
        "chi": truth.chi * mask, "r2star": truth.r2star,
    }  # fmt: skip
    for prefix, values in (("data", data), ("true", wanted)):
        for name, value in values.items():
            if value is not None:
                torch.save(value, folder / f"{prefix}-{name}.pt")
    return grid


def _noise(magnitude: Tensor, mask: Tensor, scan: Scan, snr: float) -> Tensor:
    """Return the Cramér-Rao bound of a fit of field and offset, ppm."""
    weights = (magnitude / (magnitude[0][mask].max() / snr)).square()
    angles = torch.tensor([scan.rad_per_ppm(t) for t in scan.echo_times])[:, None, None, None]
    mean = (weights * angles).sum(0) / weights.sum(0).clamp_min(1e-6)
    information = (weights * (angles - mean).square()).sum(0).clamp_min(1e-6)
    return torch.where(mask, information.rsqrt(), 0.0).clamp_max(0.5)


def _coils(echoes: Tensor, count: int, snr: float) -> Tensor:
    """See the echoes with coils around the head, each brighter on its side and with a phase of its own, and with noise."""
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in echoes.shape[1:]), indexing="ij")
    images = []
    generator = torch.Generator().manual_seed(1)
    level = float(echoes[0].abs().max()) / snr
    for coil in range(count):
        turn = 2 * math.pi * coil / count
        bright = torch.exp(-0.8 * ((x - math.cos(turn)).square() + (y - math.sin(turn)).square() + 0.3 * z.square()))
        seen = echoes * torch.polar(bright, turn + 0.7 * x * math.cos(turn) - 0.5 * y + 0.2 * z)
        images.append(seen + level * torch.complex(*(torch.randn(echoes.shape, generator=generator) for _ in range(2))))
    return torch.stack(images, 1)


def report(folder: Path, grid: Grid, options: argparse.Namespace) -> list[str]:
    """Measure every method and lay the results out."""
    pair = fft_pair_seconds(grid.shape, options.device)
    size = f"{' × '.join(map(str, grid.shape))} voxels of {' × '.join(map(str, grid.voxel_size))} mm"
    lines = [f"# Every method: simulated head, {size}, each stage fed the truth with noise", "", machine(), ""]
    lines += [f"{len(ECHO_TIMES)} echoes, {options.b0:g} T, SNR {options.snr:g}, on {options.device} with {options.threads} threads. "]
    lines[-1] += f"One pair of real transforms of this size takes {1e3 * pair:.2f} ms. Least of {options.repeat} runs, or one where the "
    lines[-1] += f"first took more than {LONG:g} s. Ratio: time of QSM.rs ({1e3 * PAIR_SECONDS:.0f} ms a pair on its machine) over ours."
    ratios: dict[str, float] = {}
    for stage in options.stages:
        names = [name for name in methods(stage) if not options.methods or name in options.methods]
        if not names:
            continue
        lines += ["", f"## {stage}", ""]
        lines += [f"Error: {ERRORS[stage]}.", ""] if ERRORS[stage] else []
        lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        for name in names:
            row = _in_a_process(stage, name, folder, options)
            peer = SECONDS.get((stage, name)) if _comparable(grid, options) else None
            if peer and "seconds" in row:
                ratios[f"{stage} {name}"] = peer / row["seconds"]
            lines.append(_line(name, row, peer))
            print(lines[-1], file=sys.stderr, flush=True)
    if ratios:
        worst = min(ratios, key=ratios.__getitem__)
        lines += [
            "",
            f"Geometric mean of the {len(ratios)} ratios: {geometric_mean(ratios.values()):.1f}; least {ratios[worst]:.1f} ({worst}).",
        ]
    return lines


def _in_a_process(stage: str, name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure a method where nothing else has taken memory; a failure is a result too."""
    words = [sys.executable, __file__, "--one", stage, name, str(folder), "--shape", *map(str, options.shape), "--device", options.device]
    words += ["--threads", str(options.threads), "--repeat", str(options.repeat)]
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=options.limit, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"failure": f"not done in {options.limit:g} s"}
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return {"failure": f"killed by signal {-done.returncode}" if done.returncode < 0 else said[-1] if said else "failed"}
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def measure(stage: str, name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one method and return its figures; runs in a process of its own, with its memory as the command line sets it."""
    keep_freed_volumes()
    warnings.simplefilter("ignore")
    method = load(stage, name)
    taken = [n for n in method.takes if n != "coil_images" or n in method.needs]
    board = {n: torch.load(folder / f"data-{n}.pt", weights_only=False) for n in taken if (folder / f"data-{n}.pt").exists()}
    board = {n: value.to(options.device) if isinstance(value, Tensor) else value for n, value in board.items()}
    if missing := [n for n in method.needs if n not in board]:
        return {"failure": f"not measured: it needs {', '.join(missing)}"}
    if stage == "relaxometry" and "r2star" not in method.gives:
        return {"failure": "not measured: it does not give R2*"}
    pair = fft_pair_seconds(options.shape, options.device)
    counts: list[int] = []
    step = Step(stage, name)

    def run() -> dict[str, Any]:
        counts.clear()
        return step.run(board, lambda iteration, _: counts.append(iteration))

    cuda = torch.device(options.device).type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 1e9 if cuda else _resident_gb()
    first, result = best_of(run, 1)
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else peak_gb()
    seconds = first
    if first < LONG and options.repeat > 1:
        seconds, result = best_of(run, options.repeat - 1)
    return {
        "seconds": min(seconds, first), "first": first, "pairs": min(seconds, first) / pair, "iterations": len(counts),
        "above": max(peak - before, 0.0), "peak": peak,
        "error": error(stage, {n: v.cpu() for n, v in result.items()}, folder),
    }  # fmt: skip


def _resident_gb() -> float:
    """Memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def error(stage: str, given: Mapping[str, Tensor], folder: Path) -> str:
    """Hold a result against the truth, in the figure of its stage."""

    def true(name: str) -> Tensor:
        value: Tensor = torch.load(folder / f"true-{name}.pt", weights_only=False)
        return value

    mask = true("mask")
    if stage == "combine":
        angles = true("phase")
        rest = (given["phase"][-1] - given["phase"][0] - angles[-1] + angles[0])[mask]
        rest = rest - torch.polar(torch.ones_like(rest), rest).mean().angle()
        return f"{torch.polar(torch.ones_like(rest), rest).angle().square().mean().sqrt():.3f}"
    if stage == "unwrap":
        rest = (given["unwrapped"] - true("phase"))[:, mask]
        rest = rest - 2 * math.pi * torch.round(rest.median(1, keepdim=True).values / (2 * math.pi))
        return f"{1e4 * (rest.abs() > math.pi).float().mean():.1f}"
    if stage == "fieldmap":
        return f"{1e3 * (given['total_field'] - true('total_field'))[given['mask']].abs().median():.2f}"
    if stage == "relaxometry":
        return f"{(given['r2star'] - true('r2star'))[mask].abs().median():.2f}"
    name = {"background": "local_field", "inversion": "chi", "singlestep": "chi"}.get(stage)
    if name is None:
        return ""
    valid = given.get("mask", mask) & mask
    inner = erode(mask, 5) & valid
    parts = [nrmse(given[name], true(name), region) for region in (valid, inner) if region.any()]
    return " / ".join(f"{part:.1f}" for part in parts)


def _line(name: str, row: Mapping[str, Any], peer: float | None) -> str:
    """Lay out a method."""
    if "failure" in row:
        return f"| {name} | {str(row['failure']).replace('|', '/')[:160]} {'| ' * (len(COLUMNS) - 2)}|"
    cells = [
        name, f"{row['seconds']:.3g}", f"{row['first']:.3g}", f"{row['pairs']:.0f}", str(row["iterations"] or "–"), f"{row['above']:.2f}",
        f"{row['peak']:.2f}", row["error"] or "–", f"{peer:g}" if peer else "–", f"{peer / row['seconds']:.1f}" if peer else "–",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _comparable(grid: Grid, options: argparse.Namespace) -> bool:
    """Whether QSM.rs was measured at this size, and on a processor."""
    return grid.shape == SHAPE and options.device == "cpu"


def _name(options: argparse.Namespace) -> str:
    """Name the result after what is not as usual, so that a part never takes the place of the whole."""
    parts: Sequence[str] = (
        "x".join(map(str, options.shape)) if tuple(options.shape) != SHAPE else "",
        options.device.replace(":", "") if options.device != "cpu" else "",
        "-".join(options.stages) if tuple(options.stages) != STAGES else "",
        "-".join(options.methods or ()),
    )
    return "-".join(["speed", *(part for part in parts if part)])


if __name__ == "__main__":
    main()
