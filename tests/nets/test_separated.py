"""The physics around the separation network: both equations against dense algebra, and channels that know no scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear

from paradia.grid import Grid
from paradia.nets import familiar, separated
from paradia.nets.separated import (
    ANCHOR,
    RATE_ERROR,
    Pair,
    consult,
    grounded,
    guess,
    less_typical,
    separable,
    separate,
    separation_channels,
    unmet,
)
from paradia.nets.unet import UNet3d
from paradia.nets.unrolled import FLOOR
from paradia.operators.dipole import Dipole
from paradia.scan import Scan
from paradia.separation.closed_form import closed_form

DR = (150.0, 110.0)
TINY = Grid((6, 5, 7), (1.0, 1.3, 1.6), (0.2, -0.3, 0.93))


def held(grid=TINY, factor=1.0, seed=1, dr=DR, rate=1.0, b0=3.0):
    """Sources of a few ppb to a tenth of a ppm, their field and rate, and noises ten times the floor that every field has."""
    generator = torch.Generator().manual_seed(seed)

    def uniform():
        return torch.rand(grid.shape, generator=generator)

    mask = torch.ones(grid.shape, dtype=torch.bool)
    mask[0], mask[:, -1], mask[3, 2, 2] = False, False, False
    dipole = Dipole(grid)
    pos, neg = (0.1 * uniform() * (uniform() > 0.4) * mask for _ in range(2))
    noise, rate_noise = 0.01 * (1 + uniform()), 3 * (1 + uniform())
    field = dipole(pos - neg) + noise * torch.randn(grid.shape, generator=generator)
    decay = dr[0] * pos + dr[1] * neg + rate_noise * torch.randn(grid.shape, generator=generator)
    images = (field, pos - neg + 0.005 * uniform(), rate * decay.clamp_min(0), rate_noise, noise)
    return separable(*(factor * image for image in images), mask, dipole, dr, b0)


def proposal(known, seed=2):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, *known.mask.shape)
    value = known.scale * (2 * torch.rand(shape, generator=generator))
    return Pair(value * known.mask, known.scale * (0.3 + torch.rand(shape, generator=generator)) * known.mask)


def dense(known, pair, trust):
    """Write the least squares of `consult` as one matrix and right side over the voxels of the mask, the dipole by its columns."""
    inside = known.mask.flatten()
    count = inside.numel()
    columns = torch.stack([known.dipole(row.reshape(known.mask.shape)).flatten() for row in torch.eye(count)], 1)
    dipole = columns[inside][:, inside].double().numpy()

    def at(image):
        return image.flatten()[inside].double().numpy()

    spread = 0.02 * (known.dr_pos + known.dr_neg) / 2 * float(known.scale)
    w = np.sqrt(trust / (at(known.noise) ** 2 + FLOOR**2))
    c = np.sqrt(trust / (at(known.rate_noise) ** 2 + spread**2 + (RATE_ERROR * at(known.rate)) ** 2))
    size = 1 / np.concatenate([at(one) for one in pair.deviation])
    matrix = np.concatenate(
        [
            np.hstack([w[:, None] * dipole, -w[:, None] * dipole]),
            np.hstack([np.diag(c * known.dr_pos), np.diag(c * known.dr_neg)]),
            np.diag(size),
        ]
    )
    right = np.concatenate([w * at(known.field), c * at(known.rate), size * np.concatenate([at(one) for one in pair.value])])
    return matrix, right, inside


@pytest.mark.parametrize("trust", [0.3, 3.0])
def test_the_data_step_is_the_least_squares_of_both_equations_and_the_proposal(trust):
    known = held()
    pair = proposal(known)
    matrix, right, inside = dense(known, pair, trust)
    free = np.linalg.lstsq(matrix, right)[0]
    got = consult(pair, known, trust, iterations=300).flatten(1)[:, inside].flatten().double().numpy()
    np.testing.assert_allclose(got, np.maximum(free, 0), atol=2e-3 * np.abs(free).max())
    assert (free < 0).sum() > 3  # there was something to cut
    bounded = lsq_linear(matrix, right, (0, np.inf)).x
    assert np.linalg.norm(got - bounded) < 0.2 * np.linalg.norm(bounded)  # which is nearly what bounds would have given
    start = torch.cat([pair.value[0].flatten()[inside], pair.value[1].flatten()[inside]]).double().numpy()
    assert np.linalg.norm(start - bounded) > 0.3 * np.linalg.norm(bounded)


def test_eight_iterations_come_most_of_the_way():
    known = held()
    pair = proposal(known)
    whole = consult(pair, known, 0.3, iterations=300)
    assert (consult(pair, known, 0.3) - whole).norm() < 0.05 * (pair.value - whole).norm()


def test_the_data_step_stays_where_the_data_say_nothing():
    known = held()
    pair = proposal(known)
    torch.testing.assert_close(consult(pair, known, 0.0), pair.value)
    sure = pair._replace(deviation=1e-6 * pair.deviation)
    torch.testing.assert_close(consult(sure, known, 0.3), pair.value, atol=1e-5, rtol=0)


def test_the_first_guess_is_the_closed_form_where_both_sources_are_there():
    """By the method's own solution of both equations, for the same zero of χ."""
    known = held()
    first = guess(known)
    chi = (known.chi + separated.LIFT * known.scale) * known.mask
    for source, want in zip(first, closed_form(chi, known.rate, known.mask, TINY, Scan((0.01,)), dr_pos=DR[0], dr_neg=DR[1]), strict=True):
        both = (first > 0).all(0)
        assert both.sum() > 0.3 * known.mask.sum()
        torch.testing.assert_close(source[both], want[both])
    assert first.min() == 0
    assert not first[:, ~known.mask].any()


def test_a_negative_rate_is_none_to_the_first_guess_but_is_shown_to_the_network():
    known = held()
    below = known._replace(rate=torch.full_like(known.rate, -7.0) * known.mask)
    first = guess(below)
    torch.testing.assert_close(first, guess(below._replace(rate=0 * known.rate)))
    mean = sum(DR) / 2
    shown = separation_channels(first, below)[4]
    torch.testing.assert_close(shown, torch.asinh(-7.0 / mean / known.scale) * known.mask)


@pytest.mark.parametrize("factor", [0.5, 4.0])
def test_nothing_depends_on_scale(factor):
    """All of field, χ, rate and noises taken times a factor: what the network sees stays, what it answers scales."""
    plain, scaled = held(), held(factor=factor)
    one, other = guess(plain), guess(scaled)
    torch.testing.assert_close(other, factor * one)
    torch.testing.assert_close(separation_channels(other, scaled), separation_channels(one, plain), atol=1e-5, rtol=1e-4)
    pair = proposal(plain)
    much = Pair(factor * pair.value, factor * pair.deviation)
    same = consult(pair, plain, 0.3, iterations=100)
    assert (
        consult(much, scaled, 0.3, iterations=100) - factor * same
    ).norm() < 0.02 * factor * same.norm()  # but for the floor of the field


def network(outputs=4, **about):
    torch.manual_seed(3)
    net = UNet3d(10, outputs, widths=(8, 16))
    torch.nn.init.normal_(net.head.weight, std=0.02)
    net.about = about
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("factor", [0.5, 4.0])
def test_the_whole_scales(factor):
    net = network()
    one, other = (separate(net, held(factor=f), stages=2, trust=0.3) for f in (1.0, factor))
    for a, b in zip(one[:2], other[:2], strict=True):
        assert (b - factor * a).norm() < 0.02 * factor * a.norm()


def test_channels_are_as_many_as_the_network_has_inputs_and_end_at_the_mask():
    from paradia.training.tasks import TASKS

    known = held()
    channels = separation_channels(guess(known), known)
    assert len(channels) == TASKS["sepnet"].architecture["inputs"] == 10
    assert not channels[:, ~known.mask].any()
    assert torch.isfinite(channels).all()
    assert channels[:7].abs().max() < 10


def test_relaxivities_and_rates_only_count_together():
    """Twice the relaxivity with twice the rate and noise is another field strength: the network sees the same but for B0."""
    one, other = held(), held(dr=(2 * DR[0], 2 * DR[1]), rate=1.0, b0=6.0)
    other = other._replace(rate=2 * one.rate, rate_noise=2 * one.rate_noise, field=one.field, chi=one.chi, scale=one.scale)
    torch.testing.assert_close(guess(other), guess(one))
    a, b = (separation_channels(guess(k), k) for k in (one, other))
    torch.testing.assert_close(a[:9], b[:9], atol=1e-5, rtol=1e-4)
    assert not torch.equal(a[9], b[9])


def test_what_is_left_is_what_the_equations_say():
    known = held()
    pair = proposal(known).value
    of_field, of_rate = unmet(pair, known)
    torch.testing.assert_close(of_field, (known.field - Dipole(TINY)(pair[0] - pair[1])) * known.mask)
    torch.testing.assert_close(of_rate, known.rate - DR[0] * pair[0] - DR[1] * pair[1])


def test_a_flat_chi_leaves_a_scale_from_the_rates():
    known = held()
    flat = separable(0 * known.field, 0 * known.chi, known.rate, known.rate_noise, known.noise, known.mask, known.dipole, DR, 3.0)
    assert flat.scale > 0
    found = separate(network(), flat, stages=2, trust=0.3)
    assert all(torch.isfinite(image).all() for image in found[:2])


def test_the_last_word_and_the_calibration():
    net, known = network(), held()
    net.calibration = (1.0, 1.0)
    plain = separate(net, known, stages=2, trust=0.3)
    net.calibration = (2.0, 0.5)
    wider = separate(net, known, stages=2, trust=0.3)
    assert torch.equal(plain.value, wider.value)
    torch.testing.assert_close(wider.deviation, plain.deviation * torch.tensor([2.0, 0.5])[:, None, None, None])
    net.calibration = (1.0, 1.0)
    refined = separate(net, known, stages=1, trust=0.3, refine=5).value
    once = separated.propose(net, guess(known), known)
    assert torch.equal(refined, grounded(consult(once, known, 0.3, 5), known, ANCHOR))
    assert not torch.equal(refined, grounded(once.value, known, ANCHOR))


@pytest.mark.parametrize("zero", [-0.01, 0.0, 0.02])
@pytest.mark.parametrize("anchor", [0.0, 0.4, 1.0])
def test_both_maps_go_towards_the_zero_that_chi_came_with(zero, anchor):
    known = held()
    known = known._replace(zero=torch.tensor(zero))
    pair = proposal(known).value
    pair[0] += 0.006 * known.mask
    own = float((pair[0] - pair[1])[known.mask].mean())
    aim = anchor * zero + (1 - anchor) * own
    assert abs(own) > 1e-3
    found = grounded(pair, known, anchor)
    inside = known.mask
    assert float((found[0] - found[1])[inside].mean()) == pytest.approx(aim, abs=2e-4)
    assert found.min() == 0
    assert not found[:, ~inside].any()
    both = (found > 0).all(0) & inside
    total = (found.sum(0) - pair.sum(0))[both]
    assert total.abs().max() < 1e-5  # what the rate tells stays
    shift = (found[0] - pair[0])[both]
    assert float(shift.max() - shift.min()) < 1e-5  # an even shift, which no field shows
    torch.testing.assert_close(grounded(found, known._replace(zero=torch.tensor(aim)), 1.0), found, atol=2e-4, rtol=0)


def test_how_strange_a_volume_looks_is_told_of_the_first_guess():
    known = held(Grid((14, 13, 12), TINY.voxel_size, TINY.b0_dir))
    channels = separation_channels(guess(known), known)
    around = [familiar.statistics(channels * (1 + 0.02 * i), known.mask) for i in range(8)]
    net = network(familiar=familiar.to_json(familiar.learn(torch.stack(around))))
    assert 0 < separate(net, known, stages=2, trust=0.3).novelty < 2
    noisy = known._replace(rate_noise=50 * known.rate_noise)
    assert separate(net, noisy, stages=1, trust=0.3).novelty > 3


@pytest.mark.parametrize(("strange", "share"), [(0.5, 1.0), (2.0, 0.5), (5.0, 0.2)])
def test_of_an_answer_on_a_strange_volume_less_is_taken(monkeypatch, strange, share):
    """So that it keeps near the closed form; how far to trust it is told as before."""
    net, known = network(), held()
    begun = known.scale * (0.5 + guess(known) / known.scale) * known.mask  # so high that nothing is cut
    monkeypatch.setattr(separated, "novelty", lambda *_: 0.0)
    whole = separated.propose(net, begun, known)
    monkeypatch.setattr(separated, "novelty", lambda *_: strange)
    less = separated.propose(net, begun, known)
    assert whole.value[:, known.mask].min() > 0
    assert not torch.equal(whole.value, begun)
    torch.testing.assert_close(less.value - begun, share * (whole.value - begun))
    torch.testing.assert_close(less.deviation, whole.deviation)
    assert less.novelty == strange


@pytest.mark.parametrize(("b0", "typical"), [(3.0, 13.0), (7.0, 13.0 * (7 / 3) ** 0.5)])
def test_the_typical_r2_goes_off_and_its_spread_into_the_noise(b0, typical):
    rate, noise = less_typical(torch.tensor([[[5.0, typical, 40.0]]]), torch.tensor([[[1.0, 0.0, 2.0]]]), b0)
    torch.testing.assert_close(rate, torch.tensor([[[5.0 - typical, 0.0, 40.0 - typical]]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(noise, torch.tensor([[[1.0, 0.0, 2.0]]]).hypot(torch.tensor(0.25 * typical)))
