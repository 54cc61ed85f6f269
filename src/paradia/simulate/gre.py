"""The echoes that a scanner would give of a head."""

from __future__ import annotations

import math

import torch

from paradia.errors import InputError, MetadataError
from paradia.scan import Scan
from paradia.simulate._signal import change_across, complex_noise, gradient_echo
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
    across = change_across(head.total_field) if dephasing else ()
    ramp = torch.linspace(-bipolar, bipolar, head.chi.shape[0])[:, None, None]
    maps = (head.magnitude0, head.r2star, head.total_field, head.offset)
    signal = torch.stack([gradient_echo(*maps, scan, n, across=across, extra=n % 2 * ramp) for n in range(len(scan.echo_times))])
    if math.isinf(snr):
        return signal
    sigma = float(signal[0].abs().max()) / snr
    return signal + sigma * complex_noise(signal.shape, torch.Generator().manual_seed(seed))
