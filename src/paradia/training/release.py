"""From a trained network to weights that ship: calibrated, described, with a card that says what they can do."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from paradia import __version__
from paradia.errors import InputError
from paradia.nets import store
from paradia.nets.familiar import learn, statistics, to_json
from paradia.training.card import card
from paradia.training.crops import VALIDATION
from paradia.training.judging import calibration, covered, judge
from paradia.training.loop import trained
from paradia.training.tasks import Task
from paradia.training.volumes import about, read

LARGEST = 12e6
"""Most bytes of a file of weights."""

LEAST = 2
"""Volumes to calibrate with: each half of them judges the other's deviations."""

LICENCE = "Apache-2.0"


class Released(NamedTuple):
    """What `release` wrote."""

    weights: Path
    card: Path
    calibration: tuple[float, ...]
    covered: float
    """Share of the errors within a deviation that was calibrated on the other half of the volumes, mean of both halves, %."""


def release(
    task: Task,
    average: Path,
    volumes: Path,
    *,
    version: str,
    cards: Path,
    folder: Path | None = None,
    most: int = 200,
    share: float = 1.0,
    after: Path | None = None,
    command: str = "",
    note: str = "",
    device: str = "cpu",
) -> Released:
    """Calibrate a trained network on volumes it never saw, and write its weights and its card.

    An entry with their hash goes into ``weights.toml`` beside them; other entries stay.

    Parameters
    ----------
    task
        What it was trained for.
    average
        Its weights, as `loop.train` left them.
    volumes
        Folder of prepared volumes: those of seeds below 1000 judge, the others tell what is familiar.
    version
        Of the weights, like ``1`` or ``2``: a network trained again is a new version.
    cards
        Folder for the model card ``NAME.md``.
    folder
        Where the weights go; where methods look for them if absent.
    most
        Most training volumes that are looked at, spread over all there are.
    share
        What the network's answers are multiplied by: less than one where heads of another anatomy show it too bold.
    after
        Released weights that the training went on from: what they know to be familiar stays so, and their range of voxel sizes counts too.
    command
        What trained it, for the card.
    note
        More for the card.
    device
        CPU or CUDA.

    Returns
    -------
    Released
        The files and how well the deviations hold.

    Raises
    ------
    FileError
        There are no such weights.
    InputError
        They, or those before, were trained for another task, those before were never released, there are too few volumes, or the file
        would be too large.
    """
    if not 0 < share <= 1:
        raise InputError(f"the share of the answers must be above 0 and at most 1, got {share:g}.")
    before = None if after is None else _released(task, after)
    net = trained(task, average).to(device)
    net.temper(share)
    held, seen = _volumes(volumes)
    judged = [judge(task, net, read(file, device), number, file.stem) for number, file in enumerate(held)]
    factors = calibration(judged)
    halves = judged[::2], judged[1::2]
    told = sum(covered(one, calibration(other)) for one, other in (halves, halves[::-1])) / 2
    least, largest = _edges(seen)
    data = f"{len(seen)} simulated volumes, edges {least:.2f} to {largest:.2f} mm"
    if before is None:
        known = _familiar(task, [seen[round(n)] for n in torch.linspace(0, len(seen) - 1, min(most, len(seen))).tolist()], device)
    else:
        known, reach = before["familiar"], json.loads(before["voxel_size"])
        least, largest = min(least, reach[0]), max(largest, reach[1])
        data += f", after those of version {before['version']}"
    header = {
        **{name: net.about[name] for name in ("step", "plan") if name in net.about},
        "task": task.name,
        "version": version,
        "calibration": json.dumps(factors),
        "familiar": known,
        "voxel_size": json.dumps([round(edge, 3) for edge in (least, largest)]),
    }
    content = store.pack(net, dict(task.architecture), **header)
    if len(content) > LARGEST:
        raise InputError(
            f"the weights of {task.name} take {len(content) / 1e6:.1f} MB, and at most {LARGEST / 1e6:.0f} may ship. Narrow it."
        )
    entry = {
        "file": f"{task.name}.safetensors",
        "version": version,
        "sha256": hashlib.sha256(content).hexdigest(),
        "licence": LICENCE,
        "parameters": sum(p.numel() for p in net.parameters()),
        "steps": int(net.about.get("step", 0)),
        "share": share,
        "code": __version__,
        "command": command,
        "data": f"{data}; no scan of anybody",
        "validation": {
            "volumes": len(judged),
            "error_before": round(fmean(one.before for one in judged), 2),
            "error_after": round(fmean(one.after for one in judged), 2),
            "covered": round(told, 1),
        },
    }
    weights = _filed(content, entry, task.name, folder or store.FOLDER)
    cards.mkdir(parents=True, exist_ok=True)
    path = cards / f"{task.name}.md"
    _put(path, card(task, entry, judged, factors, net.about, note).encode())
    return Released(weights, path, factors, told)


def _volumes(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files that judge and those that were trained on."""
    files = sorted(folder.glob("*.safetensors"))
    held, seen = [f for f in files if int(f.stem) < VALIDATION], [f for f in files if int(f.stem) >= VALIDATION]
    if len(held) < LEAST or not seen:
        raise InputError(f"{folder} holds {len(held)} validation and {len(seen)} training volumes. Two and five are the least.")
    return held, seen


def _filed(content: bytes, entry: Mapping[str, Any], name: str, folder: Path) -> Path:
    """Write weights and their entry in the table beside them, whose other entries stay."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, table = folder / f"{name}.safetensors", folder / "weights.toml"
    _put(weights, content)
    known = tomllib.loads(table.read_text(encoding="utf-8")) if table.is_file() else {}
    _put(table, _toml(known | {name: entry}).encode())
    store.network.cache_clear()
    return weights


def _released(task: Task, path: Path) -> Mapping[str, str]:
    """Return what a file of weights tells of itself, which must have been released."""
    about = trained(task, path).about
    missing = [name for name in ("familiar", "voxel_size", "version") if name not in about]
    if missing:
        raise InputError(
            f"{path} does not tell {', '.join(missing)}: it was never released. Give weights that paradia train release wrote."
        )
    return about


def _familiar(task: Task, files: Sequence[Path], device: str) -> str:
    """Learn from what the network sees first of training volumes what is familiar."""
    rows = []
    for number, file in enumerate(files):
        lesson = task.lesson(read(file, device), torch.Generator().manual_seed(number))
        rows.append(statistics(lesson.channels, lesson.mask))
    return to_json(learn(torch.stack(rows)))


def _edges(files: Sequence[Path]) -> tuple[float, float]:
    """Return the smallest and the largest edge of the voxels of volumes, mm."""
    edges = [edge for file in files for edge in about(file)["voxel_size"]]
    return min(edges), max(edges)


def _put(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def _toml(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Write tables as TOML; JSON writes strings and numbers the same way."""
    lines = ["# Written by `paradia train release`: which weights there are, and their hashes."]
    for name, entry in sorted(entries.items()):
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items() if not isinstance(value, Mapping)]
        for key, inner in entry.items():
            if isinstance(inner, Mapping):
                lines += ["", f"[{name}.{key}]", *(f"{word} = {json.dumps(value)}" for word, value in inner.items())]
    return "\n".join(lines) + "\n"
