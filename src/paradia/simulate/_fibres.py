"""Fibre directions of a subject's white matter."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.simulate._deform import LOW, SHAPE, STEP, Deformation, look_up
from paradia.simulate._fill import sample
from paradia.simulate._table import LABELS
from paradia.simulate.bank import Bank

_BUNDLES = ("white_matter", "corpus_callosum", "internal_capsule", "optic_radiation")


def directions(bank: Bank, deformation: Deformation, axes: list[Tensor], labels: Tensor) -> Tensor:
    """Carry the bank's fibre tensors over to a subject and return their main directions.

    Parameters
    ----------
    bank
        The anatomy bank.
    deformation
        From subject to bank.
    axes
        Coordinates of the voxels, mm.
    labels
        What fills them.

    Returns
    -------
    Tensor
        Unit vectors (3, x, y, z), zero outside white matter.
    """
    there = deformation.there
    xx, yy, zz, xy, xz, yz = sample(bank.fibres, deformation.at_knots())
    tensor = torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], -1).reshape(-1, 3, 3)
    slopes = torch.stack(torch.gradient(there, spacing=STEP, dim=(1, 2, 3)), 1)  # i, j: how displacement i changes along j
    jacobian = deformation.matrix @ (torch.eye(3) + slopes.permute(2, 3, 4, 0, 1).reshape(-1, 3, 3))
    back = torch.linalg.inv(jacobian)
    tensor = back @ tensor @ back.transpose(1, 2)
    tensor = tensor / tensor.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-6)[:, None, None]
    six = tensor.reshape(-1, 9)[:, [0, 4, 8, 1, 2, 5]].T.reshape(6, *SHAPE)
    white = torch.zeros_like(labels, dtype=torch.bool)
    for name in _BUNDLES:
        white |= labels == LABELS[name]
    where = white.nonzero()
    points = torch.stack([axis[where[:, i]] for i, axis in enumerate(axes)], 1)
    result = torch.zeros((3, *labels.shape), device=points.device)
    result[:, where[:, 0], where[:, 1], where[:, 2]] = _main(look_up(six.to(points), LOW, STEP, points))
    return result


def _main(six: Tensor) -> Tensor:
    """Return the main eigenvectors (3, n) of symmetric tensors (6, n) by repeated squaring; they point up, or forward."""
    xx, yy, zz, xy, xz, yz = six
    for _ in range(5):
        xx, yy, zz, xy, xz, yz = (
            xx * xx + xy * xy + xz * xz,
            xy * xy + yy * yy + yz * yz,
            xz * xz + yz * yz + zz * zz,
            xx * xy + xy * yy + xz * yz,
            xx * xz + xy * yz + xz * zz,
            xy * xz + yy * yz + yz * zz,
        )
        trace = (xx + yy + zz).clamp(min=1e-20)
        xx, yy, zz, xy, xz, yz = xx / trace, yy / trace, zz / trace, xy / trace, xz / trace, yz / trace
    columns = torch.stack([torch.stack([xx, xy, xz]), torch.stack([xy, yy, yz]), torch.stack([xz, yz, zz])])
    best = torch.stack([xx, yy, zz]).argmax(0)
    vector = columns.gather(0, best[None, None].expand(1, 3, -1))[0]
    vector = vector / vector.norm(dim=0).clamp(min=1e-12)
    up = torch.where(vector[2].abs() > 1e-3, vector[2], vector[1])
    return vector * torch.where(up < 0, -1.0, 1.0)
