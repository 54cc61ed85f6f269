import math

import pytest

from paradia.errors import MetadataError
from paradia.scan import GAMMA_BAR, Scan


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((4.0, 12.0), r"must be in seconds, got \(4\.0, 12\.0\)\. Milliseconds\?"),
        ((), "no echo times"),
        ((0.004, 0.004), "must increase"),
        ((0.012, 0.004), "must increase"),
        ((-0.004, 0.004), "positive"),
        ((0.004, float("nan")), "positive"),
    ],
)
def test_impossible_echo_times_are_refused(times, message):
    with pytest.raises(MetadataError, match=message):
        Scan(times)


@pytest.mark.parametrize("b0", [0, -3, 3000, 123.2e6, float("nan")])
def test_impossible_field_strength_is_refused(b0):
    with pytest.raises(MetadataError, match="in tesla"):
        Scan((0.004,), b0)


def test_a_ppm_at_three_tesla():
    scan = Scan((0.004, 0.02), 3)
    assert scan.hz_per_ppm == pytest.approx(3 * GAMMA_BAR / 1e6)
    assert scan.rad_per_ppm(0.02) == pytest.approx(2 * math.pi * 127.732 * 0.02, rel=1e-5)
