"""Weights that come with the package: safetensors files and what is written about them in ``weights.toml``."""

from __future__ import annotations

import hashlib
import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from paradia.errors import WeightsError
from paradia.nets.unet import UNet3d

FOLDER = Path(__file__).parent / "weights"
"""Where the weights lie; nothing is ever downloaded."""


def cards() -> dict[str, dict[str, Any]]:
    """Return what ``weights.toml`` says of each network: version, hash, licence, recipe, validation; nothing before a release."""
    path = FOLDER / "weights.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@cache
def network(name: str, device: str = "cpu") -> UNet3d:
    """Load a network with its weights, ready to be applied.

    Parameters
    ----------
    name
        Its table in ``weights.toml``.
    device
        Where to.

    Returns
    -------
    UNet3d
        In evaluation mode, its parameters frozen.

    Raises
    ------
    WeightsError
        There is no such network, or its file is not the one that was released.
    """
    known = cards()
    if name not in known:
        raise WeightsError(f"there are no weights named {name!r}. There are: {', '.join(sorted(known)) or 'none yet'}.")
    card = known[name]
    file = FOLDER / card["file"]
    if not file.is_file():
        raise WeightsError(f"the weights {file.name} of {name} are missing from the installation. Install paradia again.")
    data = file.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != card["sha256"]:
        raise WeightsError(
            f"the weights {file.name} of {name} are not the released ones: their SHA-256 is {found}, not {card['sha256']}. "
            "Install paradia again."
        )
    return unpack(data).to(device)


def unpack(data: bytes) -> UNet3d:
    """Build a network from the bytes of a file that `pack` made."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    net = UNet3d(**json.loads(header["architecture"]))
    net.load_state_dict({key: value.float() for key, value in load(data).items()})
    net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    net.calibration = tuple(json.loads(header.get("calibration", "null")) or net.calibration)
    net.about = header
    return net.eval().requires_grad_(False)


def pack(net: UNet3d, architecture: dict[str, Any], **about: str) -> bytes:
    """Write a network into bytes: half-precision weights, with the architecture in the header.

    Parameters
    ----------
    net
        The network.
    architecture
        Arguments of `UNet3d`.
    about
        More for the header: ``calibration`` (a list of factors as JSON), ``familiar`` (see `familiar.Familiar`), ``voxel_size``
        (smallest and largest edge that the network was trained with, mm, as JSON), and whatever else is to be known.

    Returns
    -------
    bytes
        A safetensors file.
    """
    weights = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in net.state_dict().items()}
    return save(weights, metadata={"architecture": json.dumps(architecture), **about})
