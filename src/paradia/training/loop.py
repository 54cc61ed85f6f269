"""The training loop: resumes, logs, keeps an average of the weights."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from paradia.errors import FileError, InputError
from paradia.nets.precision import quick
from paradia.nets.store import pack, unpack
from paradia.nets.unet import UNet3d
from paradia.training.crops import VALIDATION, Pool
from paradia.training.judging import covered, judge
from paradia.training.tasks import Task
from paradia.training.volumes import read
from paradia.types import Callback

SLOPE_SHARE, DEVIATION_SHARE = 0.5, 0.1
"""Shares of the error's slopes and of the deviations' likelihood in the loss; the map's own error counts as one."""

LARGE = 4.0
"""Weighed error beyond which its square grows like the error itself: no haemorrhage outweighs a head."""

USUALLY, LITTLE = 0.25, 0.05
"""How far a start is off, in units of the answer, where a crop's error counts about once, and where it counts no more for being smaller."""

WARM = 200
"""Steps over which the learning rate rises."""


@dataclass(frozen=True)
class Plan:
    """How long and how to train."""

    steps: int = 20000
    """Steps in all; the rate falls to zero over them along a cosine."""
    batch: int = 2
    crop: int = 64
    rate: float = 1e-3
    pool: int = 16
    """Volumes in memory; each is replaced by another after a while."""
    crops: int = 40
    """Crops taken from a volume before it is replaced."""
    average: float = 0.999
    """Decay of the average of the weights, a step."""
    every: int = 500
    """Steps between validations."""
    seed: int = 0


def loss(answer: Tensor, target: Tensor, mask: Tensor, squares: float) -> tuple[Tensor, Tensor]:
    """Compare answers with targets in the mask, so that where the start is nearly right a small change matters as much.

    Absolute errors alone find the median of what may be there, and a sinus at the mask's edge that is more often none is none; squares
    find the mean.

    Parameters
    ----------
    answer
        (batch, 2 n, x, y, z): n means, then n logarithms of the error's Laplace scale.
    target
        (batch, n, x, y, z).
    mask
        (batch, 1, x, y, z), 0 or 1.
    squares
        Share of the error's square, as `Task.squares`.

    Returns
    -------
    Tensor
        Mean absolute error, its square, that of its slopes, and the likelihood of the scales, weighed; each crop by how far its start is
        off.
    Tensor
        The mean absolute error alone.
    """
    n = target.shape[1]
    error = (answer[:, :n] - target) * mask
    count = mask.sum().clamp_min(1) * n
    off = (target.abs() * mask).sum((1, 2, 3, 4), keepdim=True) / (n * mask.sum((1, 2, 3, 4), keepdim=True)).clamp_min(1)
    weight = USUALLY / (off + LITTLE)
    weighed = weight * error
    size = weighed.abs().sum() / count
    square = 2 * LARGE**2 * ((1 + (weighed / LARGE).square()).sqrt() - 1).sum() / count
    slopes = sum((weighed.diff(dim=axis) * _both(mask, axis)).abs().sum() for axis in (2, 3, 4)) / 3 / count
    scale = answer[:, n:].clamp(-6, 3)
    likely = ((error.detach().abs() * torch.exp(-scale) + scale) * mask).sum() / count
    return size + squares * square + SLOPE_SHARE * slopes + DEVIATION_SHARE * likely, (error.detach().abs().sum() / count)


def _both(mask: Tensor, axis: int) -> Tensor:
    """Mark the steps along an axis between two voxels of a mask."""
    n = mask.shape[axis] - 1
    return mask.narrow(axis, 0, n) * mask.narrow(axis, 1, n)


def train(
    task: Task,
    volumes: Path,
    folder: Path,
    plan: Plan,
    *,
    start: Path | None = None,
    device: str = "cpu",
    tell: Callable[[str], None] = print,
    callback: Callback | None = None,
) -> Path:
    """Train a network until its plan is done; what is there already is taken up.

    Parameters
    ----------
    task
        The network.
    volumes
        Folder of prepared volumes; those of seeds below 1000 validate.
    folder
        Where the checkpoint, the log ``log.csv`` and the average weights ``average.safetensors`` go.
    plan
        How long and how.
    start
        Weights to begin with, such as released ones; random ones if absent. A checkpoint in the folder goes before.
    device
        CPU or CUDA.
    tell
        Called with a line now and then.
    callback
        Called as ``callback(step, error)`` after every step, with the mean absolute error of its crops in units of the network.

    Returns
    -------
    Path
        The average weights.

    Raises
    ------
    FileError
        There are no weights to begin with where they should be.
    InputError
        Those weights are of another network, or there are no volumes.
    """
    torch.manual_seed(plan.seed)
    course = _Course(task, task.network() if start is None else trained(task, start), plan, device)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        course.resume(checkpoint)
        tell(f"going on from step {course.step}")
    pool = Pool(
        task,
        volumes,
        batch=plan.batch,
        crop=plan.crop,
        size=plan.pool,
        crops=plan.crops,
        seed=plan.seed + 1,
        first=course.lessons,
        device=device,
    )
    generator = torch.Generator().manual_seed(plan.seed + course.step)
    checks = [read(file, device) for file in sorted(volumes.glob("*.safetensors")) if int(file.stem) < VALIDATION]
    begun, sizes = time.perf_counter(), []
    try:
        while course.step < plan.steps:
            sizes.append(course.advance(*pool.draw(generator)))
            course.lessons = pool.oldest
            if callback is not None:
                callback(course.step, sizes[-1])
            if course.step % plan.every == 0 or course.step == plan.steps:
                row = {"step": course.step, "seconds": round(time.perf_counter() - begun, 1), "loss": round(sum(sizes) / len(sizes), 5)}
                row |= validate(task, course.average, checks)
                sizes = []
                _log(folder / "log.csv", row)
                course.save(checkpoint)
                course.release(folder / "average.safetensors")
                tell(json.dumps(row))
    except KeyboardInterrupt:  # the same command goes on from here
        course.save(checkpoint)
        raise
    finally:
        pool.close()
    return folder / "average.safetensors"


class _Course:
    """A network on its way: its weights, their average, and how far it has come."""

    def __init__(self, task: Task, net: UNet3d, plan: Plan, device: str) -> None:
        self.task, self.plan, self.device, self.step = task, plan, device, 0
        self.lessons = 0
        """Number of the first lesson in memory."""
        self.net = net.to(device).train().requires_grad_(True)
        self.net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.average = task.network().to(device).eval().requires_grad_(False)
        self.average.load_state_dict(net.state_dict())
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=plan.rate, weight_decay=1e-4)

    def resume(self, checkpoint: Path) -> None:
        """Take up what `save` left."""
        kept = torch.load(checkpoint, map_location=self.device, weights_only=True)
        self.net.load_state_dict(kept["net"])
        self.average.load_state_dict(kept["average"])
        self.optimiser.load_state_dict(kept["optimiser"])
        self.step, self.lessons = int(kept["step"]), int(kept.get("lessons", 0))

    def advance(self, channels: Tensor, target: Tensor, mask: Tensor) -> float:
        """Take one step on a batch and return its mean absolute error."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.rate * min(1.0, (self.step + 1) / WARM) * 0.5 * (1 + math.cos(math.pi * self.step / self.plan.steps))
        channels, target, mask = (part.to(self.device) for part in (channels, target, mask))
        with quick(torch.device(self.device).type):
            answer = self.net(channels.contiguous(memory_format=torch.channels_last_3d))
        total, size = loss(answer.float(), target, mask, self.task.squares)
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        share = min(self.plan.average, self.step / (self.step + 20))  # the first weights are soon forgotten
        with torch.no_grad():
            for kept, weight in zip(self.average.parameters(), self.net.parameters(), strict=True):
                kept.lerp_(weight, 1 - share)
        return float(size)

    def save(self, path: Path) -> None:
        """Write all that `resume` needs, whole or not at all."""
        part = path.with_suffix(".part")
        states = {"net": self.net.state_dict(), "average": self.average.state_dict(), "optimiser": self.optimiser.state_dict()}
        torch.save({**states, "step": self.step, "lessons": self.lessons}, part)
        part.rename(path)

    def release(self, path: Path) -> None:
        """Write the average weights, whole or not at all."""
        about = {"task": self.task.name, "step": str(self.step), "plan": json.dumps(asdict(self.plan))}
        part = path.with_suffix(".part")
        part.write_bytes(pack(self.average, dict(self.task.architecture), **about))
        part.rename(path)


def validate(task: Task, net: UNet3d, volumes: Sequence) -> dict[str, float]:
    """Return the error before and after the network, and how many errors lie within a deviation, over validation volumes.

    Errors are root sums of squares over those of the target, in percent, in the mask.
    """
    judged = [judge(task, net, volume, number, str(number)) for number, volume in enumerate(volumes)]
    if not judged:
        return {}
    found = {
        "before": fmean(one.before for one in judged),
        "after": fmean(one.after for one in judged),
        "within": covered(judged, [1.0] * judged[0].ratios.shape[0]),
    }
    return {name: round(value, 3) for name, value in found.items()}


def trained(task: Task, path: Path) -> UNet3d:
    """Read weights that a training or a release wrote.

    Raises
    ------
    FileError
        There is no such file.
    InputError
        They were trained for another task.
    """
    if not path.is_file():
        raise FileError(f"there are no weights {path}. Train first, paradia train {task.name}, or give a file that a release wrote.")
    net = unpack(path.read_bytes())
    found = net.about.get("task", task.name)
    if found != task.name:
        raise InputError(f"{path} was trained for {found}, not for {task.name}. Give weights of the same network.")
    return net


def _log(path: Path, row: dict[str, float | int]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if fresh:
            writer.writeheader()
        writer.writerow(row)
