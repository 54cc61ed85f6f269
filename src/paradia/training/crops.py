"""Crops of training volumes, taken from a folder that may still be growing."""

from __future__ import annotations

import threading
from pathlib import Path
from queue import Full, Queue

import torch
from torch import Tensor

from paradia.errors import InputError
from paradia.simulate.batches import take
from paradia.training.tasks import Lesson, Task
from paradia.training.volumes import read

VALIDATION = 1000
"""Volumes of seeds below this are never trained on."""

FEWEST = 4
"""Volumes in memory before the first crop is drawn, unless the pool is smaller."""

AHEAD, WAIT = 2, 0.2
"""Lessons that lie ready, and how often the thread that makes them looks whether it is over, s."""

APART = 1_000_003
"""Between the seeds of two lessons."""


class Pool:
    """Volumes in memory, renewed from a folder that may still be growing: a thread prepares them, crops are counted, and so one comes in.

    So the same seed gives the same crops from the same folder, however fast its disk is.

    Parameters
    ----------
    task
        Makes lessons of volumes.
    folder
        Of volumes.
    batch, crop
        Crops in a batch, and their edges in voxels.
    size
        Volumes in memory.
    crops
        A volume is replaced whenever as many crops came from the pool.
    seed
        Draws volumes and what their lessons draw.
    first
        Number of the first lesson: a training that goes on goes on with new ones.
    device
        CPU or CUDA.
    """

    def __init__(
        self, task: Task, folder: Path, *, batch: int, crop: int, size: int, crops: int, seed: int, first: int = 0, device: str = "cpu"
    ) -> None:
        self._task, self._folder, self._device = task, folder, device
        self._batch, self._crop, self._size, self._crops = batch, crop, size, crops
        self._seed, self._first, self._taken = seed, first, first
        self._lessons: list[Lesson] = []
        self._drawn = 0
        self._ready: Queue[Lesson | BaseException] = Queue(AHEAD)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    @property
    def oldest(self) -> int:
        """Number of the first lesson in memory: where a training that is taken up again goes on."""
        return self._taken - len(self._lessons)

    def _fill(self) -> None:
        number = self._first
        while not self._over.is_set():
            try:
                found: Lesson | BaseException = self._lesson(number)
            except BaseException as error:  # told to the loop, which is in another thread
                found = error
            while not self._over.is_set():
                try:
                    self._ready.put(found, timeout=WAIT)
                    break
                except Full:
                    continue
            if isinstance(found, BaseException):
                return
            number += 1

    def _lesson(self, number: int) -> Lesson:
        generator = torch.Generator().manual_seed(self._seed + APART * number)
        files = [file for file in sorted(self._folder.glob("*.safetensors")) if int(file.stem) >= VALIDATION]
        if not files:
            raise InputError(f"there are no training volumes in {self._folder}. Write some first: paradia train volumes.")
        volume = read(files[int(torch.randint(len(files), (), generator=generator))], self._device)
        lesson = _scaled(self._task.lesson(volume, generator))
        return Lesson(*(part.half() if part.is_floating_point() else part for part in lesson))

    def _renew(self) -> None:
        """Take lessons in: some before the first crop, then one a crop until the pool is full, then one for so many crops."""
        full = len(self._lessons) >= self._size
        due = int(self._drawn % self._crops == 0) if full else max(1, min(FEWEST, self._size) - len(self._lessons))
        for _ in range(due):
            found = self._ready.get()
            if isinstance(found, BaseException):
                raise found
            if len(self._lessons) >= self._size:
                self._lessons.pop(0)
            self._lessons.append(found)
            self._taken += 1

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return channels, target in units of the answer, and mask of a batch of crops."""
        parts = []
        for _ in range(self._batch):
            self._renew()
            lesson = self._lessons[int(torch.randint(len(self._lessons), (), generator=generator))]
            stack = torch.cat([lesson.channels, lesson.target, lesson.mask[None].half()])
            parts.append(_turn(take(stack, lesson.mask, self._crop, generator), generator))
            self._drawn += 1
        data = torch.stack(parts).float()
        inputs = int(self._task.architecture["inputs"])  # type: ignore[call-overload]
        return data[:, :inputs], data[:, inputs:-1], data[:, -1:]

    def close(self) -> None:
        """Let the thread end, and wait for it: it must not outlive the libraries it uses."""
        self._over.set()
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
