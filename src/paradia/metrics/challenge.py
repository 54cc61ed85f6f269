"""The numbers of the reconstruction challenges and of the public QSM-CI leaderboard, under its names.

They are equal to what ``qsm_ci.qsm_eval.score_arrays`` prints; a test holds them against it.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import max_pool3d

from paradia.errors import MaskError
from paradia.metrics.accuracy import correlation, nrmse, region_slope, xsim
from paradia.metrics.calcification import calcification
from paradia.metrics.separation import angle_variation, leak, mspe, mspe_by_angle
from paradia.metrics.similarity import hfen
from paradia.types import Mask, Volume

LABELS = MappingProxyType(
    {
        1: "caudate", 2: "globus pallidus", 3: "putamen", 4: "red nucleus", 5: "dentate nucleus", 6: "substantia nigra", 7: "thalamus",
        8: "white matter", 9: "grey matter", 10: "CSF", 11: "blood", 13: "bone", 14: "air", 15: "muscle", 16: "calcification",
    }
)  # fmt: skip
"""Labels of the challenge's head phantom."""

DEEP_GREY, TISSUE, WHITE_MATTER, BLOOD, CALCIFICATION = (1, 2, 3, 4, 5, 6), (7, 8, 9), (8,), (11,), (16,)
PARAMAGNETIC = (1, 2, 3, 4, 5, 6, 7, 9)
"""Regions with enough iron for a percentage; white matter has next to none."""

Kind = Literal["field", "relaxation", "chi", "paramagnetic", "diamagnetic"]


def score(
    estimate: Volume,
    truth: Volume,
    mask: Mask,
    *,
    kind: Kind = "chi",
    labels: Int[Tensor, "x y z"] | None = None,
    bundles: Int[Tensor, "x y z"] | None = None,
    angle: Volume | None = None,
) -> dict[str, float]:
    """Score a map as the QSM-CI leaderboard does.

    Both maps are set to zero outside the mask and the whole mask counts: what a method left out, or where it gave no number,
    is an error as large as the truth. Nothing is re-referenced, and XSIM feels the zero of χ.

    Parameters
    ----------
    estimate, truth
        ppm; 1/s for ``relaxation``. Both sources of a separation are positive magnitudes.
    mask
        The brain.
    kind
        ``field`` and ``relaxation`` have NRMSE, correlation and XSIM; ``chi`` the challenge's numbers; ``paramagnetic`` and
        ``diamagnetic`` those of the two maps of a source separation.
    labels
        Segmentation with the challenge's numbers (`LABELS`), for whatever is measured in regions.
    bundles
        Fibre bundles of the white matter, for the diamagnetic map.
    angle
        Angle between fibres and B0, degrees, for the diamagnetic map; zero where not known.

    Returns
    -------
    dict
        Numbers by name; NaN where a region is not there. NRMSE and HFEN are in percent. ``mspe_theta_0`` is that of fibres
        within the first tenth of the quarter turn, and so on.

    Raises
    ------
    MaskError
        The mask is empty.
    """
    if not mask.any():
        raise MaskError("the mask is empty: there is nothing to score. Give another mask.")
    a = torch.where(mask & torch.isfinite(estimate), estimate, 0).double()
    b = torch.where(mask, truth, 0).double()
    numbers = {
        "nrmse": nrmse(a, b, mask),
        "nrmse_detrend": nrmse(a, b, mask, kind="detrended"),
        "correlation": correlation(a, b, mask),
        "xsim": xsim(a, b, mask),
    }
    if kind == "chi":
        numbers["hfen"] = hfen(a, b, mask)
    if labels is not None:
        regions = {"chi": _regions, "paramagnetic": _paramagnetic, "diamagnetic": _diamagnetic}
        if kind in regions:
            numbers |= regions[kind](a, b, mask, labels)
    if kind == "diamagnetic" and labels is not None:
        numbers |= _fibres(a, b, mask, labels, bundles, angle)
    numbers["coverage"] = float((a[mask] != 0).double().mean())
    return {name: value if math.isfinite(value) else math.nan for name, value in numbers.items()}


def _regions(a: Tensor, b: Tensor, mask: Tensor, labels: Tensor) -> dict[str, float]:
    """Measure χ in tissue, blood, deep grey matter and a calcification."""
    deviation, streak = _calcification(a, b, labels)
    return {
        "nrmse_tissue": _detrended(a, b, mask & _is(labels, TISSUE)),
        "nrmse_blood": _detrended(a, b, _dilated(mask & _is(labels, BLOOD))),
        "nrmse_dgm": _detrended(a, b, mask & _is(labels, DEEP_GREY)),
        "dgm_linearity": deep_grey_linearity(a, b, labels),
        "calc_moment_dev": deviation,
        "calc_streak": streak,
    }


def _paramagnetic(a: Tensor, b: Tensor, mask: Tensor, labels: Tensor) -> dict[str, float]:
    """Measure the source that iron and venous blood belong to."""
    return {
        "nrmse_dgm": _detrended(a, b, mask & _is(labels, DEEP_GREY)),
        "dgm_linearity": deep_grey_linearity(a, b, labels),
        "nrmse_blood": _detrended(a, b, mask & _dilated(mask & _is(labels, BLOOD))),
        "calc_leak": leak(a, mask & _is(labels, CALCIFICATION)),
        "mspe": mspe(a, b, labels, mask, PARAMAGNETIC),
    }


def _diamagnetic(a: Tensor, b: Tensor, mask: Tensor, labels: Tensor) -> dict[str, float]:
    """Measure the source that calcium and myelin belong to."""
    deviation, streak = _calcification(-a, -b, labels)
    iron = mask & (_is(labels, DEEP_GREY) | _dilated(mask & _is(labels, BLOOD)))
    return {"calc_moment_dev": deviation, "calc_streak": streak, "iron_leak": leak(a, iron)}


def _fibres(a: Tensor, b: Tensor, mask: Tensor, labels: Tensor, bundles: Tensor | None, angle: Tensor | None) -> dict[str, float]:
    """Measure the diamagnetic source in fibre bundles and by their angle to B0."""
    numbers: dict[str, float] = {}
    white = mask & _is(labels, WHITE_MATTER)
    if bundles is not None:
        numbers["mspe"] = mspe(a, b, bundles, mask)
        white = mask & (bundles > 0)
    if angle is not None and (white & (angle > 0)).any():
        profile = mspe_by_angle(a, b, angle.double(), white & (angle > 0))
        numbers |= {f"mspe_theta_{place}": value for place, value in enumerate(profile)}
        numbers["mev"] = angle_variation(profile)
    return numbers


def deep_grey_linearity(estimate: Volume, truth: Volume, labels: Int[Tensor, "x y z"]) -> float:
    """Return how far the means of the deep grey nuclei are from proportional: the distance of their slope from 1.

    Parameters
    ----------
    estimate, truth
        χ, ppm.
    labels
        Segmentation with the challenge's numbers (`LABELS`).

    Returns
    -------
    float
        0 is perfect; NaN with fewer than two nuclei.
    """
    nuclei = torch.where(_is(labels, DEEP_GREY), labels, 0)
    if len(nuclei.unique()) < 3:
        return math.nan
    return abs(1 - region_slope(estimate, truth, nuclei))


def _calcification(a: Tensor, b: Tensor, labels: Tensor) -> tuple[float, float]:
    region = _is(labels, CALCIFICATION)
    return calcification(a, b, region) if region.any() else (math.nan, math.nan)


def _detrended(a: Tensor, b: Tensor, region: Tensor) -> float:
    return nrmse(a, b, region, kind="detrended") if region.any() else math.nan


def _is(labels: Tensor, which: tuple[int, ...]) -> Tensor:
    return torch.isin(labels, torch.tensor(which, dtype=labels.dtype, device=labels.device))


def _dilated(region: Tensor) -> Tensor:
    """Add every voxel that touches the region with a face, an edge or a corner."""
    return max_pool3d(region[None].float(), 3, stride=1, padding=1)[0] > 0
