"""What each part of the learned methods is worth: small networks, alike but for one thing, trained alike.

    python benchmarks/ablation.py [--volumes FOLDER] [--steps 1200] [--parts inversion separation]

Every variant is a U-Net of the same widths (half of those of the released networks), sees the same volumes in the same order for the
same number of steps, and is judged on the validation volumes, those numbered below 1000. Without a folder of `paradia train volumes` it
simulates some first. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from _machine import machine, save
from torch import Tensor

from paradia.inversion.cosmos import cosmos
from paradia.nets import separated, settled, unrolled
from paradia.nets.features import FIELD, gain, inversion_channels, spread, squash
from paradia.nets.separated import TRUST, Pair, Separable
from paradia.nets.settled import LEFT, settle
from paradia.nets.store import unpack
from paradia.nets.unet import UNet3d
from paradia.nets.unrolled import FLOOR, Estimate, Problem
from paradia.nets.windows import ask
from paradia.operators.dipole import Dipole
from paradia.scan import Scan
from paradia.separation.closed_form import closed_form
from paradia.simulate.examples import Recipe
from paradia.simulate.imperfect import residual_background
from paradia.training.crops import VALIDATION
from paradia.training.loop import Plan, train
from paradia.training.tasks import Lesson, Task, wrong_rate
from paradia.training.volumes import Prepared, produce, read

WIDTHS = (16, 32, 64, 64)
PPM, RATE = 0.05, 10.0
"""Fixed units of the published layout: ppm and 1/s."""

STEPS = 25
"""Of a data step."""

ORIENTATIONS = 6
TURNS = (10.0, 40.0)
"""How far a head is turned from its first position for a COSMOS label, degrees."""


class Variant(NamedTuple):
    """One network."""

    name: str
    says: str
    task: Task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=Path, help="that `paradia train volumes` wrote")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="where the trainings are kept")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="ablation")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    volumes = options.volumes or simulated(options.runs / "volumes")
    held = [file for file in sorted(volumes.glob("*.safetensors")) if int(file.stem) < VALIDATION]
    said = " ".join((__doc__ or "").split("\n\n")[2].split())
    lines = ["# What each part of the learned methods is worth", "", machine(), "", said]
    lines += [f"{options.steps:,} steps of two crops of 64³; {len(held)} validation volumes; NRMSE % in the mask, mean over these."]
    for part in options.parts:
        variants, judge, heading = PARTS[part]
        lines += ["", *heading]
        for variant in variants:
            folder = options.runs / variant.name
            plan = Plan(steps=options.steps, every=options.steps, pool=16)
            weights = train(variant.task, volumes, folder, plan, tell=lambda line: print(line, file=sys.stderr, flush=True))
            net = unpack(weights.read_bytes())
            rows = torch.tensor([judge(variant, net, read(file)) for file in held])
            lines.append(f"| {variant.says} | {' | '.join(_cell(column) for column in rows.mean(0).tolist())} |")
            print(lines[-1], file=sys.stderr, flush=True)
    save(options.name, lines)


def simulated(folder: Path) -> Path:
    """Simulate a few volumes."""
    for first, count in ((0, 6), (VALIDATION, 60)):
        produce(folder, Recipe(voxel_size=(1.4, 2.2)), first=first, count=count)
    return folder


def _cell(values: float | Sequence[float]) -> str:
    return f"{values:.1f}" if isinstance(values, float) else " / ".join(f"{value:.1f}" for value in values)


def _error(found: Tensor, truth: Tensor, mask: Tensor) -> float:
    return 100 * float((found - truth)[mask].norm() / truth[mask].norm())


# From the local field to χ.


def _posed(volume: Prepared) -> tuple[Problem, Tensor, Tensor]:
    """Return the problem, the classical start and the truth."""
    maps, mask = volume.maps, volume.window.mask
    held, chi = unrolled.problem(maps["field"], maps["chi_local"], mask, maps["noise"], volume.window.grid)
    return held, chi, unrolled.centred(maps["chi_pos"] - maps["chi_neg"], mask)


def _field_alone(volume: Prepared, generator: torch.Generator) -> Lesson:  # noqa: ARG001 - lessons are called alike
    """The local field, nothing else."""
    held, _, truth = _posed(volume)
    unit = FIELD * spread(held.field, held.mask)
    channels = torch.stack([squash(FIELD * held.field / unit), held.mask.float()])
    return Lesson(channels, torch.zeros_like(truth)[None], truth[None], unit.expand(truth.shape)[None], held.mask)


def _with_start(channels: Callable[[Problem, Tensor], Tensor]) -> Callable[[Prepared, torch.Generator], Lesson]:
    def lesson(volume: Prepared, generator: torch.Generator) -> Lesson:  # noqa: ARG001
        """A classical start to mend."""
        held, chi, truth = _posed(volume)
        return Lesson(channels(held, chi), chi[None], truth[None], (held.scale * gain(chi / held.scale))[None], held.mask)

    return lesson


def _seen(held: Problem, chi: Tensor) -> Tensor:
    return inversion_channels(held.field, chi, held.mask, held.noise, held.dipole, held.scale)


def _inverted(variant: Variant, net: UNet3d, volume: Prepared) -> list[float]:
    """Return the error of the network's answer, after data steps that solve, and after one that descends."""
    held, _, truth = _posed(volume)
    value, deviation, _ = _answer(variant, net, volume)
    estimate = Estimate(unrolled.centred(value[0], held.mask), deviation[0])
    answers = estimate.value, _solved(estimate, held, 0.0), _solved(estimate, held, LEFT), _descended(estimate, held)
    return [_error(answer, truth, held.mask) for answer in answers]


def _solved(estimate: Estimate, held: Problem, around: float) -> Tensor:
    wrong = torch.hypot(held.noise, torch.as_tensor(FLOOR).to(held.noise))
    nothing = torch.zeros_like(estimate.value)
    return settle(estimate, nothing, held.field, wrong, held.mask, held.dipole, around=around, trust=settled.TRUST, iterations=STEPS).chi


def _descended(estimate: Estimate, held: Problem) -> Tensor:
    """Go down the gradient of the field's misfit alone, as published variational networks do, each step as long as is best."""
    weight = torch.where(held.mask, 1 / (held.noise.square() + FLOOR**2), 0.0)
    chi = estimate.value
    for _ in range(STEPS):
        down = held.dipole(weight * (held.field - held.dipole(chi))) * held.mask
        seen = held.dipole(down)
        chi = chi + down * (down.square().sum() / (weight * seen.square()).sum().clamp_min(1e-12))
    return unrolled.centred(chi, held.mask)


def _answer(variant: Variant, net: UNet3d, volume: Prepared) -> tuple[Tensor, Tensor, Lesson]:
    lesson = variant.task.lesson(volume, torch.Generator().manual_seed(1))
    answer, n = ask(net, lesson.channels), len(lesson.target)
    deviation = lesson.unit * answer[n:].clamp(-6, 3).exp() * lesson.mask
    return (lesson.start + lesson.unit * answer[:n]) * lesson.mask, deviation, lesson


def _task(name: str, inputs: int, outputs: int, lesson: Callable) -> Task:
    return Task(name, {"inputs": inputs, "outputs": outputs, "widths": WIDTHS}, lesson)


INVERSION = (
    Variant("field-alone", "the field alone, as most published networks", _task("field-alone", 2, 2, _field_alone)),
    Variant(
        "start-and-field",
        "a classical start (`l1bayes`) and the field",
        _task("start-and-field", 2, 2, _with_start(lambda held, chi: _seen(held, chi)[[0, 2]])),
    ),
    Variant(
        "six-channels",
        "and the field divided by the dipole, what the start leaves of it, that divided too, and the noise: `varnet`",
        _task("six-channels", 6, 2, _with_start(_seen)),
    ),
)


# From field, χ and R2′ to both sources.


def _known(volume: Prepared, generator: torch.Generator) -> Separable:
    maps, mask, grid = volume.maps, volume.window.mask, volume.window.grid
    off = torch.exp(0.1 * torch.randn(2, generator=generator)).tolist()
    rate = (maps["r2prime"] + wrong_rate(volume, maps["r2"], generator) * mask).clamp_min(0)
    dr = volume.dr_pos * off[0], volume.dr_neg * off[1]
    images = maps["field"], maps["chi_local"], rate, maps["r2prime_noise"], maps["noise"]
    return separated.separable(*images, mask, Dipole(grid).to(rate), dr, volume.b0)


def _both(volume: Prepared) -> Tensor:
    return torch.stack([volume.maps["chi_pos"], volume.maps["chi_neg"]])


def _published(volume: Prepared, generator: torch.Generator) -> Lesson:
    """Local field, χ and R2′ in fixed units, both sources out: the published layout."""
    known, truth = _known(volume, generator), _both(volume)
    channels = torch.stack([FIELD * known.field / PPM, known.chi / PPM, known.rate / RATE]) * known.mask
    return Lesson(channels, torch.zeros_like(truth), truth, torch.full_like(truth, PPM), known.mask)


def _from_guess(
    rows: Sequence[int], label: Callable[[Prepared, Tensor, torch.Generator], Tensor]
) -> Callable[[Prepared, torch.Generator], Lesson]:
    def lesson(volume: Prepared, generator: torch.Generator) -> Lesson:
        """The closed form to mend."""
        known = _known(volume, generator)
        pair = separated.guess(known)
        unit = known.scale * gain(pair / known.scale)
        seen = separated.separation_channels(pair, known)[list(rows)]
        return Lesson(seen, pair, label(volume, known.mask, generator), unit, known.mask)

    return lesson


def _truth(volume: Prepared, mask: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    return _both(volume)


def _cosmos(volume: Prepared, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Return what a study could have for a label: six orientations, their noise and leftover background, R2′ averaged over them."""
    maps, grid = volume.maps, volume.window.grid
    pos, neg = _both(volume)
    noise = maps["noise"]
    directions, fields = [], []
    for number in range(ORIENTATIONS):
        low, high = map(math.radians, TURNS)
        turn = low + (high - low) * float(torch.rand((), generator=generator)) if number else 0.0
        way = 2 * math.pi * float(torch.rand((), generator=generator))
        direction = (math.sin(turn) * math.cos(way), math.sin(turn) * math.sin(way), math.cos(turn))
        field = Dipole(replace(grid, b0_dir=direction)).to(pos)(pos - neg)
        field = field + residual_background(mask, grid, 1.0, generator) + noise * torch.randn(pos.shape, generator=generator)
        directions.append(direction)
        fields.append(field * mask)
    chi = cosmos(torch.stack(fields), mask, grid, torch.tensor(directions))
    chi = unrolled.centred(chi, mask) + (pos - neg)[mask].mean() * mask
    rate = volume.dr_pos * pos + volume.dr_neg * neg
    rate = rate + maps["r2prime_noise"] / math.sqrt(ORIENTATIONS) * torch.randn(rate.shape, generator=generator)
    scan = Scan((0.01,), volume.b0)
    return torch.stack(closed_form(chi, rate.clamp_min(0), mask, grid, scan, dr_pos=volume.dr_pos, dr_neg=volume.dr_neg)[:2])


def _separated(variant: Variant, net: UNet3d, volume: Prepared) -> list[list[float]]:
    """Return the errors of the network's answer, after a step with the field, and after one with both equations."""
    value, deviation, _ = _answer(variant, net, volume)
    known, truth = _known(volume, torch.Generator().manual_seed(1)), _both(volume)
    pair = Pair(value.clamp_min(0), deviation)
    blind = known._replace(rate_noise=torch.full_like(known.rate_noise, 1e6))  # says nothing of the rate
    answers = [pair.value, separated.consult(pair, blind, TRUST), separated.consult(pair, known, TRUST)]
    return [[_error(a, t, known.mask) for a, t in zip(answer, truth, strict=True)] for answer in answers]


ALL = tuple(range(10))
SEPARATION = (
    Variant("published", "field, χ and R2′ in fixed units (the published layout)", _task("published", 3, 4, _published)),
    Variant(
        "from-guess",
        "the closed form to begin with, and what it leaves of both equations",
        _task("from-guess", 7, 4, _from_guess(ALL[:7], _truth)),
    ),
    Variant("conditioned", "and both noises, B0 and Dr: `sepnet`", _task("conditioned", 10, 4, _from_guess(ALL, _truth))),
    Variant("cosmos-labels", "the same, trained on COSMOS labels", _task("cosmos-labels", 10, 4, _from_guess(ALL, _cosmos))),
)

PARTS = {
    "inversion": (
        INVERSION,
        _inverted,
        [
            "## From the local field to χ",
            "",
            "The start, `l1bayes` cut short, is what every network but the first mends. A data step solves for χ between the answer, "
            f"with its deviation, and the field ({STEPS} iterations of LSMR), without sources outside the mask or with them; a descent "
            "takes as many gradient steps on the misfit alone.",
            "",
            "| the network sees | network | and a data step | with sources outside | or a descent |",
            "|---|---|---|---|---|",
        ],
    ),
    "separation": (
        SEPARATION,
        _separated,
        [
            "## From field, χ and R2′ to χ+ / χ−",
            "",
            "| the network sees | network | and a step with the field | and one with both equations |",
            "|---|---|---|---|",
        ],
    ),
}


if __name__ == "__main__":
    main()
