"""What is wrong with a rate that a network learns from: within its bounds, and where physics puts it."""

from __future__ import annotations

import math

import pytest
import torch

from paradia.nets.features import FIELD, spread, squash
from paradia.nets.unrolled import centred
from paradia.operators.dipole import Dipole
from paradia.training import tasks
from paradia.training.tasks import TASKS

HERTZ = 42.577478518 * 3.0
"""Per ppm at 3 T."""


def changed(volume, **maps):
    return volume._replace(maps={**volume.maps, **maps})


def draws(volume, r2, count=12):
    return [tasks.wrong_rate(volume, r2, torch.Generator().manual_seed(seed)) for seed in range(count)]


def test_relaxivities_differ_smoothly_and_in_proportion(prepared):
    rate = torch.full_like(prepared.maps["r2prime"], 10.0)
    plain = changed(prepared, total_field=torch.zeros_like(rate), r2prime=rate)
    found = draws(plain, None)
    spreads = [float(image.std()) / 10 for image in found]
    assert max(spreads) < 1.2 * tasks.LARGEST_PATCH
    assert max(spreads) > 3 * min(spreads)
    assert all(image.diff(dim=0).std() < 0.5 * image.std() for image in found)
    twice = draws(changed(plain, r2prime=2 * rate), None)
    for one, other in zip(found, twice, strict=True):
        torch.testing.assert_close(other, 2 * one)


def test_r2_is_off_as_a_whole(prepared):
    nothing = torch.zeros_like(prepared.maps["r2prime"])
    plain = changed(prepared, total_field=nothing, r2prime=nothing)
    r2 = 12 + torch.rand(nothing.shape)
    shares = [image / r2 for image in draws(plain, r2)]
    assert all(float(share.max() - share.min()) < 1e-5 for share in shares)
    means = [float(share.mean()) for share in shares]
    assert -tasks.LARGEST_R2_ERROR <= min(means) < 0 < max(means) <= tasks.LARGEST_R2_ERROR
    assert all(not image.any() for image in draws(plain, None))


def test_what_is_left_of_dephasing_follows_the_slope_of_the_field(prepared):
    """A ramp of 20 Hz a voxel: at most the stated share of the sinc's first order, the same everywhere; steeper ones go no further."""
    nothing = torch.zeros_like(prepared.maps["r2prime"])
    ramp = torch.arange(nothing.shape[1], dtype=torch.float32)[None, :, None].expand(nothing.shape) / HERTZ
    whole = (math.pi * 20) ** 2 * tasks.LATE / 6
    rates = [image.mean() for image in draws(changed(prepared, total_field=20 * ramp, r2prime=nothing), None)]
    assert max(rates) <= tasks.LARGEST_SLOPE * whole * 1.001
    assert min(rates) >= -tasks.LARGEST_SLOPE * whole * 1.001
    assert max(rates) > 0 > min(rates)
    steep, steeper = (draws(changed(prepared, total_field=f * ramp, r2prime=nothing), None, 3) for f in (60, 600))
    for one, other in zip(steep, steeper, strict=True):
        torch.testing.assert_close(one, other)


def test_lessons_of_inversion_begin_where_methods_begin_and_where_the_field_has_settled_an_answer(prepared):
    """Each start with the field that goes with it, as often as is said."""
    maps, mask, count = prepared.maps, prepared.window.mask, 80
    dipole = Dipole(prepared.window.grid)
    pairs = {
        "chi_local": maps["field"],
        "chi_settled": maps["field_settled"],
        "chi_joint": maps["local_joint"] + maps["rest_joint"],
    }
    found = dict.fromkeys(pairs, 0)
    for seed in range(count):
        lesson = TASKS["varnet"].lesson(prepared, torch.Generator().manual_seed(seed))
        (name,) = [name for name in pairs if torch.allclose(lesson.start[0], centred(maps[name], mask))]
        found[name] += 1
        unit = spread(centred(maps[name], mask), mask)
        left = pairs[name] - dipole(centred(maps[name], mask))
        field = (pairs[name] - left[mask].mean()) * mask  # the methods take a constant off as well
        torch.testing.assert_close(lesson.channels[2], squash(FIELD * field / unit), rtol=1e-3, atol=1e-3)
    shares = {"chi_local": tasks.LOCAL, "chi_settled": tasks.SETTLED, "chi_joint": 1 - tasks.LOCAL - tasks.SETTLED}
    assert {name: times / count for name, times in found.items()} == pytest.approx(shares, abs=0.12)


@pytest.mark.parametrize(("name", "channel"), [("varnet", 5), ("bgnet", 6), ("sepnet", 8)])
def test_noise_is_told_as_one_number_as_often_as_is_said(prepared, name, channel):
    mask, count, plain = prepared.window.mask, 80, 0
    assert prepared.maps["noise"][mask].std() > 0
    for seed in range(count):
        seen = TASKS[name].lesson(prepared, torch.Generator().manual_seed(seed)).channels[channel][mask]
        plain += bool(seen.std() < 1e-6)
    assert plain / count == pytest.approx(tasks.PLAIN, abs=0.12)
    assert plain > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_separation_lesson_has_the_truth_for_target(prepared, seed):
    lesson = TASKS["sepnet"].lesson(prepared, torch.Generator().manual_seed(seed))
    assert lesson.channels.isfinite().all()
    torch.testing.assert_close(lesson.target[0], prepared.maps["chi_pos"])
    torch.testing.assert_close(lesson.target[1], prepared.maps["chi_neg"])


@pytest.mark.parametrize("seed", range(4))
def test_what_is_wrong_with_a_rate_is_in_its_lesson(prepared, monkeypatch, seed):
    """With R2′ and with R2* alike: what takes all of the rate away leaves none, and of R2* nothing but less than the typical R2."""
    spun = []

    def wrong_by(wrong):
        def drawn(volume, r2, generator):
            spun.append(r2 is not None)
            return torch.full_like(volume.maps["r2"], wrong)

        return drawn

    def rate(wrong):
        monkeypatch.setattr(tasks, "wrong_rate", wrong_by(wrong))
        return TASKS["sepnet"].lesson(prepared, torch.Generator().manual_seed(seed)).channels[4]

    assert rate(0.0).max() > 0
    none = rate(-1e4)[prepared.window.mask]
    assert none.min() == pytest.approx(none.max())  # R2′ and R2* are never negative
    assert (none == 0).all() if spun[-1] else (none < 0).all()
    inside = prepared.window.mask
    assert (rate(20.0) > rate(0.0))[inside].all()


def test_no_slope_is_seen_across_the_edge_of_the_mask(prepared):
    """The total field is zero outside, and that step says nothing of the decay inside."""
    mask = prepared.window.mask
    ramp = (50.0 + torch.arange(mask.shape[1], dtype=torch.float32)[None, :, None].expand(mask.shape)) * mask
    squares = tasks._squared_slopes(3 * ramp, mask)
    inside = mask & mask.roll(1, 1)
    torch.testing.assert_close(squares[inside], torch.full_like(squares[inside], 9.0))
    assert not squares[~mask].any()
