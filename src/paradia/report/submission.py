"""The folder that submits a method to the QSM-CI leaderboard, written from the method's own docstring."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paradia
from paradia.io.atomic import cannot_write, write_text
from paradia.pipeline.protocol import Protocol
from paradia.report.methods import plain, stage_name

IMAGE = f"ghcr.io/OWNER/paradia:{paradia.__version__}"
"""Where an image is expected until somebody has built one."""


_PROTOCOL = "protocol.toml"

_RECIPE = f"""# The image that algorithm.yml names: Paradia and what it needs, no method of its own. Build it once for all submissions.
FROM python:3.12-slim
# An index with CPU builds of torch makes a far smaller image: --build-arg TORCH_INDEX=...
ARG TORCH_INDEX=""
# A version, a wheel or an address, as pip understands it.
ARG PARADIA="paradia=={paradia.__version__}"
RUN pip install --no-cache-dir ${{TORCH_INDEX:+--index-url "$TORCH_INDEX"}} torch && pip install --no-cache-dir "$PARADIA"
"""


@dataclass(frozen=True)
class Submission:
    """What is submitted, in the benchmark's words."""

    stage: str
    """The benchmark's name of the stage."""
    command: tuple[str, ...]
    """What `paradia` is called with, but for the folders."""
    protocol: Protocol
    inputs: tuple[str, ...]
    """Files that it needs, without their suffix."""
    optional: tuple[str, ...]
    """Files that it uses where they are there."""
    output: str
    authors: tuple[str, ...] = ()
    image: str | None = None

    @property
    def slug(self) -> str:
        """Name of the folder."""
        words = "-".join(step.method for step in self.protocol.steps) if "+" in self.command[-1] else self.command[-1]
        return "paradia-" + re.sub(r"[^a-z0-9]+", "-", Path(words).stem.lower()).strip("-")

    @property
    def name(self) -> str:
        """Name on the leaderboard."""
        return f"{Path(self.command[-1]).stem} (Paradia)"

    @property
    def own_protocol(self) -> bool:
        """Whether the protocol is a file of the user's, which has to come along."""
        return self.command[-1].endswith(".toml")


def write_submission(root: Path, submission: Submission) -> Path:
    """Write the folder: ``algorithm.yml``, ``run.sh``, ``Dockerfile`` and ``README.md``.

    Returns
    -------
    Path
        The folder, named after the method.

    Raises
    ------
    FileError
        It cannot be written to.
    """
    folder = root / submission.slug
    texts = {"algorithm.yml": _manifest(submission), "run.sh": _script(submission), "Dockerfile": _RECIPE, "README.md": _readme(submission)}
    if submission.own_protocol:
        texts[_PROTOCOL] = submission.protocol.toml()
    for name, text in texts.items():
        write_text(folder / name, text)
    script = folder / "run.sh"
    try:
        script.chmod(0o755)
    except OSError as error:
        raise cannot_write(script, error) from error
    return folder


def _manifest(given: Submission) -> str:
    """Write the manifest; JSON is YAML, so that nothing in a docstring can break it."""
    named = [step for step in given.protocol.steps if step.method == given.command[-1].replace("-", "_")]
    main = (named or list(given.protocol.steps))[-1]
    cites = " ".join(dict.fromkeys(step.loaded.cite for step in given.protocol.steps if step.loaded.cite)).split()
    own = main.loaded.cite.split()
    lines = [
        f"name: {_yaml(given.name)}",
        f"slug: {given.slug}",
        f"stage: {given.stage}",
        "language: Python",
        f"description: {_yaml(_described(given))}",
        "authors:",
        *(f"  - name: {_yaml(author)}" for author in given.authors or ("The Paradia developers",)),
        f"doi: {own[0] if own else 'null'}",
        f"citation: {_yaml(', '.join(f'doi:{doi}' for doi in cites)) if cites else 'null'}",
        "code_url: null",
        "license: Apache-2.0",
        f"image: {given.image or IMAGE}",
        "run: bash run.sh",
        f"inputs: [{', '.join((*given.inputs, *given.optional, 'params'))}]",
    ]
    if given.optional:
        lines.append(f"optional_inputs: [{', '.join(given.optional)}]")
    knobs = list(_knobs(given.protocol))
    if knobs:
        lines.append("parameters:")
    for name, default, said in knobs:
        lines += [f"  - name: {name}", f"    default: {_yaml(default)}", f"    description: {_yaml(said)}"]
    return "\n".join(lines) + "\n"


def _script(given: Submission) -> str:
    reads = ", ".join(f"{name}.nii.gz" for name in given.inputs)
    words = [*given.command[:-1], f'"$(dirname "$0")/{_PROTOCOL}"' if given.own_protocol else given.command[-1]]
    return f"""#!/usr/bin/env bash
# {given.name}, stage {given.stage}: reads {reads} and params.json, writes {given.output}.
# Knobs that were turned are in config.json beside them.
set -euo pipefail
exec paradia {" ".join(words)} --input "${{1:-/input}}" --output "${{2:-/output}}"
"""


def _readme(given: Submission) -> str:
    steps = "\n".join(f"- {stage_name(step.stage)}: `{step.method}`. {plain(step.loaded.summary)}" for step in given.protocol.steps)
    files = " ".join(f"--{name} {name}.nii.gz" for name in given.inputs)
    return f"""# {given.name}

{_described(given)}

{steps}

Try it without a container, where Paradia is installed:

```
qsm-ci run ./{given.slug} --runner local {files} --params params.json
```

Before it is submitted: build the `Dockerfile`, push the image, and write its address into `image:` of `algorithm.yml`.
"""


def _described(given: Submission) -> str:
    """Say in a sentence or two what it does."""
    return given.protocol.description or " ".join(plain(step.loaded.summary) for step in given.protocol.steps)


def _knobs(protocol: Protocol) -> Iterator[tuple[str, Any, str]]:
    """List every knob under the name by which a caller turns it."""
    owners = [knob for step in protocol.steps for knob in step.loaded.knobs]
    for step in protocol.steps:
        texts = _texts(inspect.getdoc(step.loaded.function) or "")
        for knob, default in step.settings.items():
            yield (knob if owners.count(knob) == 1 else f"{step.stage}.{knob}"), default, texts.get(knob, "")


def _texts(docstring: str) -> dict[str, str]:
    """Read what a numpydoc docstring says of each parameter."""
    _, _, rest = docstring.partition("Parameters\n----------\n")
    section = re.split(r"\n\n?\w+\n-{3,}\n", rest)[0]
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            names = [name.strip() for name in line.partition(":")[0].split(",")]
        else:
            for name in names:
                texts[name] = f"{texts.get(name, '')} {line.strip()}".strip()
    return {name: plain(text) for name, text in texts.items()}


def _yaml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
