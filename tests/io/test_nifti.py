import gzip

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paradia.errors import FileError, GeometryError, InputError, NonFiniteError, ParadiaError
from paradia.io.nifti import Volumes, as_paths, read, read_image, write

AFFINE = np.array([[-1.0, 0, 0, 10], [0, 1.16, -0.4, -5], [0, 0.31, 1.5, 3], [0, 0, 0, 1.0]])
AFFINE[:3, 1:3] = np.array([[0, 0], [0.96, -0.28], [0.28, 0.96]]) * [1.2, 1.5]
RNG = np.random.default_rng(7)
DATA = RNG.standard_normal((3, 5, 4, 7)).astype(np.float32)


def save(path, data, affine=AFFINE):
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("data", [DATA, DATA[0]], ids=["4-D", "3-D"])
def test_what_is_written_reads_back(tmp_path, suffix, data):
    path = write(tmp_path / f"a{suffix}", data, AFFINE, description="local field, ppm")
    back = read(path)
    assert back.data.dtype == np.float32
    np.testing.assert_array_equal(back.data, data if data.ndim == 4 else data[None])
    np.testing.assert_allclose(back.affine, AFFINE, atol=1e-6)
    header = nib.load(path).header
    assert header["qform_code"] == header["sform_code"] == 1
    np.testing.assert_allclose(header.get_qform(), AFFINE, atol=1e-5)
    assert header.get_xyzt_units() == ("mm", "sec")
    assert bytes(header["descrip"]).rstrip(b"\0") == b"local field, ppm"
    assert header.get_data_dtype() == np.float32


def test_the_same_map_is_the_same_file(tmp_path):
    a, b = (write(tmp_path / name, DATA[0], AFFINE) for name in ("a.nii.gz", "b.nii.gz"))
    assert a.read_bytes() == b.read_bytes()
    assert a.read_bytes()[4:8] == bytes(4), "the time of writing is left out"


def test_masks_are_small_integers(tmp_path):
    path = write(tmp_path / "mask.nii.gz", DATA[0] > 0, AFFINE)
    assert nib.load(path).get_data_dtype() == np.uint8
    with pytest.raises(FileError, match=r"ends in \.nii"):
        write(tmp_path / "mask.img", DATA[0] > 0, AFFINE)


def test_files_of_single_echoes_make_a_row(tmp_path):
    paths = [save(tmp_path / f"e{k}.nii.gz", DATA[k]) for k in range(3)]
    many, one = read(paths), read(save(tmp_path / "all.nii", np.moveaxis(DATA, 0, 3)))
    np.testing.assert_array_equal(many.data, one.data)
    assert many.paths == tuple(paths)
    assert one.shape == (5, 4, 7)


@pytest.mark.parametrize("shape", [(5, 4, 7, 1), (5, 4, 7, 1, 1), (5, 4, 7, 1, 3), (5, 4, 7, 3, 1)])
def test_axes_of_length_one_do_not_matter(tmp_path, shape):
    data = np.moveaxis(DATA, 0, 3)[..., : int(np.prod(shape[3:]))].reshape(shape)
    np.testing.assert_array_equal(read(save(tmp_path / "a.nii", data)).data, DATA[: int(np.prod(shape[3:]))])


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int32, np.float64, ">i2"])
def test_every_type_and_scaling_is_read(tmp_path, dtype):
    raw = RNG.integers(0, 200, (5, 4, 7))
    image = nib.Nifti1Image(raw.astype(dtype), AFFINE)
    path = tmp_path / "a.nii.gz"
    nib.save(image, path)
    np.testing.assert_array_equal(read(path).data[0], raw)
    scaled = nib.Nifti1Image(raw.astype(np.int16), AFFINE)
    scaled.header.set_slope_inter(2, -100)
    nib.save(scaled, path)
    np.testing.assert_allclose(read(path).data[0], raw * 2 - 100)


def test_nifti_2_and_lengths_in_metres(tmp_path):
    image = nib.Nifti2Image(DATA[0], np.diag([1e-3, 2e-3, 3e-3, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(np.diag(read(tmp_path / "a.nii").affine), [1, 2, 3, 1])


def test_read_image_gives_a_tensor_and_refuses_nan(tmp_path):
    image, affine = read_image(save(tmp_path / "a.nii", DATA[0]))
    assert tuple(image.shape) == (5, 4, 7)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-6)
    bad = DATA[0].copy()
    bad[0, 0, :2] = np.nan, np.inf
    with pytest.raises(NonFiniteError, match="in 2 voxels"):
        read_image(save(tmp_path / "b.nii", bad))


# Broken files


def test_missing_empty_and_foreign_files(tmp_path):
    with pytest.raises(FileError, match=r"no file .*a\.nii"):
        read(tmp_path / "a.nii")
    (tmp_path / "a.nii").touch()
    with pytest.raises(FileError, match=r"a\.nii is empty"):
        read(tmp_path / "a.nii")
    (tmp_path / "a.nii").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(FileError, match="git lfs pull"):
        read(tmp_path / "a.nii")
    (tmp_path / "a.nii").write_bytes(b"DICM" * 200)
    with pytest.raises(FileError, match="not a NIfTI file: it begins with b'DICM"):
        read(tmp_path / "a.nii")
    (tmp_path / "l.nii").symlink_to(tmp_path / "annex" / "key")
    with pytest.raises(FileError, match="datalad get"):
        read(tmp_path / "l.nii")
    with pytest.raises(FileError, match="cannot read"):
        read(tmp_path)
    with pytest.raises(InputError, match="no files"):
        read([])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path, suffix, keep):
    path = save(tmp_path / f"a{suffix}", DATA[0])
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(FileError, match=r"a\.nii.*(truncated|corrupt).*Copy or convert it again"):
        read(path)


def test_a_flipped_byte_in_a_packed_file_is_noticed(tmp_path):
    path = save(tmp_path / "a.nii.gz", DATA[0])
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(FileError, match="corrupt"):
        read(path)


def test_a_header_that_promises_the_moon_is_refused_before_memory_is_asked_for(tmp_path):
    path = save(tmp_path / "a.nii.gz", DATA[0])
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[42:48] = b"\xff\x7f" * 3  # 32767 voxels along each axis
    path.write_bytes(gzip.compress(raw))
    with pytest.raises(FileError, match=r"promises \d{12,} bytes"):
        read(path)


@pytest.mark.parametrize("dtype", ["complex64", [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_values_that_are_no_numbers(tmp_path, dtype):
    with pytest.raises(FileError, match="holds values of type"):
        read(save(tmp_path / "a.nii", np.zeros((3, 4, 5), dtype)))


@pytest.mark.parametrize("shape", [(5, 4), (5,), (5, 4, 7, 2, 3)])
def test_wrong_number_of_axes(tmp_path, shape):
    with pytest.raises(GeometryError, match=r"a\.nii has shape"):
        read(save(tmp_path / "a.nii", np.zeros(shape, np.float32)))


def test_a_singular_affine(tmp_path):
    image = nib.Nifti1Image(DATA[0], AFFINE)
    image.header.set_sform(np.diag([1, 0, 1, 1.0]), code=1)
    image.to_filename(tmp_path / "b.nii")
    raw = bytearray((tmp_path / "b.nii").read_bytes())
    raw[280:328] = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]], "<f4").tobytes()
    (tmp_path / "b.nii").write_bytes(raw)
    with pytest.raises(GeometryError, match=r"b\.nii has no valid affine"):
        read(tmp_path / "b.nii")


def test_files_on_different_grids_are_both_named_with_both_values(tmp_path):
    a = save(tmp_path / "a.nii", DATA[0])
    b = save(tmp_path / "b.nii", DATA[0][:4])
    with pytest.raises(GeometryError, match=r"b\.nii has shape \(4, 4, 7\), but .*a\.nii has \(5, 4, 7\)"):
        read([a, b])
    moved = AFFINE.copy()
    moved[0, 3] += 0.5
    c = save(tmp_path / "c.nii", DATA[0], moved)
    with pytest.raises(GeometryError, match=r"c\.nii and .*a\.nii have different affines.*0\.5 mm(.|\n)*10\.5(.|\n)*10\."):
        read([a, c])
    moved[0, 3] -= 0.499
    assert len(read([a, save(tmp_path / "d.nii", DATA[0], moved)]).data) == 2


def test_as_paths_and_labels(tmp_path):
    assert as_paths(None) == ()
    assert [p.name for p in as_paths("a.nii")] == ["a.nii"]
    assert [p.name for p in as_paths(["a.nii", "b.nii"])] == ["a.nii", "b.nii"]
    assert Volumes(DATA, AFFINE, as_paths(["x/a.nii", "x/b.nii"])).label == "x/a.nii … b.nii"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_broken_files_give_our_errors_or_data(tmp_path, data):
    packed = data.draw(st.booleans())
    kind = data.draw(st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]))
    raw = bytearray(kind((DATA[0] * 100).astype(np.int16), AFFINE).to_bytes())
    for _ in range(data.draw(st.integers(0, 6))):
        raw[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    if packed:
        raw = bytearray(gzip.compress(raw, 1))
        for _ in range(data.draw(st.integers(0, 2))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))]
    path = tmp_path / "broken.nii.gz"
    path.write_bytes(raw)
    try:
        volumes = read(path)
    except ParadiaError as error:
        assert "broken.nii.gz" in str(error)  # noqa: PT017
    else:
        assert volumes.data.ndim == 4
        assert volumes.data.dtype == np.float32


def test_an_image_of_unknown_orientation_stays_one(tmp_path):
    """No viewer letters the sides of a map whose images do not say how the head lay, and its voxels are where theirs are."""
    image = nib.Nifti1Image(DATA[0], None)
    image.header.set_zooms((1.2, 1.5, 3.0))
    nib.save(image, tmp_path / "raw.nii.gz")
    raw = read(tmp_path / "raw.nii.gz")
    assert not raw.oriented
    back = read(write(tmp_path / "map.nii.gz", raw.data[0], raw.affine, oriented=False))
    assert not back.oriented
    np.testing.assert_allclose(back.affine, raw.affine)
