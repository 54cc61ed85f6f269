"""The anatomy bank: a head as signed distances and a template's contrast, from which subjects are drawn.

The bank is a symmetric adult head in the frame of the ICBM 152 template (x to the right, y forward, z up, mm). Surfaces are kept as
signed distances, positive inside and cut off a few mm away, because a distance interpolates to a smooth surface at any resolution, and
because shifting it makes a sinus larger, a sulcus wider or a skull thicker. It ships with the package (a few MB); `paradia.io.bank`
rebuilds it from the packages it came from. Licences and notices travel in the file.
"""

from __future__ import annotations

import json
import zlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from paradia.errors import FileError

PATH = Path(__file__).parent / "data" / "bank.safetensors"
VERSION = 1

BRAIN = ("white", "pial", "detail")
"""Maps of the brain at 1 mm: distance into white matter, distance into tissue away from cerebrospinal fluid, T1 contrast within tissues."""
DEEP = ("first", "second", "third", "tracts")
"""Distances into deep structures at 1 mm, in groups whose members do not touch; another map names the nearest member."""
HEAD = ("skin", "skull_inside", "hull", "bone", "cavity", "airway", "eye", "fat")
"""Distances of the head at 2 mm, skin to brain."""


class Map(NamedTuple):
    """Maps on one lattice of the bank's frame."""

    values: UInt8[Tensor, "channel x y z"]
    """Coded values: ``(code − 128) / scale`` is the distance in mm, or whatever the map holds."""
    origin: tuple[float, float, float]
    """Centre of the first voxel, mm."""
    spacing: float
    """Edge of a voxel, mm."""
    scale: tuple[float, ...]
    """Codes a unit of each channel."""


class Bank(NamedTuple):
    """Everything subjects are drawn from."""

    brain: Map
    """`BRAIN`."""
    deep: Map
    """`DEEP`."""
    deep_labels: Map
    """Label of the nearest deep structure of each group, 0 where none is near; names are in `names`."""
    head: Map
    """`HEAD`."""
    fibres: Map
    """White-matter fibre tensor xx, yy, zz, xy, xz, yz; trace 1 where there are fibres."""
    widening: Map
    """How places move when ventricles widen: x, y, z, 1 at the wall of the ventricles."""
    names: tuple[str, ...]
    """Names of the deep labels; the first is nothing."""
    licences: str
    """Licences and notices of everything the bank was made from."""


_MAPS = ("brain", "deep", "deep_labels", "head", "fibres", "widening")
_ODD = {"fibres": (3, 4), "widening": (0,)}
"""Channels that change sign across the midplane."""


def pack(bank: Bank) -> bytes:
    """Turn the right half of a symmetric bank into the bytes of a safetensors file.

    Parameters
    ----------
    bank
        Maps whose first voxel along x lies as far left as the last lies right.

    Returns
    -------
    bytes
        What `read` reads.
    """
    tensors: dict[str, Tensor] = {}
    about: dict[str, object] = {"version": VERSION, "names": bank.names}
    for name in _MAPS:
        m: Map = getattr(bank, name)
        half = m.values[:, m.values.shape[1] // 2 :].contiguous()
        about[name] = {"shape": list(half.shape), "origin": list(m.origin), "spacing": m.spacing, "scale": list(m.scale)}
        for channel, values in enumerate(half):
            packed = zlib.compress(values.numpy().tobytes(), 9)
            tensors[f"{name}.{channel}"] = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
    return serialise(tensors, metadata={"bank": json.dumps(about), "licences": bank.licences})


def read(path: Path) -> Bank:
    """Read a bank from a file.

    Parameters
    ----------
    path
        A file of what `pack` returns.

    Returns
    -------
    Bank
        Maps over the whole head.

    Raises
    ------
    FileError
        The file is missing, damaged or of another version.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = file.metadata() or {}
            about = json.loads(meta["bank"])
            if about["version"] != VERSION:
                raise FileError(f"{path} is an anatomy bank of version {about['version']}, not {VERSION}. Rebuild it.")
            maps = {}
            for name in _MAPS:
                entry = about[name]
                codes = [zlib.decompress(file.get_tensor(f"{name}.{c}").numpy().tobytes()) for c in range(entry["shape"][0])]
                half = torch.stack([torch.frombuffer(bytearray(c), dtype=torch.uint8).reshape(entry["shape"][1:]) for c in codes])
                maps[name] = Map(_mirror(half, _ODD.get(name, ())), tuple(entry["origin"]), entry["spacing"], tuple(entry["scale"]))
    except FileError:
        raise
    except Exception as error:
        raise FileError(f"{path} is no anatomy bank that can be read ({error}). Reinstall Paradia or rebuild the bank.") from error
    return Bank(**maps, names=tuple(about["names"]), licences=meta["licences"])


@lru_cache(maxsize=1)
def load() -> Bank:
    """Load the bank that ships with the package; it is read once.

    Returns
    -------
    Bank
        Maps over the whole head; do not write into them.
    """
    return read(PATH)


def _mirror(half: Tensor, odd: tuple[int, ...]) -> Tensor:
    """Add the left half; the midplane belongs to both."""
    left = half[:, 1:].flip(1)
    for channel in odd:
        left[channel] = (256 - left[channel].int()).clamp(0, 255).to(torch.uint8)
    return torch.cat([left, half], 1)
