"""The numbers that tell a good run from a bad one, and what to make of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from paradia.fft import check_mask
from paradia.metrics import inputs, results
from paradia.operators.weighting import typical_noise

LARGEST_BRAIN = 2000.0
"""Volume of a mask, ml, beyond which it is not a brain alone: the skulls of healthy adults hardly hold as much."""

Verdict: TypeAlias = Literal["good", "check", "bad"]
Board: TypeAlias = Mapping[str, Any]


class Finding(NamedTuple):
    """One number about a run, judged."""

    name: str
    value: float
    unit: str
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class Check:
    """How a number is had and judged.

    ``good`` and ``bad`` are the limits beyond which it is no longer good, and bad; when ``good`` is the larger, larger
    values are better.
    """

    name: str
    unit: str
    needs: tuple[str, ...]
    measure: Callable[[dict[str, Any]], int | float]
    good: int | float
    bad: int | float
    fine: str
    advice: str
    largest: float = math.inf
    """Beyond it a number is to be checked, however good larger ones are else, and `excess` says why."""
    excess: str = ""

    def judge(self, board: dict[str, Any]) -> Finding | None:
        """Measure and judge; None where the data are not there or do not tell."""
        if any(board.get(name) is None for name in self.needs):
            return None
        value = float(self.measure(board))
        if math.isnan(value):
            return None
        if value > self.largest:
            return Finding(self.name, value, self.unit, "check", self.excess)
        sign = 1 if self.bad >= self.good else -1
        worse = [sign * value > sign * limit for limit in (self.good, self.bad)]
        verdict: Verdict = "bad" if worse[1] else "check" if worse[0] else "good"
        return Finding(self.name, value, self.unit, verdict, self.fine if verdict == "good" else self.advice)


def judge(board: Board) -> list[Finding]:
    """Measure and judge whatever the data allow.

    Parameters
    ----------
    board
        Data by name: ``magnitude``, ``phase``, ``mask``, ``grid``, ``scan``, ``unwrapped``, ``noise``, ``local_field``,
        ``local_mask`` (``mask`` where absent), ``chi``, ``r2star``. Numbers that need what is not there are left out.

    Returns
    -------
    list
        One `Finding` a number, in the order of the data.

    Raises
    ------
    MaskError
        A mask is empty or not boolean; one too small to tell a number of leaves that number out.
    """
    board = {"local_mask": board.get("mask"), **board}
    if board["local_mask"] is None:
        board["local_mask"] = board.get("mask")
    for name in ("mask", "local_mask"):
        if board.get(name) is not None:
            check_mask(board[name])
    return list(_found(board))


def _found(board: dict[str, Any]) -> Iterator[Finding]:
    for check in CHECKS:
        finding = check.judge(board)
        if finding is not None:
            yield finding


def _sign(board: Board) -> float:
    """Take the more favourable of two signs of the sign: each fails alone in single-echo data and in calcified brains."""
    chi, mask = board["chi"], board["local_mask"]
    skew = results.skewness(chi, mask)
    if board.get("r2star") is None:
        return skew
    follows = results.iron_follows_decay(chi, board["r2star"], mask)
    return skew if math.isnan(follows) else max(skew, follows)


def _noise(board: Board) -> float:
    return 1000 * typical_noise(board["noise"], board["mask"]) or math.nan  # zero is unknown


def _novelty(board: Board) -> float:
    """Take the strangest of what networks were shown; NaN where none was asked."""
    found = [float(board[name]) for name in ("field_novelty", "novelty", "source_novelty") if board.get(name) is not None]
    return max(found, default=math.nan)


def _consistency(board: dict[str, Any]) -> results.Consistency:
    """Work out once what two numbers are read from."""
    if "consistency" not in board:
        board["consistency"] = _measure_consistency(board)
    return board["consistency"]


def _measure_consistency(board: Board) -> results.Consistency:
    return results.consistency(board["local_field"], board["chi"], board["local_mask"], board["grid"], board.get("noise"))


CHECKS = (
    Check(
        "signal to noise", "", ("magnitude", "mask"), lambda b: inputs.snr(b["magnitude"], b["mask"], b.get("scan")), 20, 8,
        "The first echo has signal enough.",
        "The first echo is noisy: expect noisy maps, and take thin structures with caution.",
    ),
    Check(
        "saturated voxels", "%", ("magnitude",), lambda b: 100 * inputs.saturation(b["magnitude"]), 0.005, 0.1,
        "No more voxels than expected have the largest magnitude.",
        "Many voxels share the largest magnitude: the images were clipped; R2* and weights are wrong there. Export them unscaled.",
    ),
    Check(
        "missing echoes", "", ("scan",), lambda b: inputs.missing_echoes(b["scan"]), 0, 3,
        "The echo times leave no gap.",
        "The echo times have a gap of a whole number of spacings: an echo seems to be missing. Check that all files are there.",
    ),
    Check(
        "smooth share of the phase", "%", ("phase", "mask", "grid"),
        lambda b: 100 * inputs.low_frequencies(b["phase"], b["mask"], b["grid"]), 40, 15,
        "The phase has its background and was not filtered.",
        "The phase has neither wraps nor a smooth part: it was high-pass filtered, probably by the scanner for venography. "
        "Susceptibility from it is too low and not quantitative. Export unfiltered phase.",
    ),
    Check(
        "mask volume", "ml", ("mask", "grid"), lambda b: inputs.mask_volume(b["mask"], b["grid"]), 20, 1,
        "The volume of the mask; an adult brain has 1000 to 1700 ml.",
        "The mask is small. Look at its outline below; give a mask of your own if it is wrong.",
        LARGEST_BRAIN,
        "The mask is larger than a brain and may hold muscle, scalp or neck, which background removal then loses again. Look at its "
        "outline below; give a mask of your own if it is wrong.",
    ),
    Check(
        "mask cut off", "%", ("mask",), lambda b: 100 * inputs.cut(b["mask"]), 10, 97,
        "The mask lies inside the volume.",
        "Partial coverage: the volume cuts the mask off. Sources beyond were not measured, so susceptibility in the slices near "
        "the cut, and its mean, are less certain.",
    ),
    Check(
        "residual wraps", "%", ("unwrapped", "local_mask"),
        lambda b: 100 * float(inputs.residual_wraps(b["unwrapped"], b["local_mask"]).max()), 0.5, 2,
        "The unwrapped phase is without jumps but for the odd voxel, in the worst echo.",
        "Neighbours differ by more than π in the unwrapped phase of the worst echo: regions may lie 2π apart. Look at the unwrapped phase; "
        "try another mask or method.",
    ),
    Check(
        "field noise", "ppb", ("noise", "mask"), _noise, 10, 40,
        "Median standard deviation of the fitted field.",
        "The fitted field is noisy: expect noise and streaks. Average more, or regularise more.",
    ),
    Check(
        "brain mapped", "%", ("mask", "local_mask"), lambda b: 100 * float(b["local_mask"].sum() / b["mask"].sum()), 85, 60,
        "Share of the mask in which susceptibility holds.",
        "Susceptibility holds in a part of the mask only: beside air the field is lost, or the background removal gives up the edge. "
        "Compare the outlines below.",
    ),
    Check(
        "harmonic residue", "%", ("local_field", "local_mask", "grid"),
        lambda b: 100 * results.harmonic_residue(b["local_field"], b["local_mask"], b["grid"]), 25, 45,
        "Little of the local field is smooth enough to be background.",
        "Much of the local field is still background. Try another background method, or erode the mask where it holds air or bone.",
    ),
    Check(
        "field not explained", "%", ("local_field", "chi", "local_mask", "grid"), lambda b: 100 * _consistency(b).relative, 55, 75,
        "What susceptibility leaves of the local field, root mean square.",
        "Susceptibility explains little of the local field: strong regularisation, noise, or background in the field. Try less weight.",
    ),
    Check(
        "field not explained, in noise", "SD", ("local_field", "chi", "local_mask", "grid", "noise"),
        lambda b: _consistency(b).noises, 4, 12,
        "What susceptibility leaves of the local field, in standard deviations of its noise; 1 is down to the noise.",
        "Far more is left of the local field than noise explains: background remains, or the regularisation is too strong.",
    ),
    Check(
        "unlike the training", "of the limit", (), _novelty, 1, 1.5,
        "The volume looks like those that the networks were trained with.",
        "The volume does not look like those that the networks were trained with. Trust these maps less: compare them with a classical "
        "method, and look at the uncertainty.",
    ),
    Check(
        "streak energy", "ratio", ("chi", "local_mask", "grid"), lambda b: results.streaks(b["chi"], b["local_mask"], b["grid"]), 2, 4,
        "Susceptibility has no more energy on the magic-angle cone than around it.",
        "Susceptibility has excess energy on the magic-angle cone: streaks. Regularise more, or look for voxels with a wrong field.",
    ),
    Check(
        "edge rim", "ratio", ("chi", "local_mask"), lambda b: results.rim(b["chi"], b["local_mask"]), 1.5, 2.5,
        "The edge of the mask is no stronger than the inside.",
        "The edge of the mask stands out: background remains there, or the mask holds air or bone. Erode it.",
    ),
    Check(
        "sign", "index", ("chi", "local_mask"), _sign, -0.02, -0.25,
        "Veins and deep grey matter are bright, as they should be.",
        "Wrong sign? The extremes of susceptibility are dark: veins and deep grey matter should be bright. If they are not, flip the "
        "sign of the phase.",
    ),
)  # fmt: skip
"""Every number, in the order of the data; the limits leave room above what simulated heads and real scans score."""
