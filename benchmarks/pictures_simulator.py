"""Draw the pictures of docs/simulator.md from simulated heads; the one beside a real slab needs ../shared/data.

python benchmarks/pictures_simulator.py [subjects maps slab values] [demo]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from simulator import COHORT, PUBLISHED, WHOLE_BRAIN, _map

from paradia.grid import Grid
from paradia.simulate.acquire import scan
from paradia.simulate.acquisition import Gre
from paradia.simulate.subject import Subject, subject

mpl.use("Agg")

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
SLAB = Path(__file__).resolve().parents[2] / "shared" / "data" / "slab-3t-te30"
FINE = Grid((176, 208, 150), (1.0, 1.0, 1.0), (0.0, 0.17, 0.985))
LIKE_SLAB = Grid((116, 140, 34), (1.8, 1.8, 3.0))
PEOPLE = {11: 29.0, 16: 74.0}
"""Seeds and ages, years."""


def save(figure: Figure, name: str, quality: int = 80) -> None:
    """Write a picture for the docs."""
    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / f"simulator-{name}.webp"
    figure.savefig(path, dpi=100, pil_kwargs={"quality": quality, "method": 6})
    plt.close(figure)
    print(f"{path.name}: {path.stat().st_size // 1000} kB")


def show(axes: Axes, image: np.ndarray, low: float, high: float, title: str = "", cmap: str = "gray") -> mpl.image.AxesImage:
    """Draw a slice, its first axis to the right and its second upwards."""
    drawn = axes.imshow(image.T, cmap=cmap, vmin=low, vmax=high, origin="lower", interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.axis("off")
    return drawn


def middle(person: Subject, name: str) -> list[int]:
    """Return the voxel in the middle of a tissue."""
    return [round(float(m)) for m in person.region(name).nonzero().float().mean(0)]


def subjects() -> None:
    """Two people, the same cuts."""
    figure, axes = plt.subplots(2, 4, figsize=(12.6, 7.4), layout="constrained")
    for row, (seed, age) in enumerate(PEOPLE.items()):
        person = subject(seed, grid=FINE, age=age)
        echo = scan(person, Gre(echo_times=(0.02,), tr=0.04, receive=0.0), seed=seed).images[0].abs().numpy()
        x = middle(person, "red_nucleus")[0]
        high = 1.45 * float(np.median(echo[person.mask.numpy()]))
        _, front, basal = middle(person, "pallidum_external")
        whole, brain = person.chi.numpy(), person.chi.where(person.mask, torch.nan).numpy()
        title = f"{person.sex}, {person.age:.0f} years: magnitude, 20 ms"
        show(axes[row, 0], echo[:, :, basal], 0, high, title)
        show(axes[row, 1], whole[:, :, basal], -0.1, 0.2, "χ, −0.1 to 0.2 ppm")
        show(axes[row, 2], brain[:, front, :], -0.1, 0.2, "χ of the brain")
        show(axes[row, 3], whole[x - 8, :, :], -0.1, 0.2, "χ")
    save(figure, "subjects")


def maps() -> None:
    """Every map of one person."""
    person = subject(min(PEOPLE), grid=FINE)
    z = middle(person, "pallidum_external")[2]
    layers = {
        "tissue": (person.labels, 0, 29, "nipy_spectral"),
        "χ, ppm": (person.chi, -0.1, 0.2, "gray"),
        "χ+, ppm": (person.chi_pos, 0, 0.2, "magma"),
        "χ−, ppm (magnitude)": (person.chi_neg, 0, 0.08, "magma"),
        "proton density": (person.density, 0, 1, "gray"),
        "R1, 1/s": (person.r1, 0, 2.5, "gray"),
        "R2, 1/s": (person.r2, 0, 30, "gray"),
        "R2′, 1/s": (person.r2prime, 0, 30, "gray"),
        "R2*, 1/s": (person.r2star, 0, 60, "gray"),
        "share of fat": (person.fat, 0, 1, "gray"),
        "total field, shimmed, ppm": (person.total_field, -0.5, 0.5, "gray"),
        "local field, ppm": (person.local_field, -0.04, 0.04, "gray"),
    }
    figure, axes = plt.subplots(3, 4, figsize=(12.6, 11.6), layout="constrained")
    for place, (name, (image, low, high, cmap)) in zip(axes.flat, layers.items(), strict=True):
        drawn = show(place, image[:, :, z].numpy().astype(float), low, high, name, cmap)
        if name != "tissue":
            figure.colorbar(drawn, ax=place, fraction=0.04, pad=0.01).ax.tick_params(labelsize=7)
    save(figure, "maps")


def slab() -> None:
    """Simulated phase and magnitude beside real ones."""
    real_size, real_phase = (np.asarray(nib.load(SLAB / f"{n}.nii.gz").dataobj, dtype=np.float32) for n in ("magnitude", "phase"))
    inside = np.asarray(nib.load(SLAB / "mask.nii.gz").dataobj) > 0
    real_size, real_phase, inside = (np.flip(a.swapaxes(0, 1), (1, 2)) for a in (real_size, -real_phase, inside))  # nose up, feet first
    person = subject(2, grid=LIKE_SLAB, age=62, oversample=2)
    image = scan(person, Gre(echo_times=(0.03,), tr=8.0, flip=90.0, snr=60.0), seed=3).images[0]
    pictures = {
        "in vivo": (real_size / np.median(real_size[inside]), real_phase),
        "simulated": (image.abs().numpy() / float(image.abs()[person.mask].median()), image.angle().numpy()),
    }
    heights = {"in vivo": (14, 18, 23), "simulated": (10, 13, 21)}
    figure, axes = plt.subplots(2, 6, figsize=(13.5, 5.6), layout="constrained")
    for row, (name, (magnitude, phase)) in enumerate(pictures.items()):
        for column, z in enumerate(heights[name]):
            show(axes[row, 2 * column], magnitude[:, :, z], 0, 2, f"{name}: magnitude" if column == 0 else "")
            show(axes[row, 2 * column + 1], phase[:, :, z], -np.pi, np.pi, "phase, −π to π" if column == 0 else "")
    save(figure, "slab")


def values() -> None:
    """Values of eight people beside published ones."""
    people = [subject(seed, grid=COHORT) for seed in range(8)]
    figure, (regions, rates, whole) = plt.subplots(1, 3, figsize=(14, 5.2), layout="constrained", width_ratios=(1.2, 0.9, 1))
    names = list(PUBLISHED)
    for row, name in enumerate(names):
        pos, neg, rate = PUBLISHED[name]
        inside = [p.region(name) for p in people]
        _range(regions, row, [1e3 * p.chi[m] for p, m in zip(people, inside, strict=True)])
        _range(rates, row, [p.r2star[m] for p, m in zip(people, inside, strict=True)])
        if pos is not None and neg is not None:
            regions.plot(pos + neg, row, "D", color="tab:red", markersize=6, zorder=3)
        if rate is not None:
            rates.plot(rate, row, "D", color="tab:red", markersize=6, zorder=3)
    for axes, title in ((regions, "χ, ppb"), (rates, "R2*, 1/s")):
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names] if axes is regions else [""] * len(names))
        axes.invert_yaxis()
        axes.set_title(title + "\nbars: 5 to 95 % of voxels, dots: heads, red: published", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    _densities(whole, people)
    save(figure, "values")


def _range(axes: Axes, row: int, voxels: Sequence[torch.Tensor]) -> None:
    """Draw the range of voxels and the means of heads."""
    low, high = (
        float(torch.cat(list(voxels)).quantile(q) if sum(map(len, voxels)) < 1e7 else np.quantile(torch.cat(list(voxels)), q))
        for q in (0.05, 0.95)
    )
    axes.plot([low, high], [row, row], color="tab:blue", linewidth=6, alpha=0.3, solid_capstyle="butt")
    axes.plot([float(v.mean()) for v in voxels], [row] * len(voxels), ".", color="tab:blue", markersize=5)


def _densities(axes: Axes, people: Sequence[Subject]) -> None:
    """Draw histograms over the brain, and what is published about them as mean and deviation."""
    for name, colour in (("χ, ppb", "tab:blue"), ("local field, ppb", "tab:orange")):
        values = torch.cat([_map(p, name)[p.mask] for p in people]).numpy()
        axes.hist(
            values, bins=np.linspace(-100, 150, 126), density=True, histtype="step", color=colour, label=f"{name}, SD {values.std():.0f}"
        )
        mean, spread = WHOLE_BRAIN[name]
        height = 0.012 if name.startswith("χ") else 0.035
        axes.errorbar(mean, height, xerr=spread, fmt="D", color=colour, capsize=4, label=f"published, SD {spread:.0f}")
    axes.set_title("over the brain", fontsize=10)
    axes.set_yticks([])
    axes.legend(fontsize=8)


def demo(folder: Path = Path("demo")) -> None:
    """Maps of the head of `make demo`, which has to be there; README's picture."""
    raw, found = folder / "bids" / "sub-demo" / "anat", folder / "derivatives" / "paradia" / "sub-demo" / "anat"
    layers = {
        "magnitude, 20 ms": (raw / "sub-demo_echo-3_part-mag_MEGRE.nii.gz", 0, None),
        "phase, 20 ms": (raw / "sub-demo_echo-3_part-phase_MEGRE.nii.gz", -np.pi, np.pi),
        "total field, ±0.3 ppm": (found / "sub-demo_fieldmap.nii.gz", -0.3, 0.3),
        "local field, ±0.04 ppm": (found / "sub-demo_localfield.nii.gz", -0.04, 0.04),
        "χ, −0.1 to 0.2 ppm": (found / "sub-demo_Chimap.nii.gz", -0.1, 0.2),
        "R2*, 0 to 50 1/s": (found / "sub-demo_R2starmap.nii.gz", 0, 50),
    }
    figure, axes = plt.subplots(1, 6, figsize=(15, 3.3), layout="constrained")
    for place, (name, (path, low, high)) in zip(axes, layers.items(), strict=True):
        image = np.asarray(nib.load(path).dataobj, dtype=np.float32)[:, :, 50]
        show(place, image, low, float(np.quantile(image, 0.97)) if high is None else high, name)
    figure.savefig(IMAGES / "demo.png", dpi=80)


def main() -> None:
    """Draw what is asked for, or all but the demo."""
    torch.set_num_threads(1)
    pictures = {"subjects": subjects, "maps": maps, "slab": slab, "values": values}
    for name in sys.argv[1:] or pictures:
        demo() if name == "demo" else pictures[name]()


if __name__ == "__main__":
    main()
