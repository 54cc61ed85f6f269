"""A small simulated head, as arrays, as loose files and as a BIDS data set; made once."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from paradia.cli import main
from paradia.grid import Grid
from paradia.io.atomic import replacing
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.head import head

SHAPE, VOXEL, TILT = (40, 48, 35), (4.4, 4.2, 5.0), 0.17
TIMES = (0.004, 0.012, 0.020)
FAST = ("--protocol", "fast")


def save(path, values, affine):
    """Write an image without any code of the project; the first of four axes is the echo."""
    values = np.asarray(values, np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.moveaxis(values, 0, -1) if values.ndim == 4 else values, affine), path)
    return path


@pytest.fixture(scope="session")
def small():
    """Arrays of the simulated scan by the names of the data, and its affine."""
    cos, sin = np.cos(TILT), np.sin(TILT)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) * VOXEL
    affine[:3, 3] = (-80.0, -95.0, -70.0)
    truth = head(Grid.from_affine(SHAPE, affine), seed=1)
    scan = Scan(TIMES, 3.0)
    echoes = gre(truth, scan, snr=100.0, seed=1)
    phases = [truth.offset + scan.rad_per_ppm(time) * truth.total_field for time in TIMES]
    return SimpleNamespace(
        affine=affine,
        magnitude=echoes.abs().numpy(),
        phase=echoes.angle().numpy(),
        real=echoes.real.numpy(),
        imaginary=echoes.imag.numpy(),
        unwrapped=torch.stack(phases).numpy() * truth.mask.numpy(),
        mask=truth.mask.numpy(),
        region=(truth.labels == truth.labels[truth.mask].mode().values).numpy() & truth.mask.numpy(),
        total_field=truth.total_field.numpy(),
        noise=np.full(SHAPE, 0.005),
        local_field=truth.local_field.numpy(),
        chi=truth.chi.numpy(),
        r2star=truth.r2star.numpy(),
        r2=0.6 * truth.r2star.numpy(),
        r2prime=0.4 * truth.r2star.numpy(),
    )


@pytest.fixture(scope="session")
def files(small, tmp_path_factory):
    """Loose files of everything, by the names of the data."""
    folder = tmp_path_factory.mktemp("files")
    return {name: save(folder / f"{name}.nii", values, small.affine) for name, values in vars(small).items() if name != "affine"}


def save_coils(path, values, affine):
    """Write (echo, coil, x, y, z) as (x, y, z, echo, coil)."""
    nib.save(nib.Nifti1Image(np.moveaxis(np.asarray(values, np.float32), (0, 1), (3, 4)), affine), path)
    return path


@pytest.fixture(scope="session")
def coils(small, tmp_path_factory):
    """Files of three coils whose phases and sensitivities differ, and the covariance of their noise."""
    folder = tmp_path_factory.mktemp("coils")
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    maps = np.stack(
        [np.exp(-((x - a) ** 2) - (y - b) ** 2 + 1j * (c + x * b - 2 * y * z * a)) for a, b, c in ((1, 0, 0.3), (-1, 0, 2), (0, 1, -1))]
    )
    rng = np.random.default_rng(1)
    images = (small.magnitude * np.exp(1j * small.phase))[:, None] * maps
    images = images + 0.01 * np.abs(images).max() * (rng.standard_normal((*images.shape, 2)) @ (1, 1j))
    np.save(folder / "noise.npy", (1e-4 * np.abs(images).max() ** 2 * (np.eye(3) + 0.1)).astype(complex))
    files = {
        part: save_coils(folder / f"{part}.nii", values, small.affine)
        for part, values in (("magnitude", np.abs(images)), ("phase", np.angle(images)))
    }
    for echo in range(len(TIMES)):
        for part, values in (("magnitude", np.abs(images)), ("phase", np.angle(images))):
            files[f"{part}{echo}"] = save(folder / f"{part}{echo}.nii", values[echo], small.affine)
    return {**files, "coil_noise": folder / "noise.npy", "images": images}


def write_subject(root: Path, label: str, small, parts=("mag", "phase")) -> Path:
    """Write one subject as a scanner's converter would."""
    arrays = {"mag": small.magnitude, "phase": small.phase, "real": small.real, "imag": small.imaginary}
    for echo, time in enumerate(TIMES, 1):
        for part in parts:
            image = save(
                root / f"sub-{label}" / "anat" / f"sub-{label}_echo-{echo}_part-{part}_MEGRE.nii.gz", arrays[part][echo - 1], small.affine
            )
            sidecar = {"EchoTime": time, "MagneticFieldStrength": 3.0, **({"Units": "rad"} if part == "phase" else {})}
            image.with_name(image.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))
    return root


def describe(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "test", "BIDSVersion": "1.10.0", "DatasetType": "raw"}))
    return root


@pytest.fixture(scope="session")
def dataset(small, tmp_path_factory):
    """A BIDS data set of two subjects, the second of real and imaginary parts."""
    root = describe(tmp_path_factory.mktemp("data") / "study")
    write_subject(root, "one", small)
    return write_subject(root, "two", small, ("real", "imag"))


@pytest.fixture
def command(capsys):
    """Run a command; return its status, standard output and standard error."""

    def call(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return SimpleNamespace(status=status, out=told.out, err=told.err)

    return call


@pytest.fixture
def brief(monkeypatch):
    """Write a page without pictures for a report, which takes most of the time of such a small scan."""

    def page(path, record, maps, *, affine=None):
        with replacing(path) as handle:
            handle.write(f"<html><title>{record.title}</title>{'' if affine is None else 'oriented'}</html>".encode())
        return path

    monkeypatch.setattr("paradia.cli.job.write_report", page)


@pytest.fixture
def whole():
    """Check that whatever lies in a folder is whole, but for hidden unfinished files where these are allowed."""

    def check(folder, hidden=False):
        for path in (p for p in folder.rglob("*") if p.is_file()):
            if path.name.endswith(".nii.gz"):
                assert np.isfinite(nib.load(path).get_fdata()).all(), path
                assert path.with_name(path.name.replace(".nii.gz", ".json")).is_file(), path
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".html":
                assert path.read_text().rstrip().endswith("</html>")
            elif "part" in path.suffix:
                assert hidden, path

    return check
