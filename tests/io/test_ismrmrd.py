"""Raw data out and in again, and seen through the format's own reader."""

import sys

import numpy as np
import pytest
import torch

from paradia.errors import FileError, GeometryError, MetadataError, MissingDependencyError
from paradia.io.ismrmrd import read_raw, write_raw
from paradia.scan import GAMMA_BAR, Scan

ismrmrd = pytest.importorskip("ismrmrd")

SCAN = Scan((0.004, 0.0123, 0.02), 3.0)
SHAPE = (12, 9, 7)


def oblique():
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn * [1.1, 0.9, 2.5]
    affine[:3, 3] = [-31.0, 12.0, 55.0]
    return affine


@pytest.fixture
def measured(generator):
    samples = torch.randn((3, 5, *SHAPE), dtype=torch.complex64, generator=generator)
    sampled = torch.rand((3, *SHAPE[1:]), generator=generator) < 0.6
    noise = torch.randn((5, 31), dtype=torch.complex64, generator=generator)
    return samples, sampled, noise


def write(path, measured, **more):
    samples, sampled, noise = measured
    return write_raw(path, samples, sampled, SCAN, oblique(), noise=noise, repetition_time=0.0302, flip_angle=15.0, subject="07", **more)


def test_what_is_written_is_read(tmp_path, measured):
    samples, sampled, noise = measured
    raw = read_raw(write(tmp_path / "scan.h5", measured))
    assert torch.equal(raw.sampled, sampled)
    assert torch.equal(raw.samples, samples * sampled[:, None, None])
    assert torch.equal(raw.noise, noise)
    np.testing.assert_allclose(raw.affine, oblique(), atol=1e-5)
    np.testing.assert_allclose(raw.scan.echo_times, SCAN.echo_times, rtol=1e-6)
    assert raw.scan.b0 == 3.0
    assert raw.repetition_time == pytest.approx(0.0302)
    assert raw.flip_angle == 15.0
    assert raw.grid.shape == SHAPE
    np.testing.assert_allclose(raw.grid.b0_dir, oblique()[2, :3] / [1.1, 0.9, 2.5], atol=1e-5)
    torch.testing.assert_close(raw.covariance, noise @ noise.mH / 31)


def test_the_format_s_own_reader_understands_it(tmp_path, measured):
    samples, sampled, noise = measured
    with ismrmrd.Dataset(str(write(tmp_path / "scan.h5", measured, dwell=4e-6)), mode="r") as file:
        header = ismrmrd.xsd.CreateFromDocument(file.read_xml_header())
        acquisitions = [file.read_acquisition(n) for n in range(file.number_of_acquisitions())]
    assert header.experimentalConditions.H1resonanceFrequency_Hz == round(3 * GAMMA_BAR)
    assert header.acquisitionSystemInformation.receiverChannels == 5
    assert header.sequenceParameters.TR[0] == pytest.approx(30.2)
    assert header.subjectInformation.patientID == "07"
    space = header.encoding[0].encodedSpace
    assert (space.matrixSize.x, space.matrixSize.y, space.matrixSize.z) == SHAPE
    assert space.fieldOfView_mm.z == pytest.approx(7 * 2.5)
    assert header.encoding[0].encodingLimits.kspace_encoding_step_1.center == 4
    silent = [a for a in acquisitions if a.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    assert acquisitions[: len(silent)] == silent
    np.testing.assert_array_equal(np.concatenate([a.data for a in silent], 1), noise.numpy())
    lines = acquisitions[len(silent) :]
    assert len(lines) == int(sampled.sum())
    for line in lines[::7]:
        echo, y, z = line.idx.contrast, line.idx.kspace_encode_step_1, line.idx.kspace_encode_step_2
        assert sampled[echo, y, z]
        np.testing.assert_array_equal(line.data, samples[echo, :, :, y, z].numpy())
        assert line.center_sample == 6
        assert line.sample_time_us == pytest.approx(4)
        assert line.isChannelActive(4)
        assert not line.isChannelActive(5)
        np.testing.assert_allclose(np.array(line.read_dir[:]) * [-1, -1, 1], oblique()[:3, 0] / 1.1, atol=1e-6)
        middle = oblique() @ [6, 4, 3, 1]
        np.testing.assert_allclose(np.array(line.position[:]) * [-1, -1, 1], middle[:3], atol=1e-4)
    assert [a.is_flag_set(ismrmrd.ACQ_LAST_IN_MEASUREMENT) for a in acquisitions].index(True) == len(acquisitions) - 1
    assert sum(a.is_flag_set(ismrmrd.ACQ_FIRST_IN_CONTRAST) for a in acquisitions) == 3


def test_the_same_data_are_the_same_bytes(tmp_path, measured):
    one, other = (write(tmp_path / name, measured).read_bytes() for name in ("one.h5", "other.h5"))
    assert one == other


def test_echoes_may_come_one_by_one_and_blocks_do_not_show(tmp_path, measured, monkeypatch):
    samples, sampled, _ = measured
    monkeypatch.setattr("paradia.io.ismrmrd.BLOCK", 13)
    path = write_raw(tmp_path / "scan.h5", (echo for echo in samples), sampled, SCAN, oblique())
    raw = read_raw(path)
    assert torch.equal(raw.samples, samples * sampled[:, None, None])
    assert raw.noise is None
    assert raw.covariance is None
    assert raw.repetition_time is None


def test_lines_of_others_are_averaged_turned_or_passed_over(tmp_path, measured):
    samples, sampled, _ = measured
    sampled = torch.ones_like(sampled)
    path = write_raw(tmp_path / "scan.h5", samples, sampled, SCAN, oblique())
    with ismrmrd.Dataset(str(path), mode="r+") as file:
        again = file.read_acquisition(5)
        again.data[:] = 3 * again.data
        file.append_acquisition(again)
        turned = file.read_acquisition(8)
        turned.data[:] = turned.data[:, ::-1].copy()
        turned.set_flag(ismrmrd.ACQ_IS_REVERSE)
        file.write_acquisition(turned, 8)
        other = file.read_acquisition(9)
        other.set_flag(ismrmrd.ACQ_IS_NAVIGATION_DATA)
        file.append_acquisition(other)
    raw = read_raw(path)
    wanted = samples.clone()
    wanted[0, :, :, 0, 5] *= 2
    torch.testing.assert_close(raw.samples, wanted)


def test_bad_input_is_told_and_nothing_is_left(tmp_path, measured):
    samples, sampled, noise = measured
    path = tmp_path / "scan.h5"
    with pytest.raises(GeometryError, match="truth values"):
        write_raw(path, samples, sampled[:2], SCAN, oblique())
    with pytest.raises(GeometryError, match="echo 1 has shape"):
        write_raw(path, samples[:, :, :, 1:], sampled, SCAN, oblique())
    with pytest.raises(GeometryError, match="lines of 3 echoes, and samples of 2"):
        write_raw(path, samples[:2], sampled, SCAN, oblique())
    with pytest.raises(GeometryError, match="the noise has shape"):
        write_raw(path, samples, sampled, SCAN, oblique(), noise=noise[:3])
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileError, match="no file"):
        read_raw(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(FileError, match="no ISMRMRD file or is damaged"):
        read_raw(path)
    write(path, measured)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(FileError, match="no ISMRMRD file or is damaged"):
        read_raw(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<trajectory>cartesian", "<trajectory>radial", "Cartesian grid, has: radial"),
        ("<y>9</y>", "<y>4</y>", "does not fit its header"),
    ],
)
def test_headers_that_do_not_fit_are_told(tmp_path, measured, old, new, message):
    path = write(tmp_path / "scan.h5", measured)
    with ismrmrd.Dataset(str(path), mode="r+") as file:
        text = file.read_xml_header().decode()
        assert old in text
        file.write_xml_header(text.replace(old, new).encode())
    with pytest.raises((MetadataError, GeometryError), match=message):
        read_raw(path)


def test_without_the_package_the_error_says_what_to_install(tmp_path, measured, monkeypatch):
    monkeypatch.setitem(sys.modules, "ismrmrd", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'paradia\[raw\]'"):
        write(tmp_path / "scan.h5", measured)
