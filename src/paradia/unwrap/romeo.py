"""Exact unwrapping along the most reliable paths."""

from __future__ import annotations

from functools import partial
from typing import Literal

from paradia.errors import InputError
from paradia.scan import Scan
from paradia.solvers.continuation import continue_phase
from paradia.solvers.neighbours import TERMS
from paradia.types import Echoes, Mask
from paradia.unwrap._checks import check
from paradia.unwrap._modes import check_mode, exactly

CITE = "10.1002/mrm.28563"


def romeo(
    phase: Echoes,
    magnitude: Echoes,
    mask: Mask,
    scan: Scan,
    *,
    mode: Literal["template", "individual"] = "template",
    template: int = 1,
    weights: tuple[str, ...] = TERMS,
) -> Echoes:
    r"""Unwrap along the minimum spanning tree of a graph that shuns unreliable neighbours.

    Each pair of neighbouring voxels has a weight, the product of terms between 0.1 and 1 that tell how far the step between them can be
    trusted; the phase is then continued along the spanning tree of the largest weights. Pieces of the mask that do not touch are
    unwrapped each for itself, and each is shifted by the whole turns that bring its median phase nearest to zero.

    Parameters
    ----------
    phase
        Wrapped phase of every echo, rad.
    magnitude
        Magnitude of every echo, any unit.
    mask
        Voxels to unwrap.
    scan
        Echo times.
    mode
        ``template`` unwraps in space one echo and the phase difference to a neighbouring echo, and continues both to the other echoes in
        time, so that the phase offset does not matter; ``individual`` unwraps every echo in space, which is slower and has more errors
        at late echoes.
    template
        Number of the echo that is unwrapped in space, counted from 1.
    weights
        Terms of the weight: ``phase`` (small steps are good), ``gradient`` (steps that grow with echo time are good), ``linearity``
        (steps that resemble the next ones are good), ``magnitude`` (like magnitudes are good), ``signal`` (strong signal is good).

    Returns
    -------
    Echoes
        Unwrapped phase, rad: the wrapped phase plus whole turns inside the mask, zero outside it.

    Raises
    ------
    GeometryError, MetadataError, MaskError, NonFiniteError
        Shapes or the number of echo times do not fit, the mask is empty, or the phase inside it is not finite.
    InputError
        An echo, a mode or a term that does not exist.

    Notes
    -----
    Differs from the publication in three points. The tree is the exact minimum spanning tree of finely graded weights, where the
    published queue has 255 grades and starts from seeds. The other echoes follow from the phase difference, not from the template's
    phase scaled by echo time, which is wrong where the phase offset is not zero. All pieces of the mask are unwrapped.

    References
    ----------
    Dymerska B, et al. Phase unwrapping with a rapid opensource minimum spanning tree algorithm (ROMEO). Magn Reson Med 2021;85:2294.
    https://doi.org/10.1002/mrm.28563
    """
    check(phase, mask, magnitude, scan)
    check_mode(phase.shape[0], mode, template)
    _check_weights(weights)
    return exactly(partial(continue_phase, terms=tuple(weights)), phase, magnitude, mask, scan.echo_times, mode, template)


def _check_weights(weights: tuple[str, ...]) -> None:
    unknown = [name for name in weights if name not in (*TERMS, "signal")]
    if unknown or not weights:
        raise InputError(f"weights are some of {', '.join((*TERMS, 'signal'))}, got {weights}.")
