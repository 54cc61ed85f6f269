"""Crops of training volumes, taken from a folder that may still be growing."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import torch
from torch import Tensor

from paradia.errors import InputError
from paradia.simulate.batches import take
from paradia.training.tasks import Lesson, Task
from paradia.training.volumes import read

VALIDATION = 1000
"""Volumes of seeds below this are never trained on."""


class Pool:
    """Volumes in memory, renewed by a thread from a folder that may still be growing."""

    def __init__(self, task: Task, folder: Path, *, batch: int, crop: int, size: int, crops: int, seed: int, device: str = "cpu") -> None:
        """Begin to read: `size` volumes in memory, each replaced once `crops` crops of `crop`³ voxels came from the pool."""
        self._task, self._folder, self._device = task, folder, device
        self._batch, self._crop, self._size, self._crops = batch, crop, size, crops
        self._generator = torch.Generator().manual_seed(seed)
        self._lessons: list[Lesson] = []
        self._drawn = 0
        self._wanted = threading.Semaphore(size)
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
                lesson = self._task.lesson(volume, self._generator)
                small = Lesson(*(part.half() if part.is_floating_point() else part for part in _scaled(lesson)))
                with self._lock:
                    if len(self._lessons) >= self._size:
                        self._lessons.pop(0)
                    self._lessons.append(small)
        except BaseException as error:  # told to the loop, which is in another thread
            self._failure = error

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return channels, target in units of the answer, and mask of a batch of crops."""
        while len(self._lessons) < min(4, self._size):
            if self._failure is not None:
                raise self._failure
            time.sleep(0.05)
        if self._failure is not None:
            raise self._failure
        parts = []
        for _ in range(self._batch):
            with self._lock:
                lesson = self._lessons[int(torch.randint(len(self._lessons), (), generator=generator))]
            stack = torch.cat([lesson.channels, lesson.target, lesson.mask[None].half()])
            parts.append(_turn(take(stack, lesson.mask, self._crop, generator), generator))
            self._drawn += 1
            if self._drawn % self._crops == 0:
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
