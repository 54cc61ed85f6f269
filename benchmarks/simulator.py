"""The simulator: how fast, in how much memory, how true its fields are, and its tissue beside published values; results/simulator.md.

    python benchmarks/simulator.py [--volumes 8] [--subjects 8]

Fields are compared with `qsm-forward` where that is installed.  Every figure is made here; single runs unless said.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import time
from itertools import islice

import torch
from _machine import best_of, machine, save

from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.simulate.acquire import scan
from paradia.simulate.acquisition import Gre, SpinEcho
from paradia.simulate.batches import batches
from paradia.simulate.examples import Recipe
from paradia.simulate.fields import fields
from paradia.simulate.phantom import phantom
from paradia.simulate.subject import Subject, subject
from paradia.simulate.tissue import LABELS, TISSUES

WHOLE = Grid((192, 224, 192))
HALF = Grid((96, 112, 96), (2.0, 2.0, 2.0))
SCANNED = Grid((128, 150, 110), (1.5, 1.5, 1.6), (0.0, 0.17, 0.985))
COHORT = Grid((112, 134, 108), (1.6, 1.6, 1.6), (0.0, 0.17, 0.985))
CROPS = 32

ATLAS, GELMAN = "10.1002/nbm.5226", "10.1148/radiology.210.3.r99fe41759"
PUBLISHED = {
    "caudate": (47.7, -8.2, None),
    "putamen": (77.1, -10.3, None),
    "pallidum_external": (131.9, -12.6, 37.8),
    "pallidum_internal": (131.9, -12.6, 37.8),
    "thalamus": (22.9, -20.8, None),
    "subthalamic": (112.1, -15.3, None),
    "substantia_nigra": (115.7, -11.1, None),
    "red_nucleus": (112.0, -10.1, None),
    "white_matter": (16.8, -28.8, 21.9),
    "corpus_callosum": (14.8, -35.1, None),
    "internal_capsule": (8.2, -52.2, None),
    "optic_radiation": (12.9, -41.1, None),
    "grey_matter": (None, None, 17.8),
}
"""χ+ and χ− of an atlas of 106 people of 62 ± 16 years, ppb, and R2 + R2′ of six young ones at 3 T, 1/s."""

SEPNET = "10.1002/hbm.70136"
WHOLE_BRAIN = {
    "χ, ppb": (-1.3, 31.5),
    "χ+, ppb": (25.9, 35.3),
    "χ− (magnitude), ppb": (26.7, 27.9),
    "local field, ppb": (-2.6, 10.8),
    "R2*, 1/s": (18.1, 8.6),
    "R2′, 1/s": (5.9, 8.0),
    "R2, 1/s": (12.7, 3.9),
}
"""Their rates are told over Dr = 114 1/s per ppm, which is multiplied in here."""


def speed(volumes: int) -> list[str]:
    """Crops of 64³ a second, with whatever else the machine does."""
    lines = [
        "## Training batches",
        "",
        f"Crops of 64³ from `simulate.batches`, {CROPS} crops a volume, the coarse start included; over {volumes} "
        "volumes, after a first that loads the bank. Processor seconds count this process alone, on all its threads: what a machine would "
        "take that does nothing else, less what others take of its caches; least and median over volumes.",
        "",
        "| threads | crops a second | processor s a volume, least | median | crops a processor second, most | median |",
        "|---|---|---|---|---|---|",
    ]
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        stream = batches(Recipe(), crop=64, batch=4, crops=CROPS, seed=100)
        list(islice(stream, CROPS // 4))
        start, spent = time.perf_counter(), []
        for _ in range(volumes):
            busy = time.process_time()
            list(islice(stream, CROPS // 4))
            spent.append(time.process_time() - busy)
        rate, least, median = volumes * CROPS / (time.perf_counter() - start), min(spent), statistics.median(spent)
        lines.append(f"| {threads} | {rate:.1f} | {least:.2f} | {median:.2f} | {CROPS / least:.1f} | {CROPS / median:.1f} |")
    torch.set_num_threads(before)
    return [*lines, ""]


TASK = """
import sys, time
sys.path.insert(0, {folder!r})
from _machine import peak_gb
import torch
torch.set_num_threads({threads})
from paradia.grid import Grid
from paradia.simulate.subject import subject
subject(0, grid=Grid((24, 28, 24), (8.0, 8.0, 8.0)))
start, busy = time.perf_counter(), time.process_time()
subject(1, grid={grid!r}, oversample={factor})
print(time.perf_counter() - start, time.process_time() - busy, peak_gb())
"""


def subjects() -> list[str]:
    """Time and peak memory of a subject, each in a process of its own."""
    lines = [
        "## A subject",
        "",
        "| grid | oversample | threads | s | processor s | peak memory of the process, GB |",
        "|---|---|---|---|---|---|",
    ]
    for grid, factor in ((WHOLE, 1), (HALF, 2)):
        for threads in (1, 2):
            code = TASK.format(folder=sys.path[0], threads=threads, grid=grid, factor=factor)
            result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            seconds, busy, peak = map(float, result.stdout.split())
            size = " × ".join(map(str, grid.shape))
            lines.append(f"| {size}, {grid.voxel_size[0]:g} mm | {factor} | {threads} | {seconds:.1f} | {busy:.1f} | {peak:.2f} |")
    return [*lines, ""]


def scans() -> list[str]:
    """Time of scans of one subject."""
    person = subject(2, grid=SCANNED)
    size = " × ".join(map(str, SCANNED.shape))
    lines = ["## A scan", "", f"Of {size} voxels, best of two.", "", "| scan | s |", "|---|---|"]
    echoes = Gre(echo_times=(0.004, 0.012, 0.020, 0.028))
    for name, sequence in (("gradient echoes, 4", echoes), ("spin echoes, 10, EPG", SpinEcho())):
        lines.append(f"| {name} | {best_of(lambda s=sequence: scan(person, s), 2)[0]:.1f} |")
    return [*lines, ""]


def rms(image: torch.Tensor) -> float:
    """Root mean square."""
    return float(image.double().square().mean().sqrt())


def curvature(field: torch.Tensor, inside: torch.Tensor) -> float:
    """Root mean square of the discrete Laplacian."""
    total = -6 * field
    for axis in range(3):
        for shift in (-1, 1):
            total = total + field.roll(shift, axis)
    return rms(total[inside])


def accuracy(person: Subject) -> list[str]:
    """Fields against closed forms, Laplace's equation and other forward models."""
    grid = Grid((96, 100, 104), (1.6, 1.6, 1.6), (0.3, 0.1, 0.95))
    axes = [(torch.arange(n) - (n - 1) / 2) * v for n, v in zip(grid.shape, grid.voxel_size, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    r = (x.square() + y.square() + z.square()).sqrt()
    ball, shell = r < 10, (r > 18) & (r < 60)
    found = fields(ball.float(), shell, grid, shim=False)
    along = (grid.b0_dir[0] * x + grid.b0_dir[1] * y + grid.b0_dir[2] * z) / r.clamp(min=0.1)
    exact = float(ball.sum()) * grid.voxel_volume / (4 * math.pi * r.clamp(min=1) ** 3) * (3 * along.square() - 1)
    sphere = rms((found.background - exact)[shell]) / rms(exact[shell])
    bottle = phantom(Grid((112, 110, 108), (1.6, 1.6, 1.6), (0.3, 0.1, 0.95)))
    smooth = torch.nn.functional.max_pool3d(bottle.chi.abs()[None], 5, 1, 2)[0] == 0
    clear = bottle.mask & smooth
    theirs = Dipole(bottle.grid, padding=2)(bottle.chi)
    difference = (theirs - bottle.total_field)[clear]
    spheres = rms(difference - difference.mean()) / float(bottle.total_field[clear].std())
    across = Grid((72, 75, 90), (1.0, 1.0, 1.0), (1.0, 0.0, 0.0))
    a, b = (torch.meshgrid(*[torch.arange(n) - (n - 1) / 2 for n in across.shape], indexing="ij")[k] for k in (0, 1))
    r2 = a.square() + b.square()
    tube = (r2 > 8**2) & (r2 < 16**2)
    middle = torch.zeros_like(tube)
    middle[:, :, 41:49] = True
    rod = (r2 < 5**2).float()
    line = float(rod[:, :, 0].sum()) / (2 * math.pi * r2.clamp(min=1)) * (a.square() - b.square()) / r2.clamp(min=1)
    got = fields(rod, tube, across, shim=False).background
    cylinder = rms((got - line)[tube & middle]) / rms(line[tube & middle])
    deep = -torch.nn.functional.max_pool3d(-person.mask.float()[None], 5, 1, 2)[0] > 0.5
    background = person.total_field - person.local_field
    harmonic = curvature(background, deep) / curvature(person.local_field, deep)
    rows = [
        ("a sphere beside the mask, against its closed form, RMS", sphere),
        ("a cylinder that leaves the field of view (5 voxels in radius), against its closed form, RMS", cylinder),
        ("five spheres and three cylinders in a bottle, by the dipole on voxels, 3 mm off their edges, against closed forms, RMS", spheres),
        ("Laplacian of a head's background field over that of its local field, two voxels within the brain", harmonic),
    ]
    try:
        from qsm_forward import generate_field
    except ImportError:
        rows.append(("`qsm-forward`", float("nan")))
    else:
        chi, ours = person.chi * person.mask, person.local_field
        # the other package convolves on the circle: room about the head keeps its images apart
        wide = torch.nn.functional.pad(chi, [w for n in reversed(chi.shape) for w in (n // 2, n // 2)])
        box = tuple(slice(n // 2, n // 2 + n) for n in chi.shape)
        other = torch.as_tensor(generate_field(wide.numpy(), voxel_size=list(person.grid.voxel_size), B0_dir=list(person.grid.b0_dir)))
        apart = (ours - other[box].float())[person.mask]
        rows.append(("local field of a head, against `qsm-forward`, RMS", rms(apart - apart.mean()) / float(ours[person.mask].std())))
    lines = ["## Fields", "", "| what | % |", "|---|---|"]
    lines += [f"| {name} | {'not installed' if math.isnan(value) else f'{100 * value:.2f}'} |" for name, value in rows]
    return [*lines, "", "The bottle's figure is what voxels of 1.6 mm cost; the others hold the whole chain of `fields`.", ""]


def regions(people: list[Subject]) -> list[str]:
    """Region means over people beside the table and beside published values."""
    ages = sorted(person.age for person in people)
    lines = [
        f"## {len(people)} subjects beside the table and published values",
        "",
        f"Means over regions of heads at 1.6 mm and 3 T, {ages[0]:.0f} to {ages[-1]:.0f} years; mean ± SD over subjects. Table: what the "
        "simulator draws around at 40 years, after doi:10.1002/mrm.28716 and its two-source extension (`simulate/_table.py`). "
        f"Atlas: doi:{ATLAS}, 106 people of 62 ± 16 years. R2*: R2 + R2′ of six people of 19 to 42 years, doi:{GELMAN} (pallidum, frontal "
        "white matter, prefrontal cortex). Empty: none at hand.",
        "",
        "| region | χ+, ppb | table | atlas | χ−, ppb | table | atlas | χ, ppb | R2*, 1/s | published |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (pos, neg, rate) in PUBLISHED.items():
        tissue = TISSUES[LABELS[name]]
        values = [
            torch.stack([image[region].mean() for image in (1e3 * p.chi_pos, 1e3 * p.chi_neg, 1e3 * p.chi, p.r2star)])
            for p in people
            if int((region := p.region(name)).sum()) > 10
        ]
        mean, spread = torch.stack(values).mean(0).tolist(), torch.stack(values).std(0).tolist()
        cell = [f"{m:.1f} ± {s:.1f}" for m, s in zip(mean, spread, strict=True)]
        cell[1] = f"−{cell[1]}"
        atlas = ["" if v is None else f"{v:.1f}".replace("-", "−") for v in (pos, neg, rate)]
        table = (f"{1e3 * tissue.chi_pos:.1f}", f"−{1e3 * tissue.chi_neg:.1f}")
        lines.append(
            f"| {name.replace('_', ' ')} | {cell[0]} | {table[0]} | {atlas[0]} | {cell[1]} | {table[1]} | {atlas[1]} | "
            f"{cell[2].replace('-', '−')} | {cell[3]} | {atlas[2]} |"
        )
    lines += [
        "",
        f"Over the whole brain, beside the in-vivo maps that a network was trained on (χ-sepnet, doi:{SEPNET}, means and deviations over "
        "all voxels as its release states them; 3 T):",
        "",
        "| map | simulated, mean ± SD over voxels | published |",
        "|---|---|---|",
    ]
    for name, (mean, spread) in WHOLE_BRAIN.items():
        values = torch.cat([_map(p, name)[p.mask] for p in people])
        cells = [f"{m:.1f} ± {s:.1f}".replace("-", "−") for m, s in ((float(values.mean()), float(values.std())), (mean, spread))]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return [*lines, ""]


def _map(person: Subject, name: str) -> torch.Tensor:
    """Return a map in the units of the table."""
    image = {"χ+, ppb": person.chi_pos, "χ− (magnitude), ppb": person.chi_neg, "local field, ppb": person.local_field, "χ, ppb": person.chi}
    return 1e3 * image[name] if name in image else {"R2*, 1/s": person.r2star, "R2′, 1/s": person.r2prime, "R2, 1/s": person.r2}[name]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=12)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--beside", default="", help="what else the machine was doing, in words")
    given = parser.parse_args()
    lines = ["# The simulator", "", "`python benchmarks/simulator.py`. " + machine()]
    lines += [f"Times were taken beside {given.beside}; they are upper bounds." if given.beside else "", ""]
    lines += speed(given.volumes) + subjects() + scans()
    people = [subject(seed, grid=COHORT) for seed in range(given.subjects)]
    lines += accuracy(people[0]) + regions(people)
    save("simulator", lines[:-1])


if __name__ == "__main__":
    main()
