"""Simulated volumes with what the classical chain makes of them, on disk, for every network to learn from.

The classical start takes longer than the simulation, and each network needs the same ones; so one process writes volumes as
long as training lasts, and all trainings read what is there.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from paradia.fft import Window
from paradia.grid import Grid
from paradia.nets.beginning import begin
from paradia.nets.settled import FEW, ITERATIONS, TRUST
from paradia.nets.store import network
from paradia.nets.total import invert
from paradia.simulate.examples import Example, Recipe, example
from paradia.singlestep.nextqsm import WEIGHTS
from paradia.sources.fit import QUICK, fit
from paradia.sources.inside import levelled
from paradia.sources.split import MARGIN

SMALL = (
    *("noise", "field", "local_field", "total_field", "leftover", "chi_pos", "chi_neg", "chi_local"),
    *("chi_joint", "local_joint", "rest_joint", "chi_settled", "field_settled"),
)
"""Maps in ppm: stored in half precision as parts per billion, where they fill its range."""


class Prepared(NamedTuple):
    """A volume in the window around its mask. All maps (x, y, z)."""

    window: Window
    maps: dict[str, Tensor]
    """Those of `Example`, ``chi_local`` (`nets.beginning` of the noisy local field), ``chi_joint``, ``local_joint`` and
    ``rest_joint`` (what `sources.fit` makes of the total field), ``chi_settled`` and ``field_settled`` (what `nextqsm` makes of it when it
    asks once, and hardly settles the answer: what its network is shown when it is asked again)."""
    b0: float
    dr_pos: float
    dr_neg: float


def prepare(found: Example, seed: int) -> Prepared:
    """Run the classical chain on an example.

    Parameters
    ----------
    found
        A simulated volume.
    seed
        Draws the noise of the local field.

    Returns
    -------
    Prepared
        With ``field``: the noisy local field with what a background removal leaves.
    """
    window = Window.around(found.mask, found.grid, MARGIN)
    names = [name for name, value in found._asdict().items() if isinstance(value, Tensor) and name != "mask"]
    maps = {name: window.take(getattr(found, name)) for name in names}
    generator = torch.Generator().manual_seed(seed)
    noise = maps["noise"]
    maps["field"] = (maps["local_field"] + maps["leftover"] + noise * torch.randn(noise.shape, generator=generator).to(noise)) * window.mask
    maps["chi_local"] = begin(maps["field"], window.mask, window.grid, noise)
    maps["total_field"] = levelled(maps["total_field"], window.mask)  # as the methods do
    fitted = fit(window, maps["total_field"], noise, QUICK)
    maps["chi_joint"], maps["local_joint"], maps["rest_joint"] = fitted.chi, fitted.local_field, fitted.rest
    background, inversion = (network(name, str(noise.device)) for name in WEIGHTS)
    few = ITERATIONS // FEW
    solved = invert(background, inversion, maps["total_field"], noise, fitted, window, stages=1, trust=TRUST, refine=few)
    maps["chi_settled"], maps["field_settled"] = solved.chi, solved.local_field + solved.rest
    return Prepared(window, maps, found.b0, found.dr_pos, found.dr_neg)


def write(path: Path, volume: Prepared) -> None:
    """Write a volume: half precision, cut to the mask's box, in parts per billion where in ppm before."""
    box = tuple(slice(0, side.stop - side.start) for side in volume.window.box)
    tensors = {"mask": volume.window.mask[box].contiguous()}
    for name, image in volume.maps.items():
        tensors[name] = (image[box] * _factor(name)).clamp(-6e4, 6e4).to(torch.float16).contiguous()
    grid = volume.window.grid
    facts = {"voxel_size": grid.voxel_size, "b0_dir": grid.b0_dir, "b0": volume.b0, "dr_pos": volume.dr_pos, "dr_neg": volume.dr_neg}
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"about": json.dumps(facts)})
    part.rename(path)


def read(path: Path, device: str = "cpu") -> Prepared:
    """Read what `write` wrote, onto a device."""
    facts = about(path)
    with safe_open(path, "pt", device=device) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    mask = tensors.pop("mask")
    window = Window.around(mask, Grid(tuple(mask.shape), tuple(facts["voxel_size"]), tuple(facts["b0_dir"])), MARGIN)
    maps = {name: window.take(image.float() / _factor(name)) for name, image in tensors.items()}
    return Prepared(window, maps, facts["b0"], facts["dr_pos"], facts["dr_neg"])


def about(path: Path) -> dict[str, Any]:
    """Return voxel size, direction of B0, field strength and relaxivities of a volume, without reading its maps."""
    with safe_open(path, "pt") as file:
        facts: dict[str, Any] = json.loads(file.metadata()["about"])
    return facts


def _factor(name: str) -> float:
    return 1e3 if name in SMALL else 1.0


def produce(folder: Path, recipe: Recipe, *, first: int, count: int) -> None:
    """Write volumes, one a seed, skipping those that are there.

    Parameters
    ----------
    folder
        Where to; made if need be.
    recipe
        What they are like.
    first
        First seed. Seeds below 1000 are never used for training: they are for validation.
    count
        How many.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        path = folder / f"{seed:07d}.safetensors"
        if not path.exists():
            begun = time.perf_counter()
            write(path, prepare(example(recipe, seed), seed))
            print(f"{path.stem}: {time.perf_counter() - begun:.1f} s", flush=True)  # noqa: T201
