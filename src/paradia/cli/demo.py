"""``paradia demo``: a simulated head, all the way from a BIDS data set to a report, held against the truth."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from scipy.ndimage import distance_transform_edt

import paradia
from paradia.cli.run import run
from paradia.errors import ParadiaError
from paradia.grid import Grid
from paradia.io.derivatives import map_path
from paradia.io.nifti import read
from paradia.io.simulated import TRUTH, Series, affine_of, begin, write_series, write_truth
from paradia.metrics.accuracy import nrmse, region_means, xsim
from paradia.operators.dipole import Dipole
from paradia.pipeline.protocol import DEFAULT
from paradia.simulate.acquire import scan
from paradia.simulate.acquisition import Gre
from paradia.simulate.subject import Subject, subject

TILT = 0.17
"""Angle between the slab and B0, rad: a scan as it is planned, along the line between the commissures."""

GRID = Grid((126, 150, 108), (1.5, 1.5, 1.7), (0.0, TILT, (1 - TILT**2) ** 0.5))
"""A whole head."""

SEQUENCE = Gre(echo_times=(0.004, 0.012, 0.020, 0.028), b0=3.0, snr=100.0)

NAME = "sub-demo"

BELOW = 5.0
"""Depth at which the marrow and the fluid that a mask may hold have little to say, mm."""

FEWEST = 20
"""Regions of fewer voxels are not told of."""


def demo(out: Path = Path("demo"), /, *, protocol: str = DEFAULT, seed: int = 0) -> int:
    """Simulate a head, map it, and say how far the maps are from the truth.

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
    bids, maps = out / "bids", out / "derivatives" / "paradia"
    truth = subject(seed, grid=GRID, b0=SEQUENCE.b0)
    acquired, affine = scan(truth, SEQUENCE, seed=seed), affine_of(GRID)
    begin(bids, "Simulated head", paradia.__version__)
    about = {"RepetitionTime": SEQUENCE.tr, "FlipAngle": SEQUENCE.flip}
    write_series(bids, NAME, Series("MEGRE", acquired.images, SEQUENCE.echo_times, SEQUENCE.b0, about), affine)
    write_truth(bids, NAME, truth, affine, {"made_by": "paradia demo", "seed": seed})
    console.print(
        f"A simulated head of {' × '.join(map(str, GRID.shape))} voxels ({truth.sex}, {truth.age:.0f} years) is in {bids}, "
        f"the truth about it in {bids / TRUTH} ({time.perf_counter() - start:.0f} s)."
    )
    status = run(bids, maps, protocol=protocol)
    if status:
        raise ParadiaError(f"the run failed; see {maps / '.paradia' / 'run.log'}.")
    _compare(console, truth, maps)
    console.print(f"\nReport: {maps / f'{NAME}.html'}  ({time.perf_counter() - start:.0f} s in all)", markup=False)
    return 0


def _compare(console: Console, truth: Subject, maps: Path) -> None:
    """Print how far the maps are from the truth, over all of the mask and region by region."""

    def found(name: str) -> torch.Tensor:
        return torch.from_numpy(read(map_path(maps, NAME, name)).data[0])

    chi, mask = found("chi"), found("local_mask") > 0
    inside = mask & truth.mask
    deep = torch.from_numpy(distance_transform_edt(inside.numpy(), truth.grid.voxel_size) > BELOW)
    chi = chi - chi[inside].mean()
    # The mask holds fluid and marrow around the brain as well: what counts as local is what it holds.
    local_field = Dipole(truth.grid, padding=2)(truth.chi * mask)
    true_chi = truth.chi - truth.chi[inside].mean()
    field_error = 1000 * (found("total_field") - truth.total_field).abs()
    rate_error = (found("r2star") - truth.r2star).abs()
    table = Table("figure", "brain", f"{BELOW:g} mm below its surface", title="Against the truth", title_justify="left")
    for name, figure in {
        "total field, median error": lambda where: f"{field_error[where].median():.2f} ppb",
        "voxels off by more than 20 ppb": lambda where: f"{1e4 * (field_error[where] > 20).float().mean():.1f} in 10,000",
        "local field, NRMSE": lambda where: f"{nrmse(found('local_field'), local_field, where):.1f} %",
        "χ, NRMSE": lambda where: f"{nrmse(chi, true_chi, where):.1f} %",
        "χ, XSIM": lambda where: f"{xsim(chi, true_chi, where):.2f}",
        "R2*, median error": lambda where: f"{rate_error[where].median():.1f} 1/s",
        "share of the brain": lambda where: f"{100 * where.sum() / truth.mask.sum():.1f} %",
    }.items():
        table.add_row(name, figure(inside), figure(deep))
    console.print(table)
    regions = Table("region", "χ, ppb", "truth, ppb", "off, ppb (RMS)", title="Regions", title_justify="left")
    labels = truth.labels.int()
    means, true_means = region_means(chi, labels, inside), region_means(true_chi, labels, inside)
    for label, mean in means.items():
        region = inside & (labels == label)
        if region.sum() < FEWEST:
            continue
        off = (chi - true_chi)[region].square().mean().sqrt()
        name = truth.names[label].replace("_", " ")
        regions.add_row(name, f"{1000 * mean:.0f}", f"{1000 * true_means[label]:.0f}", f"{1000 * off:.0f}")
    console.print(regions)
