"""How far every method of background removal, inversion and single step is from the truth, on the heads of `_heads.py`.

    python benchmarks/accuracy.py [--heads coarse thick] [--stages inversion] [--methods tv l1] [--pairs joint+tv]

Background removal, single steps and pairs are fed the true total field with noise, inversion the true local field with noise;
every method gets whatever else it can use. A cell holds NRMSE % over the method's own mask / over the brain eroded by five
voxels / XSIM, re-referenced where it is χ, and in brackets the share of the brain that the method keeps, in %, where that is
not all. NRMSE leaves a constant out, of fields as well: no inversion takes one for a source. Means over the heads are of both
NRMSE; rows are in the order of the second, which a method cannot better by giving up the edge. What fails is said.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _heads import ECHO_TIMES, HEADS, Judged, judged
from _machine import machine, save

from paradia.metrics._masks import erode
from paradia.metrics.accuracy import nrmse, xsim
from paradia.pipeline.step import Step
from paradia.registry import load, methods
from paradia.scan import Scan

STAGES = ("background", "inversion", "singlestep")
USUAL = ("coarse", "coarse-7t", "coarse-cut", "thick", "full", "zubal-coarse")

PAIRS = (
    "joint+l1bayes", "joint+tv", "joint+nltv", "joint+whqsm", "joint+hdqsm", "pdf+tv", "vsharp+tkd", "vsharp+rts", "vsharp+tv",
    "vsharp+l1bayes", "vsharp+whqsm", "vsharp+hdqsm", "ismv+hdqsm", "resharp+hdqsm", "lbv+tv",
)  # fmt: skip
"""Background removal and inversion together, where both exist."""

FED = {
    "background": "Local field, fed the true total field with noise",
    "inversion": "χ, fed the true local field with noise",
    "singlestep": "χ in a single step, fed the true total field with noise",
    "pairs": "χ by background removal and inversion, fed the true total field with noise",
}


class Score(NamedTuple):
    """How far a result is from the truth."""

    whole: float
    inner: float
    likeness: float
    share: float

    def __str__(self) -> str:
        text = f"{self.whole:.1f} / {self.inner:.1f} / {self.likeness:.2f}"
        return text if self.share > 0.9995 else f"{text} ({100 * self.share:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", choices=list(HEADS), default=list(USUAL))
    parser.add_argument("--stages", nargs="+", choices=[*STAGES, "pairs"], default=[*STAGES, "pairs"])
    parser.add_argument("--methods", nargs="+", help="only these, in whatever stage")
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), metavar="BACKGROUND+INVERSION")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="folder to keep the heads in between runs")
    parser.add_argument("--name", help="of the result; accuracy where all of it is measured")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")

    rows: dict[str, dict[str, dict[str, Score | str]]] = {stage: {name: {} for name in names(stage, options)} for stage in options.stages}
    for name in options.heads:
        case = recall(name, options.cache)
        board = data(case, options.device)
        for stage, tables in rows.items():
            for method, cells in tables.items():
                start = time.perf_counter()
                cells[name] = attempt(stage, method, case, board)
                print(f"{name}: {stage} {method}: {cells[name]}, {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    lines = ["# How far from the truth: simulated heads", "", machine(), "", *described(options.heads)]
    for stage, tables in rows.items():
        lines += ["", f"## {FED[stage]}", "", *table(tables, options.heads)]
    save(options.name or _name(options), lines)


def names(stage: str, options: argparse.Namespace) -> list[str]:
    """List what to measure of a stage."""
    if stage == "pairs":
        there = [set(methods("background")), set(methods("inversion"))]
        return [p for p in options.pairs if all(part in known for part, known in zip(p.split("+"), there, strict=True))]
    measured = [name for name in methods(stage) if "directions" not in load(stage, name).needs]  # several heads at once are another story
    return [name for name in measured if not options.methods or name in options.methods]


def recall(name: str, cache: Path | None) -> Judged:
    """Make a head, or take it from where it was kept."""
    path = None if cache is None else cache / f"head-{name}.pt"
    if path is not None and path.exists():
        return Judged(*torch.load(path, weights_only=False))
    case = judged(name)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tuple(case), path)
    return case


def data(case: Judged, device: str) -> dict[str, Any]:
    """Return what a method may be given, by name."""
    scan = Scan(ECHO_TIMES, 7.0 if "7t" in case.name else 3.0)
    board = {
        "mask": case.mask,
        "noise": case.noise,
        "total_field": case.noisy(case.total_field),
        "local_field": case.noisy(case.local_field),
    }
    board |= echoes(case, scan)
    return {"grid": case.grid, "scan": scan, **{name: value.to(device) for name, value in board.items()}}


def echoes(case: Judged, scan: Scan) -> dict[str, torch.Tensor]:
    """Return magnitudes and wrapped phases with the noise that the field's noise stands for, and the decay they show."""
    angles = torch.tensor([scan.rad_per_ppm(t) for t in scan.echo_times])[:, None, None, None]
    weights = case.magnitude.square()
    mean = (weights * angles).sum(0) / weights.sum(0).clamp_min(1e-9)
    information = (weights * (angles - mean).square()).sum(0)
    known = case.mask & (case.noise > 0) & (case.noise < 0.9)
    level = float((case.noise * information.sqrt())[known].median())
    draw = torch.Generator().manual_seed(1)
    clean = torch.polar(case.magnitude, angles * case.total_field)
    seen = clean + level * torch.complex(*(torch.randn(clean.shape, generator=draw) for _ in range(2)))
    decay = (case.magnitude[0] / case.magnitude[-1].clamp_min(1e-6)).clamp(1, 100).log() / (scan.echo_times[-1] - scan.echo_times[0])
    return {"magnitude": seen.abs(), "phase": seen.angle(), "r2star": decay * case.mask}


WHOLE = {"nextqsm": "singlestep"}
"""Single steps whose local field is held against those of background removals."""


def attempt(stage: str, method: str, case: Judged, board: dict[str, Any]) -> Score | str:
    """Run and score, or say in a few words why not."""
    steps = list(zip(STAGES[:2], method.split("+"), strict=True)) if stage == "pairs" else [(WHOLE.get(method, stage), method)]
    given = dict(board)
    if stage in ("pairs", "singlestep", "background"):
        given.pop("local_field")  # the truth, which these have to find
    try:
        for where, name in steps:
            given |= Step(where, name).run(given)
    except Exception as error:  # one method less is no reason to lose the others
        return f"{type(error).__name__}: {error}".replace("|", "/").splitlines()[0][:90]
    name = "local_field" if stage == "background" else "chi"
    return score(given[name].cpu(), given["mask"].cpu(), case, name)


def score(image: torch.Tensor, valid: torch.Tensor, case: Judged, name: str) -> Score:
    """Hold a result against the truth over its own mask, and deep inside the brain."""
    wanted = getattr(case, name)
    valid = valid & case.mask
    inner = erode(case.mask, 5) & valid
    if not valid.any() or not image[valid].isfinite().all():
        return Score(math.nan, math.nan, math.nan, float(valid.sum() / case.mask.sum()))
    means = (image[valid].mean(), wanted[valid].mean()) if name == "chi" else (0.0, 0.0)
    like = xsim((image - means[0]) * valid, (wanted - means[1]) * valid, valid)  # nothing outside counts
    deep = nrmse(image, wanted, inner) if inner.any() else math.nan
    return Score(nrmse(image, wanted, valid), deep, like, float(valid.sum() / case.mask.sum()))


def described(heads: Sequence[str]) -> list[str]:
    """Say what a cell holds, in the words at the head of this file."""
    text = (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].strip()
    return [" ".join(text.split()), "", f"Heads: {', '.join(heads)}; `benchmarks/_heads.py` says what each is."]


def table(tables: dict[str, dict[str, Score | str]], heads: Sequence[str]) -> list[str]:
    """Lay out a stage, the best first."""

    def mean(cells: dict[str, Score | str], figure: int) -> float:
        found = [cell[figure] for cell in cells.values() if isinstance(cell, Score)]
        return sum(found) / len(found) if len(found) == len(cells) and all(map(math.isfinite, found)) else math.inf

    lines = [f"| method | {' | '.join(heads)} | mean |", "|---" * (len(heads) + 2) + "|"]
    for method, cells in sorted(tables.items(), key=lambda row: mean(row[1], 1)):
        averages = " / ".join(f"{mean(cells, n):.1f}" for n in (0, 1)) if math.isfinite(mean(cells, 1)) else "–"
        lines.append(f"| {method} | {' | '.join(str(cells[h]) for h in heads)} | {averages} |")
    return lines


def _name(options: argparse.Namespace) -> str:
    """Name the result after what is not as usual, so that a part never takes the place of the whole."""
    parts = ["accuracy"]
    parts += options.heads if options.heads != list(USUAL) else []
    parts += options.stages if options.stages != [*STAGES, "pairs"] else []
    return "-".join([*parts, *(options.methods or ())])


if __name__ == "__main__":
    main()
