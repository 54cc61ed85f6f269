"""``paradia train``: volumes to learn from, training, release.

A module-level `__getattr__` builds the command of each network when it is asked for.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from paradia.cli.plan import pick_device
from paradia.cli.progress import Progress
from paradia.errors import InputError
from paradia.nets import store
from paradia.report.curves import draw_curves
from paradia.simulate.examples import Recipe
from paradia.training import NETWORKS, ONWARD, SYSTEMS, TOGETHER
from paradia.training.crops import VALIDATION
from paradia.training.loop import Plan, train, trained
from paradia.training.release import LEAST, Released
from paradia.training.release import release as put_out
from paradia.training.tasks import TASKS
from paradia.training.volumes import produce
from paradia.types import Callback

AVERAGED = 0.5
"""Share of averaged volumes: they take longer, but volumes on disk are made once."""

ERODED = 0.3
"""Share of masks without their rim: mask steps differ in how much of it they keep."""

FLUSH = 0.5
"""Share of averaged volumes whose mask bone and air may touch: mask steps do not always leave fluid between."""

STANDARD, USUAL = Recipe(averaged=AVERAGED, eroded=ERODED, flush=FLUSH), Plan()


def __getattr__(name: str) -> Callable[..., int]:
    """Build the command ``train__network``, of one network or of those that a method asks in turn."""
    first, separator, network = name.partition("__")
    if first != "train" or not separator or network not in {*TASKS, *SYSTEMS}:
        raise AttributeError(name)

    def command(
        *,
        volumes: Path,
        output: Path,
        steps: int = USUAL.steps,
        batch: int = USUAL.batch,
        crop: int = USUAL.crop,
        rate: float = USUAL.rate,
        every: int = USUAL.every,
        seed: int = USUAL.seed,
        start: Path | None = None,
        device: str = "auto",
    ) -> int:
        plan = Plan(steps=steps, batch=batch, crop=crop, rate=rate, every=every, seed=seed)
        _check(volumes, plan)
        alone = network in TASKS
        begun = {part: start if alone or start is None else start / f"{part}.safetensors" for part in SYSTEMS.get(network, (network,))}
        for part, weights in begun.items():
            if weights is not None:
                trained(TASKS[part], weights)  # hours before the second of two misses its own
        for part, weights in begun.items():
            _train(part, volumes, output if alone else output / part, plan, weights, pick_device(device))
        return 0

    command.__name__ = network
    command.__doc__ = f"{NETWORKS.get(network) or TOGETHER.get(network, 'Train a network.')}\n{_DOCSTRING}"
    return command


_DOCSTRING = f"""
    {ONWARD}

    Parameters
    ----------
    volumes
        Folder of volumes that ``paradia train volumes`` wrote; those numbered below 1000 validate.
    output
        Folder for the training.
    steps
        Steps in all, of each network; the learning rate falls to zero over them.
    batch
        Crops in a step.
    crop
        Edge of a crop, voxels.
    rate
        Learning rate at its highest.
    every
        Steps between validations; the checkpoint is written as often.
    seed
        Draws the first weights and the crops.
    start
        Weights to begin with, such as the released ones, instead of random ones; for networks trained together the folder of theirs.
    device
        ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for the best there is.
"""


def volumes(
    folder: Path,
    /,
    *,
    count: int,
    first: int = VALIDATION,
    voxel_size: tuple[float, float] = STANDARD.voxel_size,
    procedural: float = STANDARD.procedural,
    randomised: float = STANDARD.randomised,
    averaged: float = STANDARD.averaged,
    eroded: float = STANDARD.eroded,
    flush: float = STANDARD.flush,
    lesions: float = STANDARD.lesions,
    errors: float = STANDARD.errors,
) -> int:
    """Simulate volumes to train on and to validate with.

    Each is a file named after its number, which draws everything in it; those that are there are passed over, so that the same command
    goes on where it stopped, and several may write into one folder with numbers of their own.

    Parameters
    ----------
    folder
        Where they go.
    count
        How many.
    first
        Number of the first. Those below 1000 are never trained on: they validate.
    voxel_size
        Smallest and largest edge in the plane, mm.
    procedural
        Share of volumes of random shapes instead of heads.
    randomised
        Share of heads of strange shape whose tissues are made of anything.
    averaged
        Share of volumes, among those of voxels of 1.4 mm or more, that are made twice as fine and averaged.
    eroded
        Share of masks that leave out the rim, 1 to 5 mm of it.
    flush
        Share of averaged volumes in which bone and air may touch the mask; in the others fluid lies between.
    lesions
        Share of heads with lesions.
    errors
        Strength of what no model holds, such as rough masks; 0 leaves it out.
    """
    if count < 1 or first < 0:
        raise InputError(f"--count must be at least 1 and --first at least 0, got {count} and {first}.")
    recipe = Recipe(
        voxel_size=voxel_size,
        procedural=procedural,
        randomised=randomised,
        averaged=averaged,
        eroded=eroded,
        flush=flush,
        lesions=lesions,
        errors=errors,
    )
    produce(folder, recipe, first=first, count=count)
    return 0


def _check(volumes: Path, plan: Plan) -> None:
    """Refuse what no training can begin with."""
    if min(plan.steps, plan.batch, plan.crop, plan.every) < 1 or plan.rate <= 0:
        raise InputError("--steps, --batch, --crop, --every and --rate must be positive.")
    if not volumes.is_dir():
        raise InputError(f"there is no folder {volumes}. Simulate volumes first: paradia train volumes {volumes} --count 500")


def _train(network: str, volumes: Path, output: Path, plan: Plan, start: Path | None, device: str) -> None:
    """Train a network, say how it goes, draw it, and finish with its card."""
    with Progress() as progress:

        def tell(line: str) -> None:
            progress.answer(line)
            if line.startswith("{"):
                draw_curves(output / "log.csv", output / "curves.png")

        shown = _shown(progress, network, plan.steps)
        average = train(TASKS[network], volumes, output, plan, start=start, device=device, tell=tell, callback=shown)
        progress.answer(str(average))
        held = [file for file in volumes.glob("*.safetensors") if int(file.stem) < VALIDATION]
        if len(held) < LEAST:
            progress.warn(f"no card: {volumes} holds {len(held)} volumes numbered below {VALIDATION}, and {LEAST} calibrate at least")
            return
        progress.show(f"[bold]{network}[/] calibration and card")
        said = _said(network, volumes, output)
        done = put_out(TASKS[network], average, volumes, version="trained", cards=output, folder=output, command=said, device=device)
        progress.answer(_held(done))


def _shown(progress: Progress, network: str, steps: int) -> Callback:
    """Return what shows how far a training is, and how long it will yet take at the speed of its steps so far."""
    begun: list[tuple[int, float]] = []

    def show(step: int, error: float) -> None:
        now = time.monotonic()
        if not begun:
            begun.append((step, now))
        first, since = begun[0]
        left = timedelta(seconds=round((now - since) / max(step - first, 1) * (steps - step))) if step > first else "?"
        progress.show(f"[bold]{network}[/] step {step} of {steps}, error {error:.3f}, {left} left")

    return show


def _said(network: str, volumes: Path, output: Path) -> str:
    """Return the command that trained a network, for its card."""
    return shlex.join(["paradia", "train", network, "--volumes", volumes.name, "--output", output.name])


def _held(done: Released) -> str:
    """Say what was written and how well its deviations hold."""
    return f"{done.weights}\n{done.card}\n{done.covered:.1f} % of the validation errors lie within one deviation."


def release(
    network: Annotated[Literal[tuple(NETWORKS)], Parameter()],  # type: ignore[valid-type]
    /,
    *,
    run: Path,
    volumes: Path,
    version: str,
    weights: Path | None = None,
    cards: Path = Path("docs/models"),
    most: int = 200,
    share: float = 1.0,
    after: Path | None = None,
    note: str = "",
    device: str = "auto",
) -> int:
    """Calibrate a trained network and put its weights in place.

    Parameters
    ----------
    network
        What was trained.
    run
        Folder of its training.
    volumes
        Folder of the volumes: those numbered below 1000 calibrate and judge, the others tell what is familiar.
    version
        Of the weights: a network trained again is a new version.
    weights
        Folder for the weights; the package's own where absent, from which its methods read.
    cards
        Folder for the model card.
    most
        Most training volumes that are looked at.
    share
        What the network's answers are multiplied by: less than one where heads of another anatomy show it too bold.
    after
        Released weights that the training went on from, whose volumes are not among these: what they know to be familiar stays so.
    note
        More for the card.
    device
        ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for the best there is.
    """
    done = put_out(
        TASKS[network],
        run / "average.safetensors",
        volumes,
        version=version,
        cards=cards,
        folder=weights or store.FOLDER,
        most=most,
        share=share,
        after=after,
        command=_said(network, volumes, run),
        note=note,
        device=pick_device(device),
    )
    sys.stdout.write(f"{_held(done)}\n")
    return 0
