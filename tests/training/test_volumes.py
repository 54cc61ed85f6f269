"""Volumes on disk are what was prepared, and what is prepared is what the methods will be given."""

from __future__ import annotations

import warnings

import pytest
import torch

from paradia.background.joint import joint as background
from paradia.errors import ParadiaWarning
from paradia.inversion.l1bayes import l1bayes
from paradia.inversion.nltv import nltv
from paradia.simulate.examples import Recipe
from paradia.singlestep.joint import joint
from paradia.singlestep.nextqsm import nextqsm
from paradia.sources.fit import QUICK
from paradia.training import volumes
from paradia.training.volumes import prepare, produce, read, write

MAPS = {"chi_local", "chi_joint", "local_joint", "rest_joint", "field", "chi_settled", "field_settled"}


def test_what_is_written_is_read(prepared, tmp_path):
    write(tmp_path / "7.safetensors", prepared)
    again = read(tmp_path / "7.safetensors")
    assert again[2:] == prepared[2:]
    assert again.window.grid == prepared.window.grid
    assert torch.equal(again.window.mask, prepared.window.mask)
    assert set(again.maps) == set(prepared.maps)
    for name, image in prepared.maps.items():
        assert again.maps[name].dtype == torch.float32
        torch.testing.assert_close(again.maps[name], image, rtol=1e-3, atol=1e-6)  # half precision; a ppb at 1 ppm
    assert [path.name for path in tmp_path.iterdir()] == ["7.safetensors"]


def test_strong_and_weak_values_fit_into_half_precision(prepared, tmp_path):
    maps = {"chi_pos": 9.4 * torch.ones_like(prepared.maps["noise"]), "noise": 1e-4 * torch.ones_like(prepared.maps["noise"])}
    write(tmp_path / "8.safetensors", prepared._replace(maps=maps))
    again = read(tmp_path / "8.safetensors").maps
    inside = prepared.window.mask
    torch.testing.assert_close(again["chi_pos"][inside], maps["chi_pos"][inside], rtol=1e-3, atol=0)
    torch.testing.assert_close(again["noise"][inside], maps["noise"][inside], rtol=1e-3, atol=0)


def test_starts_are_those_of_the_methods(example, prepared):
    """From the whole volume, by the public methods: else a network would begin elsewhere than it was trained to."""
    window = prepared.window
    effort = {"start": QUICK.start, "rounds": QUICK.rounds, "max_iter": QUICK.max_iter}
    chi = joint(example.total_field, example.mask, example.grid, example.noise, **effort)
    torch.testing.assert_close(window.take(chi), prepared.maps["chi_joint"], rtol=1e-3, atol=1e-5)
    local = background(example.total_field, example.mask, example.grid, example.noise, **effort).local_field
    torch.testing.assert_close(window.take(local), prepared.maps["local_joint"], rtol=1e-3, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParadiaWarning)  # a head of 4 mm is like none of the training
        settled = nextqsm(example.total_field, example.mask, example.grid, example.noise, stages=1, refine=13, **effort)
    torch.testing.assert_close(window.take(settled.chi), prepared.maps["chi_settled"], rtol=0.02, atol=1e-3)
    seen = window.take(settled.local_field + settled.residual)
    torch.testing.assert_close(seen, prepared.maps["field_settled"], rtol=0.02, atol=1e-3)
    field = window.put(prepared.maps["field"])
    one = l1bayes(field, example.mask, example.grid, example.noise, max_iter=7, tol=1.0)
    other = nltv(field, example.mask, example.grid, example.noise, max_iter=24, tol=torch.inf)
    chi = (one + other) / 2
    torch.testing.assert_close(window.take(chi), prepared.maps["chi_local"], rtol=0.02, atol=2e-3)


def test_the_field_is_local_with_its_noise_and_leftover(example, prepared):
    maps, mask = prepared.maps, prepared.window.mask
    noise = ((maps["field"] - maps["local_field"] - maps["leftover"]) / maps["noise"])[mask]
    assert float(noise.mean()) == pytest.approx(0, abs=0.05)
    assert float(noise.std()) == pytest.approx(1, abs=0.05)
    assert not torch.equal(prepare(example, 6).maps["field"], maps["field"])
    assert torch.equal(prepare(example, 5).maps["field"], maps["field"])
    for name in MAPS:
        assert maps[name][~mask].abs().max() == 0


def test_volumes_that_are_there_are_passed_over(example, prepared, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(volumes, "example", lambda recipe, seed: asked.append(seed) or example)
    monkeypatch.setattr(volumes, "prepare", lambda found, seed: prepared)
    folder = tmp_path / "new"
    produce(folder, Recipe(), first=1000, count=2)
    (folder / "0001000.safetensors").unlink()
    produce(folder, Recipe(), first=999, count=3)
    assert asked == [1000, 1001, 999, 1000]
    assert sorted(path.stem for path in folder.iterdir()) == ["0000999", "0001000", "0001001"]
    assert "0000999: " in capsys.readouterr().out
