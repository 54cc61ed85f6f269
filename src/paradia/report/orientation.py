"""How to lay a volume out for the eye: which way is up, which voxels to show."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

PLANES = {"sagittal": (0, 1, 2), "coronal": (1, 0, 2), "axial": (2, 0, 1)}
"""Axis across the plane, to the right, and up, in anatomical order."""

ARRAY_PLANES = {"x": (0, 1, 2), "y": (1, 0, 2), "z": (2, 0, 1)}
"""The same for arrays of which nobody knows how the head lay."""

THIN = 0.3
"""A side shorter than this share of the longest makes a thin slab, of which only the flat plane is shown."""


@dataclass(frozen=True)
class Cut:
    """One slice of a volume, laid out."""

    plane: str
    axis: int
    """Array axis across the plane."""
    index: int
    count: int
    size: tuple[float, float]
    """Width and height in mm."""
    letters: tuple[str, str, str, str]
    """What lies left, right, down and up."""
    order: tuple[int, int]
    """Array axes to the right and up."""
    flips: tuple[bool, bool]
    """Whether either runs backwards."""
    window: tuple[slice, slice]
    """Part of the two axes that is shown."""

    @property
    def title(self) -> str:
        """Plane and position in words."""
        name = f"across {self.plane}" if self.plane in ARRAY_PLANES else self.plane
        return f"{name} · slice {self.index + 1} of {self.count}"

    def take(self, volume: NDArray) -> NDArray:
        """Return the slice as an image, first row at the top."""
        flat = np.take(volume, self.index, axis=self.axis)
        right, up = self.order
        if right > up:  # np.take leaves the two axes in array order; rows must be the up axis
            flat = flat.T
        flat = flat[self.window]
        if self.flips[0]:
            flat = flat[::-1]
        if not self.flips[1]:
            flat = flat[:, ::-1]
        return flat.T


class Layout:
    """Where to cut a volume and how to turn the slices.

    Slices go through the middle of the mask; radiological convention: the patient's right is on the left of the picture.

    Parameters
    ----------
    mask
        Voxels that matter.
    voxel_size
        Edges, mm.
    affine
        From voxel indices to scanner coordinates; array axes are shown where it is absent.
    """

    def __init__(self, mask: NDArray[np.bool_], voxel_size: tuple[float, float, float], affine: NDArray | None = None) -> None:
        self.mask = mask if mask.any() else np.ones_like(mask)
        self.voxel_size = voxel_size
        self.planes = ARRAY_PLANES if affine is None else PLANES
        codes = None if affine is None else nib.orientations.io_orientation(np.asarray(affine, dtype=float))
        if codes is None or np.isnan(codes).any():
            self.planes = ARRAY_PLANES
            self.axes, self.signs = [0, 1, 2], [1, 1, 1]
        else:  # array axis and direction of each of right, anterior, superior
            self.axes = [int(np.flatnonzero(codes[:, 0] == world)[0]) for world in range(3)]
            self.signs = [int(codes[axis, 1]) for axis in self.axes]
        self.box = tuple(self._side(axis) for axis in range(3))

    def three(self) -> list[Cut]:
        """Return one slice a plane, or three slices of the only plane that a thin slab has."""
        extents = [self._extent(axis) for axis in range(3)]
        thin = int(np.argmin(extents))
        if extents[thin] < THIN * max(extents):
            (name,) = (n for n, (across, _, _) in self.planes.items() if self.axes[across] == thin)
            indices = sorted({self._position(thin, share) for share in (0.25, 0.5, 0.75)})
            return [self._cut(name, index) for index in indices]
        return [self._cut(name, self._position(self.axes[self.planes[name][0]], 0.5)) for name in reversed(self.planes)]

    def flat(self) -> Cut:
        """Return the slice for pictures that have only one: axial, or the plane of a thin slab."""
        cuts = self.three()
        return cuts[len(cuts) // 2] if len({cut.plane for cut in cuts}) == 1 else cuts[0]

    def whole(self) -> Layout:
        """Return the same cuts over the whole field of view."""
        other = object.__new__(Layout)
        other.__dict__ = {**self.__dict__, "box": tuple(slice(0, n) for n in self.mask.shape)}
        return other

    def _cut(self, plane: str, index: int) -> Cut:
        across, right, up = self.planes[plane]
        a, r, u = self.axes[across], self.axes[right], self.axes[up]
        known = self.planes is PLANES
        # Right and anterior of the patient are on the left of the picture; up is up.
        flips = (self.signs[right] > 0 if known else False, self.signs[up] < 0)
        letters = ("", "", "", "")
        if known:
            sideways = "RL" if right == 0 else "AP"
            letters = (sideways[0], sideways[1], *("PA" if up == 1 else "IS"))
        else:
            letters = ("", f"{'xyz'[r]} →", "", f"↑ {'xyz'[u]}")
        size = (self._shown(r), self._shown(u))
        return Cut(plane, a, index, self.mask.shape[a], size, letters, (r, u), flips, (self.box[r], self.box[u]))

    def _side(self, axis: int) -> slice:
        """The mask's extent along an axis with a margin."""
        inside = np.flatnonzero(self.mask.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = max(2, round(0.05 * len(inside)))
        return slice(max(int(inside[0]) - margin, 0), min(int(inside[-1]) + 1 + margin, self.mask.shape[axis]))

    def _extent(self, axis: int) -> float:
        return self.mask.shape[axis] * self.voxel_size[axis]

    def _shown(self, axis: int) -> float:
        return (self.box[axis].stop - self.box[axis].start) * self.voxel_size[axis]

    def _position(self, axis: int, share: float) -> int:
        """Slice below which a share of the mask lies."""
        counts = self.mask.sum(axis=tuple(a for a in range(3) if a != axis)).cumsum()
        return int(np.searchsorted(counts, share * counts[-1]))
