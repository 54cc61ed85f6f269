"""Half precision where the machine reckons in it, single elsewhere."""

from __future__ import annotations

import torch

CPU_FLAGS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
"""What processors that multiply bfloat16 by themselves say of it; others imitate it and take three times as long as in single precision."""


def quick(device: str) -> torch.autocast:
    """Return the context in which networks run fastest without loss that matters: bfloat16 inside, or nothing changed.

    Parameters
    ----------
    device
        ``cpu``, ``cuda`` or another of torch's kinds.
    """
    return torch.autocast(device, torch.bfloat16, enabled=halves(device))


def halves(device: str) -> bool:
    """Return whether a kind of device has bfloat16 in hardware; single precision is never wrong, so what cannot be told is no.

    Parameters
    ----------
    device
        ``cpu``, ``cuda`` or another of torch's kinds.
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.10 cannot say
        return False
    known = torch.cpu.get_capabilities()
    return any(known.get(flag, False) for flag in CPU_FLAGS)
