"""Commands that are told to compute on the device write what they write when they compute on the CPU."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from paradia.cli import main

TIMES = ("--echo-times", "0.006", "0.012", "0.018", "--b0", "3")


@pytest.fixture(scope="module")
def files(board, tmp_path_factory):
    """Files of the head by the names of the data, B0 beside those of fields."""
    folder, grid = tmp_path_factory.mktemp("files"), board["grid"]
    found = {}
    for name in ("magnitude", "phase", "mask", "total_field", "local_field", "noise", "chi", "r2star", "r2prime"):
        values = board[name].float().numpy()
        found[name] = str(folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(np.moveaxis(values, 0, -1) if values.ndim == 4 else values, np.diag([*grid.voxel_size, 1.0])), found[name])
        (folder / f"{name}.json").write_text(json.dumps({"B0_dir": grid.b0_dir}))
    turned = folder / "turned.nii.gz"
    turned.symlink_to(found["total_field"])
    turned.with_name("turned.json").write_text(json.dumps({"B0_dir": (0.6, 0.1, 0.8)}))
    return found | {"turned": str(turned)}


def images(folder):
    return {path.name: nib.load(path).get_fdata() for path in sorted(folder.glob("*.nii.gz"))}


COMMANDS = {
    "qsm": lambda f, out: [
        *("qsm", f["magnitude"], f["phase"], str(out), *TIMES, "--mask", f["mask"], "--protocol", "fast"),
        *("--b0-dir", "0.2", "-0.3", "0.93"),
    ],
    "inversion": lambda f, out: ["inversion", "tv", str(out / "chi.nii.gz"), *image(f, "local_field", "mask", "noise"), "--max-iter", "3"],
    "background": lambda f, out: ["background", "pdf", str(out / "local.nii.gz"), *image(f, "total_field", "mask"), "--max-iter", "3"],
    "separation": lambda f, out: [
        *("separation", "closed-form", str(out / "pos.nii.gz"), *image(f, "chi", "r2prime", "mask"), *TIMES),
    ],
    "cosmos": lambda f, out: [
        *("cosmos", str(out / "chi.nii.gz"), "--field", f["total_field"], f["turned"], "--mask", *(2 * [f["mask"]])),
        *("--magnitude", *(2 * [f["magnitude"]]), "--background", "vsharp", "--registered"),
    ],
    "compare": lambda f, out: [
        "compare",
        str(out),
        *image(f, "local_field", "mask"),
        "--truth",
        f["chi"],
        "--methods",
        "inversion=tkd,tsvd",
    ],
    "tune": lambda f, out: [
        *("tune", "inversion", "tkd", *image(f, "local_field", "mask", "noise"), "--knob", "threshold", "--values", "0.05:0.3:5"),
        *("--refine", "0", "--out", str(out)),
    ],
}


def image(files, *names):
    return [word for name in names for word in (f"--{name.replace('_', '-')}", files[name])]


def no_tensor_there(maps):
    return all(value.is_cpu for value in maps.values() if isinstance(value, torch.Tensor)) or pytest.fail("a map was not brought back")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_writes_the_same(name, files, device, tmp_path, capsys, monkeypatch):
    """Reports are drawn of what was brought back, which takes long: here they are not."""
    monkeypatch.setattr("paradia.cli.job.write_report", lambda path, record, maps, **_: no_tensor_there(maps) and path)
    written = {}
    for place in ("cpu", "cuda"):
        out = tmp_path / place
        out.mkdir()
        status = main([*COMMANDS[name](files, out), "--device", place])
        assert status == 0, capsys.readouterr().err
        written[place] = out
    expected, found = images(written["cpu"]), images(written["cuda"])
    assert expected.keys() == found.keys()
    for file, values in expected.items():
        np.testing.assert_allclose(found[file], values, atol=1e-5 * np.abs(values).max(), rtol=0)
    names = [sorted(str(path.relative_to(out)) for path in out.rglob("*") if "steps" not in path.parts) for out in written.values()]
    assert names[0] == names[1]
    tables = [[line.split(",")[0] for line in path.read_text().splitlines()] for out in written.values() for path in out.glob("*.csv")]
    assert tables[: len(tables) // 2] == tables[len(tables) // 2 :]


def test_auto_is_the_device(files, device, tmp_path, monkeypatch):
    seen = []
    run = torch.fft.rfftn
    monkeypatch.setattr(torch.fft, "rfftn", lambda image, *more, **how: seen.append(image.device) or run(image, *more, **how))
    assert main(["inversion", "tkd", str(tmp_path / "chi.nii.gz"), *image(files, "local_field", "mask")]) == 0
    assert device in seen
