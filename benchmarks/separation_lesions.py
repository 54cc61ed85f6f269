"""How far the classes of lesions that `paradia lesions` gives agree, between separations and with the truth.

    python benchmarks/separation_lesions.py [--lesions 250] [--inputs true chain] [--snr 100] [--threads 2] [--keep FILE]

Heads of the simulator at 3 T and 1.5 mm, from seeds that no training used, with lesions of every kind. With ``true`` every method gets
the true local field and rates with a little noise; with ``chain`` what a user has: a simulated scan and a train of spin echoes through
the whole chain, local field and χ by `nextqsm`.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _machine import machine, save
from separation import AFTER, HELD_OUT, board_of, separated, simple, trained

from paradia.grid import Grid
from paradia.metrics.lesions import agreement, lesions
from paradia.registry import load
from paradia.simulate.lesions import KINDS
from paradia.simulate.subject import Subject, subject
from paradia.simulate.tissue import LABELS

GRID = Grid((120, 144, 120), (1.5, 1.5, 1.5), (0.0, 0.1, 0.995))
EACH = 5
"""Lesions of each kind that are asked for in a head; fewer find room."""

PAIRS = (("chisep_medi", "r2star_qsm"), ("sepnet_r2prime", "sepnet_r2star"))
"""With spin echoes and without."""

MAPS = {"chi_pos": "χ+", "chi_neg": "χ−"}
SAID = {
    "true": "True local field with 2 ppb of noise, R2* with 0.8 and R2 with 0.4 1/s; χ by `l1bayes`.",
    "chain": "A scan of SNR {snr:g} and a train of spin echoes through the whole chain; local field and χ by `nextqsm`.",
}

Kinds = dict[str, dict[str, list[str]]]
"""Classes by method and map; also the kinds that were drawn, as ``drawn``."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lesions", type=int, default=250, help="how many at least")
    parser.add_argument("--inputs", nargs="+", choices=list(SAID), default=list(SAID))
    parser.add_argument("--snr", type=float, default=100.0, help="of the scan")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="separation-lesions")
    parser.add_argument("--keep", type=Path, help="JSON file that holds classes between runs, so that one that was stopped goes on")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    lines = ["# Iron and myelin apart: classes of lesions", "", machine(), ""]
    lines += [f"Heads of the simulator at 3 T, 1.5 mm, {EACH * len(KINDS)} lesions a head, fewer where they overlap."]
    lines += ["Class by the rule of `paradia lesions`.", ""]
    for inputs in options.inputs:
        found, heads = classes(inputs, options)
        lines += [f"## {'Through the chain' if inputs == 'chain' else 'From true inputs with noise'}", ""]
        lines += [f"{len(found['drawn']['kind'])} lesions in {heads} heads. {SAID[inputs].format(snr=options.snr)}", "", *tables(found)]
    save(options.name, lines)


def classes(inputs: str, options: argparse.Namespace) -> tuple[Kinds, int]:
    """Class lesions on the maps of every method until there are enough, and count the heads."""
    kept: dict[str, Kinds] = json.loads(options.keep.read_text()) if options.keep and options.keep.exists() else {}
    found: Kinds = {}
    seed, number = HELD_OUT, 0
    while number < options.lesions:
        key = f"{inputs} {options.snr:g} {seed}" if inputs == "chain" else f"{inputs} {seed}"
        if key not in kept:
            kept[key] = of_head(subject(seed, grid=GRID, lesions=KINDS * EACH), inputs, options.snr, seed)
            if options.keep:
                options.keep.write_text(json.dumps(kept))
        for name, maps in kept[key].items():
            for image, values in maps.items():
                found.setdefault(name, {}).setdefault(image, []).extend(values)
        seed, number = seed + 1, len(found["drawn"]["kind"])
        print(f"{inputs}: {number} lesions", file=sys.stderr, flush=True)
    return found, seed - HELD_OUT


def of_head(head: Subject, inputs: str, snr: float, seed: int) -> Kinds:
    """Class the lesions of one head."""
    board, before = (board_of(head, snr), AFTER) if inputs == "chain" else (with_chi(simple(head, seed)), "")
    mask = board["mask"]
    maps = {"truth": (head.chi_pos * mask, head.chi_neg * mask)}
    maps |= {name: separated(before + name, board) for pair in PAIRS for name in pair if trained(name)}
    fluid = torch.isin(head.labels, torch.tensor([LABELS[name] for name in ("csf", "vein", "choroid")]))
    found: Kinds = {}
    for name, pair in maps.items():
        seen = lesions(head.lesion_labels, dict(zip(MAPS, pair, strict=True)), mask, head.grid, exclude=fluid)
        found[name] = {image: [lesion.maps[image].kind for lesion in seen] for image in MAPS}
    return {**found, "drawn": {"kind": [head.lesions[lesion.label - 1].kind for lesion in seen]}}


def with_chi(board: dict[str, Any]) -> dict[str, Any]:
    """Add χ for the methods that begin with it."""
    chi = load("inversion", "l1bayes").function(board["local_field"], board["mask"], board["grid"], board["noise"])
    return {**board, "chi": chi - chi[board["mask"]].mean() * board["mask"]}


def tables(found: Kinds) -> list[str]:
    """Lay out how often two sets of classes agree, over all lesions and by kind."""
    pairs = [pair for pair in PAIRS if pair[0] in found]
    names = [name for pair in pairs for name in pair]
    lines = ["| | map | lesions | same class, % | 95 % interval | κ |", "|---|---|---|---|---|---|"]
    for a, b in [*pairs, *(("truth", name) for name in names)]:
        for image, sign in MAPS.items():
            one = agreement(found[a][image], found[b][image])
            cells = [f"{100 * one.share:.1f}", f"{100 * one.low:.1f} to {100 * one.high:.1f}", f"{one.kappa:.2f}"]
            lines.append(f"| `{a}` and `{b}` | {sign} | {one.number} | {' | '.join(cells)} |".replace("`truth`", "truth"))
    lines += ["", "Same class as the truth, % of the lesions of a kind, χ+ / χ−:", ""]
    lines += [f"| kind | lesions | {' | '.join(f'`{name}`' for name in names)} |", "|---" * (len(names) + 2) + "|"]
    drawn = found["drawn"]["kind"]
    for kind in KINDS:
        places = [place for place, one in enumerate(drawn) if one == kind]
        cells = [" / ".join(f"{same(found, name, image, places):.0f}" for image in MAPS) for name in names]
        lines.append(f"| {kind.replace('_', ' ')} | {len(places)} | {' | '.join(cells)} |")
    return [*lines, ""]


def same(found: Kinds, name: str, image: str, places: Sequence[int]) -> float:
    """Return how many of some lesions have the class of the truth, %."""
    first, second = ([found[one][image][place] for place in places] for one in ("truth", name))
    return 100 * agreement(first, second).share


if __name__ == "__main__":
    main()
