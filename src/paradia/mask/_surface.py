"""A closed surface of triangles and the voxels inside it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from paradia.grid import Grid

Array = NDArray[np.float32]


@lru_cache(maxsize=4)
def icosphere(level: int) -> tuple[Array, NDArray[np.int64]]:
    """Return points on the unit sphere and triangles: an icosahedron whose edges were halved `level` times."""
    golden = (1 + 5**0.5) / 2
    points: list[tuple[float, float, float]] = [
        (-1, golden, 0),
        (1, golden, 0),
        (-1, -golden, 0),
        (1, -golden, 0),
        (0, -1, golden),
        (0, 1, golden),
    ]
    points += [(0, -1, -golden), (0, 1, -golden), (golden, 0, -1), (golden, 0, 1), (-golden, 0, -1), (-golden, 0, 1)]
    vertices: NDArray[np.floating] = np.asarray(points, dtype=np.float64)
    distance = np.linalg.norm(vertices[:, None] - vertices[None], axis=2)
    near = np.isclose(distance, 2.0)
    faces = np.asarray(
        [(i, j, k) for i in range(12) for j in range(i + 1, 12) for k in range(j + 1, 12) if near[i, j] and near[j, k] and near[i, k]]
    )
    outward = np.einsum(
        "ij,ij->i",
        np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]),
        vertices[faces[:, 0]],
    )
    faces[outward < 0] = faces[outward < 0][:, ::-1]
    for _ in range(level):
        vertices, faces = refine(vertices, faces)
    return (vertices / np.linalg.norm(vertices, axis=1, keepdims=True)).astype(np.float32), faces


def refine(vertices: NDArray[np.floating], faces: NDArray[np.int64]) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Halve every edge; the first vertices stay what they were."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    unique, inverse = np.unique(edges, axis=0, return_inverse=True)
    a, b, c = (len(vertices) + inverse.reshape(-1)).reshape(3, -1)
    p, q, r = faces.T
    return (
        np.concatenate([vertices, vertices[unique].mean(1)]),
        np.concatenate([np.stack(t, 1) for t in ((p, a, c), (a, q, b), (c, b, r), (a, b, c))]),
    )


@lru_cache(maxsize=4)
def neighbours(level: int) -> NDArray[np.int64]:
    """Return the neighbours of each vertex, (vertex, 6); the twelve that have five repeat the vertex itself as the sixth."""
    vertices, faces = icosphere(level)
    pairs = np.unique(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=0)  # each edge both ways round
    start = np.searchsorted(pairs[:, 0], np.arange(len(vertices) + 1))
    table = np.repeat(np.arange(len(vertices))[:, None], 6, axis=1)
    for k in range(6):
        has = start[:-1] + k < start[1:]
        table[has, k] = pairs[start[:-1][has] + k, 1]
    return table


def normals(vertices: Array, faces: NDArray[np.int64]) -> Array:
    """Return the outward unit normal at each vertex."""
    p, q, r = (vertices[faces[:, k]] for k in range(3))
    cross = np.cross(q - p, r - p)
    total = np.stack([np.bincount(faces.ravel(), np.repeat(cross[:, a], 3), len(vertices)) for a in range(3)], 1)
    return (total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def voxels_inside(vertices: Array, faces: NDArray[np.int64], grid: Grid) -> NDArray[np.bool_]:
    """Return the voxels whose centre lies inside a surface given in mm from the centre of the first voxel.

    The surface is strewn with points and closes a shell of voxels, the inside of which is filled; in the shell the
    normals tell on which side a centre lies.  The surface may leave the field of view.
    """
    size = np.asarray(grid.voxel_size, dtype=np.float32)
    corners = vertices[faces] / size
    low = np.minimum(np.floor(corners.min((0, 1))).astype(int) - 2, 0)
    high = np.maximum(np.ceil(corners.max((0, 1))).astype(int) + 3, grid.shape)
    shape = tuple((high - low).tolist())
    longest = float(np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max())
    count = max(2, int(np.ceil(longest / 0.6)))
    i, j = np.meshgrid(np.arange(count + 1), np.arange(count + 1), indexing="ij")
    u, v = (t[i + j <= count] / count for t in (i, j))
    shares = np.stack([u, v, 1 - u - v], 1).astype(np.float32)
    points = np.einsum("sk,fkd->fsd", shares, corners) - low
    cross = np.cross((corners[:, 1] - corners[:, 0]) * size, (corners[:, 2] - corners[:, 0]) * size)
    cells = np.rint(points).astype(np.int64)
    side = np.einsum("fsd,fd->fs", (cells - points) * size, cross)
    flat = np.ravel_multi_index(tuple(cells.reshape(-1, 3).T), shape)
    total = np.bincount(flat, side.ravel(), int(np.prod(shape))).reshape(shape)
    shell = np.zeros(shape, dtype=bool)
    shell.ravel()[flat] = True
    outside, _ = ndimage.label(~shell)
    inside = (outside != outside[0, 0, 0]) & (~shell | (total < 0))
    return inside[tuple(slice(-a, -a + n) for a, n in zip(low.tolist(), grid.shape, strict=True))]
