"""``paradia tune STAGE METHOD``: a sweep of one knob on the user's own data, and what it should be.

A module-level `__getattr__` builds each command when it is asked for, so that a method is imported only then.
"""

from __future__ import annotations

import csv
import inspect
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from torch import Tensor

from paradia.cli import single
from paradia.cli.inputs import read_board
from paradia.cli.plan import pick_device
from paradia.cli.progress import Progress
from paradia.errors import InputError
from paradia.io.atomic import check_writable, replacing, write_text
from paradia.pipeline.execute import check_mask
from paradia.pipeline.step import Step
from paradia.pipeline.tune import Tuned, check, tune
from paradia.registry import Method, load
from paradia.report.orientation import Layout
from paradia.report.tuning import draw_tuning

SPAN, POINTS = 30.0, 11
"""Without values, a sweep goes from the default over this factor to the default times it, in so many steps."""


def __getattr__(name: str) -> Callable[..., int]:
    """Build the command ``stage__method``."""
    stage, separator, method = name.partition("__")
    if not separator or name.startswith("__"):
        raise AttributeError(name)
    return single.refusal(stage, method) or _command(load(stage, method))


def _command(method: Method) -> Callable[..., int]:
    """Turn a method into a command that sweeps one of its knobs."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [
        inspect.Parameter(name, keyword, annotation=Annotated[kind, Parameter(help=text)], default=default)
        for name, kind, text, default in _OWN
    ]
    given = [option for option in single.options(method) if option.name not in _TAKEN]  # such a knob stays at its default
    if "noise" not in method.takes:  # the discrepancy principle needs it all the same
        own.append(inspect.Parameter("noise", keyword, annotation=Annotated[Path | None, Parameter(help=_NOISE)], default=None))
    return single.build(method, [*own, *given], lambda _, options: _run(method, options), method.function.__doc__ or "")


def _run(method: Method, given: dict[str, Any]) -> int:
    """Sweep, print, and write table and picture."""
    knobs = {name: default for name, default in method.knobs.items() if name not in _TAKEN}
    step = Step(method.stage, method.name, {k: v for k, v in given.items() if k in knobs and v != knobs[k]})
    knob = given["knob"].replace("-", "_")
    default = method.knobs.get(knob)
    values = sweep_values(given["values"]) if given["values"] else _around(default)
    check(step, knob, values)
    out = given["out"]
    check_writable(out / "tune.csv")
    device = pick_device(given["device"])
    board, first = read_board(method, given, extra=("noise",))
    check_mask(board, board.pop("invalid", None))
    board = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in board.items()}
    layout = Layout(board["mask"].cpu().numpy(), board["grid"].voxel_size, first.affine if first.oriented else None)
    cut = layout.flat()
    with Progress() as progress:
        said = f"{method.stage} [bold]{method.name}[/]"
        tuned = tune(
            step,
            board,
            knob,
            values,
            norm=1 if given["norm"] == "l1" else 2,
            refine=given["refine"],
            keep=lambda image: cut.take(image.cpu().numpy()),
            progress=lambda done, total, value: progress.show(f"{said} {knob} = {value:.3g}, {done + 1} of {total}"),
        )
        for message in tuned.messages:
            progress.warn(message)
    picture = draw_tuning(tuned, cut, cut.take(board["mask"].cpu().numpy()), default)
    _show(tuned, Console(highlight=False))
    write_text(out / "tune.csv", _csv(tuned))
    with replacing(out / "tune.png") as file:
        file.write(picture)
    Console(highlight=False).print(f"\nTable and picture: {out / 'tune.csv'}, {out / 'tune.png'}", soft_wrap=True, markup=False)
    return 0


def sweep_values(text: str) -> list[float]:
    """Read ``FIRST:LAST:COUNT``, evenly spaced in their logarithm, or values with commas between them.

    Raises
    ------
    InputError
        It is neither.
    """
    try:
        if ":" in text:
            first, last, count = text.split(":")
            if not all(0 < float(end) < math.inf for end in (first, last)):
                raise ValueError(text)  # it has no logarithm
            return [float(f"{v:.4g}") for v in np.geomspace(float(first), float(last), int(count))]
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise InputError(f"values are written FIRST:LAST:COUNT or A,B,C,…, got {text!r}. For example 0.01:1:9.") from error


def _around(default: Any) -> list[float]:
    if not isinstance(default, float) or default <= 0:
        return []  # `check` says what is wrong with it, or that there are too few values
    return [float(f"{v:.4g}") for v in np.geomspace(default / SPAN, default * SPAN, POINTS)]


def _show(tuned: Tuned, console: Console) -> None:
    """Print the runs, what each rule found, and the lines for a protocol."""
    unit = "noise" if tuned.normalised else "ppm"
    table = Table(box=None, pad_edge=False)
    for heading in (tuned.knob, f"misfit, {unit}", "roughness", "found by"):
        table.add_column(heading, justify="left" if heading == "found by" else "right")
    for sample in tuned.samples:
        table.add_row(f"{sample.value:.3g}", f"{sample.misfit:.4g}", f"{sample.roughness:.4g}", ", ".join(tuned.rules(sample)))
    console.print(table)
    console.print()
    for choice in tuned.choices:
        found = f"{tuned.knob} = {choice.value:.3g}" if choice.value is not None else "cannot be trusted"
        console.print(f"[bold]{choice.rule}[/]: {found}. {choice.reason}", soft_wrap=True)
    if tuned.best is None:
        console.print("\nNo rule can be trusted on this sweep; nothing is proposed. Sweep wider, or look at the picture.")
        return
    console.print(f"\nFor a protocol, by the {tuned.best.rule}:\n")
    console.print(tuned.toml, markup=False)


def _csv(tuned: Tuned) -> str:
    """Write the runs as a table."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([tuned.knob, "misfit_in_noise" if tuned.normalised else "misfit_ppm", "roughness", "rules"])
    for s in tuned.samples:
        rows.writerow([f"{s.value:.6g}", f"{s.misfit:.6g}", f"{s.roughness:.6g}", " ".join(tuned.rules(s))])
    return text.getvalue()


_NOISE = "File of the standard deviation of the field, ppm, for the discrepancy principle; the method itself makes no use of it."

_OWN: list[tuple[str, Any, str, Any]] = [
    ("out", Path, "Folder for the table and the picture.", inspect.Parameter.empty),
    ("knob", str, "Knob to sweep.", "weight"),
    ("values", str | None, "Where: FIRST:LAST:COUNT, evenly spaced in the logarithm, or A,B,C,…; around the default where absent.", None),
    ("norm", Literal["l1", "l2"], "How roughness is measured: mean absolute slope, or root mean square.", "l1"),
    ("refine", int, "How often to run again at what the rules found between the values.", 1),
]

_TAKEN = {name for name, *_ in _OWN}
"""Names that are this command's, whatever knob of a method is called so."""
