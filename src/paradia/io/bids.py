"""Multi-echo acquisitions in a BIDS data set."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paradia.errors import FileError, InputError, MaskError, PhaseError, UnknownNameError, nearest
from paradia.io._bidsindex import check_dataset, entities_of, indexed
from paradia.io.acquisition import Acquisition
from paradia.io.loose import from_files
from paradia.io.sidecar import stem
from paradia.io.spinecho import with_spin_echoes

SUFFIXES = ("MEGRE", "GRE", "T2starw")
SPIN_ECHOES = "MESE"
PARTS = {"mag": "magnitude", "phase": "phase", "real": "real", "imag": "imaginary"}
IMAGES = (".nii", ".nii.gz")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """The files of one acquisition, each part in the order of its echoes.

    Parameters
    ----------
    name
        Entities that all files share, such as ``sub-01_ses-1_acq-x_run-1``; outputs begin with it.
    root
        Root of the data set.
    entities
        The same, taken apart: ``sub``, ``ses``, ``acq``, ``run`` and so on.
    magnitude, phase, real, imaginary
        Images.
    masks
        Folder of derivatives that holds the user's masks.
    spin_echo
        Magnitudes of the multi-echo spin-echo scan of the same session, in the order of their echoes, where there is one.
    """

    name: str
    root: Path
    entities: dict[str, str]
    magnitude: tuple[Path, ...] = ()
    phase: tuple[Path, ...] = ()
    real: tuple[Path, ...] = ()
    imaginary: tuple[Path, ...] = ()
    masks: Path | None = None
    echoes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    spin_echo: tuple[Path, ...] = ()

    @property
    def subject(self) -> str:
        """Label of the participant."""
        return self.entities["sub"]

    @property
    def session(self) -> str | None:
        """Label of the session."""
        return self.entities.get("ses")

    @property
    def complete(self) -> bool:
        """Whether there are magnitude and phase, or real and imaginary parts."""
        return bool((self.magnitude and self.phase) or (self.real and self.imaginary))

    @property
    def fault(self) -> str:
        """What of the images is missing or there twice and what to do, in a sentence; nothing where all is as it should be."""
        for part, numbers in self.echoes.items():
            if twice := [echo for echo in numbers if numbers.count(echo) > 1]:
                files = [path.name for echo, path in zip(numbers, getattr(self, part), strict=True) if echo == twice[0]]
                return f"{self.name} has echo {twice[0]} of the {part} more than once: {', '.join(files)}. Remove all but one."
        if not self.complete:
            found = ", ".join(p.name for p in (*self.magnitude, *self.phase, *self.real, *self.imaginary))
            lacks = "magnitude" if self.phase else "imaginary part" if self.real else "real part" if self.imaginary else "phase"
            return f"{self.name} has no {lacks}; found {found}. Export it from the scanner as well."
        first, second = ("magnitude", "phase") if self.magnitude and self.phase else ("real", "imaginary")
        if self.echoes[first] != self.echoes[second]:
            there = f"echoes {self.echoes[first]} of the {first} and {self.echoes[second]} of the {second}"
            return f"{self.name} has {there}. Add the missing files."
        return ""


def find(
    root: Path | str,
    subjects: Iterable[str] | None = None,
    sessions: Iterable[str] | None = None,
    *,
    masks: Path | str | None = None,
    validate: bool = True,
) -> list[Entry]:
    """Find the acquisitions of a data set.

    Parameters
    ----------
    root
        Root of the data set.
    subjects, sessions
        Labels to keep, with or without ``sub-`` and ``ses-``; all where not given.
    masks
        Folder of BIDS derivatives with a mask for every acquisition.
    validate
        Check that the folder looks like a BIDS data set first.

    Returns
    -------
    list of Entry
        In order of their names. One without phase is left out, with a warning in the log, where its session has
        another that is complete; otherwise it is kept, and loading it fails.

    Raises
    ------
    FileError
        There is no such folder, or it is no BIDS data set.
    UnknownNameError
        A label that no subject or session has; the message offers the nearest.
    InputError
        There is nothing to work on.
    """
    folder = Path(root).absolute()
    if not folder.is_dir():
        raise FileError(f"there is no folder {folder}. Give the root of a BIDS data set.")
    if validate:
        check_dataset(folder)
    wanted = _labels(subjects, "sub-")
    there = sorted(p.name.removeprefix("sub-") for p in folder.glob("sub-*") if p.is_dir())
    _check_known(wanted, there, "participant", folder)
    kept = _labels(sessions, "ses-")
    entries = _group(folder, list(indexed(folder, wanted)), None if masks is None else Path(masks).absolute())
    for label in sorted(set(wanted or there) - {e.entities["sub"] for e in entries}):
        logger.warning("sub-%s was passed over: it has no gradient-echo images", label)
    _check_known(kept, sorted({e.session for e in entries if e.session}), "session", folder)
    entries = _named(_worth_it([e for e in entries if kept is None or e.session in kept]))
    if not entries:
        raise InputError(
            f"{folder} holds no gradient-echo images that end in {', '.join('_' + s for s in SUFFIXES)}. Check the file names."
        )
    return entries


def load(entry: Entry, *, register: bool = False, **reading: Any) -> Acquisition:
    """Read an acquisition, and the spin echoes of its session onto its grid.

    Parameters
    ----------
    entry
        What `find` found.
    register
        Whether the head may have moved between gradient and spin echoes: register them, not only resample.
    **reading
        ``phase_units``, ``flip_sign``, ``echo_times``, ``b0``, ``b0_dir`` as in `from_files`.

    Raises
    ------
    PhaseError
        There is no phase, or not that of every echo, or an echo is there twice, such as compressed and not.
    MaskError
        The folder of masks has none, or several, for this acquisition.
    """
    if entry.fault:
        raise PhaseError(entry.fault)
    polar = bool(entry.magnitude and entry.phase)
    mask = None if entry.masks is None else find_mask(entry, entry.masks)
    reading = {**reading, "mask": mask, "name": entry.name, "root": entry.root}
    if polar:
        scan = from_files(entry.magnitude, entry.phase, **reading)
    else:
        scan = from_files((), (), real=entry.real, imaginary=entry.imaginary, **reading)
    return with_spin_echoes(scan, entry.spin_echo, register=register, root=entry.root) if entry.spin_echo else scan


def find_mask(entry: Entry, masks: Path, *, brain: bool = True) -> Path:
    """Find the user's mask of an acquisition in a folder of derivatives.

    Parameters
    ----------
    entry
        The acquisition.
    masks
        The folder.
    brain
        Whether the brain is meant, and not a region: of several masks it is the one without ``desc``.

    Raises
    ------
    MaskError
        There is none, or more than one.
    """
    if not masks.is_dir():
        raise FileError(f"there is no folder {masks}. Give BIDS derivatives that hold the masks.")
    fitting = []
    for row in indexed(masks, [entry.subject]):
        entities = entities_of(row)
        same = all(entry.entities.get(key) == value for key, value in entities.items() if key in ("sub", "ses", "acq", "run", "rec"))
        others = {word for word in stem(row).split("_") if word in SUFFIXES} - {_suffix(entry)}  # names of ours tell such twins apart
        if same and not others and stem(row).endswith("_mask") and row.name.endswith(IMAGES):
            fitting.append(row)
    plain = [path for path in fitting if "desc" not in entities_of(path)]
    if brain and len(plain) == 1:
        return plain[0]
    if len(fitting) != 1:
        found = ", ".join(p.name for p in fitting) or "none"
        raise MaskError(f"{masks} should hold one _mask for {entry.name}, found {found}. Add or remove files.")
    return fitting[0]


def _group(root: Path, paths: list[Path], masks: Path | None) -> list[Entry]:
    """Put the files of each acquisition together."""
    groups: dict[tuple[str, str], dict[str, list[tuple[int, Path]]]] = defaultdict(lambda: defaultdict(list))
    shared: dict[tuple[str, str], dict[str, str]] = {}
    for path in paths:
        suffix = stem(path).rpartition("_")[2]
        if suffix not in (*SUFFIXES, SPIN_ECHOES) or not path.name.endswith(IMAGES):
            continue
        entities = entities_of(path)
        part = PARTS.get(entities.pop("part", "mag"))
        echo = entities.pop("echo", "1")
        if part is None or not echo.isdecimal():
            logger.warning("%s was left out: its part or echo is not known to BIDS", path)
            continue
        key = ("_".join(f"{k}-{v}" for k, v in entities.items()), suffix)
        groups[key][part].append((int(echo), path))
        shared[key] = entities
    spin = [(shared[key], parts["magnitude"]) for key, parts in sorted(groups.items()) if key[1] == SPIN_ECHOES and parts["magnitude"]]
    entries = []
    for key, parts in sorted(groups.items()):
        if key[1] == SPIN_ECHOES:
            continue
        rows = {part: sorted(files) for part, files in parts.items()}
        files = {part: tuple(path for _, path in row) for part, row in rows.items()}
        numbers = {part: tuple(echo for echo, _ in row) for part, row in rows.items()}
        other = _spin_echoes(key[0], shared[key], spin)
        entries.append(Entry(key[0], root, shared[key], **files, masks=masks, echoes=numbers, spin_echo=other))
    return entries


def _spin_echoes(name: str, entities: dict[str, str], groups: list[tuple[dict[str, str], list[tuple[int, Path]]]]) -> tuple[Path, ...]:
    """Find the spin echoes of a session: the only ones there are, or those whose entities agree with the acquisition's."""
    same = [(own, files) for own, files in groups if all(own.get(key) == entities.get(key) for key in ("sub", "ses"))]
    if len(same) > 1:
        alike = [(own, files) for own, files in same if own == entities]
        if len(alike) != 1:
            logger.warning(
                "%s has %d multi-echo spin-echo scans in its session, and none was used: it cannot be told which", name, len(same)
            )
            return ()
        same = alike
    return tuple(path for _, path in sorted(same[0][1])) if same else ()


def _worth_it(entries: list[Entry]) -> list[Entry]:
    """Leave out what lacks phase where the session has a complete acquisition."""
    served = {(e.subject, e.session) for e in entries if e.complete}
    for entry in entries:
        if not entry.complete and (entry.subject, entry.session) in served:
            logger.warning("%s was left out: it has no phase", _with_suffix(entry))
    return [e for e in entries if e.complete or (e.subject, e.session) not in served]


def _named(entries: list[Entry]) -> list[Entry]:
    """Tell acquisitions apart by their suffixes where names are alike; what was left out changes no name."""
    names = [entry.name for entry in entries]
    return [entry if names.count(entry.name) == 1 else replace(entry, name=_with_suffix(entry)) for entry in entries]


def _with_suffix(entry: Entry) -> str:
    return f"{entry.name}_{_suffix(entry)}"


def _suffix(entry: Entry) -> str:
    first = (*entry.magnitude, *entry.phase, *entry.real, *entry.imaginary)[0]
    return stem(first).rpartition("_")[2]


def _labels(labels: Iterable[str] | None, prefix: str) -> list[str] | None:
    given = [label.removeprefix(prefix) for label in labels or ()]
    return given or None


def _check_known(wanted: Sequence[str] | None, there: Sequence[str], kind: str, root: Path) -> None:
    for label in wanted or ():
        if label not in there:
            hint = nearest(label, there)
            hint = hint if hint.startswith("Did") or len(there) <= 12 else f"There are {len(there)}, from {there[0]} to {there[-1]}."
            raise UnknownNameError(f"there is no {kind} {label!r} in {root}. {hint}")
