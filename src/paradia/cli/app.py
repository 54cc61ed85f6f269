"""The tree of commands; each is imported when it is called."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cyclopts import App, Group, Parameter

import paradia
from paradia.registry import STAGES, description, methods, said_of
from paradia.training import NETWORKS, ONWARD, TOGETHER

COMMANDS = ("run", "qsm", "compare", "cosmos", "lesions", "demo", "methods", "qsmci")
"""Commands of a file each, under its name."""

SIMULATIONS = ("subject", "cohort", "phantom", "bank")

ELSEWHERE = {("inversion", "cosmos"): "paradia cosmos"}
"""Methods that take more than one image of a kind, which no single step reads, and the commands that do."""


def app() -> App:
    """Build the command line without importing any method."""
    root = App(
        name="paradia",
        help="From MRI phase to maps of magnetic susceptibility.",
        version=paradia.__version__,
        help_format="plaintext",  # the root's help is plain, and what reads reStructuredText takes a third of its time to import
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative_iterable=(), negative_none=()),
    )
    branch = partial(App, help_format="rst")
    for name in COMMANDS:
        root.command(f"paradia.cli.{name}:{name}", name=name, help=_said(name, name), help_format="rst")
    protocol = branch(name="protocol", help="Show the protocols that ship with Paradia.")
    protocol.command("paradia.cli.protocol:show", name="show", help=_said("protocol", "show"))
    protocol.command("paradia.cli.protocol:names", name="list", help=_said("protocol", "names"))
    root.command(protocol)
    truth = branch(name="simulate", help="Simulate heads, cohorts and phantoms as BIDS data sets with the truth beside them.")
    for name in SIMULATIONS:
        truth.command(f"paradia.cli.simulate:{name}", name=name, help=_said("simulate", name))
    root.command(truth)
    tuning = branch(name="tune", help="Choose a regularisation weight on your own data, by the L-curve and the discrepancy principle.")
    for stage in (STAGES[name] for name in ("background", "inversion", "singlestep")):
        step = branch(name=stage.name, help=stage.summary)
        for method in methods(stage.name):
            step.command(
                f"paradia.cli.tune:{stage.name}__{method}",
                name=method.replace("_", "-"),
                help=_help(stage.name, method, f"Choose a knob of {stage.name} {method} on your own data.\n\n"),
            )
        tuning.command(step)
    root.command(tuning)
    training = branch(name="train", help="Simulate training data, train the networks, and release their weights.")
    training.command("paradia.cli.train:volumes", name="volumes", help=_said("train", "volumes"))
    for network, text in {**NETWORKS, **TOGETHER}.items():
        training.command(f"paradia.cli.train:train__{network}", name=network, help=f"{text}\n\n{ONWARD}")
    training.command("paradia.cli.train:release", name="release", help=_said("train", "release"))
    root.command(training)
    single = Group("Single steps", sort_key=1)
    for stage in STAGES.values():
        step = branch(name=stage.name, help=stage.summary, group=single)
        for method in methods(stage.name):
            step.command(
                f"paradia.cli.single:{stage.name}__{method}",
                name=method.replace("_", "-"),
                help=_help(stage.name, method),
            )
        root.command(step)
    return root


def _help(stage: str, method: str, before: str = "") -> str:
    """Say what a command does, or which other one does it."""
    if (stage, method) in ELSEWHERE:
        return f"Takes several scans: use {ELSEWHERE[stage, method]}."
    return _lines_joined(before + description(stage, method))


def _said(file: str, name: str) -> str:
    """Say of a command what its docstring does. A list of commands shows the first line, the help of the command all of it."""
    return _lines_joined(said_of(Path(__file__).with_name(f"{file}.py"), name))


def _lines_joined(text: str) -> str:
    """Write every paragraph in one line: one that begins with a formula would be taken for a field and left out."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return "\n\n".join(f"\\ {paragraph}" if paragraph.startswith(":") else paragraph for paragraph in paragraphs)
