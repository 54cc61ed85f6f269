"""Rigid registration, by ANTs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from paradia.errors import GeometryError, InputError, MissingDependencyError
from paradia.registration._matrix import checked
from paradia.sources.inside import check_numbers
from paradia.types import Volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From NIfTI's world (right, forward, up) to that of ANTs (left, back, up); its own inverse."""

SETTINGS = {"aff_iterations": (300, 200, 100), "aff_smoothing_sigmas": (3, 2, 1), "aff_random_sampling_rate": 1.0}
"""Three resolutions, every voxel compared: samples of small images are too few to tell a degree."""

FINE = 1.6
"""Voxels smaller than this, mm, are put together in the last resolution too."""


class Rigid(NamedTuple):
    """A rotation and a translation from the world of the fixed image to that of the moving one, mm."""

    matrix: NDArray[np.float64]
    """4×4, as affines are."""

    @property
    def rotation(self) -> NDArray[np.float64]:
        """The 3×3 rotation."""
        return self.matrix[:3, :3]

    @property
    def angle(self) -> float:
        """How far it turns, degrees."""
        return math.degrees(math.acos(min(1.0, max(-1.0, (float(np.trace(self.rotation)) - 1) / 2))))

    def turn(self, direction: ArrayLike) -> NDArray[np.float64]:
        """Turn a direction in the moving world, such as that of B0, into the fixed one."""
        return self.rotation.T @ np.asarray(direction, dtype=float)


def rigid(fixed: Volume, fixed_affine: ArrayLike, moving: Volume, moving_affine: ArrayLike, *, seed: int = 1) -> Rigid:
    """Find the rigid motion that lays one image of a head on another.

    Mutual information over three resolutions, in one thread, so that the same images always give the same motion. Give
    magnitudes of the brain alone: the neck does not turn with the head.

    Parameters
    ----------
    fixed
        Image that stays, any unit.
    fixed_affine
        Its 4×4 matrix from voxel indices to the world, mm.
    moving
        Image to be laid on it.
    moving_affine
        Its matrix.
    seed
        Of what ANTs draws.

    Returns
    -------
    Rigid
        From the fixed to the moving world: what stands at p in the fixed image stands at ``matrix @ p`` in the moving one.

    Raises
    ------
    MissingDependencyError
        ANTs is not installed.
    GeometryError
        An image is no volume, or a matrix is no affine.
    NonFiniteError
        An image is NaN or Inf somewhere.
    InputError
        An image is empty.

    References
    ----------
    Avants BB, Tustison NJ, Song G, et al. NeuroImage 2011;54:2033-2044. doi:10.1016/j.neuroimage.2010.09.025.
    """
    with _one_thread():
        try:
            import ants
        except ImportError as error:
            raise MissingDependencyError(
                "registration needs ANTs, which is not installed. Install it with: pip install 'paradia[registration]'"
            ) from error
        images = [
            _to_ants(ants, name, data, affine) for name, data, affine in (("fixed", fixed, fixed_affine), ("moving", moving, moving_affine))
        ]
        shrink = (6, 4, 2) if min(images[0].spacing) < FINE else (4, 2, 1)
        found = ants.registration(*images, type_of_transform="Rigid", random_seed=seed, aff_shrink_factors=shrink, **SETTINGS)
    files = [Path(name) for name in {*found["fwdtransforms"], *found["invtransforms"]}]
    try:
        transform = ants.read_transform(found["fwdtransforms"][0])
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    origin = np.array(transform.apply_to_point((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    for axis in range(3):
        matrix[:3, axis] = np.array(transform.apply_to_point(tuple(np.eye(3)[axis] * 100))) - origin
    matrix[:3, :3] /= 100
    matrix[:3, 3] = origin
    left, _, right = np.linalg.svd((LPS @ matrix @ LPS)[:3, :3])
    result = LPS @ matrix @ LPS
    result[:3, :3] = left @ right  # what rounding has taken from the right angles
    return Rigid(result)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several threads sum the same numbers in another order each time, and the optimiser ends up to a degree away.

    ANTs asks for the number once, with its first image.
    """
    name = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _to_ants(ants, name: str, data: Tensor, affine: ArrayLike):
    """Hand an image over with its place in the world."""
    if data.ndim != 3:
        raise GeometryError(f"the {name} image must be a volume, got {tuple(data.shape)}. Give one of them.")
    check_numbers(torch.ones_like(data, dtype=torch.bool), **{name: data})
    if not bool((data != 0).any()):
        raise InputError(f"the {name} image is zero everywhere: there is nothing to register. Check its mask.")
    matrix = LPS @ checked(f"{name}_affine", affine)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    array = data.detach().cpu().numpy().astype(np.float32)
    return ants.from_numpy(array, origin=matrix[:3, 3].tolist(), spacing=spacing.tolist(), direction=matrix[:3, :3] / spacing)
