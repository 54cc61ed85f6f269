"""``paradia protocol``."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from paradia.pipeline.protocol import DEFAULT, Protocol, protocol_names


def show(name: str = DEFAULT, /, *, set: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None) -> None:
    """Print a protocol as TOML, every knob written out.

    Parameters
    ----------
    name
        A protocol that ships with Paradia, or a TOML file.
    set
        Knobs to turn, each as ``stage.knob=value``; ``stage.method=name`` exchanges the method.
    """
    sys.stdout.write(Protocol.load(name).turned(set or ()).toml())


def names() -> None:
    """List the protocols."""
    for name in protocol_names():
        sys.stdout.write(f"{name}: {Protocol.load(name).description}\n")
