"""Extended phase graphs against closed forms and against isochromats that are turned one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from paradia.epg import cpmg, train
from paradia.errors import InputError


def isochromats(r2, angle, r1, spacing, echoes, count=720):
    """Turn a comb of spins by rotation matrices, each pulse between two equal crushers; nothing is shared with the graphs."""
    dephasing = 2 * np.pi * (np.arange(count) + 0.5) / count  # over one crusher: half a spacing
    spins = np.zeros((count, 3))
    spins[:, 0] = 1  # along the axis of the pulses
    c, s = np.cos(angle), np.sin(angle)
    pulse = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    turn = np.zeros((count, 3, 3))
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(dephasing)
    turn[:, 0, 1], turn[:, 1, 0] = -np.sin(dephasing), np.sin(dephasing)
    turn[:, 2, 2] = 1
    decay = np.exp(-0.5 * spacing * np.array([r2, r2, r1]))
    recovery = np.array([0, 0, 1 - decay[2]])
    heights = []
    for _ in range(echoes):
        spins = (turn @ spins[..., None])[..., 0] * decay + recovery
        spins = spins @ pulse.T
        spins = (turn @ spins[..., None])[..., 0] * decay + recovery
        heights.append(spins.mean(0)[0])
    return np.array(heights)


def test_ideal_pulses_leave_an_exponential():
    r2 = torch.tensor([2.0, 14.0, 50.0], dtype=torch.float64)
    echoes = cpmg(r2, torch.tensor(math.pi, dtype=torch.float64), 0.8, spacing=0.0115, echoes=12)
    expected = torch.exp(-0.0115 * torch.arange(1.0, 13.0, dtype=torch.float64)[:, None] * r2)
    torch.testing.assert_close(echoes, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("degrees", [40.0, 90.0, 121.0, 150.0, 172.0])
def test_echoes_are_those_of_single_spins(degrees):
    angle = math.radians(degrees)
    got = cpmg(torch.tensor(13.0), torch.tensor(angle), 1.1, spacing=0.012, echoes=16)
    expected = isochromats(13.0, angle, 1.1, 0.012, 16)
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-6)


def test_known_values_without_relaxation():
    """Pulses of 120° give 3/4, 15/16, then swing towards sin(60°); pulses of 90° give 1/2, 3/4."""
    none = torch.zeros(())
    assert cpmg(none, torch.tensor(2 * math.pi / 3), 0.0, spacing=0.01, echoes=2).tolist() == pytest.approx([0.75, 0.9375], abs=1e-6)
    assert cpmg(none, torch.tensor(math.pi / 2), 0.0, spacing=0.01, echoes=2).tolist() == pytest.approx([0.5, 0.75], abs=1e-6)
    late = cpmg(none.double(), torch.tensor(2 * math.pi / 3, dtype=torch.float64), 0.0, spacing=0.01, echoes=200)
    assert float(late[150:].mean()) == pytest.approx(math.sin(math.pi / 3), abs=1e-3)


def test_shapes_broadcast_and_mirrored_angles_agree():
    r2, angle = torch.linspace(5, 40, 6)[:, None], torch.tensor([1.9, 2.4, 2.9])
    echoes = cpmg(r2, angle, torch.ones(6, 1), spacing=0.01, echoes=5)
    assert echoes.shape == (5, 6, 3)
    torch.testing.assert_close(echoes[:, 2, 1], cpmg(r2[2, 0], angle[1], 1.0, spacing=0.01, echoes=5))
    torch.testing.assert_close(echoes, cpmg(r2, 2 * math.pi - angle, 1.0, spacing=0.01, echoes=5))


def test_can_be_differentiated():
    values = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (14.0, 2.3, 0.9)]
    assert torch.autograd.gradcheck(lambda r2, angle, r1: cpmg(r2, angle, r1, spacing=0.012, echoes=6), values)


def test_goes_on_smoothly_through_ideal_refocusing():
    """The share kept may pass below zero, as a fit that meets it half way needs; its slope there is not zero."""
    one = torch.tensor(0.9, dtype=torch.float64)
    heights = [train(one, torch.tensor(kept, dtype=torch.float64), one, 8) for kept in (-1e-4, 0.0, 1e-4)]
    torch.testing.assert_close(heights[0] + heights[2], 2 * heights[1], atol=1e-6, rtol=0)
    assert float((heights[2] - heights[1]).abs().max()) > 5e-5


def test_no_train_at_all_is_refused():
    with pytest.raises(InputError, match="at least one echo, got 0"):
        cpmg(torch.ones(()), torch.ones(()), 1.0, spacing=0.01, echoes=0)
    with pytest.raises(InputError, match=r"must be positive, got 0\.0 s"):
        cpmg(torch.ones(()), torch.ones(()), 1.0, spacing=0.0, echoes=3)


def test_rates_that_are_whole_numbers_are_rates_too():
    whole, angle = torch.tensor([10, 20]), torch.tensor(2.0)
    assert torch.equal(cpmg(whole, angle, 0.8, spacing=0.01, echoes=4), cpmg(whole.float(), angle, 0.8, spacing=0.01, echoes=4))
