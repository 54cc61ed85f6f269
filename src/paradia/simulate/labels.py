"""Anatomies from label volumes that others have drawn."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Integer
from scipy.ndimage import binary_dilation, binary_erosion, binary_fill_holes, generate_binary_structure
from scipy.ndimage import label as components
from torch import Tensor

from paradia.errors import GeometryError, InputError, MaskError, nearest
from paradia.grid import Grid
from paradia.simulate._noise import texture
from paradia.simulate.anatomy import Anatomy
from paradia.simulate.tissue import LABELS, place
from paradia.types import Mask

OUTSIDE = ("air", "muscle", "fat", "bone", "marrow", "dura", "eye", "artery", "procedural")
"""Tissues that are no part of a brain."""

ZUBAL: Mapping[int, str] = MappingProxyType(
    {
        **dict.fromkeys((0, 15, 100, 104), "air"),
        **dict.fromkeys((4, 5, 70, 71, 76, 81, 102), "bone"),
        **dict.fromkeys((1, 9, 30, 72, 74, 78, 82), "muscle"),
        **dict.fromkeys((22, 98), "fat"),
        **dict.fromkeys((2, 75, 92, 115, 122, 123), "csf"),
        **dict.fromkeys((77, 89, 95, 96, 97, 99, 103, 112, 114, 117, 118, 124), "grey_matter"),
        **dict.fromkeys((3, 83, 85, 91, 106, 108), "white_matter"),
        **dict.fromkeys((110, 116, 119, 121), "eye"),
        **dict.fromkeys((23, 84), "vein"),
        26: "choroid",
        101: "caudate",
        105: "putamen",
        107: "internal_capsule",
        109: "thalamus",
        111: "corpus_callosum",
        113: "dura",
        120: "pallidum_external",
    }
)
"""Tissues of the head phantom of Zubal et al., Med Phys 1994;21:299-302, doi:10.1118/1.597290; some are the nearest there is."""


def from_labels(
    labels: Integer[Tensor, "x y z"], mapping: Mapping[int, str], grid: Grid, *, seed: int = 0, mask: Mask | None = None
) -> Anatomy:
    """Make an anatomy of a label volume.

    Parameters
    ----------
    labels
        What fills each voxel, numbered as one likes.
    mapping
        Name of a tissue of `paradia.simulate.tissue.TISSUES` for every number that occurs.
    grid
        Where the volume lives; its third axis points up.
    seed
        Draws the fine structure within tissues, which labels do not tell.
    mask
        The brain. None is the largest connected part of the brain's tissues, holes filled.

    Returns
    -------
    Anatomy
        Without fibres; veins fill the voxels that are labelled so. Air, bone, muscle, fat and eye that the brain encloses (or a
        given mask holds) become fluid: such volumes have their mistakes.

    Raises
    ------
    GeometryError
        Labels or mask do not have the grid's shape.
    InputError
        A number without a name, or a name without a tissue.
    MaskError
        Nothing in the volume is brain.
    """
    for name, image in (("labels", labels), ("mask", mask)):
        if image is not None and tuple(image.shape) != grid.shape:
            raise GeometryError(f"{name} has shape {tuple(image.shape)}, but the grid {grid.shape}. Bring both to one space.")
    for tissue in set(mapping.values()) - set(LABELS):
        raise InputError(f"there is no tissue {tissue!r}. {nearest(tissue, LABELS)}")
    numbers, inverse = torch.unique(labels, return_inverse=True)
    nameless = sorted(set(numbers.tolist()) - set(mapping))
    if nameless:
        raise InputError(f"the mapping names no tissue for the labels {nameless}. Add them, as 'air' where nothing is known.")
    table = torch.tensor([LABELS[mapping[number]] for number in numbers.tolist()], dtype=torch.uint8)
    tissues = table[inverse]
    inside = _brain(tissues) if mask is None else mask
    if not bool(inside.any()):
        raise MaskError("no voxel is brain. Map some labels to brain tissues, or give a mask.")
    foreign = torch.tensor([LABELS[name] for name in OUTSIDE if name not in ("dura", "artery", "procedural")], dtype=tissues.dtype)
    tissues.masked_fill_(inside & torch.isin(tissues, foreign), LABELS["csf"])
    detail = texture(place(grid), torch.Generator().manual_seed(seed), (2.0, 5.0)) * inside
    return Anatomy(tissues, inside, (tissues == LABELS["vein"]).float(), detail, None, grid)


def _brain(tissues: Tensor) -> Tensor:
    """Return the largest part of the brain's tissues that hangs together by more than a thread."""
    outside = torch.tensor([LABELS[name] for name in OUTSIDE], dtype=tissues.dtype)
    whole = ~torch.isin(tissues, outside).numpy()
    cross = generate_binary_structure(3, 1)
    core, _ = components(binary_erosion(whole, cross))
    counts = np.bincount(core.ravel())
    counts[0] = 0
    if counts.max() == 0:  # nowhere thick enough to be eroded
        core, _ = components(whole)
        counts = np.bincount(core.ravel())
        counts[0] = 0
        return torch.from_numpy((core == counts.argmax()) & (counts.max() > 0))
    largest = binary_dilation(core == counts.argmax(), cross) & whole
    return torch.from_numpy(binary_fill_holes(largest))
