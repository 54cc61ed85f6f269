"""The picture of a study's lesions: a row a lesion, a column a map, the outline over both."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from paradia.metrics.lesions import Lesion
from paradia.report.figures import DPI, INK, LOOKS, Look, choose_window

SIDE = 36.0
"""Width of the neighbourhood shown, mm; larger where a lesion is."""

CELL, LEFT, TOP, GAP, LINE = 1.5, 1.25, 0.3, 0.06, 0.17
"""Edge of a picture; room for words at the left and at the top, between pictures, for a line below one; inches."""

OUTLINE = "#ffb000"


class Row(NamedTuple):
    """One lesion with the maps of its subject."""

    subject: str
    lesion: Lesion
    maps: Mapping[str, NDArray]
    labels: NDArray
    voxel_size: tuple[float, float, float]


def drawn(rows: Sequence[Row]) -> bytes:
    """Draw the slice through the middle of each lesion on every map, at the window of the map over all.

    Parameters
    ----------
    rows
        Lesions, at least one.

    Returns
    -------
    bytes
        A PNG file.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.maps))
    windows = {name: _window(name, rows) for name in names}
    tall = CELL + LINE + GAP
    width, height = LEFT + len(names) * (CELL + GAP), TOP + len(rows) * tall
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for column, name in enumerate(names):
        x = (LEFT + column * (CELL + GAP) + CELL / 2) / width
        unit = LOOKS.get(name, Look("")).unit
        low, high = windows[name]
        figure.text(x, 1 - 0.09 / height, f"{name}, {low:g} to {high:g} {unit}".strip(), ha="center", va="top", fontsize=6.5, color=INK)
    for number, row in enumerate(rows):
        y = height - TOP - (number + 1) * tall + LINE
        words = f"{row.subject}\nlesion {row.lesion.label}\n{row.lesion.volume:.0f} mm³"
        figure.text(0.05 / width, (y + CELL / 2) / height, words, va="center", fontsize=6.5, color=INK)
        for column, name in enumerate(names):
            if name not in row.maps:
                continue
            place = ((LEFT + column * (CELL + GAP)) / width, y / height, CELL / width, CELL / height)
            _panel(figure, place, row, name, windows[name])
            said = row.lesion.maps[name]
            text = f"{said.kind}, {said.difference:+.3g}" if said.kind != "unknown" else "no tissue around"
            figure.text(place[0] + place[2] / 2, (y - 0.02) / height, text, ha="center", va="top", fontsize=6.5, color=INK)
    target = io.BytesIO()
    with mpl.rc_context({"savefig.facecolor": "white"}):
        figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()


def _window(name: str, rows: Sequence[Row]) -> tuple[float, float]:
    """Choose the window of a map over all subjects."""
    seen = {id(row.maps[name]): row.maps[name] for row in rows if name in row.maps}
    values = np.concatenate([image[image != 0][::7] for image in seen.values()])
    return choose_window(values if values.size else np.zeros(1), LOOKS.get(name, Look("")))


def _panel(figure: Figure, place: tuple[float, float, float, float], row: Row, name: str, window: tuple[float, float]) -> None:
    """Draw one neighbourhood, its outline, and those of other lesions thinner."""
    image, labels = row.maps[name], row.labels
    z = round(row.lesion.centre[2])
    inside = np.argwhere(labels[:, :, z] == row.lesion.label)
    if not len(inside):  # a curved lesion may miss its own middle
        planes = (labels == row.lesion.label).sum((0, 1))
        z = int(planes.argmax())
        inside = np.argwhere(labels[:, :, z] == row.lesion.label)
    middle = (inside.min(0) + inside.max(0)) / 2
    wide = (inside.max(0) - inside.min(0) + 1) * np.array(row.voxel_size[:2])
    half = max(SIDE, 1.6 * float(wide.max())) / 2
    axes = figure.add_axes(place)
    size = row.voxel_size
    extent = (-0.5 * size[0], (image.shape[0] - 0.5) * size[0], -0.5 * size[1], (image.shape[1] - 0.5) * size[1])
    cmap = LOOKS.get(name, Look("")).cmap
    axes.imshow(image[:, :, z].T, origin="lower", cmap=cmap, vmin=window[0], vmax=window[1], extent=extent, interpolation="nearest")
    at = np.arange(image.shape[0]) * size[0], np.arange(image.shape[1]) * size[1]
    others = (labels[:, :, z] > 0) & (labels[:, :, z] != row.lesion.label)
    for mask, thick in ((labels[:, :, z] == row.lesion.label, 0.9), (others, 0.4)):
        if mask.any():
            axes.contour(*at, mask.T, levels=[0.5], colors=OUTLINE, linewidths=thick)
    axes.set_xlim(middle[0] * size[0] - half, middle[0] * size[0] + half)
    axes.set_ylim(middle[1] * size[1] - half, middle[1] * size[1] + half)
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
