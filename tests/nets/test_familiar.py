"""What is familiar and what is strange, on rows whose law is known."""

from __future__ import annotations

import math

import pytest
import torch

from paradia.errors import InputError
from paradia.nets.familiar import Familiar, _distance, belief, from_json, learn, novelty, statistics, tell, to_json
from paradia.nets.unet import UNet3d


def test_statistics_are_those_of_noise_of_known_size(generator):
    mask = torch.zeros((40, 40, 40), dtype=torch.bool)
    mask[3:, :-2, 5:] = True
    channels = torch.stack([2 + 3 * torch.randn((40, 40, 40), generator=generator), torch.linspace(-1, 1, 40).expand(40, 40, 40)])
    mean, size, low, high, rough = statistics(channels, mask).reshape(5, 2)
    assert float(mean[0]) == pytest.approx(2, abs=0.05)
    assert float(size[0]) == pytest.approx(math.log(3), abs=0.02)
    assert float(low[0]) == pytest.approx(2 - 3 * 2.0537, abs=0.15)
    assert float(high[0]) == pytest.approx(2 + 3 * 2.0537, abs=0.15)
    assert float(rough[0]) == pytest.approx(math.log(2), abs=0.02)  # differences of white noise have twice its variance
    assert rough[1] < -4


def test_one_in_a_hundred_is_beyond_the_limit(generator):
    """Rows of a correlated normal law: of fresh ones about as many are beyond as were meant; far ones all are."""
    mixing = torch.randn((12, 12), generator=generator)
    rows = torch.randn((600, 12), generator=generator) @ mixing + 5
    known = learn(rows)
    fresh = torch.randn((2000, 12), generator=generator) @ mixing + 5
    beyond = sum(float(_distance(row.double(), known)) > known.limit for row in fresh) / 2000
    assert 0.001 < beyond < 0.035
    assert float(_distance((rows[0] + 30).double(), known)) > 2 * known.limit


def test_few_volumes_still_give_an_answer_and_fewer_are_refused(generator):
    known = learn(torch.randn((6, 30), generator=generator))
    assert math.isfinite(known.limit)
    assert torch.isfinite(known.precision).all()
    with pytest.raises(InputError, match="at least 5 volumes to learn what is familiar, got 4"):
        learn(torch.randn((4, 30), generator=generator))


def test_it_reads_back_from_json(generator):
    known = learn(torch.randn((20, 7), generator=generator))
    again = from_json(to_json(known))
    for a, b in zip(known[:3], again[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert again.limit == pytest.approx(known.limit, rel=1e-4)


def test_novelty_is_the_distance_over_the_limit(generator):
    net, mask = UNet3d(2, 2, (4,)), torch.ones((6, 6, 6), dtype=torch.bool)
    channels = torch.randn((2, 6, 6, 6), generator=generator)
    assert novelty(net, channels, mask) == 0
    row = statistics(channels, mask)
    net.about = {"familiar": to_json(Familiar(row - 3, torch.ones(10), torch.eye(10), 1.5))}
    assert novelty(net, channels, mask) == pytest.approx(2.0, rel=1e-3)


def test_what_is_familiar_is_believed_whole_and_the_strange_the_less_the_stranger():
    assert belief(0.0) == belief(0.7) == belief(1.0) == 1
    assert belief(4.0) == 0.25
    assert belief(1.001) == pytest.approx(1, abs=2e-3)  # no step where the flag is raised


def test_only_strange_volumes_are_told(recwarn):
    tell(0.99, "net")
    assert not recwarn


def test_a_channel_of_one_number_tells_its_mean_alone(generator):
    """A noise that nobody mapped, say: that it does not vary is no reason to call a volume strange."""
    net, mask = UNet3d(2, 2, (4,)), torch.ones((9, 9, 9), dtype=torch.bool)
    rows = torch.stack([statistics(torch.randn((2, 9, 9, 9), generator=generator), mask) for _ in range(200)])
    net.about = {"familiar": to_json(learn(rows))}
    channels = torch.randn((2, 9, 9, 9), generator=generator)
    plain = torch.stack([channels[0], torch.full_like(channels[1], float(channels[1].mean()))])
    row = statistics(plain, mask).reshape(5, 2)
    torch.testing.assert_close(row[:, 0], statistics(channels, mask).reshape(5, 2)[:, 0])
    assert float(row[0, 1]) == pytest.approx(float(channels[1].mean()), abs=1e-6)
    assert row[1:, 1].isnan().all()
    assert novelty(net, plain, mask) < 1
    off = plain + torch.tensor([0.0, 2.0])[:, None, None, None]
    assert novelty(net, off, mask) > 2  # its size still tells


def test_what_is_not_told_is_as_if_it_had_never_been_asked(generator):
    mixing = torch.randn((6, 6), generator=generator).double()
    rows = torch.randn((4000, 6), generator=generator).double() @ mixing
    row = rows[7].clone()
    row[[1, 4]] = math.nan
    told = [0, 2, 3, 5]
    part = rows[:, told]
    scaled = (row[told] - part.mean(0)) / part.std(0)
    want = (scaled @ torch.linalg.inv(torch.corrcoef(part.T)) @ scaled / 4).sqrt()
    assert float(_distance(row, learn(rows))) == pytest.approx(float(want), rel=0.02)
    holes = rows.clone()
    holes[::3, 1] = math.nan
    torch.testing.assert_close(learn(holes).mean, rows.where(~holes.isnan(), math.nan).nanmean(0))
    holes[:, 4] = math.nan  # a channel that is one number in every volume, as the field strength is
    known = learn(holes)
    assert math.isfinite(known.limit)
    assert math.isfinite(float(_distance(row, known)))


def test_a_single_voxel_has_statistics_too(generator):
    mask = torch.zeros((4, 5, 6), dtype=torch.bool)
    mask[2, 2, 2] = True
    row = statistics(torch.randn((3, 4, 5, 6), generator=generator), mask).reshape(5, 3)
    assert row[0].isfinite().all()
    assert row[1:].isnan().all()
