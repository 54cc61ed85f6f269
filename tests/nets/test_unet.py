"""The network as a map of voxels: sizes, folding, and a start that changes nothing."""

from __future__ import annotations

import pytest
import torch

from paradia.nets.unet import UNet3d


def shaken(**knobs):
    torch.manual_seed(1)
    net = UNet3d(**knobs).eval().requires_grad_(False)
    torch.nn.init.normal_(net.head.weight, std=0.1)
    return net


@pytest.mark.parametrize("sizes", [(16, 16, 16), (17, 10, 23), (1, 5, 8)])
@pytest.mark.parametrize("fold", [1, 2])
def test_any_size_goes_in_and_comes_out(sizes, fold):
    net = shaken(inputs=3, outputs=2, widths=(4, 8), fold=fold)
    answer = net(torch.randn(2, 3, *sizes))
    assert answer.shape == (2, 2, *sizes)
    assert torch.isfinite(answer).all()


def test_untrained_it_changes_nothing():
    assert UNet3d(2, 2, (4, 8))(torch.randn(1, 2, 9, 8, 7)).abs().max() == 0


def test_unfolding_undoes_folding_and_keeps_neighbours_together():
    net = UNet3d(2, 2, (4,), fold=2)
    x = torch.randn(1, 2, 4, 6, 8)
    folded = net._fold(x)
    assert folded.shape == (1, 16, 2, 3, 4)
    assert torch.equal(net._unfold(folded), x)
    assert set(folded[0, :8, 1, 2, 3].tolist()) == set(x[0, 0, 2:4, 4:6, 6:8].flatten().tolist())


def test_the_padding_of_odd_sizes_is_that_of_zeros():
    net = shaken(inputs=1, outputs=2, widths=(4, 8))
    x = torch.randn(1, 1, 10, 9, 11)
    wide = torch.zeros(1, 1, 12, 12, 12)
    wide[..., :10, :9, :11] = x
    torch.testing.assert_close(net(x), net(wide)[..., :10, :9, :11])


def test_moving_by_its_multiple_moves_the_answer():
    net = shaken(inputs=1, outputs=1, widths=(4, 8))
    assert net.multiple == 4
    x = torch.zeros(1, 1, 48, 48, 48)
    x[..., 20:26, 20:26, 20:26] = torch.randn(6, 6, 6)
    answer, moved = net(x), net(x.roll((4, -4, 8), (2, 3, 4)))
    inside = (..., slice(12, 36), slice(12, 36), slice(12, 36))
    torch.testing.assert_close(moved.roll((-4, 4, -8), (2, 3, 4))[inside], answer[inside])


def test_every_weight_matters():
    """A gradient for each parameter: no branch is cut off."""
    net = UNet3d(2, 2, (4, 8, 8))
    torch.nn.init.normal_(net.head.weight, std=0.1)
    net(torch.randn(1, 2, 16, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_tempered_it_answers_less_as_surely():
    torch.manual_seed(2)
    net = UNet3d(2, 4, widths=(8, 16))
    torch.nn.init.normal_(net.head.weight, std=0.1)
    torch.nn.init.normal_(net.head.bias, std=0.1)
    x = torch.randn(1, 2, 9, 12, 11)
    with torch.no_grad():
        before = net(x)
        net.temper(0.6)
        after = net(x)
    torch.testing.assert_close(after[:, :2], 0.6 * before[:, :2])
    torch.testing.assert_close(after[:, 2:], before[:, 2:])
