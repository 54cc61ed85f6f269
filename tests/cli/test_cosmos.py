"""``paradia cosmos`` from files to χ, on a head that was really turned."""

import json

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from paradia.cli import main
from paradia.fft import crop, fast_shape, pad
from paradia.grid import Grid
from paradia.io.nifti import read, write
from paradia.metrics.accuracy import correlation, slope
from paradia.operators.dipole import Dipole
from paradia.simulate.head import head

SHAPE, VOXEL = (54, 65, 52), (3.5, 3.4, 3.6)
TURNS = [(0, 0, 0), (22, 0, 5), (-8, 20, 0), (0, -24, -6)]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A head whose anatomy itself is turned before it is sampled: fields are those of the turned χ under B0 along z."""
    folder = tmp_path_factory.mktemp("orientations")
    affine = np.diag([*VOXEL, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(SHAPE) - 1) / 2
    truth = head(Grid(SHAPE, VOXEL), seed=2, texture_strength=0.5)
    grid = Grid(SHAPE, VOXEL)
    magnitude = truth.magnitude0 * torch.exp(-0.015 * truth.r2star)
    from paradia.registration.resample import resample

    names = {kind: [] for kind in ("field", "mask", "magnitude", "noise")}
    for number, angles in enumerate(TURNS):
        motion = np.eye(4)  # from the turned head's world to the first's: the image of the turned head is read through it
        motion[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix().T
        motion[:3, 3] = (0, 0, 0) if number == 0 else (2.0, -3.0, 1.0)

        def turned(image, order=3, motion=motion):
            return resample(image, affine, SHAPE, affine, motion, order=order)

        mask = turned(truth.mask.float(), 1) > 0.5
        wide = fast_shape(SHAPE, SHAPE)
        local = crop(Dipole(grid.with_shape(wide))(pad(turned(truth.chi * truth.mask, 1), wide)), SHAPE)
        generator = torch.Generator().manual_seed(number)
        local = (local + 0.001 * torch.randn(SHAPE, generator=generator)) * mask
        bright = turned(magnitude * truth.mask, 1).clamp_min(0) * mask
        for kind, image in (("field", local), ("mask", mask.float()), ("magnitude", bright), ("noise", 0.001 * mask)):
            path = folder / f"{kind}{number}.nii.gz"
            write(path, image.float().numpy(), affine)
            names[kind].append(str(path))
    return names, truth, folder


def command(names, out, *extra):
    options = [part for kind in ("field", "mask", "magnitude") for part in (f"--{kind}", *names[kind])]
    return main(["cosmos", str(out), *options, *extra])


@pytest.mark.slow
def test_turned_scans_give_the_truth(scans, tmp_path):
    """With the noise of each; the registered ones below come without."""
    names, truth, _ = scans
    out = tmp_path / "chi.nii.gz"
    assert command(names, out, "--noise", *names["noise"]) == 0
    chi = torch.from_numpy(read(out).data[0])
    inside = (chi != 0) & truth.mask
    assert inside.sum() > 0.75 * truth.mask.sum()
    assert correlation(chi, truth.chi, inside) > 0.9
    assert abs(slope(chi, truth.chi, inside) - 1) < 0.35  # the turned heads were interpolated twice, in voxels of 3.5 mm
    told = json.loads((tmp_path / "chi.json").read_text())
    for angles, direction, angle in zip(TURNS, told["B0_dirs"], told["RotationAngles"], strict=True):
        turn = Rotation.from_euler("xyz", angles, degrees=True)
        expected = turn.inv().apply([0, 0, 1])  # scipy's rotation of the field's direction into the head
        assert np.degrees(np.arccos(min(1.0, float(np.dot(expected, direction))))) < 0.5
        assert abs(angle - np.degrees(turn.magnitude())) < 0.5


def test_registered_scans_take_their_directions_from_the_sidecars(scans, tmp_path, capsys):
    """The same head under fields of other directions needs no registration."""
    names, truth, _ = scans
    affine = read(names["field"][0]).affine
    grid = Grid(SHAPE, VOXEL)
    given = {"field": [], "mask": names["mask"][:1] * 3, "magnitude": names["magnitude"][:1] * 3}
    mask = torch.from_numpy(read(names["mask"][0]).data[0] > 0)
    for number, b0 in enumerate([(0, 0, 1), (0.5, 0, 0.8), (0, -0.5, 0.8)]):
        wide = fast_shape(SHAPE, SHAPE)
        local = crop(Dipole(Grid(wide, VOXEL, b0))(pad(truth.chi * mask, wide)), SHAPE) * mask
        path = tmp_path / f"field{number}.nii.gz"
        write(path, local.numpy(), affine)
        path.with_name(f"field{number}.json").write_text(json.dumps({"B0_dir": list(grid.b0_dir if number == 0 else b0)}))
        given["field"].append(str(path))
    out = tmp_path / "chi.nii.gz"
    assert command(given, out, "--registered") == 0
    chi = torch.from_numpy(read(out).data[0])
    assert correlation(chi, truth.chi, mask) > 0.95
    told = json.loads((tmp_path / "chi.json").read_text())
    assert told["B0_angles"] == pytest.approx([0, np.degrees(np.arctan2(0.5, 0.8)), np.degrees(np.arctan2(0.5, 0.8))], abs=0.01)
    assert "RotationAngles" not in told, "nobody registered them here"
    assert "field1.nii.gz: B0 32.0° from that of the first" in capsys.readouterr().err


def test_what_does_not_fit_is_told(scans, tmp_path, capsys):
    names, _, _ = scans
    fewer = {**names, "mask": names["mask"][:2]}
    assert command(fewer, tmp_path / "chi.nii.gz") == 2
    assert "one file of each kind" in capsys.readouterr().err
    assert command(names, tmp_path / "chi.png") == 2
    assert "ends in .nii.gz" in capsys.readouterr().err
    assert command(names, tmp_path / "chi.nii.gz", "--registered") == 2
    assert "nothing beside it tells where B0 pointed" in capsys.readouterr().err
    assert command(names, f"{names['field'][0]}/chi.nii.gz") == 2
    said = capsys.readouterr().err
    assert "cannot write" in said
    assert "°" not in said, "before anything is registered"
    assert command(names, names["field"][0]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    for extra, sentence in (
        (("--weight", "-1"), "inversion.weight must not be negative, got -1"),
        (("--weight", "nan"), "inversion.weight must be a number, got nan"),
        (("--background", "harperella"), "background harperella needs phase, scan, which"),
        (("--background", "vshrap"), "vsharp"),
    ):
        assert command(names, tmp_path / "chi.nii.gz", *extra) == 2
        assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["field", "mask"])
def test_a_file_of_several_volumes_is_refused(kind, scans, tmp_path, capsys):
    """Which of them is meant nobody said; of magnitudes they are echoes."""
    names, _, _ = scans
    image = read(names[kind][1])
    twice = write(tmp_path / "twice.nii.gz", np.concatenate([image.data, image.data]), image.affine)
    assert command({**names, kind: [names[kind][0], str(twice), *names[kind][2:]]}, tmp_path / "chi.nii.gz") == 2
    assert "twice.nii.gz has 2 volumes. Give one file of one volume an orientation." in capsys.readouterr().err
