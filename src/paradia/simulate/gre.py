"""The echoes that a scanner would give of a head."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.errors import InputError, MetadataError
from paradia.scan import Scan
from paradia.simulate.head import Head
from paradia.types import ComplexEchoes


def gre(head: Head, scan: Scan, *, snr: float = 100.0, seed: int = 0, dephasing: bool = True, bipolar: float = 0.0) -> ComplexEchoes:
    r"""Simulate a spoiled multi-echo gradient echo scan.

    .. math:: S(t) = M_0\, e^{-R_2^* t}\, e^{i(2\pi\bar\gamma B_0 f t + \varphi_0)} \prod_a
              \mathrm{sinc}(\bar\gamma B_0\, t\, \Delta_a f) + \text{noise}

    Parameters
    ----------
    head
        What is scanned.
    scan
        Echo times and field strength.
    snr
        Largest magnitude of the first echo over the noise's standard deviation in the real and in the imaginary part;
        infinite for no noise.
    seed
        Draws the noise.
    dephasing
        Whether the field's change Δf across each voxel dephases its signal.
    bipolar
        Phase that echoes read backwards gain over those read forwards, rad at the edges of the field of view along x.

    Returns
    -------
    Tensor
        Complex echoes (echo, x, y, z).

    Raises
    ------
    MetadataError
        The head was made for another field strength.
    InputError
        The signal-to-noise ratio is not positive.
    """
    if not math.isclose(head.b0, scan.b0):
        raise MetadataError(
            f"the head has the relaxation of {head.b0:g} T and the scan is at {scan.b0:g} T. Make the head with b0={scan.b0:g}."
        )
    if not snr > 0:
        raise InputError(f"the signal-to-noise ratio must be positive, got {snr}. Give float('inf') for no noise.")
    across = _change_across(head.total_field) if dephasing else ()
    ramp = torch.linspace(-bipolar, bipolar, head.chi.shape[0])[:, None, None]
    echoes = []
    for n, echo_time in enumerate(scan.echo_times):
        magnitude = head.magnitude0 * torch.exp(-echo_time * head.r2star)
        for change in across:
            magnitude = magnitude * torch.sinc(scan.hz_per_ppm * echo_time * change)
        phase = head.offset + scan.rad_per_ppm(echo_time) * head.total_field + n % 2 * ramp
        echoes.append(torch.polar(magnitude.abs(), torch.where(magnitude < 0, phase + math.pi, phase)))
    signal = torch.stack(echoes)
    if math.isinf(snr):
        return signal
    sigma = float(signal[0].abs().max()) / snr
    generator = torch.Generator().manual_seed(seed)
    return signal + sigma * torch.complex(torch.randn(signal.shape, generator=generator), torch.randn(signal.shape, generator=generator))


def _change_across(field: Tensor) -> list[Tensor]:
    """Return by how much the field changes across a voxel along each axis."""
    return [torch.gradient(field, dim=axis)[0] if field.shape[axis] > 1 else torch.zeros_like(field) for axis in range(3)]
