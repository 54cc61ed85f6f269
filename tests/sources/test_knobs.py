"""What methods ask of their knobs."""

import math

import pytest

from paradia.errors import InputError
from paradia.sources.knobs import check_stop


@pytest.mark.parametrize("tol", [0.0, 0.02, math.inf])
def test_any_tolerance_that_says_something_goes(tol):
    check_stop(max_iter=1, tol=tol)


@pytest.mark.parametrize(("max_iter", "tol"), [(0, 0.1), (-1, 0.1), (1, -0.1), (1, math.nan)])
def test_what_stops_before_it_begins_is_refused(max_iter, tol):
    with pytest.raises(InputError, match="Leave it out"):
        check_stop(max_iter=max_iter, tol=tol)
