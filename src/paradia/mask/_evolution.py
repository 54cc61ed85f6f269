"""Grow a closed surface in an image until it lies on the brain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from paradia.mask._surface import Array, icosphere, neighbours, normals, refine

LEVEL = 3
"""Icosphere of the first, fast growth (642 vertices); one finer finishes (2562)."""
ROUGHEST, SMOOTHEST = 3.33, 10.0
"""Radii of curvature that are smoothed away fully and hardly, mm."""
INWARDS, NEAR = 20.0, 10.0
"""How far inwards to look for the darkest and the brightest point, mm."""
BEYOND = 12.0
"""How far the surface may leave the field of view, mm."""


def evolve(
    image: Array, tissue: NDArray[np.bool_], step: tuple[float, ...], *, fraction: float, smoothness: float, max_iter: int
) -> tuple[Array, NDArray[np.int64]]:
    """Return vertices in mm from the centre of the first voxel, and triangles."""
    size = np.asarray(step, dtype=np.float32)
    centre, radius = _start(tissue, size)
    place = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip(image.shape, size, strict=True)), indexing="ij", sparse=False), -1)
    within = (np.linalg.norm(place - centre, axis=-1) < radius) & tissue
    low = float(np.quantile(image, 0.02))
    typical = float(np.median(image[within])) if within.any() else 1.0
    levels = (low, low + 0.1 * (typical - low), typical)
    ends = (-BEYOND * np.ones(3, np.float32), (np.asarray(image.shape) - 1) * size + BEYOND)
    sphere, faces = icosphere(LEVEL)
    vertices = (centre + 0.6 * radius * sphere).astype(np.float32)
    for level in (LEVEL, LEVEL + 1):
        if level > LEVEL:
            vertices, faces = (a for a in refine(vertices, faces))  # type: ignore[assignment]
            vertices = vertices.astype(np.float32)
        table = neighbours(level)
        for _ in range(max_iter):
            moved = vertices + _forces(vertices, faces, table, image, size, levels, fraction, smoothness)
            moved = np.clip(moved, *ends).astype(np.float32)
            change = float(np.abs(moved - vertices).mean())
            vertices = moved
            if change < 0.004:
                break
    return vertices, faces


def _start(tissue: NDArray[np.bool_], size: Array) -> tuple[Array, float]:
    """Find the deepest tissue: it lies in the brain, not in the neck; a slab goes on beyond its ends."""
    from scipy.ndimage import binary_fill_holes, distance_transform_edt

    solid = binary_fill_holes(tissue)
    depth = distance_transform_edt(np.pad(solid, 12, mode="edge"), sampling=size)[12:-12, 12:-12, 12:-12]
    deep = depth > 0.85 * depth.max()
    centre = np.argwhere(deep).mean(0) * size
    return centre.astype(np.float32), float(np.clip(0.9 * depth.max(), 10.0, 70.0))


def _forces(
    vertices: Array,
    faces: NDArray[np.int64],
    table: NDArray[np.int64],
    image: Array,
    size: Array,
    levels: tuple[float, float, float],
    fraction: float,
    smoothness: float,
) -> Array:
    outward = normals(vertices, faces)
    around = vertices[table]
    count = 6 - (table == np.arange(len(table))[:, None]).sum(1)
    mean = (around.sum(1) - (6 - count)[:, None] * vertices) / count[:, None]
    away = mean - vertices
    along = np.einsum("ij,ij->i", away, outward)[:, None]
    spacing = float(np.linalg.norm(around - vertices[:, None], axis=2).sum() / count.sum())
    bend = 2 * np.abs(along) / spacing**2  # one over the radius of curvature
    middle, width = (1 / ROUGHEST + 1 / SMOOTHEST) / 2, 6 / (1 / ROUGHEST - 1 / SMOOTHEST)
    hold = smoothness * 0.5 * (1 + np.tanh(width * (bend - middle)))
    low, dim, typical = levels
    far = _along(image, vertices, outward, size, INWARDS)
    darkest = np.maximum(low, np.minimum(typical, far.min(1)))
    brightest = np.minimum(typical, np.maximum(dim, far[:, : int(NEAR / 2) + 1].max(1)))
    pull = 2 * (darkest - low - (brightest - low) * fraction) / np.maximum(brightest - low, 1e-6)
    move = 0.5 * (away - along * outward) + hold * along * outward + 0.05 * spacing * pull[:, None] * outward
    return move.astype(np.float32)


def _along(image: Array, vertices: Array, outward: Array, size: Array, reach: float) -> Array:
    """Sample the image every two millimetres inwards from each vertex; beyond the field of view the last voxel goes on."""
    depths = np.arange(0.0, reach + 0.1, 2.0, dtype=np.float32)
    places = np.rint((vertices[:, None] - depths[:, None] * outward[:, None]) / size).astype(np.int64)
    x, y, z = (places[..., a].clip(0, n - 1) for a, n in enumerate(image.shape))
    return image[x, y, z]
