"""Unwrapping: whole turns, the right ones, along the right tree."""

from __future__ import annotations

import math
import sys

import nibabel
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import minimum_spanning_tree
from skimage.restoration import unwrap_phase

from paradia.errors import GeometryError, InputError, MaskError, MetadataError, MissingDependencyError, NonFiniteError
from paradia.grid import Grid
from paradia.mask.bet import bet
from paradia.registry import load, methods
from paradia.scan import Scan
from paradia.solvers.pieces import medians
from paradia.solvers.spanning import Edges, spanning_shifts
from paradia.unwrap._checks import check
from paradia.unwrap._modes import alternation
from paradia.unwrap.best_path import best_path
from paradia.unwrap.laplacian import laplacian
from paradia.unwrap.romeo import romeo
from paradia.unwrap.spun import _count, _decide, _join, spun

TURN = 2 * math.pi
EXACT = [name for name in methods("unwrap") if name in ("romeo", "best_path", "spun")]
SCAN = Scan((0.004, 0.0115, 0.018), 3.0)


def wrapped(phase):
    return phase - TURN * (phase / TURN).round()


@pytest.fixture
def case(grid, generator):
    """A bowl of several turns with an offset, noise, and a mask that is no box."""
    axes = [torch.linspace(-1, 1, n) for n in grid.shape]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    field = 0.9 * x**2 - 0.5 * y + 0.6 * z * x
    offset = 0.7 + 0.9 * y * z - 0.5 * x
    truth = torch.stack([offset + SCAN.rad_per_ppm(t) * field for t in SCAN.echo_times])
    truth = truth + 0.05 * torch.randn(truth.shape, generator=generator)
    magnitude = torch.stack([(1.2 - x**2 - 0.2 * z) * math.exp(-t * 20) for t in SCAN.echo_times]).clamp_min(0.01)
    mask = x**2 + y**2 + (z / 1.1) ** 2 < 0.9
    return truth, magnitude, mask


def call(name, phase, magnitude, mask, grid, scan):
    board = {"phase": phase, "magnitude": magnitude, "mask": mask, "grid": grid, "scan": scan}
    method = load("unwrap", name)
    return method.function(**{key: board[key] for key in method.takes})


@pytest.mark.parametrize("name", methods("unwrap"))
def test_keeps_shape_and_is_zero_outside(name, case, grid):
    truth, magnitude, mask = case
    result = call(name, wrapped(truth), magnitude, mask, grid, SCAN)
    assert result.shape == truth.shape
    assert result.dtype == torch.float32
    assert bool((result[:, ~mask] == 0).all())


@pytest.mark.parametrize("name", methods("unwrap"))
def test_is_odd_in_the_phase(name, case, grid):
    truth, magnitude, mask = case
    forth, back = (call(name, sign * wrapped(truth), magnitude, mask, grid, SCAN) for sign in (1, -1))
    torch.testing.assert_close(forth, -back, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", methods("unwrap"))
def test_does_not_care_for_the_order_of_axes(name, case, grid):
    truth, magnitude, mask = case
    axes = (2, 0, 1)
    turned = (0, *(a + 1 for a in axes))
    plain = call(name, wrapped(truth), magnitude, mask, grid, SCAN).permute(turned)
    moved = call(
        name,
        wrapped(truth).permute(turned).contiguous(),
        magnitude.permute(turned).contiguous(),
        mask.permute(axes),
        grid.permute(axes),
        SCAN,
    )
    torch.testing.assert_close(plain, moved, atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("name", methods("unwrap"))
def test_refuses_what_does_not_fit(name, case, grid):
    truth, magnitude, mask = case
    with pytest.raises(MaskError, match="empty"):
        call(name, truth, magnitude, torch.zeros_like(mask), grid, SCAN)
    with pytest.raises(NonFiniteError, match="inside the mask"):
        call(name, truth / 0, magnitude, mask, grid, SCAN)


def test_shapes_must_fit(case):
    truth, magnitude, mask = case
    with pytest.raises(GeometryError, match="phase and mask differ in shape"):
        check(truth, mask[:-1])
    with pytest.raises(GeometryError, match="magnitude and phase differ in shape"):
        check(truth, mask, magnitude[:2])


@pytest.mark.parametrize("mode", ["template", "individual"])
def test_romeo_finds_the_truth_up_to_one_turn_an_echo(mode, case):
    truth, magnitude, mask = case
    error = (romeo(wrapped(truth), magnitude, mask, SCAN, mode=mode) - truth)[:, mask] / TURN
    assert bool(((error - error[:, :1].round()).abs() < 1e-3).all())


@pytest.mark.parametrize("template", [1, 2, 3])
def test_any_echo_may_be_the_template(template, case):
    truth, magnitude, mask = case
    error = (romeo(wrapped(truth), magnitude, mask, SCAN, template=template) - truth)[:, mask] / TURN
    assert bool(((error - error[:, :1].round()).abs() < 1e-3).all())


@pytest.mark.parametrize("method", [romeo, spun])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("rise", "shift"), [(2.0, 0.0), (4.0, 0.3), (9.0, -0.2)])
def test_a_bipolar_readout_does_not_confuse_the_echoes(method, axis, rise, shift, case):
    """Ramps to and fro of more than a quarter of a turn made the prediction from echo to echo wrong by a turn, in silence."""
    truth, magnitude, mask = case
    ramp = torch.linspace(-rise / 2, rise / 2, mask.shape[axis]).view([-1 if a == axis else 1 for a in range(3)]) + shift
    truth = truth + torch.tensor([1.0, -1.0, 1.0]).view(-1, 1, 1, 1) * ramp
    error = (method(wrapped(truth), magnitude, mask, SCAN) - truth)[:, mask] / TURN
    assert bool(((error - error[:, :1].round()).abs() < 1e-3).all())


def test_the_ramp_to_and_fro_is_told_from_wrapped_phases(case):
    truth, _, mask = case
    axes = [torch.linspace(-1, 1, n) for n in mask.shape]
    ramp = (1.5 * axes[0][:, None, None] - 0.4 * axes[2]).expand(mask.shape)
    sign = torch.tensor([1.0, -1.0, 1.0]).view(-1, 1, 1, 1)
    found = alternation(wrapped(truth + sign * ramp) / TURN, mask, SCAN.echo_times) - alternation(
        wrapped(truth) / TURN, mask, SCAN.echo_times
    )
    torch.testing.assert_close(TURN * found, (sign * ramp), rtol=0, atol=0.05)
    assert not alternation(wrapped(truth[:2] + sign[:2] * ramp) / TURN, mask, SCAN.echo_times[:2]).any(), "two echoes cannot tell"
    assert not alternation(torch.zeros_like(truth), mask, SCAN.echo_times).any()


@pytest.mark.parametrize("mode", ["template", "individual"])
@pytest.mark.parametrize("quality", [0.0, 0.3, 0.8, 1.0])
def test_spun_finds_the_truth_however_small_the_regions(mode, quality, case):
    truth, magnitude, mask = case
    error = (spun(wrapped(truth), magnitude, mask, SCAN, mode=mode, quality=quality) - truth)[:, mask] / TURN
    assert bool(((error - error[:, :1].round()).abs() < 1e-3).all())


def test_spun_without_regions_is_the_spanning_tree_of_romeo(generator):
    phase = (torch.rand((2, 9, 8, 7), generator=generator) - 0.5) * TURN
    magnitude, mask = torch.rand(phase.shape, generator=generator), torch.rand(phase.shape[1:], generator=generator) > 0.2
    scan = Scan((0.004, 0.009))
    for mode in ("template", "individual"):
        assert torch.equal(spun(phase, magnitude, mask, scan, mode=mode, quality=0.0), romeo(phase, magnitude, mask, scan, mode=mode))


def test_many_votes_outweigh_the_best_edge_that_a_spanning_tree_would_take():
    """Regions 0 and 1: one strong edge says a turn, ten weaker ones say none; region 2 hangs on 1 by a tie of turns -1 and 2."""
    u, v = torch.tensor([0] + [1] * 10 + [1, 2]), torch.tensor([1] + [0] * 10 + [2, 1])
    votes, jump = torch.tensor([30] + [5] * 10 + [4, 4]), torch.tensor([1] + [0] * 10 + [-1, 2])
    shift, label = _join(_count(Edges(u, v, votes, jump)), 3)
    assert (shift - shift[0]).tolist() == [0, 0, 1]
    assert label.unique().numel() == 1
    tree, _ = spanning_shifts(Edges(u, v, 1000 * (40 - votes) + torch.arange(13), jump), 3)
    assert int(tree[0] - tree[1]) == 1


@pytest.mark.parametrize("seed", range(4))
def test_votes_are_counted_as_by_hand(seed):
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.randint(5, (2, 200), generator=generator)
    u, v = u[u != v], v[u != v]
    votes = torch.randint(1, 50, u.shape, generator=generator)
    jump = torch.randint(-2, 3, u.shape, generator=generator)
    by_hand: dict[tuple[int, int], dict[int, int]] = {}
    for a, b, n, j in zip(u.tolist(), v.tolist(), votes.tolist(), jump.tolist(), strict=True):
        ballot = by_hand.setdefault((min(a, b), max(a, b)), {})
        ballot[j if a < b else -j] = ballot.get(j if a < b else -j, 0) + n
    chosen = _decide(_count(Edges(u, v, votes, jump)), only_clear=False)
    found = {(int(a), int(b)): int(j) for a, b, _, j in zip(*chosen, strict=True)}
    assert found == {pair: max(ballot, key=lambda j: (ballot[j], -abs(j))) for pair, ballot in by_hand.items()}
    margins = [2 * max(by_hand[pair].values()) - sum(by_hand[pair].values()) for pair in found]
    assert [margins[i] for i in chosen.key.argsort().tolist()] == sorted(margins, reverse=True)


def test_best_path_finds_the_truth_in_every_piece(case):
    truth, _, mask = case
    mask = mask.clone()
    mask[17] = False
    truth = truth.clone()
    truth[:, 18:] += 40.0
    result = best_path(wrapped(truth), mask, SCAN)
    for half in (slice(0, 17), slice(18, None)):
        assert abs(float(result[0, half][mask[half]].median())) <= math.pi + 1e-3
        error = (result - truth)[:, half][:, mask[half]] / TURN
        assert bool(((error - error[:, :1].round()).abs() < 1e-3).all())


@pytest.mark.parametrize("name", EXACT)
def test_the_turns_that_the_phase_comes_with_do_not_matter(name, case, generator):
    """Some files hold phases from 0 to 2π, and some run over."""
    truth, magnitude, mask = case
    method = load("unwrap", name)
    found = []
    for angles in (wrapped(truth), wrapped(truth) + TURN * torch.randint(-1, 3, truth.shape, generator=generator)):
        board = {"phase": angles, "magnitude": magnitude, "mask": mask, "scan": SCAN}
        found.append(method.function(**{key: board[key] for key in method.takes}))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-4)


def test_best_path_says_what_to_install(case, monkeypatch):
    truth, _, mask = case
    monkeypatch.setitem(sys.modules, "skimage.restoration", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'paradia\[unwrap\]'"):
        best_path(truth, mask, SCAN)


def test_spun_refuses_knobs_that_mean_nothing(case):
    truth, magnitude, mask = case
    for knobs, message in (
        ({"quality": 1.5}, "between 0 and 1"),
        ({"template": 9}, "echo from 1 to 3"),
    ):
        with pytest.raises(InputError, match=message):
            spun(truth, magnitude, mask, SCAN, **knobs)


def test_nan_outside_the_mask_is_allowed(case):
    truth, magnitude, mask = case
    phase = torch.where(mask, wrapped(truth), torch.nan)
    assert bool(torch.isfinite(romeo(phase, torch.where(mask, magnitude, torch.nan), mask, SCAN)).all())


def test_is_the_same_bit_for_bit(case):
    truth, magnitude, mask = case
    assert torch.equal(*(romeo(wrapped(truth), magnitude, mask, SCAN) for _ in range(2)))


def test_pieces_are_levelled_each_for_itself(case):
    truth, magnitude, mask = case
    mask = mask.clone()
    mask[17] = False
    far = truth.clone()
    far[:, 18:] += 40.0
    result = romeo(wrapped(far), magnitude, mask, SCAN, mode="individual")
    for half in (slice(0, 17), slice(18, None)):
        inside = mask[half]
        assert abs(float(result[0, half][inside].median())) <= math.pi + 1e-3
        error = (result - far)[:, half][:, inside] / TURN
        assert bool(((error - error[:, :1].round()).abs() < 1e-3).all())


@given(
    seed=st.integers(0, 2**31),
    sides=st.tuples(*[st.integers(1, 6)] * 3),
    echoes=st.integers(1, 4),
    name=st.sampled_from(EXACT),
    mode=st.sampled_from(["template", "individual"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_adds_whole_turns_and_nothing_else(seed, sides, echoes, name, mode):
    generator = torch.Generator().manual_seed(seed)
    phase = (torch.rand((echoes, *sides), generator=generator) - 0.5) * TURN
    mask = torch.rand(sides, generator=generator) > 0.4
    mask[0, 0, 0] = True
    scan = Scan(tuple(0.003 + 0.004 * e for e in range(echoes)))
    magnitude = torch.rand((echoes, *sides), generator=generator)
    method = load("unwrap", name)
    knobs = {"mode": mode} if "mode" in method.knobs else {}
    board = {"phase": phase, "magnitude": magnitude, "mask": mask, "scan": scan}
    result = method.function(**{key: board[key] for key in method.takes}, **knobs)
    turns = ((result - phase) / TURN)[:, mask]
    assert float((turns - turns.round()).abs().max()) < 1e-4


@pytest.mark.parametrize("seed", range(5))
def test_tree_is_the_minimum_spanning_tree(seed):
    generator = torch.Generator().manual_seed(seed)
    nodes, count = 60, 140
    pairs = torch.randint(nodes, (count, 2), generator=generator).numpy()
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], 1), axis=0)
    u, v = (torch.from_numpy(pairs[:, i].copy()) for i in range(2))
    key = torch.randperm(len(pairs), generator=generator) + 1
    jump = torch.randint(-3, 4, (len(pairs),), generator=generator)
    shift, tree = spanning_shifts(Edges(u, v, key, jump), nodes)
    forest = minimum_spanning_tree(
        scipy.sparse.csr_array((key.numpy().astype(float), (u.numpy(), v.numpy())), shape=(nodes, nodes))
    ).tocoo()
    chosen = torch.isin(key, torch.from_numpy(forest.data.astype(np.int64)))
    torch.testing.assert_close((shift[u] - shift[v])[chosen], jump[chosen])
    _, pieces = scipy.sparse.csgraph.connected_components(forest, directed=False)
    assert len(set(zip(pieces.tolist(), tree.tolist(), strict=True))) == len(set(pieces.tolist())) == len(set(tree.tolist()))


def test_agrees_with_another_program_where_it_is_easy(case):
    truth, magnitude, _ = case
    everywhere = torch.ones(truth.shape[1:], dtype=torch.bool)
    phase = wrapped(truth[:1])
    ours = romeo(phase, magnitude[:1], everywhere, Scan((0.004,)))[0]
    theirs = torch.from_numpy(unwrap_phase(phase[0].numpy().astype(float))).float()
    difference = (ours - theirs) / TURN
    assert float((difference - difference.flatten()[0].round()).abs().max()) < 1e-3


def test_medians_are_those_of_each_piece(generator):
    value, piece = torch.rand(101, generator=generator), torch.randint(4, (101,), generator=generator)
    for number in range(4):
        torch.testing.assert_close(medians(value, piece)[piece == number].unique(), value[piece == number].median()[None])


def test_romeo_refuses_knobs_that_mean_nothing(case):
    truth, magnitude, mask = case
    with pytest.raises(InputError, match="echo from 1 to 3"):
        romeo(truth, magnitude, mask, SCAN, template=4)
    with pytest.raises(InputError, match="weights are some of"):
        romeo(truth, magnitude, mask, SCAN, weights=("fase",))
    with pytest.raises(MetadataError, match="2 echo times"):
        romeo(truth, magnitude, mask, Scan((0.004, 0.008)))


def test_every_term_of_the_weight_serves(case):
    truth, magnitude, mask = case
    for term in ("phase", "gradient", "linearity", "magnitude", "signal"):
        turns = ((romeo(wrapped(truth), magnitude, mask, SCAN, weights=(term,)) - wrapped(truth)) / TURN)[:, mask]
        assert float((turns - turns.round()).abs().max()) < 1e-3


def test_laplacian_recovers_a_smooth_phase(case, grid):
    truth, _, mask = case
    result = laplacian(wrapped(truth), mask, grid)[0][mask]
    both = torch.stack((result, truth[0][mask]))
    assert float(torch.corrcoef(both)[0, 1]) > 0.9


def volumes(folder, *names):
    return [torch.from_numpy(np.asarray(nibabel.load(folder / f"{name}.nii.gz").dataobj, dtype=np.float32)) for name in names]


def test_agrees_with_a_published_result(shared_data):
    magnitude, phase, published = volumes(shared_data / "unwrap-reference", "magnitude", "phase", "unwrapped")
    mask = published != 0
    result = romeo(phase[None], magnitude[None], mask, Scan((0.03,)))[0]
    turns = ((result - published) / TURN).round()
    congruent = float(((result - published)[mask] / TURN - turns[mask]).abs().lt(0.05).double().mean())
    brain = bet(magnitude[None], Grid(tuple(mask.shape), (1.8, 1.8, 1.8))) & mask
    agree = float((turns[brain] == turns[brain].median()).double().mean())
    everywhere = float((turns[mask] == turns[mask].median()).double().mean())
    print(f"congruent in {100 * congruent:.1f} %; the same in {100 * agree:.1f} % of the brain, {100 * everywhere:.1f} % of the mask")
    assert congruent > 0.99
    assert agree > 0.99
    assert everywhere > 0.8  # the scalp lies beyond dark bone and may be turns away: no path tells


def test_strong_sinus_wraps_leave_few_jumps(shared_data):
    magnitude, phase, brain = volumes(shared_data / "slab-3t-te30", "magnitude", "phase", "mask")
    mask = brain > 0
    result = romeo(-phase[None], magnitude[None], mask, Scan((0.03,)))[0]
    jumps = total = 0
    for axis in range(3):
        n = mask.shape[axis]
        both = mask.narrow(axis, 0, n - 1) & mask.narrow(axis, 1, n - 1)
        jumps += int((result.diff(dim=axis).abs() > math.pi)[both].sum())
        total += int(both.sum())
    print(f"{1e4 * jumps / total:.1f} steps in 10,000 exceed half a turn")
    assert jumps / total < 0.01


def test_three_echoes_of_a_vein(shared_data):
    magnitude, phase = volumes(shared_data / "megre-crop-small", "magnitude", "phase")
    phase = (phase * (math.pi / 0.0036743775)).movedim(-1, 0).contiguous()
    magnitude = magnitude.movedim(-1, 0).contiguous()
    mask = torch.ones(phase.shape[1:], dtype=torch.bool)
    result = romeo(phase, magnitude, mask, Scan((0.004, 0.008, 0.012), 7.0))
    turns = (result - phase) / TURN
    assert float((turns - turns.round()).abs().max()) < 1e-3
    steps = (result[2] - 2 * result[1] + result[0]).abs()
    assert float((steps < 1.0).double().mean()) > 0.9


@pytest.mark.parametrize("method", [romeo, spun])
@pytest.mark.parametrize("mode", ["template", "individual"])
def test_a_magnitude_that_is_none_counts_as_dark(method, mode, case):
    """Filters and sums of complex images leave a few below zero; Inf comes of divisions."""
    _, magnitude, mask = case
    generator = torch.Generator().manual_seed(2)
    some = torch.rand(magnitude.shape, generator=generator) < 0.3
    phase = TURN * (torch.rand(magnitude.shape, generator=generator) - 0.5)  # every way through it gives another result
    dark = method(phase, magnitude.masked_fill(some, 0.0), mask, SCAN, mode=mode)
    for value in (-0.5, math.inf, math.nan):
        assert torch.equal(method(phase, magnitude.masked_fill(some, value), mask, SCAN, mode=mode), dark)


def test_laplacian_refuses_a_padding_below_zero_and_takes_no_inf_from_the_padding(case, grid):
    truth, _, mask = case
    with pytest.raises(InputError, match="padding must be zero or a positive number"):
        laplacian(wrapped(truth), mask, grid, padding=-1)
    nothing, endless = (laplacian(torch.where(mask, wrapped(truth), value), mask, grid) for value in (0.0, math.inf))
    assert torch.equal(nothing, endless)
