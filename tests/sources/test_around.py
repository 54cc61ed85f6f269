"""Means around voxels against loops, in volumes thinner than the cube too."""

from __future__ import annotations

import pytest
import torch

from paradia.sources.around import mean_around


@pytest.mark.parametrize("width", [3, 5])
@pytest.mark.parametrize("shape", [(6, 5, 7), (6, 5, 2), (1, 4, 3), (1, 1, 1)])
def test_is_the_mean_over_what_lies_in_the_volume(shape, width, generator):
    image = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
    found = mean_around(image, width)
    torch.testing.assert_close(mean_around(image[0], width), found[0])
    for i, j, k in torch.ones(shape).nonzero().tolist():
        window = tuple(slice(max(n - width // 2, 0), n + width // 2 + 1) for n in (i, j, k))
        torch.testing.assert_close(found[:, i, j, k], image[(slice(None), *window)].mean((1, 2, 3)))
