"""Pictures of every separation beside the truth, at 3 T and 7 T, with spin echoes and without, and of a real crop.

    python benchmarks/separation_pictures.py [--only 3t 7t real lesions] [--voxel 1.6] [--threads 2]

They go to docs/images. The real crop is in the folder of real inputs beside the repository and stays there.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib as mpl
import nibabel as nib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from separation import ALONE, DRAWN, HELD_OUT, SPIN, board_of, given, separated, simple, trained

from paradia.cli.lesions import lesions as lesions_command
from paradia.grid import Grid
from paradia.pipeline.execute import execute
from paradia.pipeline.protocol import Protocol
from paradia.scan import Scan
from paradia.simulate.lesions import KINDS
from paradia.simulate.subject import subject

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
CROP = Path(__file__).resolve().parents[2] / "shared" / "data" / "megre-crop-small"
CELL = 1.45
WINDOW = 0.12
"""χ of white, ppm."""

Row = tuple[str, Mapping[str, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts: dict[str, Callable[[argparse.Namespace], None]] = {"3t": three, "7t": seven, "real": real, "lesions": lesions}
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--voxel", type=float, default=1.6)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    for name in options.only:
        parts[name](options)


def three(options: argparse.Namespace) -> None:
    simulated(3.0, options.voxel, "separation-3t")


def seven(options: argparse.Namespace) -> None:
    simulated(7.0, options.voxel, "separation-7t")


def simulated(b0: float, voxel: float, name: str) -> None:
    """Draw a head, separate it in every way, and show a slice through the nuclei."""
    shape = tuple(2 * round(extent / voxel / 2) for extent in (176.0, 208.0, 176.0))
    head = subject(HELD_OUT, grid=Grid(shape, (voxel,) * 3, (0.0, 0.1, 0.995)), b0=b0, lesions=DRAWN)  # type: ignore[arg-type]
    board = board_of(head, 100.0)
    nuclei = head.region("pallidum_external") | head.region("putamen")
    z = int(nuclei.sum((0, 1)).argmax())
    x, y = (torch.nonzero(head.mask.any(2).any(1 - axis))[:, 0] for axis in (0, 1))
    cut = (slice(int(x[0]), int(x[-1]) + 1), slice(int(y[0]), int(y[-1]) + 1), z)
    rows: list[Row] = []
    for group, names in (("with spin echoes", SPIN), ("gradient echoes alone", ALONE)):
        data = given(board, group)
        found = {"truth": (head.chi_pos * head.mask, head.chi_neg * head.mask)}
        found |= {n: separated(n, data) for n in filter(trained, names)}
        rows += [(f"{sign}, {group}", {n: pair[i][cut].numpy() for n, pair in found.items()}) for i, sign in ((0, "χ+"), (1, "χ−"))]
    sheet(rows, f"{b0:g} T, SNR 100, {voxel:g} mm", IMAGES / f"{name}.webp")


def real(_: argparse.Namespace) -> None:
    """Show the crop around a vein at 7 T: gradient echoes alone."""
    files = {name: np.asarray(nib.load(CROP / f"{name}.nii.gz").dataobj, np.float32) for name in ("magnitude", "phase")}
    affine = nib.load(CROP / "magnitude.nii.gz").affine
    grid, scan = Grid.from_affine(files["magnitude"].shape[:3], affine), Scan((0.004, 0.008, 0.012), 7.0)
    board = {name: torch.from_numpy(np.moveaxis(image, -1, 0).copy()) for name, image in files.items()}
    board["phase"] *= torch.pi / 0.003674378
    start = board | {"grid": grid, "scan": scan, "mask": torch.ones(grid.shape, dtype=torch.bool)}
    maps = execute(Protocol.load("separation-classical").without(["separation"]), start).maps
    data = given({**start, **maps, "mask": maps["local_mask"]}, "gradient echoes alone")
    found = {name: separated(name, data) for name in filter(trained, ALONE)}
    cut = (slice(None), slice(None), 20)
    inputs = {"magnitude": board["magnitude"][0], "local field": maps["local_field"], "χ": maps["chi"], "R2*": maps["r2star"]}
    windows = {"magnitude": (0, None), "local field": (-0.03, 0.03), "χ": (-0.1, 0.1), "R2*": (0, 80)}
    rows = [(sign, {name: pair[i][cut].numpy() for name, pair in found.items()}) for i, sign in ((0, "χ+"), (1, "χ−"))]
    sheet([("inputs", {n: i[cut].numpy() for n, i in inputs.items()}), *rows], "a crop at 7 T", IMAGES / "separation-real.webp", windows)


def lesions(_: argparse.Namespace) -> None:
    """Show what `paradia lesions` draws of a simulated head."""
    head = subject(HELD_OUT, grid=Grid((120, 144, 120), (1.5, 1.5, 1.5), (0.0, 0.1, 0.995)), lesions=KINDS)
    board = simple(head, 1)
    pos, neg = separated("chisep_medi", board | {"chi": 0 * head.chi})
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        images = {"lesions": head.lesion_labels, "mask": head.mask, "fluid": head.region("csf"), "pos": pos, "neg": neg}
        for name, image in (images | {"r2star": board["r2star"]}).items():
            nib.save(nib.Nifti1Image(image.float().numpy(), np.diag([1.5, 1.5, 1.5, 1.0])), folder / f"{name}.nii.gz")
        maps = [f"{name}={folder / file}.nii.gz" for name, file in (("chi_pos", "pos"), ("chi_neg", "neg"), ("r2star", "r2star"))]
        files = {name: folder / f"{name}.nii.gz" for name in ("lesions", "mask", "fluid")}
        lesions_command(folder / "out", lesions=files["lesions"], maps=maps, mask=files["mask"], exclude=[files["fluid"]])
        Image.open(folder / "out" / "lesions.png").convert("RGB").save(IMAGES / "separation-lesions.webp", quality=80)


def sheet(rows: list[Row], title: str, path: Path, windows: Mapping[str, tuple[float, float | None]] | None = None) -> None:
    """Draw rows of slices, all at one window but those that have their own."""
    columns = max(len(images) for _, images in rows)
    tall = CELL * max(image.shape[1] / image.shape[0] for image in rows[0][1].values())
    width, height = 0.3 + columns * (CELL + 0.04), 0.25 + len(rows) * (tall + 0.2)
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    figure.text(0.5, 1 - 0.05 / height, f"{title}; χ± from 0 to {WINDOW:g} ppm", ha="center", va="top", fontsize=8)
    for number, (name, images) in enumerate(rows):
        y = height - 0.25 - (number + 1) * (tall + 0.2)
        figure.text(0.08 / width, (y + tall / 2) / height, name, rotation=90, va="center", fontsize=7)
        for column, (what, image) in enumerate(images.items()):
            left = 0.3 + column * (CELL + 0.04)
            axes = figure.add_axes((left / width, y / height, CELL / width, tall / height))
            low, high = (windows or {}).get(what, (0, WINDOW))
            axes.imshow(image.T, origin="lower", cmap="gray", vmin=low, vmax=high, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            figure.text((left + CELL / 2) / width, (y + tall + 0.03) / height, what, ha="center", fontsize=7)
    with mpl.rc_context({"savefig.facecolor": "white"}), tempfile.NamedTemporaryFile(suffix=".png") as file:
        figure.savefig(file.name)
        Image.open(file.name).convert("RGB").save(path, quality=82)
    print(path, path.stat().st_size // 1000, "kB")


if __name__ == "__main__":
    main()
