"""What others take for the same: seconds of QSM.rs at 192 × 192 × 128, 1 mm, four echoes, on two cores of a server.

Upper bounds, measured on a shared machine, where a pair of real transforms of that size took 14 ms; each with its defaults.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

SHAPE = (192, 192, 128)
PAIR_SECONDS = 0.014

SECONDS = {
    ("unwrap", "romeo"): 1.27,
    ("unwrap", "laplacian"): 1.77,
    ("background", "sharp"): 0.44,
    ("background", "vsharp"): 4.37,
    ("background", "resharp"): 7.9,
    ("background", "ismv"): 6.8,
    ("background", "lbv"): 5.85,
    ("background", "pdf"): 113.0,
    ("inversion", "tkd"): 0.23,
    ("inversion", "tsvd"): 0.16,
    ("inversion", "tikhonov"): 0.19,
    ("inversion", "rts"): 3.9,
    ("inversion", "tv"): 4.0,
    ("inversion", "hdqsm"): 8.3,
    ("inversion", "medi"): 15.4,
    ("inversion", "nltv"): 23.0,
    ("inversion", "ilsqr"): 36.0,
    ("inversion", "l1"): 39.0,
    ("inversion", "ndi"): 60.0,
    ("inversion", "fansi"): 81.0,
    ("singlestep", "tgv"): 70.0,
}
"""By stage and method."""


def geometric_mean(ratios: Iterable[float]) -> float:
    """Return the geometric mean; NaN of nothing."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan
