"""The picture of a sweep: the curve with what the rules chose, and what the results look like."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from paradia.pipeline.rules import Sample
from paradia.pipeline.tune import Tuned
from paradia.report.figures import DPI, EDGES, GREY, HALO, INK, LETTERS, OUTSIDE, WIDTH, choose_window
from paradia.report.figures import LOOKS as MAPS
from paradia.report.orientation import Cut

COLOURS = {"discrepancy": "#b05a00", "inflection": "#1b6e3c", "corner": "#2f5d8a"}
MARKS = {"discrepancy": "o", "inflection": "D", "corner": "s"}
SOFT = "#5b6875"

APART = 8.0
"""Factor by which the slices at either side are under- and over-regularised."""

CURVES, BELOW = 3.35, 0.75
"""Height of the curves, and of what is written around the slices, inches."""


def draw_tuning(tuned: Tuned, cut: Cut, mask: NDArray[np.bool_], default: float | None = None) -> bytes:
    """Draw the L-curve, its curvature, the misfit, and slices at three weights.

    Parameters
    ----------
    tuned
        The sweep; its runs kept their slice of ``cut``.
    cut
        Where the slices lie.
    mask
        The mask in that slice.
    default
        The knob's default, to mark it.

    Returns
    -------
    bytes
        A PNG file.
    """
    shown = three(tuned)
    side = (WIDTH - 0.6) / 3
    tall = min(side * cut.size[1] / cut.size[0], 4.0)
    height = CURVES + tall + BELOW
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    bottom, share = (tall + BELOW + 0.42) / height, (CURVES - 1.1) / height
    for number, draw in enumerate((_l_curve, _curvature, _misfit)):
        axes = figure.add_axes(((0.68 + number * (WIDTH - 0.1) / 3) / WIDTH, bottom, (side - 0.75) / WIDTH, share))
        draw(axes, tuned, default)
        axes.tick_params(labelsize=7, colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
    _legend(figure, tuned, default)
    _slices(figure, tuned, shown, cut, mask, (side, tall, height))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def three(tuned: Tuned) -> list[tuple[str, Sample]]:
    """Pick the runs to show: at the choice, and a factor to either side or as far as the sweep goes."""
    samples = tuned.samples
    best = tuned.best
    values = np.log([sample.value for sample in samples])
    middle = np.log(best.value) if best is not None and best.value is not None else values[len(values) // 2]
    rising = samples[-1].roughness <= samples[0].roughness
    names = ["under-regularised", f"chosen: {best.rule}" if best else "middle of the sweep", "over-regularised"]
    places = [int(np.abs(values - middle - shift).argmin()) for shift in np.log((1 / APART, 1.0, APART))]
    picked = list(zip(names if rising else names[::-1], (samples[place] for place in places), strict=True))
    return picked if rising else picked[::-1]


def _l_curve(axes: Axes, tuned: Tuned, default: float | None) -> None:
    curve, samples = tuned.curve, tuned.samples
    axes.loglog(curve.misfit, curve.roughness, color=INK, linewidth=1)
    axes.loglog([s.misfit for s in samples], [s.roughness for s in samples], ".", color=INK, markersize=4)
    ends = (samples[0], samples[-1])
    for sample in ends:
        axes.annotate(
            f"{sample.value:.2g}", (sample.misfit, sample.roughness), (4, 3), textcoords="offset points", fontsize=6.5, color=SOFT
        )
    for value, style in _marks(tuned, default):
        axes.plot(_at(curve.value, curve.misfit, value), _at(curve.value, curve.roughness, value), linestyle="none", **style)
    if tuned.normalised and axes.get_xlim()[0] < 1 < axes.get_xlim()[1]:
        axes.axvline(1, color=COLOURS["discrepancy"], linewidth=0.7, linestyle=":")
    for axis in (axes.xaxis, axes.yaxis):
        _few_ticks(axis)
    axes.set_xlabel(_misfit_name(tuned), fontsize=8, color=INK)
    axes.set_ylabel("roughness, ppm" + ("" if tuned.step.stage == "background" else "/mm"), fontsize=8, color=INK, labelpad=1)
    axes.set_title("L-curve", fontsize=9, color=INK, loc="left")


def _curvature(axes: Axes, tuned: Tuned, default: float | None) -> None:
    curve = tuned.curve
    inner = (curve.value >= tuned.samples[1].value) & (curve.value <= tuned.samples[-2].value)
    axes.semilogx(curve.value, curve.curvature, color=INK, linewidth=1)
    axes.axhline(0, color=SOFT, linewidth=0.6, linestyle=":")
    for value, style in _marks(tuned, default):
        axes.plot(value, np.interp(np.log(value), np.log(curve.value), curve.curvature), linestyle="none", **style)
    top = float(np.percentile(np.abs(curve.curvature[inner]), 97)) if inner.any() else 1.0
    axes.set_ylim(-0.4 * max(top, 1e-6), 1.25 * max(top, 1e-6))
    _few_ticks(axes.xaxis)
    axes.set_xlabel(tuned.knob, fontsize=8, color=INK)
    axes.set_title("Curvature", fontsize=9, color=INK, loc="left")


def _misfit(axes: Axes, tuned: Tuned, default: float | None) -> None:
    curve = tuned.curve
    axes.loglog(curve.value, curve.misfit, color=INK, linewidth=1)
    axes.loglog([s.value for s in tuned.samples], [s.misfit for s in tuned.samples], ".", color=INK, markersize=4)
    if tuned.normalised:
        axes.axhline(1, color=COLOURS["discrepancy"], linewidth=0.7, linestyle=":")
        axes.annotate("noise", (tuned.samples[0].value, 1), (0, 2), textcoords="offset points", fontsize=6.5, color=COLOURS["discrepancy"])
    for value, style in _marks(tuned, default):
        axes.plot(value, _at(curve.value, curve.misfit, value), linestyle="none", **style)
    for axis in (axes.xaxis, axes.yaxis):
        _few_ticks(axis)
    axes.set_xlabel(tuned.knob, fontsize=8, color=INK)
    axes.set_title(_misfit_name(tuned).capitalize(), fontsize=9, color=INK, loc="left")


def _slices(
    figure: Figure, tuned: Tuned, shown: Sequence[tuple[str, Sample]], cut: Cut, mask: NDArray, sizes: tuple[float, float, float]
) -> None:
    """Show the results at one window."""
    side, tall, height = sizes
    name = "local_field" if tuned.step.stage == "background" else "chi"
    middle = shown[1][1].kept
    low, high = choose_window(middle[mask] if mask.any() else middle.ravel(), MAPS[name])
    cmap = mpl.colormaps[GREY].with_extremes(bad=OUTSIDE)
    zero = [float(sample.kept[mask].mean()) if name == "chi" and mask.any() else 0.0 for _, sample in shown]
    for number, ((said, sample), mean) in enumerate(zip(shown, zero, strict=True)):
        left = 0.2 + number * (side + 0.1)
        axes = figure.add_axes((left / WIDTH, 0.3 / height, side / WIDTH, tall / height))
        image = np.ma.masked_where(~mask, sample.kept - mean)
        axes.imshow(image, cmap=cmap, vmin=low, vmax=high, aspect="auto", interpolation="antialiased", interpolation_stage="data")
        axes.set_axis_off()
        axes.set_title(f"{said}, {tuned.knob} = {sample.value:.2g}", fontsize=8, color=INK, pad=4)
        for letter, (x, y, ha, va) in zip(cut.letters, EDGES, strict=True):
            axes.text(x, y, letter, transform=axes.transAxes, ha=ha, va=va, fontsize=7, color=LETTERS, path_effects=HALO)
    what = "local field" if name == "local_field" else "χ less its mean in the slice"
    text = f"{cut.title}, {what}, window {low:g} to {high:g} ppm".replace("-", "−")
    figure.text(0.5, 0.08 / height, text, ha="center", fontsize=7.5, color=SOFT)


def _legend(figure: Figure, tuned: Tuned, default: float | None) -> None:
    """Name the marks once, above the curves."""
    axes = figure.axes[0]
    said = [f"{c.rule} {c.value:.3g}" for c in tuned.choices if c.value is not None]
    marks = list(_marks(tuned, default))
    handles = [axes.plot([], [], linestyle="none", **style)[0] for _, style in marks]
    names = [*said, *([f"default {default:.3g}"] if len(marks) > len(said) else [])]
    title = f"{tuned.step.stage} {tuned.step.method}, {tuned.knob}"
    height = 1 - 0.2 / figure.get_figheight()
    figure.text(0.02, height, title, fontsize=10, color=INK, fontweight="bold", va="center")
    if handles:
        look: dict[str, Any] = {"fontsize": 8, "frameon": False, "handletextpad": 0.1}
        figure.legend(handles, names, ncols=len(names), loc="center right", bbox_to_anchor=(0.99, height), **look)
    if tuned.best is None:
        figure.text(0.5, height - 0.2 / figure.get_figheight(), "no rule can be trusted", ha="center", fontsize=8, color="#a3201d")


def _marks(tuned: Tuned, default: float | None) -> list[tuple[float, dict]]:
    """Pair the values to mark with how they are marked."""
    marks: list[tuple[float, dict]] = [
        (c.value, {"marker": MARKS[c.rule], "color": COLOURS[c.rule], "markersize": 6}) for c in tuned.choices if c.value is not None
    ]
    if default and tuned.samples[0].value <= default <= tuned.samples[-1].value:
        marks.append((default, {"marker": "x", "color": SOFT, "markersize": 6}))
    return marks


def _misfit_name(tuned: Tuned) -> str:
    return "misfit, in noise" if tuned.normalised else "misfit, ppm"


def _at(values: NDArray, curve: NDArray, value: float) -> float:
    """Read a curve off at a value."""
    return float(np.exp(np.interp(np.log(value), np.log(values), np.log(curve))))


def _few_ticks(axis: mpl.axis.Axis) -> None:
    """Label 1, 2 and 5 where an axis spans little more than a power of ten, evenly spaced values where too few of those would be left."""
    low, high = axis.get_view_interval()
    if high / low < 4:
        axis.set_major_locator(MaxNLocator(4))
        axis.set_major_formatter("{x:.3g}")
        axis.set_minor_locator(NullLocator())
    elif high / low < 60:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(9, 9), labelOnlyBase=False) if low < 1e-2 else "{x:g}")
        axis.set_minor_formatter(NullFormatter())
