"""Windows give what the whole gives, where the network sees no further than their border."""

from __future__ import annotations

import math

import pytest
import torch

from paradia.errors import ParadiaWarning
from paradia.nets import windows
from paradia.nets.unet import UNet3d


@pytest.fixture
def net():
    """It sees less than 20 voxels far: two levels, folded by two."""
    torch.manual_seed(1)
    net = UNet3d(1, 1, (32, 32)).eval().requires_grad_(False)
    torch.nn.init.normal_(net.head.weight, std=0.1)
    return net


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(windows, "BORDER", 20)


def test_it_sees_no_further_than_the_border(net, small):
    """What the test below rests on, measured by a gradient."""
    x = torch.zeros(1, 1, 64, 64, 64, requires_grad=True)
    (net(x + 1)[..., 30, 31, 32].sum()).backward()
    seen = x.grad[0, 0].nonzero()
    reach = (seen - torch.tensor([30, 31, 32])).abs().max()
    assert 4 < reach < windows.BORDER


@pytest.mark.parametrize("sizes", [(96, 40, 33), (67, 57, 18), (97, 96, 65)])
def test_windows_equal_the_whole(net, small, sizes, monkeypatch):
    channels, asked, once = torch.randn(1, *sizes), [], windows._once
    whole = once(net, channels)
    monkeypatch.setattr(windows, "_once", lambda net, part: asked.append(part[0].numel()) or once(net, part))
    most = 0.8 * channels.numel()
    answer = windows._windows(net, channels, most)
    assert len(asked) > 1
    assert max(asked) <= most
    torch.testing.assert_close(answer, whole, rtol=0, atol=0.02 * float(whole.std()))  # half precision
    torch.testing.assert_close(whole, net(channels[None])[0], rtol=0, atol=0.15 * float(whole.std()))


def test_what_is_too_large_goes_in_windows(net, small, monkeypatch):
    asked = []
    monkeypatch.setattr(windows, "_windows", lambda net, channels, most: asked.append((channels.shape, most)) or channels)
    channels = torch.ones(1, 20, 20, 20)
    windows.apply(net, channels)
    assert not asked
    monkeypatch.setattr(windows, "LIMIT", windows.BYTES * (20**3 - 1))
    windows.apply(net, channels)
    assert asked == [((1, 20, 20, 20), 20**3 - 1)]


def test_what_is_nothing_all_around_is_not_seen(net, monkeypatch):
    """Zeros beyond the margin are not asked for, blocks stay where they are, and a volume of nothing has no answer."""
    channels, asked, once = torch.zeros(1, 61, 60, 59), [], windows._once
    channels[0, 25:36, 20:30, 23:31] = torch.randn(11, 10, 8)
    monkeypatch.setattr(windows, "_once", lambda net, part: asked.append(tuple(part.shape[1:])) or once(net, part))
    answer = windows.apply(net, channels)
    assert asked == [(28, 26, 25)]  # 17 to 44 begins at 16, 12 to 38, 15 to 39 at 14
    alone = once(net, channels[:, 16:44, 12:38, 14:39])
    assert torch.equal(answer[:, 16:44, 12:38, 14:39], alone)
    answer[:, 16:44, 12:38, 14:39] = 0
    assert not answer.any()
    nothing = windows.apply(net, torch.zeros(1, 9, 8, 7))
    assert nothing.shape == (1, 9, 8, 7)
    assert not nothing.any()
    assert len(asked) == 1


def test_out_of_memory_goes_on_in_windows_and_is_said(net, small, monkeypatch):
    channels, once = torch.randn(1, 180, 20, 20), windows._once

    def little(net, part):
        if part.shape[1] > 90:
            raise torch.OutOfMemoryError("no room")
        return once(net, part)

    whole = once(net, channels)
    monkeypatch.setattr(windows, "_once", little)
    with pytest.warns(ParadiaWarning, match="too little memory .* going on in windows"):
        answer = windows.apply(net, channels)
    torch.testing.assert_close(answer, whole, rtol=0, atol=0.02 * float(whole.std()))


def test_the_second_answer_has_its_blocks_between_those_of_the_first(net, monkeypatch):
    """A network that gives the mean of each block, asked for a point, lights up the block on either side of it."""

    def means(net, channels):
        sizes = channels.shape[1:]
        whole = torch.nn.functional.pad(channels, [n for size in reversed(sizes) for n in (0, -size % 2)])
        spread = torch.nn.functional.avg_pool3d(whole, 2)
        for axis in (1, 2, 3):
            spread = spread.repeat_interleave(2, axis)
        return spread[:, : sizes[0], : sizes[1], : sizes[2]]

    monkeypatch.setattr(windows, "apply", means)
    for place in (6, 7):
        channels = torch.zeros(1, 14, 15, 16)
        channels[0, place, place, place] = 1.0
        lit = windows.ask(net, channels)[0]
        torch.testing.assert_close(lit.sum(), torch.tensor(1.0))
        for axis in range(3):
            seen = lit.amax([other for other in range(3) if other != axis]).nonzero()[:, 0]
            assert seen.tolist() == [place - 1, place, place + 1]


def test_the_second_answer_is_that_of_the_mirror_image(net):
    """Odd sides have their blocks of two between those of the volume without a voxel more."""
    channels = torch.randn(1, 23, 19, 21)
    first, second = windows.apply(net, channels), windows.apply(net, channels.flip((1, 2, 3))).flip((1, 2, 3))
    torch.testing.assert_close(windows.ask(net, channels), (first + second) / 2)
    assert float(torch.corrcoef(torch.stack([second.flatten(), first.flatten()]))[0, 1]) < 0.999


def test_both_answers_count_alike(net, monkeypatch):
    def told_apart(net, channels):
        """Answer 1 for the volume and 3 for its mirror image, which falls along the first axis."""
        return torch.full_like(channels, 1.0 if channels[0, 0].mean() < channels[0, -1].mean() else 3.0)

    monkeypatch.setattr(windows, "apply", told_apart)
    channels = torch.arange(9.0)[None, :, None, None].expand(1, 9, 8, 7)
    assert windows.ask(net, channels).unique().tolist() == [2.0]


@pytest.mark.parametrize("sizes", [(14, 15, 17), (15, 14, 17), (15, 17, 14), (14, 16, 18), (1, 2, 3)])
def test_every_voxel_is_answered_at_its_own_place(net, monkeypatch, sizes):
    """A network that gives what it is given, asked for a volume of any sizes, gives that volume."""
    monkeypatch.setattr(windows, "apply", lambda net, channels: channels)
    channels = torch.randn(2, *sizes)
    torch.testing.assert_close(windows.ask(net, channels), channels)


@pytest.mark.parametrize("sizes", [(1, 31, 56), (57, 80, 200), (161, 191, 144)])
@pytest.mark.parametrize("most", [1e5, 4e5, 3e6])
def test_windows_cover_each_voxel_once_and_see_around_it(sizes, most):
    tiles = windows._tiles(sizes, 16, 16, most)
    for size, axis in zip(sizes, tiles, strict=True):
        owned = [place for own, _ in axis for place in range(own.start, own.stop)]
        assert owned == list(range(size))
        for own, wide in axis:
            assert wide.start % 16 == 0
            assert wide.start == max(own.start - 16, 0)
            assert wide.stop == min(own.stop + 16, size)
    largest = math.prod(max(wide.stop - wide.start for _, wide in axis) for axis in tiles)
    assert largest <= max(most, 48**3)


def test_windows_are_those_of_the_least_work():
    """Two halves along the axis that makes them smallest, rather than four quarters."""
    tiles = windows._tiles((160, 190, 144), 16, 16, 3e6)
    assert [len(axis) for axis in tiles] == [1, 2, 1]
    assert [len(axis) for axis in windows._tiles((96, 96, 96), 16, 16, 1e6)] == [1, 1, 1]


def test_the_answer_may_enter_a_graph(net):
    answer = windows.apply(net, torch.randn(1, 8, 8, 8))
    weight = torch.ones((), requires_grad=True)
    (answer * weight).sum().backward()
    assert weight.grad is not None
