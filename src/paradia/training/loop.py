"""The training loop: resumes, logs, keeps an average of the weights."""

from __future__ import annotations

import csv
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from paradia.errors import FileError, InputError
from paradia.nets.store import pack, unpack
from paradia.nets.unet import UNet3d
from paradia.nets.windows import ask
from paradia.simulate.batches import take
from paradia.training.tasks import Lesson, Task
from paradia.training.volumes import read

DEVIATION_SHARE, SLOPE_SHARE = 0.1, 0.5
"""Shares of the deviations' likelihood and of the slopes in the loss; the map's own error counts as one."""

USUALLY, LITTLE = 0.25, 0.05
"""How far a start is off, in units of the answer, where a crop's error counts about once, and where it counts no more for being smaller."""

VALIDATION = 1000
"""Volumes of seeds below this are never trained on."""


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


class Pool:
    """Volumes in memory, renewed by a thread from a folder that may still be growing."""

    def __init__(self, task: Task, folder: Path, plan: Plan, state: dict[str, UNet3d | None], device: str = "cpu") -> None:
        self._task, self._folder, self._plan, self._state, self._device = task, folder, plan, state, device
        self._generator = torch.Generator().manual_seed(plan.seed + 1)
        self._lessons: list[Lesson] = []
        self._drawn = 0
        self._wanted = threading.Semaphore(plan.pool)
        self._lock = threading.Lock()
        self._over = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    def _fill(self) -> None:
        try:
            while True:
                self._wanted.acquire()
                if self._over:
                    return
                files = [f for f in sorted(self._folder.glob("*.safetensors")) if int(f.stem) >= VALIDATION]
                if not files:
                    raise InputError(f"there are no training volumes in {self._folder}. Write some first: paradia train volumes.")
                file = files[int(torch.randint(len(files), (), generator=self._generator))]
                volume = read(file, self._device)
                lesson = self._task.lesson(volume, self._state["average"], self._generator)
                small = Lesson(*(part.half() if part.is_floating_point() else part for part in _scaled(lesson)))
                with self._lock:
                    if len(self._lessons) >= self._plan.pool:
                        self._lessons.pop(0)
                    self._lessons.append(small)
        except BaseException as error:  # told to the loop, which is in another thread
            self._failure = error

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return channels, target in units of the answer, and mask of a batch of crops."""
        while len(self._lessons) < min(4, self._plan.pool):
            if self._failure is not None:
                raise self._failure
            time.sleep(0.05)
        if self._failure is not None:
            raise self._failure
        parts = []
        for _ in range(self._plan.batch):
            with self._lock:
                lesson = self._lessons[int(torch.randint(len(self._lessons), (), generator=generator))]
            stack = torch.cat([lesson.channels, lesson.target, lesson.mask[None].half()])
            parts.append(_turn(take(stack, lesson.mask, self._plan.crop, generator), generator))
            self._drawn += 1
            if self._drawn % self._plan.crops == 0:
                self._wanted.release()
        data = torch.stack(parts).float()
        inputs = int(self._task.architecture["inputs"])  # type: ignore[call-overload]
        return data[:, :inputs], data[:, inputs:-1], data[:, -1:]

    def close(self) -> None:
        """Let the thread end, and wait for it: it must not outlive the libraries it uses."""
        self._over = True
        self._wanted.release()
        self._thread.join()


def _scaled(lesson: Lesson) -> Lesson:
    """Turn the target into what the network should answer."""
    target = (lesson.target - lesson.start) / lesson.unit * lesson.mask
    return lesson._replace(target=target.clamp(-50, 50))


def _turn(crop: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror and swap the first two axes at random: the dipole is in the channels, not in the axes."""
    draws = torch.rand(4, generator=generator) < 0.5
    crop = crop.flip([axis + 1 for axis in range(3) if draws[axis]])
    return crop.transpose(1, 2) if draws[3] else crop


def loss(answer: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Compare answers with targets in the mask, so that where the start is nearly right a small change matters as much.

    Parameters
    ----------
    answer
        (batch, 2 n, x, y, z): n means, then n logarithms of the error's Laplace scale.
    target
        (batch, n, x, y, z).
    mask
        (batch, 1, x, y, z), 0 or 1.

    Returns
    -------
    Tensor
        Mean absolute error, that of its slopes, and the likelihood of the scales, weighed; each crop by how far its start is off.
    Tensor
        The mean absolute error alone.
    """
    n = target.shape[1]
    error = (answer[:, :n] - target) * mask
    count = mask.sum().clamp_min(1) * n
    off = (target.abs() * mask).sum((1, 2, 3, 4), keepdim=True) / (n * mask.sum((1, 2, 3, 4), keepdim=True)).clamp_min(1)
    weight = USUALLY / (off + LITTLE)
    size = (weight * error).abs().sum() / count
    slopes = sum((weight * error.diff(dim=axis) * mask.narrow(axis, 1, mask.shape[axis] - 1)).abs().sum() for axis in (2, 3, 4)) / 3 / count
    scale = answer[:, n:].clamp(-6, 3)
    likely = ((error.detach().abs() * torch.exp(-scale) + scale) * mask).sum() / count
    return size + SLOPE_SHARE * slopes + DEVIATION_SHARE * likely, (error.detach().abs().sum() / count)


def train(
    task: Task,
    volumes: Path,
    folder: Path,
    plan: Plan,
    *,
    start: Path | None = None,
    device: str = "cpu",
    tell: Callable[[str], None] = print,
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
    net = task.network() if start is None else trained(task, start)
    folder.mkdir(parents=True, exist_ok=True)
    net.to(device).train().requires_grad_(True)
    net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    average = task.network().to(device).eval().requires_grad_(False)
    average.load_state_dict(net.state_dict())
    optimiser = torch.optim.AdamW(net.parameters(), lr=plan.rate, weight_decay=1e-4)
    checkpoint, log = folder / "checkpoint.pt", folder / "log.csv"
    step = 0
    if checkpoint.exists():
        kept = torch.load(checkpoint, map_location=device, weights_only=True)
        net.load_state_dict(kept["net"])
        average.load_state_dict(kept["average"])
        optimiser.load_state_dict(kept["optimiser"])
        step = int(kept["step"])
        tell(f"going on from step {step}")
    state: dict[str, UNet3d | None] = {"average": average if step or start else None}
    pool = Pool(task, volumes, plan, state, device)
    generator = torch.Generator().manual_seed(plan.seed + step)
    checks = [read(file, device) for file in sorted(volumes.glob("*.safetensors")) if int(file.stem) < VALIDATION]
    begun, sizes = time.perf_counter(), []
    try:
        while step < plan.steps:
            for group in optimiser.param_groups:
                warm = min(1.0, (step + 1) / 200)
                group["lr"] = plan.rate * warm * 0.5 * (1 + math.cos(math.pi * step / plan.steps))
            channels, target, mask = (part.to(device) for part in pool.draw(generator))
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                answer = net(channels.contiguous(memory_format=torch.channels_last_3d))
            total, size = loss(answer.float(), target, mask)
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            step += 1
            share = min(plan.average, step / (step + 20))
            with torch.no_grad():
                for kept_weight, weight in zip(average.parameters(), net.parameters(), strict=True):
                    kept_weight.lerp_(weight, 1 - share)
            sizes.append(float(size))
            if step % plan.every == 0 or step == plan.steps:
                if step >= 2 * plan.every:
                    state["average"] = average
                row = {"step": step, "seconds": round(time.perf_counter() - begun, 1), "loss": round(sum(sizes) / len(sizes), 5)}
                row |= validate(task, average, checks)
                sizes = []
                _log(log, row)
                _save(checkpoint, net, average, optimiser, step)
                _release(folder / "average.safetensors", task, average, plan, step)
                tell(json.dumps(row))
    except KeyboardInterrupt:  # the same command goes on from here
        _save(checkpoint, net, average, optimiser, step)
        raise
    finally:
        pool.close()
    return folder / "average.safetensors"


def validate(task: Task, net: UNet3d, volumes: Sequence) -> dict[str, float]:
    """Return the error before and after the network, and how many errors lie within a deviation, over validation volumes.

    Errors are root sums of squares over those of the target, in percent, in the mask.
    """
    before, after, within = [], [], []
    for number, volume in enumerate(volumes):
        lesson = task.lesson(volume, net if number % 2 else None, torch.Generator().manual_seed(number))
        n = lesson.target.shape[0]
        answer = ask(net, lesson.channels)
        found = lesson.start + lesson.unit * answer[:n]
        size = lesson.target[:, lesson.mask].norm()
        before.append(float((lesson.start - lesson.target)[:, lesson.mask].norm() / size) * 100)
        after.append(float((found - lesson.target)[:, lesson.mask].norm() / size) * 100)
        deviation = lesson.unit * answer[n:].clamp(-6, 3).exp()
        within.append(float(((found - lesson.target).abs() < deviation)[:, lesson.mask].float().mean()) * 100)
    if not volumes:
        return {}
    return {name: round(sum(row) / len(row), 3) for name, row in (("before", before), ("after", after), ("within", within))}


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


def _save(path: Path, net: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    part = path.with_suffix(".part")
    torch.save({"net": net.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, part)
    part.rename(path)


def _release(path: Path, task: Task, average: UNet3d, plan: Plan, step: int) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(pack(average, dict(task.architecture), task=task.name, step=str(step), plan=json.dumps(asdict(plan))))
    part.rename(path)
