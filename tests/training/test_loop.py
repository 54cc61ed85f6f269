"""A network learns what can be learnt, and a training goes on where it stopped."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace

import pytest
import torch

from paradia.errors import FileError, InputError
from paradia.nets.store import unpack
from paradia.nets.unrolled import centred
from paradia.training import crops, loop
from paradia.training.crops import Pool
from paradia.training.loop import Plan, loss, train, validate
from paradia.training.tasks import TASKS, Lesson, Task
from paradia.training.volumes import read

SMALL = {"widths": (8, 16)}


def toy(volume, generator):
    """The smooth part of a map is to be taken away: a convolution does it."""
    mask = volume.window.mask
    image = 30 * volume.maps["chi_local"]
    smooth = torch.nn.functional.avg_pool3d(image[None], 3, 1, 1)[0] * mask
    return Lesson(image[None], image[None], (image - smooth)[None], 0.5 * torch.ones_like(image)[None], mask)


TOY = Task("toy", {"inputs": 1, "outputs": 2, "widths": (8,), "fold": 1}, toy)
PLAN = Plan(steps=200, batch=2, crop=16, rate=5e-3, pool=4, crops=8, average=0.95, every=100)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    out, told = tmp_path_factory.mktemp("run"), []
    train(TOY, folder, out, PLAN, tell=told.append)
    return out, told


def rows_of(out):
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_learns(trained):
    rows = rows_of(trained[0])
    assert [row["step"] for row in rows] == ["100", "200"]
    assert float(rows[1]["after"]) < 0.5 * float(rows[1]["before"])
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert 20 < float(rows[1]["within"]) < 99
    assert [json.loads(line)["step"] for line in trained[1]] == [100, 200]


def test_the_average_is_what_was_validated(trained, folder):
    net = unpack((trained[0] / "average.safetensors").read_bytes())
    checks = [read(folder / f"{number:07d}.safetensors") for number in (0, 1, 2)]
    again = validate(TOY, net, checks)
    assert again["after"] == pytest.approx(float(rows_of(trained[0])[1]["after"]), rel=0.02)  # weights in half precision
    assert net.about["step"] == "200"
    assert json.loads(net.about["plan"])["crop"] == 16


def test_it_begins_with_given_weights(trained, folder, tmp_path):
    released, rows = trained[0] / "average.safetensors", rows_of(trained[0])
    train(TOY, folder, tmp_path / "again", Plan(steps=2, batch=1, crop=8, rate=1e-9, pool=4, every=2), start=released, tell=str)
    (row,) = rows_of(tmp_path / "again")
    assert float(row["after"]) == pytest.approx(float(rows[1]["after"]), rel=0.05)
    with pytest.raises(FileError, match="no weights"):
        train(TOY, folder, tmp_path / "none", PLAN, start=tmp_path / "none.safetensors")
    other = Task("other", TOY.architecture, toy)
    with pytest.raises(InputError, match="trained for toy, not for other"):
        train(other, folder, tmp_path / "none", PLAN, start=released)
    assert not (tmp_path / "none").exists()


def test_it_goes_on_where_it_stopped(folder, tmp_path):
    told, steps = [], []
    plan = Plan(steps=20, batch=1, crop=8, pool=4, every=10)
    train(TOY, folder, tmp_path, plan, tell=told.append, callback=lambda step, error: steps.append((step, error)))
    assert [step for step, _ in steps] == list(range(1, 21))
    assert all(error > 0 for _, error in steps)
    before = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert before["step"] == 20
    train(TOY, folder, tmp_path, Plan(steps=30, batch=1, crop=8, pool=4, every=10), tell=told.append)
    assert "going on from step 20" in told
    assert [row["step"] for row in rows_of(tmp_path)] == ["10", "20", "30"]
    after = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert after["step"] == 30
    assert after["optimiser"]["state"][0]["step"] == 30
    assert not torch.equal(before["net"]["head.weight"], after["net"]["head.weight"])
    train(TOY, folder, tmp_path, Plan(steps=30, batch=1, crop=8, pool=4, every=10))  # done: nothing happens
    assert len(rows_of(tmp_path)) == 3


def test_crops_are_the_same_however_fast_the_disk_is(folder, monkeypatch):
    def drawn(count=12):
        pool = Pool(TOY, folder, batch=2, crop=8, size=3, crops=4, seed=1)
        generator = torch.Generator().manual_seed(0)
        found = torch.stack([torch.cat(pool.draw(generator), 1) for _ in range(count)])
        pool.close()
        return found

    expected = drawn()
    monkeypatch.setattr(crops, "read", lambda path, device: time.sleep(0.05) or read(path))
    assert torch.equal(drawn(), expected)


def test_a_training_that_goes_on_sees_other_volumes_than_at_its_beginning(folder, tmp_path, monkeypatch):
    seen, made = [], Pool._lesson
    monkeypatch.setattr(Pool, "_lesson", lambda self, number: seen.append(number) or made(self, number))
    train(TOY, folder, tmp_path, Plan(steps=40, batch=1, crop=8, pool=4, crops=2, every=40), tell=str)
    first = list(seen)
    assert first == list(range(len(first)))
    assert len(first) >= 4 + (40 - 4) // 2
    seen.clear()
    train(TOY, folder, tmp_path, Plan(steps=42, batch=1, crop=8, pool=4, crops=2, every=40), tell=str)
    begun = 4 + (40 - 4) // 2 - 4 + 1  # those that lay in memory, then new ones
    assert seen[0] == begun
    plan = Plan(steps=43, batch=1, crop=8, pool=12, crops=2, every=40)  # stopped before the pool is full
    train(TOY, folder, tmp_path, plan, tell=str)
    seen.clear()
    train(TOY, folder, tmp_path, replace(plan, steps=44), tell=str)
    assert seen[0] >= begun  # and does not go back to its beginning


def test_an_interruption_keeps_what_was_learnt(folder, tmp_path, monkeypatch):
    count, kept = 0, loop.loss

    def interrupted(*data):
        nonlocal count
        count += 1
        if count == 8:
            raise KeyboardInterrupt
        return kept(*data)

    monkeypatch.setattr(loop, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(TOY, folder, tmp_path, Plan(steps=50, batch=1, crop=8, pool=4, every=50))
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 7


def test_validation_volumes_are_never_drawn(folder, monkeypatch):
    drawn = []
    monkeypatch.setattr(crops, "read", lambda path, device: drawn.append(int(path.stem)) or read(path))
    pool = Pool(TOY, folder, batch=2, crop=8, size=4, crops=1, seed=1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        channels, target, mask = pool.draw(generator)
    pool.close()
    assert channels.shape == (2, 1, 8, 8, 8)
    assert target.shape == mask.shape == (2, 1, 8, 8, 8)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert len(drawn) > 8
    assert min(drawn) >= 1000
    assert len(set(drawn)) > 1  # each lesson draws its own


def test_an_empty_folder_is_said(tmp_path):
    with pytest.raises(InputError, match="no training volumes .* Write some first"):
        train(TOY, tmp_path, tmp_path / "out", Plan(steps=1))


def test_the_loss_is_least_at_the_truth_with_the_scale_of_the_error():
    target, mask = torch.randn(1, 1, 9, 8, 7), torch.ones(1, 1, 9, 8, 7)
    mask[..., :3] = 0
    error = 0.3 * torch.randn(target.shape)
    errors = [float(loss(torch.cat([target + share * error, target * 0 - 2], 1), target, mask, 2.0)[0]) for share in (0, 0.5, 1)]
    assert errors[0] < errors[1] < errors[2]
    size = (error * mask).abs().sum() / mask.sum()
    scales = {
        s: float(loss(torch.cat([target + error, torch.full_like(target, s)], 1), target, mask, 2.0)[0])
        for s in (-3.0, float(size.log()), 1.0)
    }
    assert min(scales, key=scales.get) == float(size.log())
    assert float(loss(torch.cat([target + error, target], 1), target, mask, 2.0)[1]) == pytest.approx(float(size))
    spoilt = target + 50 * (1 - mask)
    torch.testing.assert_close(loss(torch.cat([spoilt, target * 0], 1), target, mask, 2.0)[1], torch.tensor(0.0))


def test_what_is_rare_and_strong_pulls_the_answer_from_the_median_towards_the_mean():
    """Three voxels in ten hold 5, the others 0: the best constant lies between the median, 0, and the mean, 1.5."""
    target = torch.zeros(1, 1, 10, 10, 10)
    target[..., :3] = 5.0
    mask = torch.ones_like(target)

    def of(constant, squares):
        answer = torch.cat([torch.full_like(target, constant), torch.zeros_like(target)], 1)
        return float(loss(answer, target, mask, squares)[0])

    def best(squares):
        return min(torch.linspace(-0.2, 1.8, 41).tolist(), key=lambda constant: of(constant, squares))

    assert 0.2 < best(2.0) < 1.5
    assert best(0.0) == pytest.approx(0, abs=0.03)


def test_a_task_says_how_much_squares_count(folder, tmp_path, monkeypatch):
    seen, kept = [], loop.loss
    monkeypatch.setattr(loop, "loss", lambda *given: seen.append(given[3]) or kept(*given))
    train(replace(TOY, squares=0.7), folder, tmp_path, Plan(steps=1, batch=1, crop=8, pool=4, every=1), tell=str)
    assert seen == [0.7]


def test_no_single_error_outweighs_a_head():
    target = torch.zeros(1, 1, 8, 8, 8)

    def of(error):
        answer = torch.zeros(1, 2, 8, 8, 8)
        answer[0, 0, 4, 4, 4] = error
        return float(loss(answer, target, torch.ones_like(target), 2.0)[0])

    assert of(4000.0) / of(400.0) == pytest.approx(10, rel=0.1)


def test_a_crop_counts_by_how_far_its_start_is_off():
    """The same error matters three times as much where the start is a quarter as far off, but no end where it is right."""
    mask = torch.ones(1, 1, 8, 8, 8)
    small = 0.001  # of which the square is nothing
    error = small * torch.ones_like(mask)

    def of(off):
        target = torch.full_like(mask, off)
        return float(loss(torch.cat([target + error, torch.zeros_like(mask)], 1), target, mask, 2.0)[0]) - float(
            loss(torch.cat([target, torch.zeros_like(mask)], 1), target, mask, 2.0)[0]
        )

    ratio = (0.4 + loop.LITTLE) / (0.1 + loop.LITTLE)
    assert of(0.1) / of(0.4) == pytest.approx(ratio, rel=0.15)  # deviations count alike
    assert of(0.0) == pytest.approx(small * loop.USUALLY / loop.LITTLE, rel=0.1)


@pytest.mark.parametrize("name", ["varnet", "bgnet"])
def test_tasks_start_where_the_methods_start(name, prepared):
    """What a lesson shows has the sizes that the architecture asks for, and an answer of zero is the start."""
    task = TASKS[name]
    lesson = task.lesson(prepared, torch.Generator().manual_seed(1))
    assert lesson.channels.shape[0] == task.architecture["inputs"]
    assert 2 * lesson.target.shape[0] == task.architecture["outputs"]
    truth = prepared.maps["local_field"] if name == "bgnet" else None
    if truth is None:
        truth = centred(prepared.maps["chi_pos"] - prepared.maps["chi_neg"], prepared.window.mask)
    torch.testing.assert_close(lesson.target[0], truth)
    before = (lesson.start - lesson.target)[0][lesson.mask].norm() / lesson.target[0][lesson.mask].norm()
    assert before < 0.8  # the start is good already
    assert (lesson.unit[0][lesson.mask] > 0).all()


def test_slopes_of_the_error_count_alike_at_every_face_of_the_mask():
    target, scale = torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8)
    mask = torch.zeros(1, 1, 8, 8, 8)
    mask[..., 2:5] = 1
    totals = []
    for face in (2, 4):
        error = torch.zeros_like(target)
        error[..., face] = 0.1
        totals.append(float(loss(torch.cat([error, scale], 1), target, mask, 0.0)[0]))
    assert totals[0] == pytest.approx(totals[1])
    even = torch.cat([torch.full_like(target, 0.1), scale], 1)
    sizes = float(loss(even, target, mask, 0.0)[1]) * 5 * (1 + 0.1 / 5)  # weighed by USUALLY / LITTLE; the likelihood; no slope
    assert float(loss(even, target, mask, 0.0)[0]) == pytest.approx(sizes)
