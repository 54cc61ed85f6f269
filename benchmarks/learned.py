"""What the networks reach beside the classical methods: never-trained-on heads, physics, calibration.

    python benchmarks/learned.py [--heads coarse zubal-coarse subject-3t] [--parts errors physics grids calibration]

The drawn heads of `_heads.py` and the Zubal head were never trained on and are of another anatomy than the training's; the
subjects come from the simulator that also made the training volumes, with seeds, noise and voxels of their own; ``subject-fine``
is made twice as fine and averaged; the ``untouched`` ones are measured after all choices were made, never to make them. A cell
of errors holds NRMSE % over the brain / over the brain eroded by five voxels / XSIM; NRMSE leaves a constant out. The least of the
classical methods is bold where it is the best of all, the network where it is.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _heads import ECHO_TIMES, HEADS, NUCLEI, Judged, _noise, _simulated, judged
from _machine import machine, save
from accuracy import FED, Score, attempt, data
from torch import Tensor

from paradia.grid import Grid
from paradia.metrics._masks import erode
from paradia.metrics.accuracy import nrmse
from paradia.nets.store import cards
from paradia.operators.dipole import Dipole
from paradia.pipeline.step import Step
from paradia.simulate.subject import subject

FAR = 7_000_000
"""Seeds of the subjects: none of the training's comes near."""

FEWEST = 30
"""Voxels of a nucleus that counts."""

CLASSICAL = {
    "inversion": ("tv", "nltv", "medi", "hdqsm", "l1bayes"),
    "background": ("pdf", "vsharp", "joint"),
    "pairs": ("vsharp+tv", "joint+l1bayes"),
    "singlestep": ("tgv", "joint"),
}
LEARNED = {"inversion": ("varnet",), "background": ("bgnet", "nextqsm"), "pairs": ("bgnet+varnet",), "singlestep": ("nextqsm",)}
"""What is compared, by stage; `accuracy.py` measures all others."""


def _subject(seed: int, shape: tuple[int, int, int], voxel: tuple[float, float, float], *, b0: float, snr: float, **more: Any) -> Judged:
    """Make a head of the simulator that trained the networks, with a seed of its own."""
    grid = Grid(shape, voxel, more.pop("b0_dir", (0.0, 0.0, 1.0)))
    person = subject(FAR + seed, grid=grid, b0=b0, **more)
    mask = person.mask
    echoes = torch.stack([person.density * torch.exp(-t * person.r2star) for t in ECHO_TIMES])
    noise = _noise(echoes, mask, snr, b0)
    nuclei = {name: person.region(name) for name in NUCLEI}
    return Judged(f"subject-{seed}, {b0:g}t", grid, mask, person.chi, person.local_field, person.total_field, noise, echoes, nuclei)


SUBJECTS: dict[str, Callable[[], Judged]] = {
    "subject-3t": lambda: _subject(1, (120, 144, 120), (1.5, 1.5, 1.5), b0=3.0, snr=100.0),
    "subject-7t": lambda: _subject(2, (136, 168, 84), (1.3, 1.3, 2.2), b0=7.0, snr=60.0, b0_dir=(0.0, 0.34, 0.94)),
    "subject-lesions": lambda: _subject(
        3, (96, 112, 96), (1.9, 1.9, 1.9), b0=3.0, snr=80.0, lesions=("plaque", "rim_plaque", "microbleed", "haemorrhage", "calcification")
    ),
    "subject-fine": lambda: _subject(4, (96, 112, 96), (1.9, 1.9, 1.9), b0=3.0, snr=100.0, oversample=2),
    "untouched-fine": lambda: _subject(21, (176, 208, 160), (1.0, 1.0, 1.0), b0=3.0, snr=70.0, b0_dir=(0.1, 0.0, 0.995)),
    "untouched-slices": lambda: _subject(22, (200, 236, 70), (0.85, 0.85, 2.0), b0=3.0, snr=120.0, lesions=("microbleed", "plaque")),
}
USUAL = ("coarse", "thick", "zubal-coarse", "subject-7t", "subject-lesions", "subject-fine")

GRIDS: dict[str, Callable[[], Judged]] = {
    "1.5 mm, axial": lambda: _simulated("axial", (128, 144, 116), (1.5, 1.5, 1.5), seed=6),
    "1.5 mm, 30° oblique": lambda: _simulated("oblique", (128, 144, 116), (1.5, 1.5, 1.5), seed=6, b0_dir=(0.3, 0.4, 0.866)),
    "1.5 × 1.5 × 2.5 mm": lambda: _simulated("slices", (128, 144, 70), (1.5, 1.5, 2.5), seed=6),
    "2 mm": lambda: _simulated("two", (96, 108, 87), (2.0, 2.0, 2.0), seed=6),
    "1.7 mm, odd sizes": lambda: _simulated("odd", (113, 127, 101), (1.7, 1.7, 1.7), seed=6),
}
"""One head on several grids."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", choices=[*HEADS, *SUBJECTS], default=list(USUAL))
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="JSON file that holds what classical methods reach between runs")
    parser.add_argument("--name", help="of the result; learned where all of it is measured")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    heads = {name: SUBJECTS[name]() if name in SUBJECTS else judged(name) for name in options.heads}
    known = "; ".join(f"{name} version {card['version']}, {card['steps']:,} steps" for name, card in cards().items())
    lines = ["# Learned methods beside classical ones", "", machine(), f"Weights: {known or 'none'}.", "", *_described()]
    for part in options.parts:
        lines += ["", *(errors(heads, options.keep) if part == "errors" else PARTS[part](heads))]
    usual = options.heads == list(USUAL) and options.parts == list(PARTS)
    save(options.name or ("learned" if usual else "learned-part"), lines)


def _described() -> list[str]:
    text = (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].strip()
    return [" ".join(text.split())]


def errors(heads: dict[str, Judged], keep: Path | None = None) -> list[str]:
    """Compare every stage on every head."""
    lines = []
    kept: dict[str, list[float]] = json.loads(keep.read_text()) if keep and keep.exists() else {}
    for stage, names in CLASSICAL.items():
        lines += ["", f"## {FED[stage]}", "", f"| method | {' | '.join(heads)} | mean |", "|---" * (len(heads) + 2) + "|"]
        rows: dict[str, dict[str, Score | str]] = {}
        for method in (*names, *LEARNED[stage]):
            rows[method] = {}
            for name, case in heads.items():
                begun, key = time.perf_counter(), f"{name} {stage} {method}"
                found = Score(*kept[key]) if key in kept else attempt(stage, method, case, data(case, "cpu"))
                rows[method][name] = found
                if keep and isinstance(found, Score) and method not in LEARNED[stage]:
                    kept[key] = [*found]
                    keep.write_text(json.dumps(kept))
                print(f"{name}: {stage} {method}: {rows[method][name]}, {time.perf_counter() - begun:.1f} s", file=sys.stderr, flush=True)
        for method, cells in rows.items():
            shown = [_bold(str(cell), _is_least(rows, method, name)) for name, cell in cells.items()]
            scores = [cell for cell in cells.values() if isinstance(cell, Score)]
            mean = " / ".join(f"{sum(score[n] for score in scores) / len(scores):.1f}" for n in (0, 1)) if scores else "–"
            lines.append(f"| {method} | {' | '.join(shown)} | {mean} |")
        least = _least(rows, names)
        for method in LEARNED[stage]:
            told = {name: cell.whole for name, cell in rows[method].items() if isinstance(cell, Score)}
            ratios = ", ".join(f"{name} {value / least[name]:.2f}" for name, value in told.items())
            lines += ["", f"{method} over the best classical method of each head: {ratios}."]
    return lines


def _least(rows: dict[str, dict[str, Score | str]], names: tuple[str, ...]) -> dict[str, float]:
    heads = next(iter(rows.values()))
    return {h: min((c.whole for n in names if isinstance(c := rows[n][h], Score)), default=float("nan")) for h in heads}


def _is_least(rows: dict[str, dict[str, Score | str]], method: str, head: str) -> bool:
    cell = rows[method][head]
    return isinstance(cell, Score) and cell.whole == _least(rows, tuple(rows))[head]


def _bold(text: str, yes: bool) -> str:
    return f"**{text}**" if yes else text


def _ball(case: Judged, millimetres: float) -> Tensor:
    """Return a ball in the white matter beside the middle, its edge shared between voxels."""
    size = torch.tensor(case.grid.voxel_size)
    places = case.mask.nonzero() * size
    centre = places.mean(0) + torch.tensor([22.0, 5.0, 18.0])
    axes = torch.meshgrid(*[torch.arange(n) * d for n, d in zip(case.grid.shape, case.grid.voxel_size, strict=True)], indexing="ij")
    away = torch.stack(axes, -1) - centre
    return ((millimetres - away.norm(dim=-1)) / float(size.mean()) + 0.5).clamp(0, 1) * case.mask


def physics(heads: dict[str, Judged]) -> list[str]:
    """Scale the field, take it away, and add strong sources."""
    case = heads.get("coarse") or judged("coarse")
    board = data(case, "cpu")
    lines = ["## Linearity and strong sources", "", "On the head `coarse`, from the true local field with noise.", ""]
    lines += [
        "| method | field × ½ | field × 2 | moment of +1 ppm | of −3 ppm | streaks of +1 ppm | of −3 ppm | field of zero |",
        "|---" * 8 + "|",
    ]
    ball = _ball(case, 5.0)
    field = Dipole(case.grid, padding=2)(ball) * case.mask
    region, ring = ball > 0, ~erode(ball == 0, 8) & erode(ball == 0, 3) & case.mask
    region = ~erode(~region, 1)
    for method in ("tv", "l1bayes", "varnet"):

        def solve(local_field: Tensor, noise: Tensor, method: str = method) -> Tensor:
            return Step("inversion", method).run({**board, "local_field": local_field, "noise": noise})["chi"]

        try:
            plain = solve(board["local_field"], board["noise"])
        except Exception as error:
            lines.append(f"| {method} | {str(error).splitlines()[0][:80]} |" + " |" * 6)
            continue
        scaled = [nrmse(solve(s * board["local_field"], s * board["noise"]) / s, plain, case.mask) for s in (0.5, 2.0)]
        with_source = {s: solve(board["local_field"] + s * field, board["noise"]) - plain for s in (1.0, -3.0)}
        moments = [float(change[region].sum() / (s * ball[region].sum())) for s, change in with_source.items()]
        streaks = [float(change[ring].std() / abs(s)) for s, change in with_source.items()]
        zero = float(solve(torch.zeros_like(field), board["noise"]).abs().max())
        cells = [f"{v:.1f} % off" for v in scaled] + [f"{v:.2f}" for v in moments] + [f"{1000 * v:.1f} ppb/ppm" for v in streaks]
        lines.append(f"| {method} | {' | '.join(cells)} | {1000 * zero:.2g} ppb |")
    lines += [
        "",
        "The moment is the summed susceptibility that the source adds over that which it has; streaks are the standard deviation of "
        "what it adds three to eight voxels away.",
    ]
    return lines


def grids(heads: dict[str, Judged]) -> list[str]:  # noqa: ARG001 - it has heads of its own
    """Measure one head on several grids."""
    lines = ["## One head on several grids", "", "NRMSE % over the brain.", ""]
    methods = (("inversion", "l1bayes"), ("inversion", "varnet"), ("singlestep", "nextqsm"))
    lines += [f"| grid | {' | '.join(name for _, name in methods)} |", "|---" * (len(methods) + 1) + "|"]
    for name, make in GRIDS.items():
        case = make()
        board = data(case, "cpu")
        cells = [attempt(stage, method, case, board) for stage, method in methods]
        lines.append(f"| {name} | {' | '.join(f'{c.whole:.1f}' if isinstance(c, Score) else str(c) for c in cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def calibration(heads: dict[str, Judged]) -> list[str]:
    """Count the errors within a standard deviation, which should be 68 %."""
    lines = ["## How often the error is within the standard deviation that is given", "", "68 % are meant.", ""]
    lines += [f"| map | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    rows: dict[str, list[str]] = {"χ of varnet": [], "local field of bgnet": [], "χ of nextqsm": [], "local field of nextqsm": []}
    novelty: dict[str, list[str]] = {"varnet": [], "nextqsm": []}
    for case in heads.values():
        board = data(case, "cpu")
        blind = {name: value for name, value in board.items() if name != "local_field"}
        try:
            inverted, cleared = Step("inversion", "varnet").run(board), Step("background", "bgnet").run(blind)
            both = Step("singlestep", "nextqsm").run(blind)
        except Exception as error:
            return [*lines, str(error)]
        truth, local = case.chi, case.local_field
        for name, (found, wide, wanted) in {
            "χ of varnet": (inverted["chi"], inverted["chi_noise"], truth),
            "local field of bgnet": (cleared["local_field"], cleared["local_noise"], local),
            "χ of nextqsm": (both["chi"], both["chi_noise"], truth),
            "local field of nextqsm": (both["local_field"], both["local_noise"], local),
        }.items():
            off = (found - wanted)[case.mask]
            off = off - off.mean() if name.startswith("χ") else off
            rows[name].append(f"{100 * float((off.abs() < wide[case.mask]).float().mean()):.0f} %")
        novelty["varnet"].append(f"{float(inverted['novelty']):.2f}")
        novelty["nextqsm"].append(f"{float(both['novelty']):.2f}")
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    lines += [f"| novelty told by {name} | {' | '.join(cells)} |" for name, cells in novelty.items()]
    return lines


def nuclei(heads: dict[str, Judged]) -> list[str]:
    """Hold the means of deep grey nuclei against the truth."""
    lines = ["## Deep grey nuclei", "", "Means of the nuclei against those of the truth, both relative to the brain's: slope of the line"]
    lines[-1] += f" through all nuclei of at least {FEWEST} voxels / median distance from the truth, ppb."
    lines += ["", f"| method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    boards = {name: data(case, "cpu") for name, case in heads.items()}
    for stage, methods in (("inversion", ("tv", "medi", "l1bayes", "varnet")), ("singlestep", ("tgv", "joint", "nextqsm"))):
        for method in methods:
            cells = []
            for name, case in heads.items():
                board = {key: value for key, value in boards[name].items() if stage == "inversion" or key != "local_field"}
                chi = Step(stage, method).run(board)["chi"]
                both = torch.stack([chi, case.chi])
                both = both - both[:, case.mask].mean(1)[:, None, None, None]
                regions = [region for region in case.nuclei.values() if int(region.sum()) >= FEWEST]
                found, truth = torch.stack([both[:, region].mean(1) for region in regions], 1)
                slope = float((found - found.mean()) @ (truth - truth.mean()) / (truth - truth.mean()).square().sum())
                cells.append(f"{slope:.2f} / {1000 * float((found - truth).abs().median()):.1f}")
            lines.append(f"| {method} | {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


PARTS = {"errors": errors, "nuclei": nuclei, "physics": physics, "grids": grids, "calibration": calibration}


if __name__ == "__main__":
    main()
