"""What a simulated scanner is asked to do; what no scanner can do is refused at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paradia.errors import GeometryError, InputError, MetadataError
from paradia.grid import Grid
from paradia.scan import Scan

UNEVEN = 1e-3
"""Echoes of a train may be this far from even, relative to their spacing."""

COARSEST = 20.0
"""Voxels larger than this, in mm, hold no head."""

FEWEST = 4
"""Voxels along each axis that an image has at least."""


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """What all scans have: a magnet, coils, voxels, and noise.

    Parameters
    ----------
    b0
        Field strength, T.
    tr
        Repetition time, s.
    snr
        Mean magnitude over the brain of the first echo over the noise's standard deviation in the real and in the imaginary part,
        both in the voxels of the scan; infinite for no noise.
    voxel_size
        Voxels of the scan, mm, not smaller than the subject's; rounded so that a whole number fills the field of view.
        None for the subject's own.
    transmit
        Strength of the transmit coil's bias, 1 for a usual one at this field strength, 0 for the nominal angle everywhere.
    receive
        Strength of the receive coils' brighter rim, from 0 (none) to 1.
    receiver_phase
        Strength of the receiver's phase, 1 for about two π over the head, 0 for none.

    Raises
    ------
    InputError
        A number that no scan can have.
    MetadataError
        Times that do not fit into each other.
    """

    b0: float = 3.0
    tr: float = 1.0
    snr: float = 100.0
    voxel_size: tuple[float, float, float] | None = None
    transmit: float = 1.0
    receive: float = 0.4
    receiver_phase: float = 1.0

    def __post_init__(self) -> None:
        Scan((0.01,), self.b0)
        if not self.snr > 0:
            raise InputError(f"the signal-to-noise ratio must be positive, got {self.snr}. Give float('inf') for no noise.")
        for name, top in (("transmit", 3.0), ("receive", 1.0), ("receiver_phase", 5.0)):
            value = getattr(self, name)
            if not 0 <= value <= top:
                raise InputError(f"{name} is a strength from 0 to {top:g}, got {value}.")
        if self.voxel_size is not None:
            sizes = tuple(float(size) for size in self.voxel_size)
            if len(sizes) != 3 or not all(math.isfinite(size) and size > 0 for size in sizes):
                raise GeometryError(f"voxel_size must be three positive numbers in mm, got {self.voxel_size}.")
            if max(sizes) > COARSEST:
                raise GeometryError(f"voxels of {sizes} mm are coarser than a head has parts. Ask for {COARSEST:g} mm or less.")
            object.__setattr__(self, "voxel_size", sizes)

    def grid(self, subject: Grid) -> Grid:
        """Return the grid of the images: the subject's field of view in the voxels of the scan.

        Parameters
        ----------
        subject
            Grid of the subject.

        Raises
        ------
        GeometryError
            Voxels finer than the subject's, or so coarse that next to none fill the field of view.
        """
        if self.voxel_size is None:
            return subject
        shape = [max(1, round(extent / size)) for extent, size in zip(subject.extent, self.voxel_size, strict=True)]
        for n, m, asked, has in zip(shape, subject.shape, self.voxel_size, subject.voxel_size, strict=True):
            if n > m:
                raise GeometryError(
                    f"voxels of {asked:g} mm are finer than the subject's of {has:g} mm. Draw the subject on a finer grid, or ask for more."
                )
            if n < min(FEWEST, m):
                raise GeometryError(f"voxels of {asked:g} mm leave {n} along a field of view of {m * has:g} mm. Ask for smaller ones.")
        sizes = [extent / n for extent, n in zip(subject.extent, shape, strict=True)]
        return Grid((shape[0], shape[1], shape[2]), (sizes[0], sizes[1], sizes[2]), subject.b0_dir)


def _times(echo_times: Sequence[float], tr: float, b0: float) -> tuple[float, ...]:
    """Check echo times against each other and the repetition time."""
    scan = Scan(tuple(echo_times), b0)
    if not (math.isfinite(tr) and tr > 0):
        raise MetadataError(f"the repetition time must be a positive number of seconds, got {tr}.")
    if scan.echo_times[-1] >= tr:
        raise MetadataError(
            f"the last echo, at {scan.echo_times[-1]:g} s, comes after the repetition time of {tr:g} s. Lengthen tr or leave echoes out."
        )
    return scan.echo_times


def _angle(name: str, degrees: float) -> None:
    if not 0 < degrees <= 180:
        raise InputError(f"{name} must lie above 0 and not above 180 degrees, got {degrees}.")


@dataclass(frozen=True, kw_only=True)
class Gre(Acquisition):
    """A spoiled multi-echo gradient echo scan.

    Parameters
    ----------
    echo_times
        Echo times, s.
    tr
        Repetition time, s.
    flip
        Nominal flip angle, degrees.
    dephasing
        Whether the field's change across each voxel of the subject dephases its signal.
    bandwidth
        Frequency that one voxel spans along the readout, Hz; off-resonant signal is displaced. Infinite for no displacement.
    readout
        Axis of the readout: 0, 1 or 2.
    bipolar
        Phase that echoes read backwards gain over those read forwards, rad at the edges of the field of view along the readout. Any
        value but None makes every second echo one that is read backwards, with displacements the other way.
    fat
        Whether fat has a frequency of its own, −3.4 ppm from water; without, its protons behave like water's.
    """

    echo_times: tuple[float, ...] = (0.004, 0.011, 0.018, 0.025, 0.032)
    tr: float = 0.04
    flip: float = 15.0
    dephasing: bool = True
    bandwidth: float = math.inf
    readout: int = 0
    bipolar: float | None = None
    fat: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "echo_times", _times(self.echo_times, self.tr, self.b0))
        _angle("flip", self.flip)
        if not self.bandwidth >= 10:
            raise InputError(f"bandwidth must be at least 10 Hz a voxel, got {self.bandwidth}. Give float('inf') for no displacement.")
        if self.readout not in (0, 1, 2):
            raise InputError(f"readout is axis 0, 1 or 2, got {self.readout}.")
        if self.bipolar is not None and not math.isfinite(self.bipolar):
            raise InputError(f"bipolar is a phase in rad, or None, got {self.bipolar}.")

    @property
    def scan(self) -> Scan:
        """Echo times and field strength, as methods take them."""
        return Scan(self.echo_times, self.b0)


@dataclass(frozen=True, kw_only=True)
class SpinEcho(Acquisition):
    """A multi-echo spin echo scan: one excitation, then a train of equal refocusing pulses.

    Parameters
    ----------
    echo_times
        Echo times, s: 1, 2, 3 … times a spacing.
    tr
        Repetition time, s.
    refocusing
        Nominal refocusing angle, degrees; transmit bias changes it and the excitation, nominally 90°.
    """

    echo_times: tuple[float, ...] = tuple(0.01 * n for n in range(1, 11))
    tr: float = 3.0
    refocusing: float = 180.0

    def __post_init__(self) -> None:
        super().__post_init__()
        times = _times(self.echo_times, self.tr, self.b0)
        object.__setattr__(self, "echo_times", times)
        _angle("refocusing", self.refocusing)
        if any(abs(time / times[0] - n) > UNEVEN * n for n, time in enumerate(times, 1)):
            raise MetadataError(f"echoes of a train come at 1, 2, 3 … times the first, got {times}. Give even echo times.")

    @property
    def scan(self) -> Scan:
        """Echo times and field strength, as methods take them."""
        return Scan(self.echo_times, self.b0)


@dataclass(frozen=True, kw_only=True)
class T1w(Acquisition):
    """A T1-weighted scan: inversion, a wait, and a fast readout, as in MPRAGE.

    Parameters
    ----------
    inversion_time
        From the inversion to the centre of k-space, s.
    tr
        From inversion to inversion, s.
    echo_time
        s.
    """

    inversion_time: float = 0.9
    tr: float = 2.3
    echo_time: float = 0.003

    def __post_init__(self) -> None:
        super().__post_init__()
        _times((self.echo_time,), self.tr, self.b0)
        if not 0 < self.inversion_time < self.tr - self.echo_time:
            raise MetadataError(
                f"the inversion time must lie between 0 and the repetition time of {self.tr:g} s, got {self.inversion_time}. Seconds?"
            )

    @property
    def scan(self) -> Scan:
        """Echo time and field strength, as methods take them."""
        return Scan((self.echo_time,), self.b0)
