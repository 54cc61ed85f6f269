"""From a trained network to weights that ship: calibrated, described, with a card that says what they can do."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paradia import __version__
from paradia.errors import InputError
from paradia.nets import store
from paradia.nets.familiar import learn, statistics, to_json
from paradia.nets.unet import UNet3d
from paradia.nets.windows import ask
from paradia.training.crops import VALIDATION
from paradia.training.loop import trained
from paradia.training.tasks import Task
from paradia.training.volumes import Prepared, read

COVERED = 0.6827
"""Share of the errors that a calibrated deviation holds, as one standard deviation of a normal error would."""

LARGEST = 12e6
"""Most bytes of a file of weights."""

SAMPLES = 100_000
"""Voxels of a volume that the calibration is read off."""

LICENCE = "Apache-2.0"


class Judged(NamedTuple):
    """How a network does on a validation volume."""

    name: str
    voxel_size: tuple[float, float, float]
    b0: float
    before: float
    """Root of the squared error of the start over that of the target, %."""
    after: float
    """The same of the network's answer."""
    ratios: Tensor
    """(output, voxel): |error| over the uncalibrated deviation at voxels of the mask."""


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
        They were trained for another task, there are too few volumes, or the file would be too large.
    """
    if not 0 < share <= 1:
        raise InputError(f"the share of the answers must be above 0 and at most 1, got {share:g}.")
    net = trained(task, average).to(device)
    net.temper(share)
    files = sorted(volumes.glob("*.safetensors"))
    held, seen = [f for f in files if int(f.stem) < VALIDATION], [f for f in files if int(f.stem) >= VALIDATION]
    if len(held) < 2 or not seen:
        raise InputError(f"{volumes} holds {len(held)} validation and {len(seen)} training volumes. Two and five are the least.")
    judged = [judge(task, net, read(file, device), number, file.stem) for number, file in enumerate(held)]
    calibration = _calibration(judged)
    covered = (_covered(judged[1::2], _calibration(judged[::2])) + _covered(judged[::2], _calibration(judged[1::2]))) / 2
    known, edges = _familiar(
        task, [seen[round(place)] for place in torch.linspace(0, len(seen) - 1, min(most, len(seen))).tolist()], device
    )
    header = net.about
    about = {name: header[name] for name in ("step", "plan") if name in header} | {
        "task": task.name,
        "version": version,
        "calibration": json.dumps(calibration),
        "familiar": known,
        "voxel_size": json.dumps([round(edge, 3) for edge in edges]),
    }
    content = store.pack(net, dict(task.architecture), **about)
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
        "steps": int(header.get("step", 0)),
        "share": share,
        "code": __version__,
        "command": command,
        "data": f"{len(seen)} simulated volumes, edges {edges[0]:.2f} to {edges[1]:.2f} mm; no scan of anybody",
        "validation": {
            "volumes": len(judged),
            "error_before": _mean([one.before for one in judged]),
            "error_after": _mean([one.after for one in judged]),
            "covered": round(covered, 1),
        },
    }
    weights = _filed(content, entry, task.name, folder or store.FOLDER)
    card = cards / f"{task.name}.md"
    cards.mkdir(parents=True, exist_ok=True)
    _put(card, _card(task, entry, judged, calibration, header, note).encode())
    return Released(weights, card, calibration, covered)


def _filed(content: bytes, entry: Mapping[str, Any], name: str, folder: Path) -> Path:
    """Write weights and their entry in the table beside them, whose other entries stay."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, table = folder / f"{name}.safetensors", folder / "weights.toml"
    _put(weights, content)
    known = tomllib.loads(table.read_text(encoding="utf-8")) if table.is_file() else {}
    _put(table, _toml(known | {name: entry}).encode())
    store.network.cache_clear()
    return weights


def judge(task: Task, net: UNet3d, volume: Prepared, number: int, name: str) -> Judged:
    """Measure a network on one volume.

    Parameters
    ----------
    task
        What it was trained for.
    net
        The network.
    volume
        A volume that it never saw.
    number
        Draws which start the lesson has.
    name
        Of the volume.
    """
    generator = torch.Generator().manual_seed(number)
    lesson = task.lesson(volume, generator)
    n = lesson.target.shape[0]
    answer = ask(net, lesson.channels)
    error = ((lesson.start + lesson.unit * answer[:n]) - lesson.target)[:, lesson.mask]
    deviation = (lesson.unit * answer[n:].clamp(-6, 3).exp())[:, lesson.mask]
    few = torch.randperm(error.shape[1], generator=generator)[:SAMPLES].to(error.device)
    size = lesson.target[:, lesson.mask].norm()
    before = (lesson.start - lesson.target)[:, lesson.mask].norm() / size
    return Judged(
        name,
        volume.window.grid.voxel_size,
        volume.b0,
        100 * float(before),
        100 * float(error.norm() / size),
        (error.abs() / deviation)[:, few].cpu(),
    )


def _familiar(task: Task, files: Sequence[Path], device: str) -> tuple[str, tuple[float, float]]:
    """Learn from what the network sees first of training volumes what is familiar, and between which edges, mm, their voxels are."""
    rows, edges = [], []
    for number, file in enumerate(files):
        volume = read(file, device)
        lesson = task.lesson(volume, torch.Generator().manual_seed(number))
        rows.append(statistics(lesson.channels, lesson.mask))
        edges += [*volume.window.grid.voxel_size]
    return to_json(learn(torch.stack(rows))), (min(edges), max(edges))


def _calibration(judged: Sequence[Judged]) -> tuple[float, ...]:
    """Return the factor for each output with which a deviation holds its share of the errors, all volumes counting alike."""
    least = min(one.ratios.shape[1] for one in judged)
    rows = torch.cat([one.ratios[:, :least] for one in judged], 1).sort(1).values
    place = COVERED * (rows.shape[1] - 1)
    return tuple(round(float(row[math.ceil(place)]), 4) for row in rows)


def _covered(judged: Sequence[Judged], calibration: Sequence[float]) -> float:
    """Return how many errors lie within a calibrated deviation, %."""
    factors = torch.tensor(calibration)[:, None]
    return 100 * float(torch.cat([(one.ratios < factors).float().flatten() for one in judged]).mean())


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 2)


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


def _card(
    task: Task, entry: Mapping[str, Any], judged: Sequence[Judged], calibration: Sequence[float], header: Mapping[str, str], note: str
) -> str:
    """Write the model card."""
    rows = [
        f"| {one.name} | {' × '.join(f'{edge:.2f}' for edge in one.voxel_size)} | {one.b0:g} | {one.before:.1f} | {one.after:.1f} |"
        for one in judged
    ]
    checks = entry["validation"]
    plan = ", ".join(f"{key} {value}" for key, value in json.loads(header.get("plan", "{}")).items())
    return "\n".join(
        [
            f"# {task.name}, version {entry['version']}",
            "",
            str(task.lesson.__doc__ or "").strip(),
            "",
            f"- File `{entry['file']}`, SHA-256 `{entry['sha256']}`, licence {entry['licence']}.",
            f"- {entry['parameters']:,} parameters, half precision; architecture {json.dumps(dict(task.architecture))}.",
            f"- Trained for {entry['steps']:,} steps on {entry['data']}, with Paradia {entry['code']}" + (f": {plan}." if plan else "."),
            *(
                [f"- Its answers are multiplied by {entry['share']:g}: bolder, they are worse on heads of another anatomy."]
                if entry["share"] < 1
                else []
            ),
            *([f"- Command: `{entry['command']}`"] if entry["command"] else []),
            f"- Factors on the deviations: {', '.join(f'{factor:.3f}' for factor in calibration)}. Read off half of the validation "
            f"volumes, they hold {checks['covered']} % of the errors of the other half within one deviation; 68 % were meant.",
            "- It is for research: its answer on a volume unlike the training is flagged, not right.",
            *(["", note.strip()] if note.strip() else []),
            "",
            "## Validation",
            "",
            f"Simulated volumes that were never trained on. Error in the mask, root sum of squares over that of the target: before the "
            f"network {checks['error_before']} %, after {checks['error_after']} %, the mean over {checks['volumes']} volumes.",
            "",
            "| volume | voxels, mm | B0, T | before, % | after, % |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
