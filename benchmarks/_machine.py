"""What every benchmark says of the machine, and where it puts its result."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import paradia

RESULTS = Path(__file__).parent / "results"


def fft_pair_seconds(shape: Sequence[int], device: str = "cpu", repeats: int = 9) -> float:
    """Time one rfftn + irfftn; the least of several."""
    image = torch.randn(*shape, device=device)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.fft.irfftn(torch.fft.rfftn(image), s=tuple(shape))
        if image.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def machine() -> str:
    """Describe the machine in a line."""
    name = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    return f"{name or platform.processor()}, {device}, torch {torch.__version__}, paradia {paradia.__version__}."


def peak_gb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def save(name: str, lines: Sequence[str]) -> Path:
    """Print a result and keep it."""
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.md"
    path.write_text(text, encoding="utf-8")
    return path
