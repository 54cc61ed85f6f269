"""Progress on the terminal, on standard error, so that what a command prints stays clean."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from paradia.pipeline.step import Step


class Progress:
    """A line for every finished step, and a spinner with the relative change while one runs."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._status: Status | None = None

    def __enter__(self) -> Progress:
        """Begin to draw."""
        self._status = self.console.status("")
        self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take the spinner away, whatever happened."""
        if self._status:
            self._status.stop()

    def say(self, text: str) -> None:
        """Print a line, with rich's markup."""
        self.console.print(text, soft_wrap=True)

    def answer(self, text: str) -> None:
        """Print a line on standard output, which the spinner would send where it draws itself."""
        if self._status:
            self._status.stop()
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
        if self._status:
            self._status.start()

    def show(self, text: str) -> None:
        """Put a text beside the spinner, with rich's markup."""
        if self._status:
            self._status.update(text)

    def done(self, text: str) -> None:
        """Print what was finished."""
        self.say(f"[green]✓[/] {escape(text)}")

    def failed(self, text: str) -> None:
        """Print what failed."""
        self.say(f"[red]✗[/] {escape(text)}")

    def warn(self, text: str) -> None:
        """Print what a run was told of by the way."""
        self.say(f"  [yellow]![/] {escape(text)}")

    def __call__(self, step: Step, state: str, value: float) -> None:
        """Draw what a run tells (`paradia.pipeline.execute.Progress`)."""
        name = f"{step.stage} [bold]{step.method}[/]"
        if self._status:
            change = f", relative change {value:.1e}" if state == "iterate" else ""
            self._status.update(f"{name}{change}")
        if state == "done":
            self.say(f"  {name}  {value:.2f} s")
        elif state == "kept":
            self.say(f"  {name}  [dim]kept from an earlier run[/]")
        elif state == "skipped":
            self.say(f"  {name}  [yellow]left out[/]")
