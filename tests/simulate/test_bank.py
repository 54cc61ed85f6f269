from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from paradia.errors import FileError, MissingDependencyError
from paradia.io import bank as builder
from paradia.simulate import bank as module
from paradia.simulate.bank import BRAIN, DEEP, HEAD, Bank, load, pack, read


def test_it_ships_with_its_licences():
    licences = load().licences
    for notice in ("McGill University", "Permission to", "The nilearn developers", "The MIT licence", "pydeface"):
        assert notice in licences
    assert licences == (module.PATH.parent / "LICENCES.md").read_text(encoding="utf-8")
    assert module.PATH.stat().st_size < 6e6


def test_maps_have_their_channels_and_lie_about_the_midplane():
    bank = load()
    for m, channels in ((bank.brain, BRAIN), (bank.deep, DEEP), (bank.head, HEAD), (bank.deep_labels, DEEP)):
        assert m.values.shape[0] == len(channels)
        assert m.origin[0] + m.spacing * (m.values.shape[1] - 1) / 2 == pytest.approx(0)
        assert torch.equal(m.values, m.values.flip(1))
    odd = bank.widening.values[0].int() - 128
    assert torch.equal(odd, -odd.flip(0).clamp(max=127)) or int((odd + odd.flip(0)).abs().max()) <= 1
    assert int(bank.deep_labels.values.max()) == len(bank.names) - 1


def test_distances_are_in_mm():
    """Where a surface is crossed, its distance changes by a millimetre a millimetre."""
    m = load().head
    skin = (m.values[HEAD.index("skin")].float() - 128) / m.scale[0]
    slope = torch.stack(torch.gradient(skin, spacing=m.spacing)).norm(dim=0)
    near = (skin.abs() < 6)[2:-2, 2:-2, 30:-4]
    assert float(slope[2:-2, 2:-2, 30:-4][near].median()) == pytest.approx(1, abs=0.05)


def test_fibre_tensors_have_trace_one():
    m = load().fibres
    six = (m.values.float() - 128) / m.scale[0]
    assert float((six[:3].sum(0) - 1).abs().max()) < 0.05


def test_what_is_packed_can_be_read(tmp_path: Path):
    path = tmp_path / "copy.safetensors"
    path.write_bytes(pack(load()))
    _same(read(path), load())


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"\x10\0\0\0\0\0\0\0{}              "])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "bank.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileError, match="no anatomy bank that can be read"):
        read(path)


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "bank.safetensors"
    path.write_bytes(pack(load()))
    monkeypatch.setattr(module, "VERSION", 2)
    with pytest.raises(FileError, match="version 1, not 2"):
        read(path)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(builder, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install nilearn pydeface"):
        builder.build(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("nilearn") is None or importlib.util.find_spec("pydeface") is None,
    reason="the packages the bank is built from are not installed",
)
def test_the_packages_give_what_ships(tmp_path: Path):
    _same(read(builder.build(tmp_path)), load())


def _same(one: Bank, two: Bank) -> None:
    assert one.names == two.names
    assert one.licences == two.licences
    for name in ("brain", "deep", "deep_labels", "head", "fibres", "widening"):
        a, b = getattr(one, name), getattr(two, name)
        assert a[1:] == b[1:]
        # other versions of numpy and scipy may round a byte the other way
        assert float((a.values.int() - b.values.int()).abs().gt(1).float().mean()) < 1e-4
