import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paradia.errors import ParadiaError, PhaseError
from paradia.io.phase import ENCODINGS, parse_units, to_radians

SHAPE = (2, 24, 19, 13)


def wrapped(seed=0, turns=2.5):
    """A ramp through several turns in two echoes, with noise: what wrapped phase looks like."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE[1:]), indexing="ij")
    field = math.pi * turns * (x + 0.3 * y * z)
    phase = np.stack([field, 2 * field]) + np.random.default_rng(seed).normal(0, 0.2, SHAPE)
    return phase - 2 * math.pi * np.round(phase / (2 * math.pi))


def apart(a, b):
    return np.abs(np.angle(np.exp(1j * (np.asarray(a, float) - b)))).max()


@pytest.mark.parametrize(
    ("name", "encode", "quantum"),
    [
        ("rad", lambda p: p, 1e-6),
        ("0-2pi", lambda p: p % (2 * math.pi), 1e-6),
        ("siemens", lambda p: np.clip(2 * np.round(p / math.pi * 2048), -4096, 4094), 2e-3),
        ("siemens", lambda p: np.clip(np.round(p / math.pi * 4096), -4096, 4095), 1e-3),
        ("0-4095", lambda p: np.clip(np.round(p / math.pi * 2048) + 2048, 0, 4095), 2e-3),
        ("milliradian", lambda p: np.round(1000 * p), 1e-3),
        ("degrees", lambda p: np.degrees(p), 1e-6),
        ("0-360", lambda p: np.degrees(p) % 360, 1e-6),
    ],
)
def test_every_encoding_is_recognised_and_converted(name, encode, quantum):
    phase = wrapped()
    result = to_radians(encode(phase).astype(np.float32), "p.nii")
    assert apart(result.phase, phase) < quantum + 1e-5
    assert ("in radians" if name == "rad" else f"as {name}") in result.note
    assert result.phase.dtype == np.float32
    assert np.abs(result.phase).max() <= np.float32(math.pi)


@pytest.mark.parametrize("scale", [0.003674 / math.pi, 1.0 / math.pi, 2048 / math.pi, 12345.6])
def test_any_symmetric_scale_is_recognised_where_wraps_are_seen(scale):
    phase = wrapped()
    result = to_radians((phase * scale).astype(np.float32), "p.nii")
    assert apart(result.phase, phase) < 1e-2
    slope = np.polyfit((phase * scale).ravel(), result.phase.ravel(), 1)[0] * scale
    assert abs(slope - 1) < 2e-3
    assert "is one turn (recognised by its values" in result.note


def test_radians_are_left_bit_for_bit():
    phase = wrapped().astype(np.float32)
    np.testing.assert_array_equal(to_radians(phase, "p.nii").phase, phase)


def test_a_background_of_zeros_or_of_the_lowest_value_does_not_matter():
    phase = wrapped() * 0.0011
    outside = np.hypot(*np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 19), indexing="ij")) > 0.9
    for value in (0, phase.min()):
        masked = phase.copy()
        masked[:, outside] = value
        assert apart(to_radians(masked, "p.nii").phase[:, ~outside], wrapped()[:, ~outside]) < 1e-2


def test_nan_is_left_out_of_account_and_becomes_zero():
    phase = wrapped()
    phase[:, 3, 4, 5] = np.nan, np.inf
    result = to_radians(phase, "p.nii")
    assert (result.phase[:, 3, 4, 5] == 0).all()
    assert np.isfinite(result.phase).all()


# What cannot be told


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.full(SHAPE, 3.0), "every value is 3"),
        (np.full(SHAPE, np.nan), "no finite value"),
        (0.3 * wrapped(), "run from -0.94.* with wraps"),
        (0.2 * np.random.default_rng(0).normal(size=SHAPE), "do not fill a turn"),
        (np.cumsum(np.ones(SHAPE), axis=1) * 1.7, "without wraps: already unwrapped"),
        (np.abs(np.random.default_rng(0).normal(size=SHAPE)) * 1000, "cannot be told"),
        (np.random.default_rng(0).normal(size=SHAPE) * 120, "cannot be told"),
        (1e4 + 1e-3 * np.random.default_rng(0).integers(0, 2, SHAPE), "cannot be told"),
    ],
    ids=["constant", "nan", "shrunk", "narrow", "unwrapped", "magnitude", "hertz", "two-values"],
)
def test_what_is_no_phase_or_ambiguous_is_refused(values, says):
    if says.startswith("run"):  # make the range lopsided, so that no rule fits
        values = values + 0.001
        values[0, 0, 0, 0] = 1.2
    with pytest.raises(PhaseError, match=f"p.nii.*{says}"):
        to_radians(values.astype(np.float32), "p.nii")


def test_the_message_says_how_to_state_it():
    with pytest.raises(PhaseError, match="--phase-units rad, 0-2pi, siemens.*MIN:MAX"):
        to_radians(0.2 * np.random.default_rng(0).normal(size=SHAPE), "p.nii")


@pytest.mark.parametrize("units", ["Hz", "ppm", "rad/s"])
def test_a_field_map_by_its_sidecar_is_refused(units):
    with pytest.raises(PhaseError, match="is a field map in"):
        to_radians(wrapped(), "p.nii", sidecar_units=units)


# What is stated


def test_a_stated_encoding_holds_and_unwrapped_phase_is_wrapped_again():
    field = np.cumsum(np.full(SHAPE, 0.9), axis=1)
    result = to_radians(field.astype(np.float32), "p.nii", units="rad")
    assert apart(result.phase, field) < 1e-5
    assert "as stated" in result.note
    assert "was wrapped again" in result.note
    small = 0.3 * np.tanh(wrapped())
    assert apart(to_radians(small, "p.nii", units="-1:1").phase, small * math.pi) < 1e-5
    assert apart(to_radians(small + 0.5, "p.nii", units="0:1").phase, (small + 0.5) * 2 * math.pi) < 1e-5


@pytest.mark.parametrize("units", ["rad", "radians"])
def test_the_sidecar_states_radians_that_do_not_fill_the_turn(units):
    small = (0.3 * np.sin(wrapped(turns=0.5))).astype(np.float32)
    np.testing.assert_array_equal(to_radians(small, "p.nii", sidecar_units=units).phase, small)


@pytest.mark.parametrize("units", ["rad", "radians"])
@pytest.mark.parametrize("scale", [0.003674 / math.pi, 1.0 / math.pi])
def test_a_sidecar_that_says_radians_of_wraps_of_less_than_a_turn_is_overruled(scale, units):
    phase = wrapped()
    result = to_radians((phase * scale).astype(np.float32), "p.nii", sidecar_units=units)
    assert apart(result.phase, phase) < 1e-2
    assert "is one turn (recognised by its values, although its sidecar says rad" in result.note
    with pytest.raises(PhaseError, match=r"cannot be told: its values run from .* to 0.9999.*, with wraps"):
        to_radians((phase / (2 * math.pi) % 1).astype(np.float32), "p.nii", sidecar_units=units)
    np.testing.assert_allclose(to_radians((phase * scale).astype(np.float32), "p.nii", units="rad").phase, phase * scale, atol=1e-6)


def test_a_sidecar_that_the_values_contradict_is_overruled_and_noted():
    values = np.clip(np.round(wrapped() / math.pi * 4096), -4096, 4095)
    result = to_radians(values, "p.nii", sidecar_units="rad")
    assert apart(result.phase, wrapped()) < 2e-3
    assert "although its sidecar says rad" in result.note
    with pytest.raises(PhaseError, match="Units 'furlong'"):
        to_radians(values, "p.nii", sidecar_units="furlong")


@pytest.mark.parametrize("text", ["", "radd", "3:1", "1:1", "nan:1", "1", "a:b", "0:inf"])
def test_nonsense_is_refused(text):
    with pytest.raises(PhaseError, match="no phase encoding"):
        parse_units(text)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda e: e.name)
def test_every_name_of_the_table_can_be_stated(encoding):
    assert parse_units(encoding.name.upper()) == encoding


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), st.integers(0, 99))
def test_whatever_comes_is_phase_or_our_error(shift, scale, seed):
    values = np.random.default_rng(seed).normal(shift, scale, (1, 5, 6, 7)).astype(np.float32)
    try:
        phase = to_radians(values, "p.nii").phase
    except ParadiaError:
        return
    assert np.abs(phase).max() <= np.float32(math.pi)
