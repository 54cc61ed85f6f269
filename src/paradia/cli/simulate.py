"""``paradia simulate``: heads, cohorts and phantoms as BIDS data sets with the truth beside them."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
from filelock import FileLock

import paradia
from paradia.cli.progress import Progress
from paradia.cli.study import Numbers, Options, Person, fitting, make, plan, position, voxels
from paradia.errors import GeometryError, InputError
from paradia.grid import Grid
from paradia.io.simulated import TRUTH, Series, affine_of, begin, made_before, write_participants, write_series, write_truth
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.phantom import COARSEST
from paradia.simulate.phantom import phantom as fill_bottle

BOTTLE = (168.0, 168.0, 168.0)
"""Field of view of the phantom, mm."""

GOLDEN = (math.sqrt(5) - 1) / 2
"""Its multiples, less whole numbers, fill a range evenly however many there are: a cohort can grow."""

MOST = 99_999
"""Largest number of subjects."""

DEFAULTS = Options()


def subject(
    out: Path,
    /,
    *,
    label: str = "01",
    age: float | None = None,
    sex: str | None = None,
    seed: int = 0,
    options: Options = DEFAULTS,
) -> int:
    """Simulate one person: anatomy, tissue, fields and scans.

    Parameters
    ----------
    out
        Folder of the BIDS data set; others may be in it already.
    label
        Label of the subject.
    age
        Age in years; drawn where it is not given.
    sex
        ``female`` or ``male``; drawn where it is not given.
    seed
        Another number is another person. The same number gives the same files, byte for byte.
    """
    study = plan(options)
    _check_person(label, age, sex)
    root, person = Path(out), Person(label, None, _seed(seed, 0), _seed(seed, 0, 1), age, sex)
    with Progress() as progress:
        begin(root, "Simulated heads", paradia.__version__)
        made = make(root, person, study, progress)
        if made is None:
            progress.done(f"{person.prefix} is in {root} already")
            return 0
        _enlist(root, {person.prefix: made})
        progress.done(f"{person.prefix}: {made[1]}, {made[0]:.0f} years, in {root}")
    return 0


def cohort(
    out: Path,
    /,
    *,
    n: int = 59,
    age: str = "18-75",
    repeat: int = 1,
    seed: int = 0,
    options: Options = DEFAULTS,
) -> int:
    """Simulate a study of many people whose ages are spread evenly.

    Run it again to go on where it stopped, or with a larger number to add people.

    Parameters
    ----------
    out
        Folder of the BIDS data set.
    n
        Number of subjects.
    age
        Youngest and oldest, years.
    repeat
        Scans of each subject, as sessions, each with noise and a position of its own.
    seed
        Draws people and scans. The same number gives the same files, byte for byte.
    """
    study = plan(options)
    _seed(seed)
    low, high = _range(age)
    if not 1 <= n <= MOST:
        raise InputError(f"--n must be a number of subjects from 1 to {MOST}, got {n}.")
    if repeat < 1:
        raise InputError(f"--repeat must be 1 or more, got {repeat}.")
    root, first = Path(out), float(np.random.default_rng(seed).random())
    with Progress() as progress:
        begin(root, "Simulated heads", paradia.__version__)
        done: dict[str, tuple[float, str]] = {}
        for index in range(n):
            years = low + (high - low) * ((first + index * GOLDEN) % 1)
            sex = "female" if np.random.default_rng([seed, index]).random() < 0.5 else "male"
            label, news = f"{index + 1:03d}", []
            for session in range(1, repeat + 1):
                name = str(session) if repeat > 1 else None
                person = Person(label, name, _seed(seed, index), _seed(seed, index, session), round(years, 1), sex)
                progress.show(f"sub-{label} of {n}")
                news.append(make(root, person, study, progress))
            done[f"sub-{label}"] = (round(years, 1), sex)
            _enlist(root, done)
            there = "" if any(news) else ", there already"
            progress.done(f"sub-{label}: {sex}, {years:.0f} years ({index + 1} of {n}{there})")
    return 0


def phantom(
    out: Path,
    /,
    *,
    b0: float = 3.0,
    voxel_size: Numbers = None,
    snr: float = 100.0,
    echo_times: Numbers = None,
    seed: int = 0,
) -> int:
    """Simulate a bottle of spheres and cylinders whose susceptibility and field are known exactly.

    Parameters
    ----------
    out
        Folder of the BIDS data set.
    b0
        Field strength, T.
    voxel_size
        Voxels in mm, one number or three. 1 mm where not given.
    snr
        Largest magnitude of the first echo over the noise's standard deviation; ``inf`` for no noise.
    echo_times
        Echo times, s. Four from 4 to 28 ms where not given.
    seed
        Draws noise and position.
    """
    scan, sizes = Scan(tuple(echo_times or (0.004, 0.012, 0.02, 0.028)), b0), voxels(voxel_size)
    if not snr > 0:
        raise InputError(f"the signal-to-noise ratio must be positive, got {snr}. Give inf for no noise.")
    if max(sizes) > COARSEST:
        raise GeometryError(f"voxels of {sizes} mm are too coarse for spheres of 20 mm. Take {COARSEST:g} mm or less.")
    _seed(seed)
    root, prefix = Path(out), "sub-phantom"
    record = {
        "made_by": "paradia simulate phantom",
        "b0": b0,
        "voxel_size": sizes,
        "snr": str(snr),
        "echo_times": scan.echo_times,
        "seed": seed,
    }
    with Progress() as progress:
        begin(root, "A simulated phantom", paradia.__version__)
        if made_before(root, prefix, record):
            progress.done(f"{prefix} is in {root} already")
            return 0
        progress.show(f"{prefix}: fields")
        b0_dir, shift = position(seed)
        truth = fill_bottle(Grid(fitting(BOTTLE, sizes), sizes, b0_dir), b0=b0)
        affine = affine_of(truth.grid, shift)
        write_series(root, prefix, Series("MEGRE", gre(truth, scan, snr=snr, seed=seed), scan.echo_times, b0), affine)
        write_truth(root, prefix, truth, affine, record)
        write_participants(root, [(prefix, None, None)])
        progress.done(f"{prefix}, in {root}")
    return 0


def bank(out: Path, /) -> int:
    """Rebuild the anatomy that heads are drawn from, out of the packages nilearn and pydeface.

    Parameters
    ----------
    out
        The safetensors file to write, or a folder for it.
    """
    from paradia.io.bank import build  # it is long, and no other command needs it

    with Progress() as progress:
        progress.show("anatomy bank")
        progress.done(str(build(out)))
    return 0


def _seed(*numbers: int) -> int:
    """Mix numbers into a seed."""
    if min(numbers) < 0:
        raise InputError(f"--seed must be zero or more, got {min(numbers)}.")
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _check_person(label: str, age: float | None, sex: str | None) -> None:
    if not re.fullmatch("[A-Za-z0-9]+", label):
        raise InputError(f"--label may hold letters and digits only, got {label!r}.")
    if age is not None and not 0 <= age <= 120:
        raise InputError(f"--age must be between 0 and 120 years, got {age:g}.")
    if sex not in (None, "female", "male"):
        raise InputError(f"--sex is female or male, got {sex!r}.")


def _range(text: str) -> tuple[float, float]:
    """Read the youngest and the oldest age."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)\s*", text)
    ages = tuple(float(part) for part in found.groups()) if found else ()
    if len(ages) != 2 or not 0 <= ages[0] <= ages[1] <= 120:
        raise InputError(f"--age takes the youngest and the oldest in years, as 18-75, got {text!r}.")
    return ages[0], ages[1]


def _enlist(root: Path, people: dict[str, tuple[float, str]]) -> None:
    """Add people to the list of participants, to which other commands may add at the same time."""
    rows: dict[str, tuple[float | None, str | None]] = {}
    path = root / "participants.tsv"
    with FileLock(root / TRUTH / ".participants.lock"):
        if path.is_file():
            for line in path.read_text().splitlines()[1:]:
                label, age, sex = [*line.split("\t"), "n/a", "n/a"][:3]
                rows[label] = (None if age == "n/a" else float(age), None if sex == "n/a" else sex)
        rows.update(people)
        write_participants(root, [(label, *about) for label, about in sorted(rows.items())])
