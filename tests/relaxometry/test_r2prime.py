"""R2′: a difference that is never negative, knows its noise, and refuses maps in other units."""

from __future__ import annotations

import pytest
import torch

from paradia.errors import GeometryError, InputError, MaskError, NonFiniteError, ParadiaWarning
from paradia.registry import load
from paradia.relaxometry._checks import check_rate
from paradia.relaxometry.r2prime import r2prime
from paradia.relaxometry.r2prime_constant import r2prime_constant
from paradia.scan import Scan

SHAPE = (24, 21, 20)


@pytest.fixture
def case(generator):
    irreversible = 8 + 10 * torch.rand(SHAPE, generator=generator)
    reversible = 12 * torch.rand(SHAPE, generator=generator)
    mask = torch.rand(SHAPE, generator=generator) > 0.2
    return irreversible + reversible, irreversible, mask


def test_is_the_difference_inside_the_mask(case):
    r2star, r2, mask = case
    noise = torch.full(SHAPE, 3.0), torch.full(SHAPE, 4.0)
    found = r2prime(r2star, r2, mask, *noise)
    torch.testing.assert_close(found.r2prime, (r2star - r2) * mask)
    torch.testing.assert_close(found.r2prime_noise, 5.0 * mask)


def test_is_never_negative_and_its_noise_is_the_spread(generator):
    r2star, r2 = (rate + sigma * torch.randn(SHAPE, generator=generator) for rate, sigma in ((25.0, 0.8), (15.0, 0.5)))
    mask = torch.ones(SHAPE, dtype=torch.bool)
    for given in ((torch.full(SHAPE, 0.8), torch.full(SHAPE, 0.5)), ()):
        found = r2prime(r2star, r2, mask, *given)
        assert float(found.r2prime.std() / found.r2prime_noise.mean()) == pytest.approx(1, abs=0.05)
    close = r2prime(r2star, r2 + 10, mask).r2prime
    assert float(close.min()) == 0
    assert 0.45 < float((close == 0).float().mean()) < 0.55


def test_what_is_not_known_of_one_rate_is_not_known_of_the_difference(case):
    """Noise is zero where it is unknown, as beyond the field of view of the spin echoes: that is no certainty, and no contradiction."""
    r2star, r2, mask = case
    loud, quiet = torch.full(SHAPE, 3.0), torch.full(SHAPE, 4.0)
    quiet[:6], r2 = 0.0, r2.clone()
    r2[:6] = 60.0
    found = r2prime(r2star, r2, mask, loud, quiet)
    assert not bool(found.r2prime_noise[:6].any())
    torch.testing.assert_close(found.r2prime_noise[6:], 5.0 * mask[6:])
    constant = r2prime_constant(r2star, mask, Scan((0.01,), 3.0), quiet)
    assert not bool(constant.r2prime_noise[:6].any())
    nowhere, without = (r2prime_constant(r2star, mask, Scan((0.01,), 3.0), given) for given in (0 * quiet, None))
    torch.testing.assert_close(nowhere.r2prime_noise, without.r2prime_noise)


@pytest.mark.parametrize("name", ["r2star", "r2"])
def test_rates_in_another_unit_are_refused_by_name(name, case):
    r2star, r2, mask = case
    given = {"r2star": r2star, "r2": r2}
    with pytest.raises(InputError, match=rf"{name} has a median of 0\.0.* multiplied by 1000"):
        r2prime(**(given | {name: given[name] / 1000}), mask=mask)
    with pytest.raises(InputError, match="of times in s give the reciprocal"):
        r2prime(**(given | {name: 1 / given[name]}), mask=mask)


def test_exchanged_maps_and_times_in_milliseconds_are_refused(case):
    r2star, r2, mask = case
    noise = torch.full(SHAPE, 0.5)
    with pytest.raises(InputError, match="not exchanged"):
        r2prime(r2, r2star, mask, noise, noise)
    with pytest.raises(InputError, match="not times"):
        r2prime(r2star, 1000 / r2, mask, noise, noise)


def test_maps_that_do_not_match_are_warned_of(case):
    r2star, r2, mask = case
    noise = torch.full(SHAPE, 0.5)
    wrong = r2.clone()
    wrong[:7] += 20
    with pytest.warns(ParadiaWarning, match="R2 exceeds R2\\* by three standard deviations in [23].* %"):
        found = r2prime(r2star, wrong, mask, noise, noise)
    assert not found.r2prime[:5].any()


def test_what_does_not_fit_is_refused(case):
    r2star, r2, mask = case
    with pytest.raises(GeometryError, match="r2 and mask differ in shape"):
        check_rate("r2", r2[1:], mask)
    with pytest.raises(MaskError, match="the mask is empty"):
        r2prime(r2star, r2, mask & False)
    with pytest.raises(NonFiniteError, match=r"r2star is NaN or Inf in \d+ voxels"):
        r2prime(r2star / 0, r2, mask)
    with pytest.raises(NonFiniteError, match="r2_noise is NaN"):
        r2prime(r2star, r2, mask, None, r2 * torch.nan)


@pytest.mark.parametrize(("b0", "usual"), [(3.0, 13.0), (7.0, 19.858)])
def test_without_spin_echoes_one_r2_is_subtracted_and_its_spread_is_doubt(b0, usual, case):
    r2star, _, mask = case
    scan = Scan((0.01,), b0)
    found = r2prime_constant(r2star, mask, scan, torch.full(SHAPE, 3.0))
    torch.testing.assert_close(found.r2prime, (r2star - usual).clamp_min(0) * mask, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.r2prime_noise, (9 + (usual / 4) ** 2) ** 0.5 * mask, atol=1e-3, rtol=0)
    other = r2prime_constant(r2star, mask, scan, torch.full(SHAPE, 3.0), r2=10.0, spread=0.4)
    torch.testing.assert_close(other.r2prime, (r2star - 10).clamp_min(0) * mask)
    torch.testing.assert_close(other.r2prime_noise, 5.0 * mask)


def test_without_its_noise_that_of_r2star_is_judged(generator):
    r2star, mask = 30 + 2 * torch.randn(SHAPE, generator=generator), torch.ones(SHAPE, dtype=torch.bool)
    found = r2prime_constant(r2star, mask, Scan((0.01,), 3.0), spread=0.0)
    assert float(found.r2prime_noise.mean()) == pytest.approx(2, abs=0.15)


def test_a_constant_needs_rates_and_sense(case):
    r2star, _, mask = case
    scan = Scan((0.01,), 3.0)
    with pytest.raises(InputError, match=r"r2star has a median of 0\.0.* multiplied by 1000"):
        r2prime_constant(r2star / 1000, mask, scan)
    with pytest.raises(NonFiniteError, match="r2star_noise is NaN"):
        r2prime_constant(r2star, mask, scan, r2star * torch.nan)
    for knobs in ({"r2": -1.0}, {"spread": -0.1}):
        with pytest.raises(InputError, match="neither negative"):
            r2prime_constant(r2star, mask, scan, **knobs)


@pytest.mark.parametrize(
    ("name", "gives"),
    [
        ("arlo", ("r2star", "r2star_noise")),
        ("r2_epg", ("r2", "r2_noise")),
        ("r2prime", ("r2prime", "r2prime_noise")),
        ("r2prime_constant", ("r2prime", "r2prime_noise")),
    ],
)
def test_a_method_says_what_it_gives(name, gives):
    assert load("relaxometry", name).gives == gives
