"""The pipeline's own laws, on a toy stage of its own making."""

import json
import re
import subprocess
import sys
import warnings

import pytest
import torch
from grimp import build_graph
from safetensors.torch import save

from paradia import registry
from paradia.errors import ConvergenceWarning, FileError, InputError, MaskError, NonFiniteError
from paradia.grid import Grid
from paradia.pipeline import twopass
from paradia.pipeline.execute import execute
from paradia.pipeline.protocol import Protocol
from paradia.pipeline.step import Step
from paradia.pipeline.store import Store, digest, step_key
from paradia.scan import Scan
from paradia.types import Decay, LocalField

SHAPE = (5, 4, 3)
calls: list[str] = []


def half(phase, magnitude, mask, *, cut: float = 0.5):
    calls.append("unwrap")
    return phase * cut


def subtract(total_field, mask, grid, *, amount: float = 0.1):
    calls.append("background")
    warnings.warn("slow today", ConvergenceWarning, stacklevel=2)
    smaller = mask.clone()
    smaller[0] = False
    return LocalField((total_field - amount) * smaller, smaller)


def decay(magnitude, mask, scan, *, callback=None):
    calls.append("relaxometry")
    if len(scan.echo_times) < 2:
        raise InputError("two echoes are needed, got one.")
    if callback:
        callback(1, 0.5)
    return Decay(magnitude[0] * mask, magnitude[1] * mask)


def everything(magnitude):
    return torch.ones(magnitude.shape[1:], dtype=torch.bool)


@pytest.fixture
def toys(monkeypatch):
    table = {
        ("unwrap", "half"): half,
        ("background", "subtract"): subtract,
        ("relaxometry", "decay"): decay,
        ("mask", "everything"): everything,
    }

    def load(stage, name):
        return registry.Method(stage, name, table[stage, name], "10.1/x")

    monkeypatch.setattr("paradia.pipeline.step.load", load)
    calls.clear()


@pytest.fixture
def board():
    generator = torch.Generator().manual_seed(1)
    return {
        "phase": torch.randn(2, *SHAPE, generator=generator),
        "magnitude": torch.rand(2, *SHAPE, generator=generator),
        "mask": torch.ones(SHAPE, dtype=torch.bool),
        "total_field": torch.randn(SHAPE, generator=generator),
        "grid": Grid(SHAPE),
        "scan": Scan((0.004, 0.008)),
    }


@pytest.fixture
def protocol(toys):
    return Protocol("toy", "", (Step("unwrap", "half"), Step("relaxometry", "decay"), Step("background", "subtract")))


def test_data_are_bound_by_name_and_results_named_by_the_stage(protocol, board):
    outcome = execute(protocol, board)
    assert torch.equal(outcome.maps["unwrapped"], board["phase"] / 2)
    assert torch.equal(outcome.maps["mask"], board["mask"])
    assert not outcome.maps["local_mask"][0].any()
    assert set(outcome.maps) == {"mask", "unwrapped", "r2star", "r2star_noise", "local_field", "local_mask"}
    assert outcome.messages == ["background subtract: slow today"]
    assert [s.gives for s in outcome.steps] == [("unwrapped",), ("r2star", "r2star_noise"), ("local_field", "mask")]


def test_a_second_run_computes_nothing_and_says_the_same(protocol, board, tmp_path):
    first = execute(protocol, board, Store(tmp_path))
    calls.clear()
    second = execute(protocol, board, Store(tmp_path))
    assert calls == []
    assert all(step.cached for step in second.steps)
    assert second.messages == first.messages
    assert all(torch.equal(first.maps[name], second.maps[name]) for name in first.maps)


@pytest.mark.parametrize("record", [{}, {"messages": []}, {"messages": [], "step": {"stage": "unwrap", "gone": 1, "gives": ["unwrapped"]}}])
def test_a_kept_result_that_another_version_described_is_made_again(record, protocol, board, tmp_path):
    first = execute(protocol, board, Store(tmp_path))
    (file,) = tmp_path.glob("unwrap-*.safetensors")
    file.write_bytes(save({"unwrapped": torch.zeros(2, *SHAPE)}, {"record": json.dumps(record)}))
    calls.clear()
    second = execute(protocol, board, Store(tmp_path))
    assert calls == ["unwrap"]
    assert torch.equal(second.maps["unwrapped"], first.maps["unwrapped"])


def test_only_what_changed_is_made_again(protocol, board, tmp_path):
    execute(protocol, board, Store(tmp_path))
    calls.clear()
    changed = Protocol("toy", "", (*protocol.steps[:2], Step("background", "subtract", {"amount": 0.2})))
    execute(changed, board, Store(tmp_path))
    assert calls == ["background"]
    calls.clear()
    other = {**board, "magnitude": board["magnitude"] + 1}
    execute(protocol, other, Store(tmp_path))
    assert calls == ["unwrap", "relaxometry"]


def test_new_code_is_a_new_result(protocol, board, tmp_path, monkeypatch):
    execute(protocol, board, Store(tmp_path))
    calls.clear()
    monkeypatch.setattr("paradia.pipeline.store.code_version", lambda stage, source: "another")
    execute(protocol, board, Store(tmp_path))
    assert calls == ["unwrap", "relaxometry", "background"]


def test_code_version_follows_the_method_and_the_layers_below(tmp_path):
    from paradia.pipeline.store import code_version

    plugin = tmp_path / "plugin.py"
    plugin.write_text("a = 1")
    before = code_version("inversion", str(plugin))
    plugin.write_text("a = 2")
    code_version.cache_clear()
    assert code_version("inversion", str(plugin)) != before
    assert code_version("inversion", "") != code_version("unwrap", "")


def test_an_optional_stage_that_cannot_work_is_left_out_and_said(protocol, board):
    board = {**board, "scan": Scan((0.004,))}
    outcome = execute(protocol, board)
    assert "r2star" not in outcome.maps
    assert any("relaxometry decay was left out: two echoes are needed" in m for m in outcome.messages)


def test_a_stage_that_must_work_stops_the_run(toys, board):
    del board["total_field"]
    with pytest.raises(InputError, match="background subtract needs total_field, and no earlier step gives it"):
        execute(Protocol("toy", "", (Step("background", "subtract"),)), board)


def test_progress_is_told(protocol, board, tmp_path):
    told = []
    execute(protocol, board, Store(tmp_path), progress=lambda step, state, value: told.append((step.stage, state)))
    assert told[:2] == [("unwrap", "start"), ("unwrap", "done")]
    assert ("relaxometry", "iterate") in told
    told.clear()
    execute(protocol, board, Store(tmp_path), progress=lambda step, state, value: told.append((step.stage, state)))
    assert told == [("unwrap", "kept"), ("relaxometry", "kept"), ("background", "kept")]


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.zeros(SHAPE, dtype=torch.bool), MaskError, "the mask is empty"),
        (torch.ones(3, 4, 5, dtype=torch.bool), MaskError, r"shape \(3, 4, 5\), the images \(5, 4, 3\)"),
    ],
)
def test_a_bad_mask_is_refused(protocol, board, mask, error, message):
    with pytest.raises(error, match=message):
        execute(protocol, {**board, "mask": mask})


def test_nan_is_refused_inside_the_mask_and_ignored_outside(protocol, board):
    board["phase"][0, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="holds NaN or Inf in 1 of the 60 voxels of the mask"):
        execute(protocol, board)
    board["phase"][0, 0, 0, 0] = 0
    invalid = torch.zeros(SHAPE, dtype=torch.bool)
    invalid[0, 0, 0] = True
    with pytest.raises(NonFiniteError, match="holds NaN or Inf in 1 of the 60 voxels of the mask"):
        execute(protocol, {**board, "invalid": invalid})
    board["mask"][0, 0, 0] = False
    execute(protocol, {**board, "invalid": invalid})


def test_a_mask_that_was_found_loses_what_the_files_did_not_hold(protocol, board):
    del board["mask"]
    invalid = torch.zeros(SHAPE, dtype=torch.bool)
    invalid[0, 0, :2] = True
    found = Protocol("toy", "", (Step("mask", "everything"), *protocol.steps))
    outcome = execute(found, {**board, "invalid": invalid})
    assert torch.equal(outcome.maps["mask"], ~invalid)
    assert not outcome.maps["r2star"][invalid].any()
    assert "2 voxels that hold NaN or Inf were taken out of the mask." in outcome.messages


def test_a_failed_save_leaves_nothing(protocol, board, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("paradia.io.atomic.os.fsync", full)
    with pytest.raises(FileError, match="The disk is full. Free some space"):
        execute(protocol, board, Store(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_leaves_no_half_written_result(tmp_path):
    """Killed in the middle of a save: only whole results have a name."""
    code = """
import os, sys, torch
from pathlib import Path
from paradia.io import atomic
from paradia.pipeline.store import Store
Store(Path(sys.argv[1])).save("whole", {"a": torch.ones(3)}, {})
atomic.os.fsync = lambda handle: os.kill(os.getpid(), 9)
Store(Path(sys.argv[1])).save("half", {"a": torch.ones(3)}, {})
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert [p.name for p in tmp_path.glob("*.safetensors")] == ["whole.safetensors"]
    assert Store(tmp_path).load("half", torch.device("cpu")) is None
    tensors, _ = Store(tmp_path).load("whole", torch.device("cpu"))
    assert torch.equal(tensors["a"], torch.ones(3))


def test_a_damaged_result_is_made_again(protocol, board, tmp_path):
    first = execute(protocol, board, Store(tmp_path))
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-7])
    calls.clear()
    again = execute(protocol, board, Store(tmp_path))
    assert calls == ["unwrap", "relaxometry", "background"]
    assert all(torch.equal(first.maps[name], again.maps[name]) for name in first.maps)


def test_digest_sees_content_type_and_shape():
    values = [torch.ones(6), torch.ones(2, 3), torch.ones(6, dtype=torch.float64), torch.zeros(6), Grid(SHAPE), Grid(SHAPE, (1, 1, 2))]
    assert len({digest(v) for v in values}) == len(values)
    assert digest(torch.ones(4, 3).T) == digest(torch.ones(3, 4))


def test_key_depends_on_device_and_settings(toys):
    keys = {
        step_key(Step("unwrap", "half"), {"phase": "a"}, torch.device("cpu")),
        step_key(Step("unwrap", "half"), {"phase": "a"}, torch.device("cuda")),
        step_key(Step("unwrap", "half"), {"phase": "b"}, torch.device("cpu")),
        step_key(Step("unwrap", "half", {"cut": 0.1}), {"phase": "a"}, torch.device("cpu")),
    }
    assert len(keys) == 4
    assert step_key(Step("unwrap", "half", {"cut": 0.5}), {"phase": "a"}, torch.device("cpu")) in keys


def spread(local_field, mask, grid, *, gain: float = 2.0):
    """A stand-in for an inversion whose zero hangs on its mask."""
    calls.append("inversion")
    return (gain * local_field + mask.sum() / 10) * mask


def middle(chi, mask):
    calls.append("reference")
    return (chi - chi[mask].mean()) * mask


@pytest.fixture
def twice(toys, monkeypatch):
    from paradia.pipeline import step as module

    toy = module.load
    table = {("inversion", "spread"): spread, ("reference", "middle"): middle}

    def load(stage, name):
        return registry.Method(stage, name, table[stage, name], "10.1/y") if (stage, name) in table else toy(stage, name)

    monkeypatch.setattr("paradia.pipeline.step.load", load)
    steps = (Step("relaxometry", "decay"), Step("background", "subtract"), Step("inversion", "spread"), Step("reference", "middle"))
    return Protocol("toy", "", steps, two_pass=True)


@pytest.fixture
def noisy(board):
    """One voxel far noisier than the others, in the middle of the mask."""
    noise = torch.full(SHAPE, 0.01)
    noise[2, 2, 1] = 0.05
    return {**board, "noise": noise}


def test_two_passes_are_put_together_as_by_hand(twice, noisy):
    outcome = execute(twice, noisy)
    hole = torch.ones(SHAPE, dtype=torch.bool)
    hole[2, 2, 1] = False
    local = noisy["total_field"] - 0.1
    first, second = 2 * local + 4.7, 2 * local + 4.8  # subtract takes the first plane of 12 from masks of 59 and 60 voxels
    by_hand = torch.where(hole, first, second - 0.1)
    inside = torch.ones(SHAPE, dtype=torch.bool)
    inside[0] = False
    by_hand = (by_hand - by_hand[inside].mean()) * inside
    torch.testing.assert_close(outcome.maps["chi"], by_hand, atol=1e-5, rtol=0)
    assert torch.equal(outcome.maps["local_mask"], inside)
    assert torch.equal(outcome.maps["mask"], noisy["mask"])


def test_two_passes_are_recorded_and_said(twice, noisy):
    outcome = execute(twice, noisy)
    assert [(s.stage, s.part) for s in outcome.steps] == [
        ("relaxometry", ""), ("two_pass", ""), ("background", "reliable voxels"), ("inversion", "reliable voxels"),
        ("background", "all voxels"), ("inversion", "all voxels"), ("two_pass", ""), ("reference", ""),
    ]  # fmt: skip
    assert outcome.messages[0].startswith("Two passes: the first left 1 voxels out, 1.7 % of the mask")
    assert outcome.messages[1:] == ["first pass, background subtract: slow today", "background subtract: slow today"]


def test_two_passes_are_taken_up_and_share_the_second_with_a_run_of_one(twice, noisy, tmp_path):
    from dataclasses import replace

    first = execute(twice, noisy, Store(tmp_path))
    calls.clear()
    again = execute(twice, noisy, Store(tmp_path))
    assert calls == []
    assert all(torch.equal(first.maps[name], again.maps[name]) for name in first.maps)
    assert [s.part for s in again.steps] == [s.part for s in first.steps]
    one = execute(replace(twice, two_pass=False), noisy, Store(tmp_path))
    assert calls == ["reference"]
    assert not any(step.part for step in one.steps)
    calls.clear()
    other = noisy["noise"].clone()
    other[3, 2, 1] = 0.05
    execute(twice, {**noisy, "noise": other}, Store(tmp_path))
    assert calls == ["background", "inversion", "reference"], "only the first pass and what follows"


def test_two_passes_without_noise_or_inversion_are_refused(twice, board):
    with pytest.raises(InputError, match="go by the noise of the field, which no step gives"):
        execute(twice, board)
    with pytest.raises(InputError, match="it is zero in all of the mask"):
        execute(twice, {**board, "noise": torch.zeros(SHAPE)})
    with pytest.raises(InputError, match="need an inversion or a single step"):
        execute(Protocol("toy", "", (Step("unwrap", "half"),), two_pass=True), board)


def test_code_version_reaches_the_stages_that_methods_ask_the_registry_for():
    """A result kept from before a change of the inversion that nextqsm begins with would be found again."""
    from paradia.pipeline.store import BORROWED, PACKAGE

    modules, asked = build_graph("paradia", cache_dir=None), dict[str, set[str]]()
    for file in PACKAGE.rglob("*.py"):
        others = set(re.findall(r'\bload\("(\w+)", "\w+"\)', file.read_text())) & set(registry.STAGES)
        module = ".".join(("paradia", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for name in registry.STAGES if others else ():
            if module.startswith(f"paradia.{name}.") or modules.chain_exists(f"paradia.{name}", module, as_packages=True):
                asked.setdefault(name, set()).update(others - {name})
    asked = {name: others for name, others in asked.items() if others}
    assert asked == {name: set(others) for name, others in BORROWED.items()}


def test_voxels_of_unknown_noise_are_not_reliable():
    mask, noise = torch.ones(4, 5, 6, dtype=torch.bool), torch.full((4, 5, 6), 0.01)
    noise[:3] = 0.0  # most of them, which would make the median nothing
    noise[3, 0, 0], noise[3, 0, 1] = torch.nan, 0.05
    expected = mask.clone()
    expected[:3], expected[3, 0, :2] = False, False
    assert torch.equal(twopass.reliable(mask, noise), expected)


def test_two_passes_are_put_together_without_what_is_no_number_outside():
    mask = torch.zeros(3, 4, 5, dtype=torch.bool)
    mask[1:, 1:, 1:] = True
    chi = torch.where(mask, 0.1, torch.nan)
    assert torch.equal(twopass.combine(chi, mask, chi, mask), torch.where(mask, chi, 0.0))
