"""The card of a network: what it was trained on, how it does, and what its deviations hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from paradia.training.judging import Judged
from paradia.training.tasks import Task


def card(
    task: Task, entry: Mapping[str, Any], judged: Sequence[Judged], calibration: Sequence[float], header: Mapping[str, str], note: str
) -> str:
    """Write the model card.

    Parameters
    ----------
    task
        What the network was trained for.
    entry
        Its table in ``weights.toml``.
    judged
        How it does on each validation volume.
    calibration
        What its deviations are multiplied by.
    header
        What is written in its weights: the plan, if any.
    note
        More, for the end of the head.

    Returns
    -------
    str
        Markdown.
    """
    rows = [
        f"| {one.name} | {' × '.join(f'{edge:.2f}' for edge in one.voxel_size)} | {one.b0:g} | {one.before:.1f} | {one.after:.1f} |"
        for one in judged
    ]
    checks = entry["validation"]
    plan = ", ".join(f"{key} {value}" for key, value in json.loads(header.get("plan", "{}")).items())
    return "\n".join(
        [
            f"# {task.name}, version {entry['version']}",
            "",
            str(task.lesson.__doc__ or "").strip(),
            "",
            f"- File `{entry['file']}`, SHA-256 `{entry['sha256']}`, licence {entry['licence']}.",
            f"- {entry['parameters']:,} parameters, half precision; architecture {json.dumps(dict(task.architecture))}.",
            f"- Trained for {entry['steps']:,} steps on {entry['data']}, with Paradia {entry['code']}" + (f": {plan}." if plan else "."),
            *(
                [f"- Its answers are multiplied by {entry['share']:g}: bolder, they are worse on heads of another anatomy."]
                if entry["share"] < 1
                else []
            ),
            *([f"- Command: `{entry['command']}`"] if entry["command"] else []),
            f"- Factors on the deviations: {', '.join(f'{factor:.3f}' for factor in calibration)}. Read off half of the validation "
            f"volumes, they hold {checks['covered']} % of the errors of the other half within one deviation; 68 % were meant.",
            "- It is for research: its answer on a volume unlike the training is flagged, not right.",
            *(["", note.strip()] if note.strip() else []),
            "",
            "## Validation",
            "",
            f"Simulated volumes that were never trained on. Error in the mask, root sum of squares over that of the target: before the "
            f"network {checks['error_before']} %, after {checks['error_after']} %, the mean over {checks['volumes']} volumes.",
            "",
            "| volume | voxels, mm | B0, T | before, % | after, % |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
