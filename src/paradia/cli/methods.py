"""``paradia methods``."""

from __future__ import annotations

from paradia import registry


def methods(stage: str | None = None, /) -> None:
    """List what each stage can be done with.

    Parameters
    ----------
    stage
        Only this stage.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("stage", "method", "what it does"):
        table.add_column(heading, no_wrap=heading != "what it does")
    for name in [registry.stage(stage).name] if stage else registry.STAGES:
        for row, method in enumerate(registry.methods(name)):
            table.add_row("" if row else f"[bold]{name}[/]", method, registry.summary(name, method))
    Console().print(table)
