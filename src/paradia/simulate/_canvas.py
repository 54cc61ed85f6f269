"""Paint tissues one over another, each voxel shared in proportion to what the shape covers of it."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.simulate import _tissue
from paradia.simulate._shapes import Box, Frame, coverage

WHOLE: Box = (slice(None), slice(None), slice(None))


class Canvas:
    """Maps of everything a tissue is made of; starts as air."""

    def __init__(self, frame: Frame, b0: float, tr: float, flip: float) -> None:
        self.frame = frame
        self.physics = (b0, tr, flip)
        shape = [len(axis) for axis in frame]
        self.chi = torch.full(shape, _tissue.TISSUES[0].chi)
        self.spread = torch.zeros(shape)
        self.r2star = torch.zeros(shape)
        self.weight = torch.zeros(shape)
        self.labels = torch.zeros(shape, dtype=torch.uint8)

    def paint(self, name: str, distance: Tensor, box: Box = WHOLE, within: Tensor | None = None) -> Tensor:
        """Lay a tissue over what is there and return how much of each voxel it covers.

        Parameters
        ----------
        name
            Name of the tissue.
        distance
            The shape in the box, positive inside.
        box
            Voxels that the shape may touch.
        within
            Share of each voxel of the box that may be painted.
        """
        tissue, label = _tissue.TISSUES[_tissue.LABELS[name]], _tissue.LABELS[name]
        share = coverage(distance)
        if within is not None:
            share = share * within
        b0, tr, flip = self.physics
        rate, weight = _tissue.r2star(tissue, b0), _tissue.weight(tissue, b0, tr, flip)
        for target, value in ((self.chi, tissue.chi), (self.spread, tissue.spread), (self.weight, weight)):
            target[box] += share * (value - target[box])
        # signals add, not rates: a voxel half in bone or air decays like its visible half
        seen = share if weight == 0 else share * weight / (self.weight[box] + 1e-6)
        visible = seen.clamp(0, 1) if weight else torch.zeros(())
        self.r2star[box] += visible * (rate - self.r2star[box])
        self.labels[box].masked_fill_(share > 0.5, label)
        return share
