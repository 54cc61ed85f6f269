"""What ``paradia simulate`` is asked for, checked before anything is computed, and the making of one subject."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from cyclopts import Parameter
from torch import Tensor

from paradia.cli.progress import Progress
from paradia.errors import GeometryError, InputError, UnknownNameError, nearest
from paradia.grid import Grid
from paradia.io.derivatives import folder
from paradia.io.ismrmrd import require, write_raw
from paradia.io.simulated import RAW, Series, affine_of, made_before, write_series, write_truth
from paradia.simulate.acquire import scan
from paradia.simulate.acquisition import Acquisition, Gre, SpinEcho, T1w
from paradia.simulate.coil_samples import kspace, noise_covariance, noise_samples, scaled
from paradia.simulate.coils import HELMET, sensitivities
from paradia.simulate.imperfect import Errors
from paradia.simulate.lesions import KINDS
from paradia.simulate.sampling import CALIBRATION, masks
from paradia.simulate.subject import COARSEST, Subject, subject

HEAD = (192.0, 224.0, 192.0)
"""Field of view, mm."""

SILENCE = 4096
"""Samples of noise of each coil."""

TILT = (6.0, 5.0)
"""By how much a head is tipped backwards against B0, degrees: mean and standard deviation."""

ROLL = 2.0
"""By how much it leans to a side, standard deviation, degrees."""

OFF = 3.0
"""How far its middle lies from the scanner's, standard deviation along each axis, mm."""

ROUND = 1.3
"""Accelerations above this leave out the corners of k-space: doing without them is one of 1.27."""

Numbers = Annotated[list[float] | None, Parameter(consume_multiple=True)]
Words = Annotated[list[str] | None, Parameter(consume_multiple=True)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """How heads are scanned.

    Parameters
    ----------
    b0
        Field strength, T.
    voxel_size
        Voxels in mm, one number or three. 1 mm where not given.
    snr
        Mean magnitude of the brain in the first echo over the noise's standard deviation; ``inf`` for no noise.
    echo_times
        Echo times of the gradient echoes, s; 0.004, 0.011, 0.018, 0.025 and 0.032 where not given.
    tr
        Repetition time of the gradient echoes, s; 0.04 where not given.
    flip
        Flip angle of the gradient echoes, degrees; 15 where not given.
    mese
        Whether to scan multi-echo spin echoes too.
    lesions
        Lesions, one of each kind named: plaque, rim_plaque, microbleed, haemorrhage, calcification.
    errors
        Strength of what real scans do that no model knows, from 0 (none) over 1 (usual) to 5: flow, motion, dropout, ringing and more.
    oversample
        How many times finer than the voxels, along each axis, the head is made before it is averaged.
    raw
        Whether to write samples of k-space as ISMRMRD files too.
    coils
        Number of coils of the samples.
    acceleration
        Acceleration of the samples; the images are those of a full scan.
    sampling
        Pattern of the samples. Their middle is full; their corners are left out, by ``poisson`` only where the acceleration is above 1.3.
    """

    b0: float = 3.0
    voxel_size: Numbers = None
    snr: float = 100.0
    echo_times: Numbers = None
    tr: float | None = None
    flip: float | None = None
    mese: bool = False
    lesions: Words = None
    errors: float = 0.0
    oversample: int = 1
    raw: bool = False
    coils: int = 16
    acceleration: float = 1.0
    sampling: Literal["poisson", "uniform", "caipi"] = "poisson"


class Person(NamedTuple):
    """Who is scanned, and in which session."""

    label: str
    session: str | None
    seed: int
    session_seed: int
    age: float | None
    sex: str | None

    @property
    def prefix(self) -> str:
        """Entities that file names begin with."""
        return f"sub-{self.label}" + (f"_ses-{self.session}" if self.session else "")


class Study(NamedTuple):
    """Options that can be met."""

    options: Options
    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    gre: Gre
    others: dict[str, Acquisition]
    errors: Errors


def plan(options: Options) -> Study:
    """Check everything that can be checked before anything is computed.

    Raises
    ------
    InputError, UnknownNameError, MissingDependencyError
        What cannot be done, in words.
    """
    sizes = voxels(options.voxel_size)
    if max(sizes) > COARSEST:
        raise GeometryError(f"voxels of {sizes} mm are too coarse for a head. Ask for {COARSEST:g} mm or less.")
    given: dict[str, Any] = {name: getattr(options, name) for name in ("tr", "flip") if getattr(options, name) is not None}
    if options.echo_times:
        given["echo_times"] = tuple(options.echo_times)
    common: dict[str, Any] = {"b0": options.b0, "snr": options.snr}
    sequence = Gre(**common, **given)
    others: dict[str, Acquisition] = {"T1w": T1w(**common), **({"MESE": SpinEcho(**common)} if options.mese else {})}
    for kind in options.lesions or ():
        if kind not in KINDS:
            raise UnknownNameError(f"there is no lesion {kind!r}. {nearest(kind, KINDS)}")
    if not 1 <= options.oversample <= 8:
        raise InputError(f"--oversample must be a whole number from 1 to 8, got {options.oversample}.")
    shape = fitting(HEAD, sizes)
    if not (math.isfinite(options.acceleration) and options.acceleration >= 1):
        raise InputError(f"the acceleration must be 1 or more, got {options.acceleration:g}. 1 samples everything.")
    if options.raw:
        require()
        noise_covariance(options.coils)
        _lines(options, shape, 1, 0)
    elif options.acceleration > 1:
        raise InputError("--acceleration is of the samples of k-space. Ask for these with --raw, or leave it out.")
    return Study(options, shape, sizes, sequence, others, Errors.training(options.errors))


def voxels(given: list[float] | None) -> tuple[float, float, float]:
    """Turn one number or three into the edges of a voxel, mm.

    Raises
    ------
    GeometryError
        They are not one or three, or not positive.
    """
    sizes = given or [1.0]
    sizes = sizes * 3 if len(sizes) == 1 else sizes
    if len(sizes) != 3 or not all(math.isfinite(size) and size > 0 for size in sizes):
        raise GeometryError(f"--voxel-size takes one positive number or three, in mm, got {given}.")
    x, y, z = sizes
    return x, y, z


def fitting(extent: tuple[float, float, float], sizes: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return how many voxels fill a field of view, an even number along each axis."""
    x, y, z = (max(2, 2 * math.ceil(length / size / 2)) for length, size in zip(extent, sizes, strict=True))
    return x, y, z


def make(root: Path, person: Person, study: Study, progress: Progress) -> tuple[float, str] | None:
    """Draw and scan one subject, unless it is there already.

    Returns
    -------
    tuple
        Age in years and sex; None of a subject that was there.

    Raises
    ------
    InputError
        The subject was made with other settings before.
    """
    record = {"made_by": "paradia simulate", **person._asdict(), **asdict(study.options), "voxel_size": study.voxel_size}
    record["snr"] = f"{study.options.snr:g}"  # JSON knows no infinity
    if made_before(root, person.prefix, record):
        return None
    progress.show(f"{person.prefix}: head")
    b0_dir, shift = position(person.session_seed)
    grid = Grid(study.shape, study.voxel_size, b0_dir)
    affine = affine_of(grid, shift)
    kinds = tuple(study.options.lesions or ())
    head = subject(
        person.seed, grid=grid, b0=study.options.b0, age=person.age, sex=person.sex, lesions=kinds, oversample=study.options.oversample
    )
    progress.show(f"{person.prefix}: gradient echoes")
    seeds = np.random.SeedSequence(person.session_seed).generate_state(4).tolist()
    acquired = scan(head, study.gre, seed=seeds[0], errors=study.errors)
    about = {"RepetitionTime": study.gre.tr, "FlipAngle": study.gre.flip, "Manufacturer": "Paradia"}
    write_series(root, person.prefix, Series("MEGRE", acquired.images, study.gre.echo_times, study.gre.b0, about), affine)
    truth = head._replace(total_field=acquired.total_field, local_field=acquired.local_field)
    for (suffix, other), seed in zip(study.others.items(), seeds[1:], strict=False):
        progress.show(f"{person.prefix}: {suffix}")
        images = scan(head, other, seed=seed, errors=study.errors)
        about = {"RepetitionTime": other.tr, "Manufacturer": "Paradia"}
        write_series(root, person.prefix, Series(suffix, images.images.abs(), images.scan.echo_times, other.b0, about), affine)
    if study.options.raw:
        progress.show(f"{person.prefix}: samples of k-space")
        _write_raw(root, person, study, head, affine, seeds[0])
    write_truth(root, person.prefix, truth, affine, record)
    return head.age, head.sex


def position(seed: int) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Draw how a head lies in the scanner: the direction of B0 along its axes, and where its middle is, mm."""
    generator = np.random.default_rng([seed, 1])
    pitch, roll = np.radians([generator.normal(*TILT), generator.normal(0, ROLL)])
    x, y, z = generator.normal(0, OFF, 3).tolist()
    return (float(np.sin(roll)), float(np.sin(pitch) * np.cos(roll)), float(np.cos(pitch) * np.cos(roll))), (x, y, z)


def _lines(options: Options, shape: tuple[int, int, int], echoes: int, seed: int) -> Tensor:
    """Choose the lines of k-space."""
    plane = shape[1:]
    if options.acceleration == 1:
        return torch.ones((echoes, *plane), dtype=torch.bool)
    middle = (min(CALIBRATION[0], plane[0]), min(CALIBRATION[1], plane[1]))
    shutter = options.acceleration > ROUND or options.sampling != "poisson"
    return masks(plane, echoes, options.acceleration, pattern=options.sampling, calibration=middle, shutter=shutter, seed=seed)


def _write_raw(root: Path, person: Person, study: Study, head: Subject, affine: np.ndarray, seed: int) -> None:
    """Write what the coils of a helmet around the brain receive."""
    sequence = replace(study.gre, snr=math.inf, receive=0.0, receiver_phase=0.0)  # the coils bring their own
    acquired = scan(head, sequence, seed=seed, errors=study.errors)
    middle = head.mask.nonzero().double().mean(0) - (torch.tensor(head.grid.shape) - 1) / 2
    x, y, z = (middle * torch.tensor(head.grid.voxel_size)).tolist()
    array = sensitivities(head.grid, study.options.coils, seed=seed, radius=HELMET, centre=(x, y, z))
    level = float(acquired.images[0].abs()[head.mask].mean()) / study.options.snr
    covariance = scaled(noise_covariance(study.options.coils, seed=seed), array, level)
    lines = _lines(study.options, head.grid.shape, len(sequence.echo_times), seed)
    generator = torch.Generator().manual_seed(seed)

    def samples() -> Iterator[Tensor]:
        for image in acquired.images:
            yield kspace(image[None], array, covariance if level else None, generator)[0]

    write_raw(
        folder(root / RAW, person.prefix) / f"{person.prefix}_MEGRE.h5",
        samples(),
        lines,
        sequence.scan,
        affine,
        noise=noise_samples(covariance, SILENCE, torch.Generator().manual_seed(seed + 1)) if level else None,
        repetition_time=sequence.tr,
        flip_angle=sequence.flip,
        subject=person.label,
    )
