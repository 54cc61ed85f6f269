"""Released weights hold their hash, their calibration and their card."""

from __future__ import annotations

import json
import tomllib

import pytest
import torch

from paradia.errors import FileError, InputError
from paradia.nets import store
from paradia.nets.familiar import novelty
from paradia.nets.unet import UNet3d
from paradia.training import NETWORKS
from paradia.training import release as released
from paradia.training.judging import COVERED, Judged
from paradia.training.loop import Plan, train
from paradia.training.release import release
from paradia.training.tasks import TASKS, Lesson, Task
from paradia.training.volumes import read


def noisy(volume, generator):
    """Nothing can be learnt: the target is noise of a known law around the start."""
    mask = volume.window.mask
    error = 0.2 * torch.randn(mask.shape, generator=generator)
    image = volume.maps["chi_local"] * 20
    return Lesson(image[None], image[None], (image + error * mask)[None], torch.ones_like(image)[None], mask)


TASK = Task("toy", {"inputs": 1, "outputs": 2, "widths": (4,)}, noisy)


@pytest.fixture
def run(tmp_path):
    """An untrained network: it answers zero, with deviations of one."""
    path = tmp_path / "average.safetensors"
    path.write_bytes(store.pack(UNet3d(**TASK.architecture), dict(TASK.architecture), task="toy", step="7", plan=json.dumps({"batch": 4})))
    return path


def test_deviations_are_calibrated_on_volumes_that_were_held_out(run, folder, tmp_path):
    done = release(TASK, run, folder, version="3", cards=tmp_path / "models", folder=tmp_path / "weights", note="A toy.")
    assert done.calibration[0] == pytest.approx(0.2, rel=0.03)  # 68.27 % of normal errors lie within one standard deviation
    assert done.covered == pytest.approx(100 * COVERED, abs=1.5)
    net = store.unpack(done.weights.read_bytes())
    assert net.calibration == done.calibration
    assert json.loads(net.about["voxel_size"]) == [4.4, 4.6]
    volume = read(folder / "0001001.safetensors")
    lesson = noisy(volume, torch.Generator().manual_seed(0))
    assert 0 < novelty(net, lesson.channels, lesson.mask) < 1.5
    assert novelty(net, 5 * torch.randn_like(lesson.channels), lesson.mask) > 3


def test_what_was_familiar_before_stays_so(run, folder, tmp_path):
    """Weights that were trained on from released ones know their volumes too, and say after which they came."""
    first = release(TASK, run, folder, version="3", cards=tmp_path / "models", folder=tmp_path / "first").weights
    net = store.unpack(first.read_bytes())
    header = {name: value for name, value in net.about.items() if name != "architecture"} | {
        "voxel_size": "[0.8, 4.5]",
        "familiar": "before",
    }
    first.write_bytes(store.pack(net, dict(TASK.architecture), **header))
    done = release(TASK, run, folder, version="4", cards=tmp_path / "models", folder=tmp_path / "second", after=first)
    about = store.unpack(done.weights.read_bytes()).about
    assert about["familiar"] == "before"
    assert about["version"] == "4"
    assert json.loads(about["voxel_size"]) == [0.8, 4.6]
    assert "edges 4.40 to 4.60 mm, after those of version 3; no scan of anybody" in done.card.read_text()


def test_the_table_names_the_file_by_its_hash_and_keeps_other_entries(run, folder, tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "weights.toml").write_text('[other]\nfile = "other.safetensors"\nsha256 = "00"\n[other.validation]\nvolumes = 2\n')
    done = release(TASK, run, folder, version="3", cards=tmp_path / "models", folder=weights, command='paradia "train"')
    table = tomllib.loads((weights / "weights.toml").read_text())
    assert table["other"] == {"file": "other.safetensors", "sha256": "00", "validation": {"volumes": 2}}
    assert table["toy"]["steps"] == 7
    assert table["toy"]["command"] == 'paradia "train"'
    assert table["toy"]["validation"]["volumes"] == 3
    monkeypatch.setattr(store, "FOLDER", weights)
    store.network.cache_clear()
    assert store.network("toy").calibration == done.calibration
    store.network.cache_clear()
    card = done.card.read_text()
    assert table["toy"]["sha256"] in card
    assert "# toy, version 3" in card
    assert card.count("| 4.40 × 4.40 × 4.60 |".replace("|", "").strip()) == 3
    assert not list(weights.glob("*.part"))


def test_what_cannot_be_released_is_said(run, folder, tmp_path):
    places = {"version": "1", "cards": tmp_path, "folder": tmp_path / "weights"}
    with pytest.raises(FileError, match="there are no weights .* Train first, paradia train toy"):
        release(TASK, tmp_path / "none.safetensors", folder, **places)
    with pytest.raises(InputError, match="was trained for toy, not for other"):
        release(Task("other", TASK.architecture, noisy), run, folder, **places)
    with pytest.raises(InputError, match="holds 0 validation and 0 training volumes"):
        release(TASK, run, tmp_path / "empty", **places)
    with pytest.raises(InputError, match="must be above 0 and at most 1, got 1.5"):
        release(TASK, run, folder, share=1.5, **places)
    with pytest.raises(InputError, match="does not tell familiar, voxel_size, version: it was never released"):
        release(TASK, run, folder, after=run, **places)
    assert not (tmp_path / "weights").exists()


def test_each_half_is_covered_by_the_deviations_of_the_other(run, folder, tmp_path, monkeypatch):
    """Errors of every second volume are three times as large: one half covers 99.7 % of the other, that a quarter of the first."""

    def judged(task, net, volume, number, name):
        ratios = (1 + 2 * (number % 2)) * torch.randn(1, 40_000, generator=torch.Generator().manual_seed(number)).abs()
        return Judged(name, volume.window.grid.voxel_size, 3.0, 50.0, 40.0, ratios)

    monkeypatch.setattr(released, "judge", judged)
    done = release(TASK, run, folder, version="1", cards=tmp_path, folder=tmp_path / "weights")
    normal = torch.distributions.Normal(0.0, 1.0)
    wide, narrow = (float(2 * normal.cdf(torch.tensor(x)) - 1) for x in (3.0, 1 / 3))
    assert done.covered == pytest.approx(50 * (wide + narrow), abs=0.5)


def test_a_bold_network_is_tempered(folder, tmp_path):
    """Its answers are, its calibration is that of what remains, and the card says so."""
    net = UNet3d(**TASK.architecture)
    torch.nn.init.normal_(net.head.weight, std=0.2)
    path = tmp_path / "average.safetensors"
    path.write_bytes(store.pack(net, dict(TASK.architecture), task="toy", step="7"))
    whole, half = (
        release(TASK, path, folder, version="1", cards=tmp_path / f"{share}", folder=tmp_path / f"weights{share}", share=share)
        for share in (1.0, 0.5)
    )
    x = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        bold, mild = (store.unpack(one.weights.read_bytes())(x) for one in (whole, half))
    torch.testing.assert_close(mild[:, :1], 0.5 * bold[:, :1], atol=1e-3, rtol=1e-2)
    assert half.calibration[0] < whole.calibration[0]
    assert "multiplied by 0.5" in half.card.read_text()
    assert "multiplied" not in whole.card.read_text()


def test_the_names_known_without_torch_are_those_of_the_tasks():
    assert set(NETWORKS) == set(TASKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bgnet", "varnet"])
def test_the_real_tasks_train_and_are_released(name, folder, tmp_path):
    task = Task(name, {**TASKS[name].architecture, "widths": (4, 8)}, TASKS[name].lesson)
    average = train(task, folder, tmp_path / "run", Plan(steps=6, batch=1, crop=16, pool=4, every=3))
    done = release(task, average, folder, version="0", cards=tmp_path, folder=tmp_path / "weights")
    assert all(0.1 < factor < 10 for factor in done.calibration)
    assert store.unpack(done.weights.read_bytes()).about["task"] == name
