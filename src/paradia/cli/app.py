"""The tree of commands; each is imported when it is called."""

from __future__ import annotations

from functools import partial

from cyclopts import App, Group, Parameter

import paradia
from paradia.registry import STAGES, methods, summary
from paradia.training import NETWORKS

COMMANDS = {
    "run": "Map every subject of a BIDS data set (a BIDS App).",
    "qsm": "Map one scan from loose NIfTI files.",
    "compare": "Compare several methods on one subject: a table, a picture, the maps.",
    "cosmos": "Map one head from scans in several orientations.",
    "lesions": "Measure lesions on maps: size, brightness, rim and core, class; and how far two pipelines agree.",
    "demo": "Simulate a small head, map it, and say how far the maps are from the truth.",
    "methods": "List what each stage can be done with.",
    "qsmci": "Run a step between folders of the QSM-CI benchmark, or write the folder that submits it there.",
}

SIMULATIONS = {
    "subject": "Simulate one person: anatomy, tissue, fields and scans.",
    "cohort": "Simulate a study of many people whose ages are spread evenly.",
    "phantom": "Simulate a bottle of spheres and cylinders whose field is known exactly.",
    "bank": "Rebuild the anatomy that heads are drawn from.",
}

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
    for name, text in COMMANDS.items():
        root.command(f"paradia.cli.{name}:{name}", name=name, help=text, help_format="rst")
    protocol = branch(name="protocol", help="Show the protocols that ship with Paradia.")
    protocol.command("paradia.cli.protocol:show", name="show", help="Print a protocol as TOML, every knob written out.")
    protocol.command("paradia.cli.protocol:names", name="list", help="List the protocols.")
    root.command(protocol)
    truth = branch(name="simulate", help="Simulate heads, cohorts and phantoms as BIDS data sets with the truth beside them.")
    for name, text in SIMULATIONS.items():
        truth.command(f"paradia.cli.simulate:{name}", name=name, help=text)
    root.command(truth)
    tuning = branch(name="tune", help="Choose a regularisation weight on your own data, by the L-curve and the discrepancy principle.")
    for stage in (STAGES[name] for name in ("background", "inversion", "singlestep")):
        step = branch(name=stage.name, help=stage.summary)
        for method in methods(stage.name):
            step.command(
                f"paradia.cli.tune:{stage.name}__{method}",
                name=method.replace("_", "-"),
                help=_help(stage.name, method, f"Choose a knob of {stage.name} {method} on your own data."),
            )
        tuning.command(step)
    root.command(tuning)
    training = branch(name="train", help="Simulate training data, train the networks, and release their weights.")
    training.command("paradia.cli.train:volumes", name="volumes", help="Simulate volumes to train on and to validate with.")
    for network, text in NETWORKS.items():
        training.command(f"paradia.cli.train:train__{network}", name=network, help=text)
    training.command("paradia.cli.train:release", name="release", help="Calibrate a trained network and put its weights in place.")
    root.command(training)
    single = Group("Single steps", sort_key=1)
    for stage in STAGES.values():
        step = branch(name=stage.name, help=stage.summary, group=single)
        for method in methods(stage.name):
            step.command(
                f"paradia.cli.single:{stage.name}__{method}",
                name=method.replace("_", "-"),
                help=_help(stage.name, method, summary(stage.name, method)),
            )
        root.command(step)
    return root


def _help(stage: str, method: str, text: str) -> str:
    """Say what a command does, or which other one does it."""
    return f"Takes several scans: use {ELSEWHERE[stage, method]}." if (stage, method) in ELSEWHERE else text
