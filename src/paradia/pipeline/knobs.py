"""Whether a value can be what a knob takes: told by the method's signature, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from paradia.errors import InputError
from paradia.registry import Method

SIGNED = frozenset({"reach"})
"""Knobs of our own methods that may be negative; sizes, weights, shares and counts may not."""

ENDLESS = frozenset({"noise_limit", "rim"})
"""Those that may be infinite: no limit."""

PLAIN: dict[type, str] = {float: "a number", int: "a whole number", bool: "true or false", str: "a word"}


def check_knob(method: Method, name: str, value: Any) -> None:
    """Refuse a value of another type than the knob's: a word for a number, the word "False", which is true, or NaN.

    Of our own methods a number below zero or without end is refused too, but for the few knobs to which it means something. What is
    between the ends of its range the method itself checks, and a plugin all of it.

    Raises
    ------
    InputError
        It cannot be.
    """
    wanted = _types(method.function).get(name, Any)
    if not _fits(value, wanted):
        raise InputError(f"{method.stage}.{name} must be {_worded(wanted)}, got {value!r}.")
    if isinstance(value, Real) and method.function.__module__.startswith("paradia."):
        if value < 0 and name not in SIGNED:
            raise InputError(f"{method.stage}.{name} must not be negative, got {value}. Leave it out for its default.")
        if math.isinf(value) and name not in ENDLESS:
            raise InputError(f"{method.stage}.{name} must be finite, got {value}. Leave it out for its default.")


@cache
def _types(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a method's parameters; none where a plugin's annotations cannot be understood."""
    try:
        return get_type_hints(function)
    except (NameError, TypeError):
        return {}


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a plain value is of a type as signatures write it; types that no protocol can write pass."""
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        inner = parts[:1] * len(value) if isinstance(value, tuple) and parts[1:] == (...,) else parts
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(_fits, value, inner))
    if wanted in (int, float):  # a comparison with a limit lets NaN pass
        number = isinstance(value, Integral if wanted is int else Real) and not isinstance(value, bool)
        return number and not math.isnan(value)
    return isinstance(value, wanted) if wanted in (*PLAIN, NoneType) else True


def _worded(wanted: Any) -> str:
    """Say a type in words."""
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        return " or ".join(_worded(part) for part in parts if part is not NoneType)
    if origin is Literal:
        return "one of " + ", ".join(map(str, parts))
    if origin is tuple:
        return "a list"
    return PLAIN.get(wanted, str(wanted))
