"""A picture of how a training went."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from paradia.errors import FileError
from paradia.io.atomic import replacing

INK, SOFT, BLUE, RED = "#1d2733", "#7d8894", "#2f5d8a", "#8a3b5d"


def draw_curves(log: Path, path: Path) -> Path:
    """Draw loss, validation error and coverage over the steps of a training.

    Parameters
    ----------
    log
        ``log.csv`` of the training: ``step``, ``loss``, and where there were validation volumes ``before``, ``after`` (error before
        and after the network, %) and ``within`` (errors within one deviation, %).
    path
        PNG file to write, whole or not at all.

    Returns
    -------
    Path
        The picture.

    Raises
    ------
    FileError
        The log cannot be read, or the picture not written.
    """
    rows = _read(log)
    panels = [panel for name, panel in (("loss", _loss), ("after", _error), ("within", _coverage)) if name in rows]
    figure = Figure(figsize=(3.6 * len(panels), 2.9), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        panel(axes, rows)
        axes.set_xlabel("step", fontsize=8, color=INK)
        axes.tick_params(labelsize=7, colors=INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with replacing(path) as file:
        file.write(buffer.getvalue())
    return path


def _read(log: Path) -> dict[str, np.ndarray]:
    try:
        with log.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise FileError(f"cannot read the log {log}: {error.strerror or error}.") from error
    if not rows or "step" not in rows[0]:
        raise FileError(f"{log} is no log of a training, or an empty one.")
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}


def _loss(axes: Axes, rows: dict[str, np.ndarray]) -> None:
    axes.plot(rows["step"], rows["loss"], color=BLUE, linewidth=1.2)
    axes.set_title("loss", fontsize=9, color=INK)


def _error(axes: Axes, rows: dict[str, np.ndarray]) -> None:
    axes.plot(rows["step"], rows["after"], color=BLUE, linewidth=1.2, label="network")
    axes.plot(rows["step"], rows["before"], color=SOFT, linewidth=1.0, linestyle="--", label="start")
    axes.set_title("validation error, %", fontsize=9, color=INK)
    axes.set_ylim(0, None)
    axes.legend(fontsize=7, frameon=False)


def _coverage(axes: Axes, rows: dict[str, np.ndarray]) -> None:
    axes.plot(rows["step"], rows["within"], color=RED, linewidth=1.2)
    axes.axhline(68, color=SOFT, linewidth=0.8, linestyle="--")
    axes.set_title("errors within a deviation, %", fontsize=9, color=INK)
    axes.set_ylim(0, 100)
