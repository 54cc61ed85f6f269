"""Weights are found, are those released, and come back as they went in."""

from __future__ import annotations

import hashlib
import tomllib

import pytest
import torch

from paradia.errors import WeightsError
from paradia.nets import store
from paradia.nets.unet import UNet3d

ARCHITECTURE = {"inputs": 2, "outputs": 4, "widths": (4, 8)}


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    torch.manual_seed(2)
    net = UNet3d(**ARCHITECTURE)
    torch.nn.init.normal_(net.head.weight, std=0.1)
    content = store.pack(net, ARCHITECTURE, task="toy", calibration="[1.5, 0.7]")
    (tmp_path / "toy.safetensors").write_bytes(content)
    (tmp_path / "weights.toml").write_text(f'[toy]\nfile = "toy.safetensors"\nsha256 = "{hashlib.sha256(content).hexdigest()}"\n')
    monkeypatch.setattr(store, "FOLDER", tmp_path)
    store.network.cache_clear()
    yield net
    store.network.cache_clear()


def test_what_goes_in_comes_back(shipped):
    net = store.network("toy")
    for (name, got), (_, kept) in zip(net.state_dict().items(), shipped.state_dict().items(), strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, kept.half().float()), name
    x = torch.randn(1, 2, 8, 8, 8)
    torch.testing.assert_close(net(x), shipped.eval()(x), rtol=0.02, atol=0.02)


def test_it_is_ready_and_frozen_and_knows_its_header(shipped):
    net = store.network("toy", "cpu")
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    assert net.calibration == (1.5, 0.7)
    assert net.about["task"] == "toy"
    assert UNet3d(**ARCHITECTURE).calibration == (1.0, 1.0)
    assert store.network("toy", "cpu") is net


def test_an_unknown_name_lists_the_known(shipped):
    with pytest.raises(WeightsError, match="no weights named 'tyo'. There are: toy"):
        store.network("tyo")


def test_a_changed_file_is_refused(shipped):
    path = store.FOLDER / "toy.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"toy.safetensors of toy are not the released ones: their SHA-256 is [0-9a-f]{64}, not"):
        store.network("toy")


def test_a_missing_file_is_named(shipped):
    (store.FOLDER / "toy.safetensors").unlink()
    with pytest.raises(WeightsError, match="toy.safetensors of toy are missing from the installation"):
        store.network("toy")


def test_every_shipped_file_is_the_one_that_its_card_names():
    folder = store.Path(store.__file__).parent / "weights"
    if not (folder / "weights.toml").is_file():
        pytest.skip("no weights are released yet")
    cards = tomllib.loads((folder / "weights.toml").read_text())
    assert {card["file"] for card in cards.values()} == {path.name for path in folder.glob("*.safetensors")}
    for card in cards.values():
        content = (folder / card["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == card["sha256"]
        assert len(content) <= 12e6
        store.unpack(content)
    assert sum((folder / card["file"]).stat().st_size for card in cards.values()) <= 40e6
