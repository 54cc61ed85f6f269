"""One pass or two: simulated heads, each as it is and with calcifications and bleedings near the edge of the brain.

    python benchmarks/two_pass.py [--seeds 0 1] [--backgrounds joint vsharp] [--inversions tv tkd]

χ from raw phase, by the default protocol with the background removal and inversion named, in one pass and in two. Errors are
NRMSE % over the brain without the added sources (calm), within 10 mm of one (near), and over everything.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import torch
from _machine import machine, save
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from paradia.grid import Grid
from paradia.metrics.accuracy import nrmse
from paradia.operators.dipole import Dipole
from paradia.pipeline.execute import execute
from paradia.pipeline.protocol import Protocol
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.head import Head, head

GRID = Grid((96, 112, 80), (2.0, 2.0, 2.0), (0.0, 0.17, 0.985))
ECHO_TIMES = (0.004, 0.012, 0.020, 0.028)
COUNT, STRONG, NEAR = 8, 0.05, 10.0


def sources(mask: Tensor, seed: int, strength: float) -> Tensor:
    """Draw balls of 2 to 5 mm radius, 3 to 12 mm under the edge, every second diamagnetic; ppm."""
    draw = torch.Generator().manual_seed(seed)
    depth = torch.from_numpy(distance_transform_edt(mask.numpy(), sampling=GRID.voxel_size))
    places = ((depth > 3) & (depth < 12)).nonzero()
    axes = (torch.arange(n) * d for n, d in zip(GRID.shape, GRID.voxel_size, strict=True))
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    chi = torch.zeros(GRID.shape)
    for number in range(COUNT):
        centre = places[int(torch.randint(len(places), (1,), generator=draw))] * torch.tensor(GRID.voxel_size)
        size, share = 2 + 3 * float(torch.rand(1, generator=draw)), 0.5 + 0.5 * float(torch.rand(1, generator=draw))
        ball = ((size - (points - centre).norm(dim=-1)) / GRID.voxel_size[0] + 0.5).clamp(0, 1)
        chi += strength * share * (-1.0 if number % 2 else 0.6) * ball
    return chi * mask


def with_sources(truth: Head, chi: Tensor) -> Head:
    """Put sources into a head: calcifications give no signal, bleedings let it decay."""
    field = Dipole(GRID, padding=2)(chi)
    return truth._replace(
        chi=truth.chi + chi,
        local_field=truth.local_field + field * truth.mask,
        total_field=truth.total_field + field,
        magnitude0=truth.magnitude0 * (1 - 0.9 * (chi < -0.1)),
        r2star=truth.r2star + 300 * chi.clamp_min(0),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.0, 1.0, 3.0], help="ppm; 0 adds nothing")
    parser.add_argument("--backgrounds", nargs="+", default=["joint", "vsharp"])
    parser.add_argument("--inversions", nargs="+", default=["tv", "tkd"])
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    lines = ["# One pass or two", "", machine(), "", *(__doc__ or "").strip().split("\n\n")[2:], ""]
    lines += [
        "| head, T | sources, ppm | method | left out, % | calm: one | two | near: one | two | everything: one | two |",
        "|---" * 10 + "|",
    ]
    for seed in given.seeds:
        b0 = 7.0 if seed % 2 else 3.0
        scan, plain = Scan(ECHO_TIMES, b0), head(GRID, seed=seed, b0=b0)
        for strength in given.strengths:
            added = sources(plain.mask, seed, strength)
            truth = with_sources(plain, added)
            echoes = gre(truth, scan, snr=100.0, seed=seed)
            board = {"magnitude": echoes.abs(), "phase": echoes.angle(), "grid": GRID, "scan": scan}
            begun = execute(Protocol.load("consensus").without(["background", "inversion", "reference", "relaxometry"]), board)
            fitted = {**board, **begun.maps}
            if "local_mask" in begun.maps:
                fitted["mask"] = fitted.pop("local_mask")
            for background in given.backgrounds:
                for inversion in given.inversions:
                    lines.append(row(truth, added, fitted, f"{seed}, {b0:g}", f"{background}+{inversion}"))
                    print(lines[-1], file=sys.stderr, flush=True)
    save("two-pass", lines)


def row(truth: Head, added: Tensor, board: dict, label: str, pair: str) -> str:
    """Invert in one pass and in two, and compare."""
    background, inversion = pair.split("+")
    protocol = Protocol.load("consensus").turned([f"background.method={background}", f"inversion.method={inversion}"])
    protocol = protocol.without([step.stage for step in protocol.steps if step.stage not in ("background", "inversion", "reference")])
    strong = added.abs() > STRONG
    close = torch.from_numpy(distance_transform_edt(~strong.numpy(), sampling=GRID.voxel_size)) < NEAR if strong.any() else strong
    cells, left_out = [], ""
    for two_pass in (False, True):
        outcome = execute(replace(protocol, two_pass=two_pass), board)
        mask = outcome.maps["local_mask"] & truth.mask
        regions = (mask & ~strong, mask & close & ~strong, mask)
        cells.append([f"{nrmse(outcome.maps['chi'], truth.chi, r):.1f}" if r.any() else "–" for r in regions])
        left_out = next((m.partition(", ")[2].partition(" %")[0] for m in outcome.messages if m.startswith("Two passes")), left_out)
    values = " | ".join(f"{one} | {two}" for one, two in zip(*cells, strict=True))
    return f"| {label} | {added.abs().max():.1f} | {pair} | {left_out} | {values} |"


if __name__ == "__main__":
    main()
