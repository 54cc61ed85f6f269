"""``paradia demo``: a simulated head, all the way from a BIDS data set to a report, held against the truth."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from paradia.cli.run import run
from paradia.errors import ParadiaError
from paradia.grid import Grid
from paradia.io.atomic import write_json
from paradia.io.derivatives import map_path
from paradia.io.nifti import read, write
from paradia.metrics.accuracy import nrmse, region_means, xsim
from paradia.operators.dipole import Dipole
from paradia.pipeline.protocol import DEFAULT
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.head import Head, head

VOXEL = (1.4, 1.4, 1.6)
SHAPE = (126, 150, 108)
TILT = 0.17
"""Angle between the slab and B0, rad: a scan as it is planned, along the line between the commissures."""

SCAN = Scan((0.004, 0.012, 0.020, 0.028), 3.0)

NAME = "sub-demo"


def demo(out: Path = Path("demo"), /, *, protocol: str = DEFAULT, seed: int = 0) -> int:
    """Simulate a small head, map it, and say how far the maps are from the truth.

    The head has air cavities beside the brain, folded cortex, iron-rich nuclei and veins; four echoes at 3 T with noise at a
    signal-to-noise ratio of 100 are written as a BIDS data set, which ``paradia run`` then works on.

    Parameters
    ----------
    out
        Folder for the data set and its maps.
    protocol
        A protocol that ships with Paradia, or a TOML file.
    seed
        Another number is another head.
    """
    start = time.perf_counter()
    console = Console(highlight=False)
    affine = _affine()
    truth = head(Grid.from_affine(SHAPE, affine), seed=seed, b0=SCAN.b0)
    bids, maps = out / "bids", out / "derivatives" / "paradia"
    _write_bids(bids, truth, affine, seed)
    console.print(f"A simulated head of {' × '.join(map(str, SHAPE))} voxels is in {bids} ({time.perf_counter() - start:.0f} s).")
    status = run(bids, maps, protocol=protocol)
    if status:
        raise ParadiaError(f"the run failed; see {maps / '.paradia' / 'run.log'}.")
    _compare(console, truth, maps)
    console.print(f"\nReport: {maps / f'{NAME}.html'}  ({time.perf_counter() - start:.0f} s in all)")
    return 0


def _affine() -> np.ndarray:
    """Tilt the slab about the left-right axis and put its middle at the origin."""
    cos, sin = np.cos(TILT), np.sin(TILT)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) * VOXEL
    affine[:3, 3] = -affine[:3, :3] @ (np.array(SHAPE) - 1) / 2
    return affine


def _write_bids(root: Path, truth: Head, affine: np.ndarray, seed: int) -> None:
    """Write the echoes as a scanner's converter would."""
    echoes = gre(truth, SCAN, snr=100.0, seed=seed)
    folder = root / NAME / "anat"
    write_json(root / "dataset_description.json", {"Name": "Simulated head", "BIDSVersion": "1.10.0", "DatasetType": "raw"})
    for number, (echo, time_s) in enumerate(zip(echoes, SCAN.echo_times, strict=True), 1):
        for part, image in (("mag", echo.abs()), ("phase", echo.angle())):
            stem = f"{NAME}_echo-{number}_part-{part}_MEGRE"
            sidecar = {"EchoTime": time_s, "EchoNumber": number, "MagneticFieldStrength": SCAN.b0}
            write_json(folder / f"{stem}.json", sidecar | ({"Units": "rad"} if part == "phase" else {}))
            write(folder / f"{stem}.nii.gz", image.numpy(), affine)


def _compare(console: Console, truth: Head, maps: Path) -> None:
    """Print how far the maps are from the truth, over all of the mask and region by region."""

    def found(name: str) -> torch.Tensor:
        return torch.from_numpy(read(map_path(maps, NAME, name)).data[0])

    chi, mask = found("chi"), found("local_mask") > 0
    inside = mask & truth.mask
    chi = chi - chi[inside].mean()
    # The mask holds fluid and sinuses around the brain as well: what counts as local is what it holds.
    local_field = Dipole(truth.grid, padding=2)(truth.chi * mask)
    true_chi = truth.chi - truth.chi[inside].mean()
    table = Table("figure", "value", title="Against the truth", title_justify="left")
    error = 1000 * (found("total_field") - truth.total_field)[mask].abs()
    table.add_row("total field, median error", f"{error.median():.2f} ppb")
    table.add_row("total field, voxels off by more than 20 ppb", f"{1e4 * (error > 20).float().mean():.1f} in 10,000")
    table.add_row("local field, NRMSE", f"{nrmse(found('local_field'), local_field, inside):.1f} %")
    table.add_row("χ, NRMSE", f"{nrmse(chi, true_chi, inside):.1f} %")
    table.add_row("χ, XSIM", f"{xsim(chi, true_chi, inside):.2f}")
    table.add_row("R2*, median error", f"{(found('r2star') - truth.r2star)[mask].abs().median():.1f} 1/s")
    table.add_row("brain mapped", f"{100 * inside.sum() / truth.mask.sum():.1f} %")
    console.print(table)
    regions = Table("region", "χ, ppb", "truth, ppb", title="Regions", title_justify="left")
    means, true_means = region_means(chi, truth.labels, inside), region_means(true_chi, truth.labels, inside)
    for label, mean in means.items():
        regions.add_row(truth.names[label].replace("_", " "), f"{1000 * mean:.0f}", f"{1000 * true_means[label]:.0f}")
    console.print(regions)
