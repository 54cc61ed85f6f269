"""Several methods on one subject: the same data, the same voxels, the same zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from paradia.errors import GeometryError, InputError, MaskError, NonFiniteError
from paradia.metrics.accuracy import correlation, nrmse, region_slope, slope, xsim
from paradia.metrics.results import consistency, streaks
from paradia.metrics.similarity import hfen
from paradia.pipeline.execute import Outcome, Progress, execute
from paradia.pipeline.protocol import Protocol
from paradia.pipeline.step import Step
from paradia.pipeline.store import Store
from paradia.pipeline.variants import choice_of
from paradia.registry import STAGES
from paradia.sources.inside import within

BEFORE = {
    "mask": ("mask",),
    "total_field": ("combine", "mask", "unwrap", "fieldmap"),
    "local_field": ("combine", "mask", "unwrap", "fieldmap", "background"),
}
"""Stages that are done where these data are given."""


@dataclass(frozen=True)
class Candidate:
    """What one row of steps gave."""

    name: str
    image: Tensor
    """The map that is compared; χ has mean zero over the voxels that all have in common."""
    mask: Tensor
    """Where it holds."""
    seconds: float
    """Time of all its steps."""
    own_seconds: float
    """Time of the steps that not all the others have."""
    outcome: Outcome


@dataclass(frozen=True)
class Comparison:
    """Maps of one subject that can be held against each other."""

    map: str
    """Name of the data."""
    candidates: tuple[Candidate, ...]
    mask: Tensor
    """Voxels where all of them hold."""
    whole: Tensor
    """Voxels where any of them holds."""
    truth: Tensor | None = None
    """Referenced like the maps."""


def check_asked(choices: Sequence[str], candidates: Mapping[str, Protocol], board: Mapping[str, Any], map: str) -> None:
    """Check that what is exchanged is run at all: maps are named after it.

    Parameters
    ----------
    choices, candidates
        What `paradia.pipeline.variants.variants` was given, and what it gave.
    board, map
        As `compare` takes them.

    Raises
    ------
    InputError
        A stage whose result is given, or on which the map does not depend.
    """
    run = {step.stage for protocol in candidates.values() for step in _trimmed(protocol, board, map).steps}
    for name in dict.fromkeys(choice_of(choice)[0] for choice in choices):
        if name not in run:
            given = next((field for field, stages in BEFORE.items() if field in board and name in stages), None)
            why = f"{map} does not depend on it" if given is None else f"the {given.replace('_', ' ')} is given"
            raise InputError(f"methods of {name} cannot be compared: {why}, and none would be run. Leave {name} out, or give other data.")


def compare(
    candidates: Mapping[str, Protocol],
    board: Mapping[str, Any],
    *,
    map: str = "chi",
    truth: Tensor | None = None,
    store: Store | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    begin: Callable[[str], None] | None = None,
) -> Comparison:
    """Run several protocols on the same data.

    Parameters
    ----------
    candidates
        Protocols by name. Steps that make what is on the board already are left out, and those after the map.
    board
        Data as `paradia.pipeline.execute.execute` takes them; or a ``total_field`` or ``local_field``, with ``mask`` and ``grid``.
    map
        Name of the map to compare.
    truth
        The true map; voxels where it is no number do not count.
    store
        Where results are kept; steps that several protocols share are made only once with one.
    device
        Where to compute.
    progress
        Told of every step.
    begin
        Told the name of every candidate before it is run.

    Raises
    ------
    InputError
        There is nothing to compare, or a step cannot work on these data.
    """
    if not candidates:
        raise InputError("there is nothing to compare. Name methods, as inversion=tv,rts, or protocols.")
    rows = {name: _trimmed(protocol, board, map) for name, protocol in candidates.items()}
    outcomes = {}
    for name, row in rows.items():
        if begin is not None:
            begin(name)
        outcomes[name] = execute(row, board, store, device=device, progress=progress)
    for name, outcome in outcomes.items():
        if map not in outcome.maps:
            raise InputError(f"{name} gives no {map}. " + (outcome.messages[-1] if outcome.messages else "Choose another map."))
    masks = {name: _mask_of(outcome.maps, board) for name, outcome in outcomes.items()}
    common, whole = torch.stack(list(masks.values())).all(0), torch.stack(list(masks.values())).any(0)
    if not common.any():
        raise MaskError("the maps have no voxel in common: every method gave up others. Compare fewer methods.")
    if truth is not None:
        if truth.shape != common.shape:
            raise GeometryError(f"the truth has shape {tuple(truth.shape)}, the maps {tuple(common.shape)}. Give one on the same grid.")
        common &= truth.isfinite()
        if not common.any():
            raise NonFiniteError("the truth is no number wherever there are maps. Give another.")

    def aligned(image: Tensor) -> Tensor:
        return image - image[common].double().mean().to(image.dtype) if map == "chi" else image

    shared = _shared([row.steps for row in rows.values()])
    compared = []
    for name, outcome in outcomes.items():
        own = sum(record.seconds for record in outcome.steps if record.stage not in shared)
        image = within(aligned(outcome.maps[map].detach().cpu()), masks[name])
        compared.append(Candidate(name, image, masks[name], sum(r.seconds for r in outcome.steps), own, outcome))
    return Comparison(map, tuple(compared), common, whole, None if truth is None else within(aligned(truth), truth.isfinite()))


def table(comparison: Comparison, board: Mapping[str, Any], labels: Tensor | None = None) -> list[dict[str, Any]]:
    """Put numbers to a comparison, a row a candidate.

    Parameters
    ----------
    comparison
        What `compare` gave.
    board
        Its data, for what the field itself tells of χ.
    labels
        Regions, for the slope of region means on the true ones.

    Returns
    -------
    list
        ``method``; ``seconds`` in all, ``own_seconds`` in steps of its own; ``covered``, percent of the voxels that any of them
        has. With a truth, over the common voxels: ``nrmse``, ``nrmse_detrended`` and ``hfen`` in percent, ``xsim``,
        ``correlation``, ``slope``, ``region_slope``. Without: ``difference:NAME`` in percent and ``correlation:NAME`` for every
        one of them. Of χ: ``unexplained``, percent of the local field, and ``streaks``.
    """
    mask, rows = comparison.mask, []
    for candidate in comparison.candidates:
        row: dict[str, Any] = {"method": candidate.name, "seconds": candidate.seconds, "own_seconds": candidate.own_seconds}
        row["covered"] = 100 * int(candidate.mask.sum()) / max(int(comparison.whole.sum()), 1)
        if comparison.truth is not None:
            row |= _scores(candidate.image, comparison.truth, mask, labels, comparison.map)
        else:
            others = comparison.candidates
            row |= {f"difference:{other.name}": _difference(candidate.image, other.image, mask) for other in others}
            row |= {f"correlation:{other.name}": correlation(candidate.image, other.image, mask) for other in others}
        if comparison.map == "chi":
            row |= _blind(candidate, board)
        rows.append(row)
    return rows


def _trimmed(protocol: Protocol, board: Mapping[str, Any], map: str) -> Protocol:
    """Leave out the steps whose results are given, those that nothing asks for, and those after the map."""
    done = _done(board)
    steps = [step for step in protocol.steps if step.stage not in done]
    makers = [place for place, step in enumerate(steps) if map in step.loaded.gives]
    if not makers:
        raise InputError(f"the protocol {protocol.name} gives no {map} from these data. Choose another map or protocol.")
    steps = steps[: makers[-1] + 1]
    asked = {name for step in steps for name in step.loaded.takes} | {map}
    steps = [step for step in steps if not STAGES[step.stage].optional or set(step.loaded.gives) & asked]
    return replace(protocol, steps=tuple(steps))


def _done(board: Mapping[str, Any]) -> set[str]:
    """Return the stages whose results are given."""
    return {name for field, names in BEFORE.items() if field in board for name in names}


def _shared(rows: Sequence[tuple[Step, ...]]) -> set[str]:
    """Return the stages with which all rows begin alike, so that they are the same work."""
    shared: set[str] = set()
    for steps in zip(*rows, strict=False):
        if any(step != steps[0] for step in steps) or len(rows) == 1:
            break
        shared.add(steps[0].stage)
    return shared


def _mask_of(maps: Mapping[str, Any], board: Mapping[str, Any]) -> Tensor:
    mask: Tensor = maps.get("local_mask", maps.get("mask", board.get("mask")))
    return mask.cpu()


def _scores(image: Tensor, truth: Tensor, mask: Tensor, labels: Tensor | None, map: str) -> dict[str, float]:
    inside = within(image, mask), within(truth, mask)
    numbers = {
        "nrmse": nrmse(image, truth, mask),
        "nrmse_detrended": nrmse(image, truth, mask, kind="detrended"),
        "hfen": hfen(*inside, mask),
        "correlation": correlation(image, truth, mask),
        "slope": slope(image, truth, mask),
    }
    if map == "chi":
        numbers["xsim"] = xsim(*inside, mask)  # its constants are made for χ in ppm
    if labels is not None:
        numbers["region_slope"] = region_slope(image, truth, labels, mask)
    return numbers


def _difference(one: Tensor, other: Tensor, mask: Tensor) -> float:
    """Return the root mean square of the difference over that of the maps, percent; it is the same both ways."""
    a, b = one[mask].double(), other[mask].double()
    size = math.sqrt(float(a.norm()) * float(b.norm()))
    return 100 * float((a - b).norm()) / size if size else math.nan


def _blind(candidate: Candidate, board: Mapping[str, Any]) -> dict[str, float]:
    """Tell what can be told of χ without a truth."""
    maps = {**board, **candidate.outcome.maps}
    numbers = {"streaks": streaks(candidate.image, candidate.mask, board["grid"])}
    if maps.get("local_field") is not None:
        rest = consistency(maps["local_field"].cpu(), candidate.image, candidate.mask, board["grid"])
        numbers["unexplained"] = 100 * rest[0]
    return numbers
