"""Results of steps, kept by what they were made from, so that a run can stop anywhere and go on.

A result is one safetensors file under the name of its key. It is written under another name and renamed, so a file that
is there is whole. The key is a hash of the method, every setting, the code it runs through, the versions that decide
its numbers, and the keys of its inputs: what is found is what would be computed.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import paradia
from paradia.io.atomic import replacing
from paradia.nets.store import FOLDER
from paradia.pipeline.step import Step

log = logging.getLogger(__name__)

PACKAGE = Path(paradia.__file__).parent

BORROWED = {"separation": ("inversion",), "singlestep": ("inversion",)}
"""Stages whose methods ask the registry for one of another stage: learned ones begin with its χ."""


class Store:
    """A folder of step results.

    Parameters
    ----------
    folder
        Where they lie; made when the first is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Return the file of a key, there or not."""
        return self.folder / f"{key}.safetensors"

    def load(self, key: str, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and the record of a key; nothing when there is none, or none that can be read."""
        path = self.path(key)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                record = json.loads((file.metadata() or {}).get("record", "{}"))
                return {name: file.get_tensor(name) for name in file.keys()}, record  # noqa: SIM118  (no mapping)
        except (SafetensorError, OSError, ValueError) as error:
            log.warning("the kept result %s is damaged (%s) and is made again", path, error)
            return None

    def save(self, key: str, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Write a result whole or not at all.

        Raises
        ------
        FileError
            The disk is full or not writable.
        """
        content = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, {"record": json.dumps(dict(record))})
        with replacing(self.path(key)) as file:
            file.write(content)


def digest(value: Any) -> str:
    """Hash a tensor by its content, and anything else by how it is written.

    A `Grid`, a `Scan` and a number are written in full by `repr`.
    """
    hasher = hashlib.blake2b(digest_size=20)
    if isinstance(value, Tensor):
        hasher.update(f"{value.dtype} {tuple(value.shape)}".encode())
        hasher.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    else:
        hasher.update(repr(value).encode())
    return hasher.hexdigest()


def step_key(step: Step, inputs: Mapping[str, str], device: torch.device) -> str:
    """Return the key of what a step would give.

    Parameters
    ----------
    step
        The step.
    inputs
        Digests of the data it will be given, by name.
    device
        Where it will run; another kind of processor rounds differently.
    """
    made_from = {
        "stage": step.stage,
        "method": step.method,
        "settings": {name: repr(value) for name, value in step.settings.items()},
        "code": code_version(step.stage, inspect.getsourcefile(inspect.unwrap(step.loaded.function)) or ""),
        "torch": torch.__version__,
        "device": device.type,
        "inputs": dict(inputs),
    }
    text = json.dumps(made_from, sort_keys=True)
    return f"{step.stage}-{step.method}-{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"


@cache
def code_version(stage: str, source: str) -> str:
    """Hash the code that a method of a stage can reach: its stage, its own file, the layers below, and what is said of weights."""
    rooms = ("operators", "solvers", "sources", "nets", stage, *BORROWED.get(stage, ()))
    below = [*PACKAGE.glob("*.py"), *(f for room in rooms for f in (PACKAGE / room).rglob("*.py")), *FOLDER.glob("weights.toml")]
    files = sorted({*below, *([Path(source)] if source else [])})
    hasher = hashlib.blake2b(digest_size=16)
    for file in files:
        hasher.update(file.name.encode())
        hasher.update(file.read_bytes())
    return hasher.hexdigest()
