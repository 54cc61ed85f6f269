"""How well every separation tells iron from myelin on heads that nothing was trained on, and its time.

    python benchmarks/separation.py [--heads held-out zubal] [--b0 3 7] [--snr 150 50] [--threads 2] [--name separation]

Every method gets what a user has: a simulated multi-echo scan goes through unwrapping, field map, background removal (`joint`), inversion
(`l1bayes`) and reference (`whole_brain`); R2* is freed from dephasing; R2 comes from a simulated train of spin echoes, or is not known.
``held-out`` is a head of the simulator from a seed that no training used, made twice as fine; ``zubal`` is another anatomy, drawn by
hand; it needs the folder of real inputs beside the repository and stays there. ``untouched`` was measured after all choices were made,
never to make them. Calcifications and a rimmed plaque are drawn into all of them. After ``nextqsm+`` a method gets the local field and χ
that `nextqsm` finds, what it leaves unexplained included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from _heads import ZUBAL
from _machine import machine, peak_gb, save
from torch import Tensor

from paradia.errors import WeightsError
from paradia.grid import Grid
from paradia.metrics.separation import leak
from paradia.nets.store import network
from paradia.pipeline.execute import execute
from paradia.pipeline.protocol import Protocol
from paradia.registry import load
from paradia.scan import Scan
from paradia.simulate import labels as importer
from paradia.simulate.acquire import scan
from paradia.simulate.acquisition import Gre, SpinEcho
from paradia.simulate.subject import Subject, subject
from paradia.simulate.tissue import LABELS

HELD_OUT = 7
"""Seeds below 1000 are never trained on."""

UNTOUCHED = 404
"""Seed of a head that is measured after all choices were made, never to make them."""

DRAWN = ("calcification", "calcification", "rim_plaque")
"""Lesions in the heads."""

NUCLEI = (
    "caudate",
    "putamen",
    "pallidum_external",
    "pallidum_internal",
    "thalamus",
    "subthalamic",
    "substantia_nigra",
    "red_nucleus",
    "dentate",
)
TRACTS = ("corpus_callosum", "internal_capsule", "optic_radiation", "white_matter")
STRONG = ("calcification", "haemorrhage", "vein", "lesion")
"""What does not count as tissue in the errors of the voxels."""

FEWEST = 30
"""Voxels of a region that counts."""

ECHOES = {3.0: (0.004, 0.011, 0.018, 0.025, 0.032), 7.0: (0.003, 0.007, 0.011, 0.015, 0.019)}

SPIN = ("closed_form", "chisep_medi", "chisep_ilsqr", "wavesep", "decompose", "sepnet_r2prime")
ALONE = ("r2star_qsm", "closed_form", "chisep_medi", "chisep_ilsqr", "wavesep", "decompose", "sepnet_r2star")
AFTER = "nextqsm+"
"""Before the name of a method: with the local field and χ that `nextqsm` finds instead of those of `joint` and `l1bayes`."""
INVERTED = ("`joint` and `l1bayes`", "`nextqsm`")
"""Where the χ comes from that separations are given."""
GROUPS = {
    "with spin echoes": (*SPIN, f"{AFTER}chisep_medi", f"{AFTER}sepnet_r2prime"),
    "gradient echoes alone": (*ALONE, f"{AFTER}r2star_qsm", f"{AFTER}sepnet_r2star"),
}
SHAPE = (192, 192, 128)
NETWORKS = {"nextqsm": ("bgnet", "varnet"), "sepnet_r2prime": ("sepnet",), "sepnet_r2star": ("sepnet",)}
TITLES = {"accuracy": "simulated heads that nothing was trained on", "time": "time and memory"}


class Score(NamedTuple):
    """How far one result is from the truth."""

    pos: float
    """NRMSE of χ+ in tissue, %."""
    neg: float
    nuclei: float
    """Mean over nuclei of the error of the mean χ+, %: what all have in common."""
    nuclei_off: float
    """Mean over nuclei of how far the mean χ+ is off, either way, %."""
    nuclei_slope: float
    tracts: float
    """Mean over tracts of the error of the mean χ−, %."""
    tracts_off: float
    tracts_slope: float
    calcification: float
    """Mean χ+ in calcifications, ppb."""
    veins: float
    """Mean χ− in veins, ppb."""
    difference: float
    """NRMSE of χ+ − χ− in tissue, %, its mean left out, which no field tells."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", choices=["held-out", "zubal", "untouched"], default=["held-out", "zubal"])
    parser.add_argument("--b0", nargs="+", type=float, choices=list(ECHOES), default=list(ECHOES))
    parser.add_argument("--snr", nargs="+", type=float, default=[150.0, 50.0])
    parser.add_argument("--stride", type=int, default=3, help="every how many-eth voxel of the drawn head is taken")
    parser.add_argument("--shape", nargs=3, type=int, default=SHAPE, help="of the volume that is timed")
    parser.add_argument("--skip", nargs="*", choices=["accuracy", "time"], default=[])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="separation")
    parser.add_argument("--keep", type=Path, help="JSON file that holds scores between runs, so that one that was stopped goes on")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "FILE"), help="time one method on kept inputs (used by itself)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    if options.one:
        timed(*options.one)
        return
    if "zubal" in options.heads and not ZUBAL.is_dir():
        options.heads.remove("zubal")
        print("the drawn head is not there, and left out", file=sys.stderr)
    for part, measure in (("accuracy", accuracy), ("time", times)):
        if part not in options.skip:
            lines = [f"# Iron and myelin apart: {TITLES[part]}", "", machine(), "", *learned_or_not(), *measure(options)]
            save(options.name if part == "accuracy" else f"{options.name}-{part}", lines)


def trained(name: str) -> bool:
    """Whether the weights that a method asks for are here."""
    try:
        return all(bool(network(asked)) for part in name.split("+") for asked in NETWORKS.get(part, ()))
    except WeightsError:
        return False


def learned_or_not() -> list[str]:
    if trained("sepnet_r2prime"):
        return []
    return ["The weights of `sepnet` have not been released: `sepnet_r2prime` and `sepnet_r2star` are left out.", ""]


def person(head: str, b0: float, stride: int = 2) -> Subject:
    """Make a head."""
    if head == "held-out":
        return subject(HELD_OUT, grid=Grid((88, 104, 88), (2.0, 2.0, 2.0), (0.0, 0.1, 0.995)), b0=b0, lesions=DRAWN, oversample=2)
    if head == "untouched":
        return subject(UNTOUCHED, grid=Grid((136, 164, 76), (1.3, 1.3, 2.0), (0.25, 0.0, 0.968)), b0=b0, lesions=DRAWN)
    labels = np.asarray(nib.load(ZUBAL / "zubal_phantom_1iso.nii.gz").dataobj).astype(np.int16)[::stride, ::stride, ::stride]
    labels = np.ascontiguousarray(labels[labels.any((1, 2))][:, labels.any((0, 2))])
    side = 0.775 * stride  # mm; the drawing's brain is 3.2 l at its nominal voxel
    grid = Grid(tuple(labels.shape), (side, side, side), (0.0, 0.1, 0.995))  # type: ignore[arg-type]
    mapping = dict.fromkeys(np.unique(labels).tolist(), "air") | dict(importer.ZUBAL)
    anatomy = importer.from_labels(torch.from_numpy(labels), mapping, grid, seed=1)
    return subject(HELD_OUT, grid=grid, b0=b0, lesions=DRAWN, anatomy=anatomy)


def board_of(head: Subject, snr: float) -> dict[str, Any]:
    """Scan a head and bring it through the chain to all that separations ask for."""
    gre = scan(head, Gre(b0=head.b0, echo_times=ECHOES[head.b0], tr=0.04, snr=snr), seed=1)
    train = scan(head, SpinEcho(b0=head.b0, snr=snr), seed=1)
    board = {"magnitude": gre.images.abs(), "phase": gre.images.angle(), "grid": gre.grid, "scan": gre.scan, "mask": gre.mask}
    board |= {"spin_echo_magnitude": train.images.abs(), "spin_echo_scan": train.scan}
    outcome = execute(Protocol.load("separation-classical").without(["separation"]), board)
    board = {**board, **outcome.maps, "mask": outcome.maps.get("local_mask", gre.mask)}
    if trained(f"{AFTER}sepnet_r2prime"):
        method = load("singlestep", "nextqsm")
        found = method.function(**{name: board[name] for name in method.takes if name in board}, residual=True)
        board[AFTER] = {"local_field": found.local_field, "chi": found.chi - found.chi[board["mask"]].mean() * board["mask"]}
    return board


def given(board: dict[str, Any], group: str) -> dict[str, Any]:
    """Return the data as they are with or without spin echoes; R2′ without them is R2* less the usual R2."""
    if group == "with spin echoes":
        return board
    load_constant = load("relaxometry", "r2prime_constant").function
    constant = load_constant(board["r2star"], board["mask"], board["scan"], board["r2star_noise"])
    return {name: value for name, value in board.items() if name not in ("r2", "r2_noise")} | constant._asdict()


def separated(name: str, board: dict[str, Any], **knobs: Any) -> tuple[Tensor, Tensor]:
    method = load("separation", name.removeprefix(AFTER))
    given = {**board, **board[AFTER]} if name.startswith(AFTER) else board
    data = {key: given[key] for key in method.takes if key in given}
    if name.startswith("sepnet"):
        data.pop("chi", None)
    result = method.function(**data, **knobs)
    return result.chi_pos, result.chi_neg


def judged(pos: Tensor, neg: Tensor, head: Subject, mask: Tensor) -> Score:
    tissue = tissue_of(head, mask)
    errors = [100 * float((a - b)[tissue].norm() / b[tissue].norm()) for a, b in ((pos, head.chi_pos), (neg, head.chi_neg))]
    nuclei, tracts = regions(pos, head.chi_pos, head, mask, NUCLEI), regions(neg, head.chi_neg, head, mask, TRACTS)
    places = [mask & (head.labels == LABELS[name]) for name in ("calcification", "vein")]
    leaks = [1e3 * leak(image, place) for image, place in zip((pos, neg), places, strict=True)]
    return Score(*errors, *nuclei, *tracts, *leaks, off(pos - neg, head, tissue))


def off(chi: Tensor, head: Subject, tissue: Tensor) -> float:
    """Return the NRMSE of a total susceptibility over tissue, %, means left out."""
    found, truth = ((image - image[tissue].mean())[tissue] for image in (chi, head.chi_pos - head.chi_neg))
    return 100 * float((found - truth).norm() / truth.norm())


def tissue_of(head: Subject, mask: Tensor) -> Tensor:
    """Return the mask without lesions and veins."""
    return mask & ~torch.isin(head.labels, torch.tensor([LABELS[name] for name in STRONG]))


def regions(found: Tensor, truth: Tensor, head: Subject, mask: Tensor, names: Sequence[str]) -> tuple[float, float, float]:
    """Return the mean error of region means, %, the mean of its size, and the slope of a line through the origin."""
    pairs = []
    for name in names:
        region = mask & (head.labels == LABELS[name])
        if int(region.sum()) >= FEWEST:
            pairs.append((float(found[region].mean()), float(truth[region].mean())))
    errors = [100 * (a / b - 1) for a, b in pairs]
    return fmean(errors), fmean(map(abs, errors)), sum(a * b for a, b in pairs) / sum(b * b for _, b in pairs)


def together(board: dict[str, Any], head: Subject) -> list[float]:
    """Return how the network without spin echoes goes with that which has them, both after `nextqsm`: correlation and slope, χ+ then χ−."""
    tissue = tissue_of(head, board["mask"])
    with_them = separated(f"{AFTER}sepnet_r2prime", given(board, "with spin echoes"), dr_pos=head.dr_pos, dr_neg=head.dr_neg)
    without = separated(f"{AFTER}sepnet_r2star", given(board, "gradient echoes alone"), dr_pos=head.dr_pos, dr_neg=head.dr_neg)
    values = []
    for a, b in zip(with_them, without, strict=True):
        a, b = a[tissue] - a[tissue].mean(), b[tissue] - b[tissue].mean()
        values += [float((a * b).sum() / (a.norm() * b.norm())), float((a * b).sum() / a.square().sum())]
    return values


def totals_of(board: dict[str, Any], head: Subject) -> list[float]:
    """Return how far the χ is off that separations are given, %: that of the classical chain, and that of `nextqsm` where it is here."""
    tissue = tissue_of(head, board["mask"])
    return [off(chi, head, tissue) for chi in (board["chi"], *([board[AFTER]["chi"]] if AFTER in board else []))]


def accuracy(options: argparse.Namespace) -> list[str]:
    """Measure everything on every head."""
    kept: dict[str, list[float]] = json.loads(options.keep.read_text()) if options.keep and options.keep.exists() else {}
    scores: dict[tuple[float, str, str], dict[tuple[str, float, float], Score]] = {}
    alike: list[str] = []
    totals: dict[float, list[list[float]]] = {}
    for head_name in options.heads:
        for b0 in options.b0:
            head = person(head_name, b0, options.stride)
            for snr in options.snr:
                start = time.perf_counter()
                board = board_of(head, snr)
                print(f"{head_name}, {b0:g} T, SNR {snr:g}: inputs in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
                key = f"{head_name} {b0:g} {snr:g} totals"
                kept[key] = kept.get(key) or totals_of(board, head)
                totals.setdefault(b0, []).append(kept[key])
                for group, names in GROUPS.items():
                    data = given(board, group)
                    for name in filter(trained, names):
                        for factor in (1.0, 0.8, 1.2) if snr == options.snr[0] and name != "decompose" else (1.0,):
                            key = f"{head_name} {b0:g} {snr:g} {group} {name} {factor:g}"
                            if key not in kept:
                                start, dr = time.perf_counter(), factor * head.dr_pos
                                kept[key] = [*judged(*separated(name, data, dr_pos=dr, dr_neg=dr), head, board["mask"])]
                                print(f"{key}: {kept[key]}, {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
                                if options.keep:
                                    options.keep.write_text(json.dumps(kept))
                            scores.setdefault((b0, group, name), {})[head_name, snr, factor] = Score(*kept[key])
                if trained(f"{AFTER}sepnet_r2prime"):
                    key = f"{head_name} {b0:g} {snr:g} variants"
                    kept[key] = kept.get(key) or together(board, head)
                    cells = [f"{value:.2f}" for value in kept[key]]
                    alike.append(f"| {head_name}, {b0:g} T, SNR {snr:g} | {' | '.join(cells)} |")
    said = (__doc__ or "").split("\n\n")[2].replace("\n", " ").strip()
    lines = [f"Heads: {', '.join(options.heads)}. {said} Errors of voxels are those of tissue: lesions and veins are left out.", ""]
    for b0 in options.b0:
        for group, names in GROUPS.items():
            rows = [name for name in names if (b0, group, name) in scores]
            lines += [f"## {b0:g} T, {group}", "", *table(rows, b0, group, scores, options), ""]
        means = [f"{fmean(column):.1f}" for column in zip(*totals[b0], strict=True)]
        lines += [
            f"NRMSE of the χ that went in, at {b0:g} T: " + ", ".join(f"{m} % ({n})" for m, n in zip(means, INVERTED, strict=False)) + ".",
            "",
        ]
    if alike:
        lines += ["## The network without spin echoes against that with them", "", "Over the voxels of tissue, both after `nextqsm`.", ""]
        lines += ["| head | correlation χ+ | slope χ+ | correlation χ− | slope χ− |", "|---|---|---|---|---|", *alike, ""]
    return lines


def table(rows: Sequence[str], b0: float, group: str, scores: dict, options: argparse.Namespace) -> list[str]:
    """Lay out means over heads."""
    first = options.snr[0]

    def mean(name: str, pick: Callable[[Score], float], snr: float | None, factor: float = 1.0) -> float:
        found = [pick(s) for (_, n, f), s in scores[b0, group, name].items() if f == factor and (snr is None or n == snr)]
        found = [value for value in found if value == value]
        return sum(found) / len(found) if found else float("nan")

    heads = [f"NRMSE χ+ / χ−, SNR {snr:g}, %" for snr in options.snr] + [f"SNR {first:g}, Dr {way}" for way in ("−20 %", "+20 %")]
    heads += [
        "χ+ of nuclei, %: mean; either way; slope",
        "χ− of tracts, %: mean; either way; slope",
        "χ+ in calcification, ppb",
        "χ− in veins, ppb",
        "NRMSE χ+ − χ−, %",
    ]
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in rows:
        cells = [f"{mean(name, lambda s: s.pos, snr):.1f} / {mean(name, lambda s: s.neg, snr):.1f}" for snr in options.snr]
        for f in (0.8, 1.2):
            pair = mean(name, lambda s: s.pos, first, f), mean(name, lambda s: s.neg, first, f)
            cells.append("–" if pair[0] != pair[0] else f"{pair[0]:.1f} / {pair[1]:.1f}")
        for region in ("nuclei", "tracts"):
            common, off, slope = (mean(name, attrgetter(region + figure), None) for figure in ("", "_off", "_slope"))
            cells.append(f"{common:+.1f}; {off:.1f}; {slope:.2f}")
        cells += [f"{mean(name, lambda s: s.calcification, None):.0f}", f"{mean(name, lambda s: s.veins, None):.0f}"]
        cells.append(f"{mean(name, attrgetter('difference'), None):.1f}")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return lines


def times(options: argparse.Namespace) -> list[str]:
    """Time each method in a process of its own, on a head at 1 mm."""
    grid = Grid(tuple(options.shape), (1.0, 1.0, 1.2), (0.0, 0.1, 0.995))
    head = subject(HELD_OUT, grid=grid)
    board = simple(head, seed=3)
    board["chi"] = head.chi * head.mask
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "board.pt"
        torch.save(board, path)
        for name in filter(trained, dict.fromkeys((*SPIN, *ALONE))):
            words = [sys.executable, __file__, "--threads", str(options.threads), "--one", name, str(path)]
            told = subprocess.run(words, capture_output=True, text=True, check=True)
            seconds, busy, memory = map(float, told.stdout.split())
            print(f"{name}: {seconds:.1f} s, {busy:.1f} s of the processor, {memory:.1f} GB", file=sys.stderr, flush=True)
            rows.append(f"| `{name}` | {seconds:.1f} | {busy:.1f} | {memory:.1f} |")
    size = "×".join(map(str, options.shape))
    text = (
        f"On {size} voxels, {int(head.mask.sum())} of them brain, {options.threads} threads, each in a process of its own; χ given, so "
        "that no inversion is in it (but for the learned ones, which begin with their own). Seconds on the clock depend on what else the "
        "machine does; those of the processor are summed over threads. The memory is that of the whole process, inputs and libraries "
        "included."
    )
    return [
        text,
        "",
        "| method | s on the clock | s of the processor | peak GB |",
        "|---|---|---|---|",
        *rows,
    ]


def timed(name: str, path: str) -> None:
    """Run one method and print its seconds and the peak memory of the process."""
    board = torch.load(path, weights_only=False)
    start, busy = time.perf_counter(), time.process_time()
    separated(name, board)
    print(time.perf_counter() - start, time.process_time() - busy, peak_gb())


def simple(head: Subject, seed: int, field_noise: float = 0.002, r2star_noise: float = 0.8, r2_noise: float = 0.4) -> dict[str, Any]:
    """Return the true local field and rates with noise: what a chain without faults would give."""
    generator = torch.Generator().manual_seed(seed)
    mask, times = head.mask, ECHOES[head.b0]

    def noisy(image: Tensor, sd: float) -> Tensor:
        return (image + sd * torch.randn(image.shape, generator=generator)) * mask

    r2star, r2 = noisy(head.r2star, r2star_noise).clamp_min(0), noisy(head.r2, r2_noise).clamp_min(0)
    magnitude = torch.stack([head.density * torch.exp(-t * head.r2star) * mask for t in times])
    level = {
        "noise": field_noise,
        "r2star_noise": r2star_noise,
        "r2_noise": r2_noise,
        "r2prime_noise": (r2star_noise**2 + r2_noise**2) ** 0.5,
    }
    board = {"local_field": noisy(head.local_field, field_noise), "r2star": r2star, "r2": r2, "r2prime": (r2star - r2).clamp_min(0)}
    board |= {name: sd * mask for name, sd in level.items()}
    return board | {"magnitude": magnitude, "mask": mask, "grid": head.grid, "scan": Scan(times, head.b0)}


if __name__ == "__main__":
    main()
