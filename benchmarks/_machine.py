"""What every benchmark says of the machine, and where it puts its result."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

import paradia
from paradia.nets.precision import halves

T = TypeVar("T")

RESULTS = Path(__file__).parent / "results"


def best_of(function: Callable[[], T], repeats: int = 3) -> tuple[float, T]:
    """Return the least time of some calls, s, and the last result."""
    least = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        least = min(least, time.perf_counter() - start)
    return least, result


def fft_pair_seconds(shape: Sequence[int], device: str = "cpu") -> float:
    """Time one rfftn + irfftn: the unit that carries over between machines."""
    image = torch.randn(*shape, device=device)
    return best_of(lambda: torch.fft.irfftn(torch.fft.rfftn(image), s=tuple(shape)), 9)[0]


def machine() -> str:
    """Describe the machine in a line; networks are the faster for bfloat16."""
    name = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    half = "with" if halves("cuda" if torch.cuda.is_available() else "cpu") else "without"
    return f"{name or platform.processor()} {half} bfloat16, {device}, torch {torch.__version__}, paradia {paradia.__version__}."


def peak_gb() -> float:
    """Peak resident memory of this process; `getrusage` would count that of the process which started it."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024 / 1e9


def save(name: str, lines: Sequence[str]) -> Path:
    """Print a result and keep it."""
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.md"
    path.write_text(text, encoding="utf-8")
    return path
