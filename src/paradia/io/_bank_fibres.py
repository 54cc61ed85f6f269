"""Which way white matter runs, to first order: the large bundles as simple fields, short fibres along the normal of the cortex."""

from __future__ import annotations

from typing import Any

import numpy as np

from paradia.io._bank_lattice import Floats, Lattice, smooth


def tensor(box: Lattice, white: Floats) -> list[Floats]:
    """Return the mean dyad xx, yy, zz, xy, xz, yz of the directions of fibres, of trace 1.

    Parameters
    ----------
    box
        A coarse lattice of the right half.
    white
        Distance into white matter, mm.
    """
    x, y, z = np.broadcast_arrays(*(p.numpy() for p in box.points()))
    zero = np.zeros_like(x)
    fields: list[tuple[Any, tuple[Any, Any, Any]]] = []  # weight and direction
    # corpus callosum: across, its ends bent to the poles
    arch = np.hypot((y + 4.0) / 40.0, (z - 2.0) / 24.0)
    callosum = np.exp(-(((arch - 1.0) / 0.35) ** 2)) * (z > -12)
    turn = np.clip(np.abs(x) / 28.0, 0, 1)
    poles = turn * np.where(y > 15, 1.0, np.where(y < -30, -1.0, 0.0))
    fields.append((2.5 * callosum * np.exp(-((x / 26.0) ** 2)), (1 - 0.6 * turn, poles, 0.7 * turn)))
    # corticospinal tract and corona radiata: up through the capsule, then fanning out
    fan = (x - 4.0, y + 16.0, z + 34.0)
    fields.append((1.3 * np.exp(-(((x - 22.0) / 14.0) ** 2)) * (z > -12), fan))
    fields.append((2.0 * np.exp(-((x / 13.0) ** 2) - ((y + 28.0) / 16.0) ** 2) * (z < -2), (zero, zero + 0.35, zero + 1.0)))
    # pons and the middle cerebellar peduncles: across, then back
    pons = np.exp(-(((z + 32.0) / 11.0) ** 2) - ((y + 32.0) / 22.0) ** 2) * (y < -12) * (y > -62)
    fields.append((1.6 * pons, (zero + np.exp(-((x / 12.0) ** 2)) + 0.2, -np.clip(x / 14.0, 0, 1), zero)))
    # association bundles: front to back, along the temporal lobe, over the insula, and the cingulum round the callosum
    fields.append((1.5 * np.exp(-(((x - 37.0) / 7.0) ** 2) - ((z - 26.0) / 9.0) ** 2), (zero, zero + 1, -0.15 + zero)))
    fields.append((1.6 * np.exp(-(((x - 36.0) / 8.0) ** 2) - ((z + 8.0) / 10.0) ** 2), (zero, zero + 1, zero + 0.1)))
    ring = np.exp(-(((arch - 1.45) / 0.16) ** 2) - ((x - 9.0) / 5.0) ** 2) * (z > 0)
    fields.append((2.0 * ring, (zero, -(z - 2.0) / 24.0**2, (y + 4.0) / 40.0**2)))
    # short fibres: along the normal of the cortex
    slope = np.gradient(smooth(white, 0.7), 4.0)
    fields.append((1.0 * np.exp(-((white.clip(0) / 4.0) ** 2)) + 0.05, (slope[0], slope[1], slope[2])))
    total = [np.zeros_like(x) for _ in range(6)]
    for weight, (a, b, c) in fields:
        norm = np.maximum(a * a + b * b + c * c, 1e-12)
        for k, product in enumerate((a * a, b * b, c * c, a * b, a * c, b * c)):
            total[k] = total[k] + weight * product / norm
    trace = np.maximum(total[0] + total[1] + total[2], 1e-6)
    total = [t / trace for t in total]
    for k in (3, 4):
        total[k][0] = 0.0  # odd across the midplane
    return [smooth(t.astype(np.float32), 0.7) if k not in (3, 4) else t.astype(np.float32) for k, t in enumerate(total)]
