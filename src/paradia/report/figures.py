"""Pictures of maps at true proportions, drawn without any global state."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray
from scipy import ndimage

from paradia.report.orientation import Cut, Layout

WIDTH = 10.0
"""Width of every figure, inches."""

DPI = 140
BAR, GAP, TITLE, FOOT = 0.85, 0.06, 0.3, 0.05
"""Room for the colour bar, between panels, above and below them, inches."""

TALLEST = 4.2
"""Largest height of a panel, inches."""

GREY, NOISE, DECAY = "gray", "viridis", "magma"
OUTSIDE = "#10141a"
INK = "#1d2733"
HALO = [Stroke(linewidth=1.5, foreground="black"), Normal()]
OUTLINES = ("#ffb000", "#4fc3f7")
LETTERS = "#ffd98a"
"""Colour of the letters for the patient's sides."""

EDGES = ((0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center"), (0.5, 0.015, "center", "bottom"), (0.5, 0.985, "center", "top"))
"""Where they stand in a panel, in the order of `Cut.letters`: left, right, down and up."""

EDGE = 4.0
"""Depth of the mask's rim that windows are not chosen from, mm: what goes wrong there would hide the anatomy inside."""


@dataclass(frozen=True)
class Look:
    """How a kind of map is shown."""

    unit: str
    cmap: str = GREY
    window: tuple[float, float] | None = None
    """Fixed limits; from the data where absent."""
    least: float = 0.0
    """The upper limit is never below this."""
    symmetric: bool = False
    masked: bool = True
    """Whether what lies outside the mask is left dark."""


@dataclass(frozen=True)
class Picture:
    """An encoded picture."""

    data: bytes
    width: int
    height: int
    window: tuple[float, float] | None = None

    kind = "image/webp"


@dataclass(frozen=True)
class Panel:
    """One slice with what to draw on it."""

    cut: Cut
    image: NDArray
    title: str
    outlines: tuple[NDArray, ...] = ()


def round_up(value: float) -> float:
    """Return the next number of the row 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10 times a power of ten."""
    if not math.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    step = next(s for s in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if s * power >= value * (1 - 1e-9))
    return float(f"{step * power:.3g}")


def choose_window(values: NDArray, look: Look) -> tuple[float, float]:
    """Return limits with round numbers: the fixed ones, or from the 1st and 99th percentile of the data."""
    if look.window is not None:
        return look.window
    values = values[np.isfinite(values)][:: max(1, values.size // 200_000)]
    if values.size == 0:
        return (-1.0, 1.0) if look.symmetric else (0.0, 1.0)
    if look.symmetric:
        top = round_up(float(np.percentile(np.abs(values), 98.5)))
        return -top, top
    return 0.0, max(look.least, round_up(1.05 * float(np.percentile(values, 99))))


def core(mask: NDArray, voxel_size: Sequence[float]) -> NDArray:
    """Return the mask without its rim, or all of it where little would be left; the edge of the volume is no rim."""
    inside = mask
    for axis, size in enumerate(voxel_size):
        line = np.ones([1 + 2 * min(round(EDGE / size), mask.shape[axis] // 8) if a == axis else 1 for a in range(3)], dtype=bool)
        inside = ndimage.binary_erosion(inside, line, border_value=1)
    return inside if inside.sum() > 0.2 * mask.sum() else mask


def strip(volume: NDArray, mask: NDArray, layout: Layout, look: Look, within: NDArray | None = None) -> Picture:
    """Draw a map in its planes with one colour bar; the window is chosen from the voxels ``within``, the mask where not given."""
    panels = [Panel(cut, _slice(cut, volume, mask if look.masked else None), cut.title) for cut in layout.three()]
    return draw(panels, look, choose_window(volume[mask if within is None else within], look))


def echoes(
    volumes: NDArray, mask: NDArray, layout: Layout, look: Look, times: Sequence[float], within: NDArray | None = None, most: int = 5
) -> Picture:
    """Draw one slice of every echo, first and last among them where there are too many; a single echo in its planes."""
    if len(volumes) == 1:
        return strip(volumes[0], mask, layout, look, within)
    within = mask if within is None else within
    shown = sorted({round(i) for i in np.linspace(0, len(volumes) - 1, min(len(volumes), most))})
    window = choose_window(np.concatenate([volumes[i][within] for i in (shown[0], shown[-1])]), look)
    cut, hidden = layout.flat(), mask if look.masked else None
    panels = [Panel(cut, _slice(cut, volumes[i], hidden), f"echo {i + 1} · {1000 * times[i]:.3g} ms") for i in shown]
    return draw(panels, look, window)


def outline(magnitude: NDArray, masks: Sequence[NDArray], layout: Layout, look: Look) -> Picture:
    """Draw the outlines of masks on the whole field of view."""
    cuts = layout.whole().three()
    panels = [Panel(cut, _slice(cut, magnitude, None), cut.title, tuple(cut.take(m) for m in masks)) for cut in cuts]
    return draw(panels, look, choose_window(magnitude[masks[0]], look))


def draw(panels: Sequence[Panel], look: Look, window: tuple[float, float]) -> Picture:
    """Draw panels at one scale, so many mm to the inch in all of them."""
    room = WIDTH - BAR - GAP * (len(panels) - 1)
    scale = min(room / sum(p.cut.size[0] for p in panels), TALLEST / max(p.cut.size[1] for p in panels))
    tallest = scale * max(p.cut.size[1] for p in panels)
    figure = Figure(figsize=(WIDTH, tallest + TITLE + FOOT), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    width, height = figure.get_size_inches()
    norm, cmap = Normalize(*window), mpl.colormaps[look.cmap].with_extremes(bad=OUTSIDE)
    left = (room - scale * sum(p.cut.size[0] for p in panels)) / 2
    for panel in panels:
        w, h = scale * panel.cut.size[0], scale * panel.cut.size[1]
        place = (left / width, (FOOT + (tallest - h) / 2) / height, w / width, h / height)
        _panel(figure.add_axes(place), panel, norm, cmap)
        left += w + GAP
    bar = figure.add_axes(((left + 0.08) / width, (FOOT + 0.1 * tallest) / height, 0.13 / width, 0.8 * tallest / height))
    colours = figure.colorbar(ScalarMappable(norm, cmap), cax=bar)
    colours.ax.tick_params(labelsize=7, colors=INK, length=2)
    colours.outline.set_linewidth(0.4)
    ticks = choose_ticks(window)
    names = ["−π", "−π/2", "0", "π/2", "π"] if window[1] == math.pi else [signed(t) for t in ticks]
    colours.set_ticks(ticks.tolist(), labels=names)
    bar.set_title(look.unit, fontsize=8, color=INK, loc="left", pad=5)
    return _encode(figure, window)


def choose_ticks(window: tuple[float, float]) -> NDArray:
    """Return ticks from end to end of a window, with a step that is short to write where there is one, and zero among them."""
    if window[1] == math.pi:
        return np.linspace(*window, 5)
    counts = (4, 7, 10) if window[1] == -2 * window[0] else (5, 3) if window[0] == -window[1] else (5, 6, 4)
    steps = {count: f"{(window[1] - window[0]) / (count - 1):.4g}".replace(".", "").strip("0") for count in counts}
    return np.linspace(*window, min(counts, key=lambda count: (len(steps[count]), steps[count] not in ("1", "2", "5"))))


def signed(value: float) -> str:
    """Write a number with a minus sign that is one, as every number of the page."""
    return (f"{value:.0f}" if 1e4 <= abs(value) < 1e6 else f"{round(value, 12):.4g}").replace("-", "−")


def histogram(values: NDArray, unit: str, window: tuple[float, float], colour: str = "#2f5d8a") -> Picture:
    """Draw how values are distributed, with median and middle half."""
    figure = Figure(figsize=(WIDTH / 2, 2.3), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    counts, edges = np.histogram(values, bins=120, range=window)
    share = 100 * counts / max(values.size, 1)
    axes.stairs(share, edges, fill=True, color=colour, alpha=0.85)
    if values.size:
        low, middle, high = np.percentile(values[:: max(1, values.size // 500_000)], (25, 50, 75))
        axes.axvspan(low, high, color="#ffb000", alpha=0.22, linewidth=0, label=f"middle half {_short(low)} to {_short(high)}")
        axes.axvline(middle, color="#b05a00", linewidth=1, label=f"median {_short(middle)}")
        axes.legend(fontsize=7, frameon=False)
    axes.set_xlim(*window)
    axes.set_xlabel(unit, fontsize=8)
    axes.set_ylabel("% of voxels", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return _encode(figure, window)


def _short(value: float) -> str:
    """Write a number of a legend to three digits."""
    return f"{value:.3g}".replace("-", "−")


def _panel(axes: Axes, panel: Panel, norm: Normalize, cmap: mpl.colors.Colormap) -> None:
    """Show a slice with its letters and outlines."""
    rows, columns = panel.image.shape
    axes.imshow(panel.image, cmap=cmap, norm=norm, aspect="auto", interpolation="antialiased", interpolation_stage="data")
    for shape, colour in zip(panel.outlines, OUTLINES, strict=False):
        if shape.any() and not shape.all():
            axes.contour(shape.astype(np.float32), levels=[0.5], colors=[colour], linewidths=0.9)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axes.set_axis_off()
    axes.set_title(panel.title, fontsize=7.5, color=INK, pad=3)
    for letter, (x, y, ha, va) in zip(panel.cut.letters, EDGES, strict=True):
        axes.text(x, y, letter, transform=axes.transAxes, ha=ha, va=va, fontsize=7, color=LETTERS, path_effects=HALO)


def _slice(cut: Cut, volume: NDArray, mask: NDArray | None) -> NDArray:
    """Take a slice and hide what is no number or outside the mask."""
    image = cut.take(volume)
    hidden = ~np.isfinite(image)
    return np.ma.masked_where(hidden if mask is None else hidden | ~cut.take(mask), image)


def _encode(figure: Figure, window: tuple[float, float]) -> Picture:
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    buffer = io.BytesIO()
    canvas.print_webp(buffer, metadata=None, pil_kwargs={"quality": 88, "method": 2})
    width, height = canvas.get_width_height()
    return Picture(buffer.getvalue(), width, height, window)


LOOKS: Mapping[str, Look] = {
    "magnitude": Look("a.u.", masked=False),
    "phase": Look("rad", window=(-math.pi, math.pi), masked=False),
    "unwrapped": Look("rad", symmetric=True),
    "total_field": Look("ppm", symmetric=True),
    "noise": Look("ppb", cmap=NOISE),
    "local_field": Look("ppm", symmetric=True),
    "local_noise": Look("ppb", cmap=NOISE),
    "chi": Look("ppm", window=(-0.1, 0.2)),
    "chi_noise": Look("ppb", cmap=NOISE),
    "residual": Look("ppb", symmetric=True),
    "r2star": Look("1/s", cmap=DECAY),
    "r2": Look("1/s", cmap=DECAY),
    "r2prime": Look("1/s", cmap=DECAY),
    "chi_pos": Look("ppm", least=0.12),
    "chi_neg": Look("ppm"),
    "chi_pos_noise": Look("ppb", cmap=NOISE),
    "chi_neg_noise": Look("ppb", cmap=NOISE),
    "chi_pos_band": Look("ppb", cmap=NOISE),
    "chi_neg_band": Look("ppb", cmap=NOISE),
    "closed_pos": Look("ppm", least=0.12),
    "closed_neg": Look("ppm"),
    "disagreement": Look("ppb", cmap=NOISE),
    "field_residual": Look("ppb", symmetric=True),
    "rate_residual": Look("1/s", symmetric=True),
    "swi": Look("a.u."),
    "minip": Look("a.u."),
}
"""How each map is shown, by the name of its data."""
