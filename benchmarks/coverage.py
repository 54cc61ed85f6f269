"""How far the deviations of the learned methods hold on validation volumes, and what would mend them.

    paradia train volumes volumes --count 20 --first 0
    python benchmarks/coverage.py volumes

Each method is run whole, as users run it: what its network doubts is only where it begins, and the field has settled much of that.
The factor is what a map's deviations would have to be multiplied by for 68 % of the errors of all volumes together to lie within.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch
from _machine import machine, save
from torch import Tensor

from paradia.background.bgnet import bgnet
from paradia.inversion.varnet import varnet
from paradia.nets.unrolled import centred
from paradia.singlestep.nextqsm import nextqsm
from paradia.training.crops import VALIDATION
from paradia.training.judging import COVERED
from paradia.training.volumes import Prepared, read

SAMPLES = 100_000
"""Voxels of a volume that count, so that all volumes count alike."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", type=Path, help="folder of volumes that `paradia train volumes` wrote")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    files = [file for file in sorted(options.volumes.glob("*.safetensors")) if int(file.stem) < VALIDATION]
    if not files:
        parser.error(f"{options.volumes} holds no validation volumes: paradia train volumes {options.volumes} --count 20 --first 0")
    ratios: dict[str, list[Tensor]] = {}
    for file in files:
        for name, ratio in measured(read(file)):
            ratios.setdefault(name, []).append(ratio)
        print(file.stem, {name: f"{100 * _within(rows[-1]):.0f} %" for name, rows in ratios.items()}, file=sys.stderr, flush=True)
    lines = ["# How far deviations hold", "", machine(), "", f"{len(files)} validation volumes. {100 * COVERED:.0f} % are meant.", ""]
    lines += ["| map | within a deviation: mean / least / most of the volumes | factor |", "|---|---|---|"]
    for name, rows in ratios.items():
        shares = [100 * _within(row) for row in rows]
        factor = float(torch.cat(rows).quantile(COVERED))
        lines.append(f"| {name} | {fmean(shares):.0f} / {min(shares):.0f} / {max(shares):.0f} % | {factor:.2f} |")
    save("coverage", lines)


def measured(volume: Prepared) -> Iterator[tuple[str, Tensor]]:
    """Yield for each map its name and the size of its errors in deviations."""
    maps, mask, grid = volume.maps, volume.window.mask, volume.window.grid
    chi = centred(maps["chi_pos"] - maps["chi_neg"], mask)
    generator = torch.Generator().manual_seed(1)
    some = mask.nonzero()[torch.randperm(int(mask.sum()), generator=generator)[:SAMPLES]].unbind(1)

    def ratio(found: Tensor, truth: Tensor, deviation: Tensor) -> Tensor:
        return ((found - truth).abs() / deviation.clamp_min(1e-9))[some]

    inverted = varnet(maps["field"], mask, grid, maps["noise"])
    yield "χ of varnet", ratio(inverted.chi, chi, inverted.chi_noise)
    cleared = bgnet(maps["total_field"], mask, grid, maps["noise"])
    yield "local field of bgnet", ratio(cleared.local_field, maps["local_field"], cleared.local_noise)
    both = nextqsm(maps["total_field"], mask, grid, maps["noise"])
    yield "χ of nextqsm", ratio(both.chi, chi, both.chi_noise)
    yield "local field of nextqsm", ratio(both.local_field, maps["local_field"], both.local_noise)


def _within(ratio: Tensor) -> float:
    return float((ratio < 1).float().mean())


if __name__ == "__main__":
    main()
