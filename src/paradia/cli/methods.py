"""``paradia methods``."""

from __future__ import annotations

import sys

from paradia import registry


def methods(stage: str | None = None, /) -> None:
    """List what each stage can be done with.

    Parameters
    ----------
    stage
        Only this stage, with the paper of each method (DOI).
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("stage", "method", "what it does", *(["papers"] if stage else [])):
        table.add_column(heading, no_wrap=heading != "what it does")
    for name in [registry.stage(stage).name] if stage else registry.STAGES:
        for row, method in enumerate(registry.methods(name)):
            papers = ["\n".join(registry.load(name, method).cite.split())] if stage else []  # which imports the method
            table.add_row("" if row else f"[bold]{name}[/]", method, registry.summary(name, method), *papers)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
