import json
import re

import nibabel as nib
import numpy as np
import pytest
import torch

from paradia.errors import GeometryError, InputError, MaskError, MetadataError, NonFiniteError, PhaseError
from paradia.io.acquisition import load_mask
from paradia.io.loose import coils_from_files, from_files

SHAPE = (9, 8, 7)
ANGLE = 0.3
AFFINE = np.eye(4)
AFFINE[:3, :3] = np.array([[1, 0, 0], [0, np.cos(ANGLE), -np.sin(ANGLE)], [0, np.sin(ANGLE), np.cos(ANGLE)]]) * [1, 1.2, 1.5]
RNG = np.random.default_rng(11)
PHASE = RNG.uniform(-np.pi, np.pi, (*SHAPE, 2)).astype(np.float32)
MAGNITUDE = RNG.uniform(1, 2, (*SHAPE, 2)).astype(np.float32)
TIMES = {"echo_times": (0.004, 0.008), "b0": 3.0}


def save(path, data, affine=AFFINE, sidecar=None, codes=True):
    image = nib.Nifti1Image(data, affine)
    if not codes:
        image.set_sform(None, 0)
        image.set_qform(None, 0)
    nib.save(image, path)
    if sidecar is not None:
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))
    return path


@pytest.fixture
def files(tmp_path):
    return save(tmp_path / "mag.nii.gz", MAGNITUDE), save(tmp_path / "ph.nii.gz", PHASE)


def test_everything_is_there(files):
    got = from_files(*files, **TIMES)
    assert got.magnitude.dtype == got.phase.dtype == torch.float32
    np.testing.assert_array_equal(got.phase, np.moveaxis(PHASE, 3, 0))
    np.testing.assert_array_equal(got.magnitude, np.moveaxis(MAGNITUDE, 3, 0))
    assert got.grid.shape == SHAPE
    assert got.grid.voxel_size == pytest.approx((1, 1.2, 1.5), rel=1e-5)
    assert got.grid.b0_dir == pytest.approx((0, np.sin(ANGLE), np.cos(ANGLE)), abs=1e-6)
    assert got.sources == files
    assert got.name == "mag"
    assert got.nonfinite is None
    assert got.mask is None
    assert len(got.notes) == 2


def test_the_sign_is_turned_on_demand_and_noted(files):
    plain, turned = from_files(*files, **TIMES), from_files(*files, **TIMES, flip_sign=True)
    torch.testing.assert_close(turned.phase, -plain.phase, rtol=0, atol=0)
    assert any("sign of the phase was turned" in note for note in turned.notes)


def test_several_files_and_one_are_the_same(files, tmp_path):
    single = [[save(tmp_path / f"{n}{k}.nii.gz", d[..., k]) for k in (0, 1)] for n, d in (("m", MAGNITUDE), ("p", PHASE))]
    torch.testing.assert_close(from_files(*single, **TIMES).phase, from_files(*files, **TIMES).phase)


def test_real_and_imaginary(files, tmp_path):
    real = save(tmp_path / "re.nii.gz", MAGNITUDE * np.cos(PHASE))
    imaginary = save(tmp_path / "im.nii.gz", MAGNITUDE * np.sin(PHASE))
    got, plain = from_files((), (), real=real, imaginary=imaginary, flip_sign=True, **TIMES), from_files(*files, **TIMES)
    torch.testing.assert_close(got.phase, -plain.phase)
    torch.testing.assert_close(got.magnitude, plain.magnitude)
    with pytest.raises(PhaseError, match="needed both"):
        from_files((), (), real=real, **TIMES)
    with pytest.raises(InputError, match="not both"):
        from_files(*files, real=real, imaginary=imaginary, **TIMES)
    with pytest.raises(PhaseError, match="nowhere negative"):
        from_files((), (), real=files[0], imaginary=files[0], **TIMES)
    with pytest.raises(PhaseError, match=r"mag\.nii\.gz is nowhere negative, so that these are no real and imaginary parts"):
        from_files((), (), real=files[0], imaginary=files[1], **TIMES)
    with pytest.raises(PhaseError, match="same value everywhere"):
        from_files((), (), real=real, imaginary=save(tmp_path / "c.nii.gz", 0 * PHASE), **TIMES)


@pytest.mark.parametrize("row", ["mag", "ph"])
def test_sidecars_of_either_file_are_read(files, tmp_path, row):
    (tmp_path / f"{row}.json").write_text(json.dumps({"EchoTime": [0.004, 0.008], "MagneticFieldStrength": 3, "B0_dir": [0, 0, 1]}))
    got = from_files(*files)
    assert got.scan.echo_times == (0.004, 0.008)
    assert got.grid.b0_dir == (0, 0, 1)
    assert any("from B0_dir" in note for note in got.notes)
    assert from_files(*files, b0_dir=(0, 3, 4)).grid.b0_dir == pytest.approx((0, 0.6, 0.8))


@pytest.mark.parametrize("other", [[0.005, 0.008], [0.004], "4 ms", ["4 ms", 1]])
def test_sidecars_that_contradict_each_other(files, tmp_path, other):
    for row, times in (("mag", [0.004, 0.008]), ("ph", other)):
        (tmp_path / f"{row}.json").write_text(json.dumps({"EchoTime": times, "MagneticFieldStrength": 3}))
    with pytest.raises(MetadataError, match=r"mag\.nii\.gz and .*ph\.nii\.gz belong to one echo.*0\.004"):
        from_files(*files)


def test_a_header_without_orientation_is_noted(tmp_path):
    paths = [save(tmp_path / n, d, codes=False) for n, d in (("m.nii.gz", MAGNITUDE), ("p.nii.gz", PHASE))]
    got = from_files(*paths, **TIMES)
    assert got.grid.b0_dir == (0, 0, 1)
    assert any("gives no orientation" in note for note in got.notes)


def test_a_direction_that_contradicts_the_affine_holds_and_is_warned_of(files, tmp_path, caplog):
    told = {"EchoTime": [0.004, 0.008], "MagneticFieldStrength": 3, "B0_dir": [1, 0, 0]}
    (tmp_path / "mag.json").write_text(json.dumps(told))
    got = from_files(*files)
    assert got.grid.b0_dir == (1, 0, 0)
    said = r"from B0_dir\. The affine says \(0\.0000, 0\.2955, 0\.9553\), 90° from it, and was not believed"
    assert any(re.search(said, note) for note in got.notes)
    assert re.search(rf"mag\.nii\.gz: .*{said}", caplog.text)
    caplog.clear()
    for near in ([0, np.sin(ANGLE + 0.08), np.cos(ANGLE + 0.08)], [0, -np.sin(ANGLE), -np.cos(ANGLE)]):
        (tmp_path / "mag.json").write_text(json.dumps(told | {"B0_dir": near}))
        assert from_files(*files).grid.b0_dir == pytest.approx(near, abs=1e-6)
    stated = from_files(*files, b0_dir=(1, 0, 0))  # whoever states it knows
    assert any("90° from it" in note for note in stated.notes)
    save(tmp_path / "bare.nii.gz", PHASE, codes=False)
    assert from_files((), tmp_path / "bare.nii.gz", **TIMES, b0_dir=(1, 0, 0)).grid.b0_dir == (1, 0, 0)
    assert not caplog.text


def two_forms(path, data, sform, qform, codes, pixdim=None):
    image = nib.Nifti1Image(data, sform)
    image.header.set_sform(sform, codes[0])
    image.header.set_qform(qform, codes[1])
    if pixdim:
        image.header["pixdim"][1:4] = pixdim
    nib.save(image, path)
    return path


def test_affines_of_one_header_that_contradict_each_other(tmp_path, caplog):
    """As of an image that was registered: the sform places it, the qform has the scanner's axes."""
    turned = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]]) @ AFFINE

    def read_in(*header):
        caplog.clear()
        return from_files((), two_forms(tmp_path / "p.nii.gz", PHASE, *header), **TIMES)

    got = read_in(turned, AFFINE, (4, 1))
    assert got.grid.b0_dir == pytest.approx((0, np.sin(ANGLE), np.cos(ANGLE)), abs=1e-6)
    np.testing.assert_allclose(got.affine, turned, atol=1e-5)
    said = "The axes of the sform and the qform of p.nii.gz lie 90° apart: B0 is read from the qform"
    assert any(said in note for note in got.notes)
    assert said in caplog.text
    for codes in ((1, 1), (1, 4), (2, 3)):
        got = read_in(turned, AFFINE, codes)
        assert got.grid.b0_dir == pytest.approx((0, np.cos(ANGLE), -np.sin(ANGLE)), abs=1e-6)
        assert any("90° apart; the sform was taken" in note for note in got.notes)
    moved = AFFINE.copy()
    moved[:3, 3] = 5
    for header in ((AFFINE, AFFINE, (4, 1)), (AFFINE, moved, (4, 1)), (turned, AFFINE, (0, 1)), (turned, AFFINE, (1, 0))):
        read_in(*header)
        assert not caplog.text
    got = read_in(AFFINE, AFFINE / 2, (1, 1))
    said = "p.nii.gz contradicts itself: voxels of 1 × 1.2 × 1.5 by its sform, which was taken, of 0.5 × 0.6 × 0.75 by its qform"
    assert any(said in note for note in got.notes)
    assert said in caplog.text
    got = read_in(AFFINE, AFFINE, (1, 0), (1, 1.2, 3))
    assert any("1 × 1.2 × 3 by its pixdim" in note for note in got.notes)
    both = from_files(
        (), (), real=tmp_path / "p.nii.gz", imaginary=two_forms(tmp_path / "q.nii.gz", -PHASE, AFFINE, AFFINE, (1, 1)), **TIMES
    )
    assert any("by its pixdim" in note for note in both.notes)


@pytest.mark.parametrize("echoes", [slice(None), slice(1)])
def test_lost_slices_are_told_of(files, tmp_path, caplog, echoes):
    magnitude, phase = MAGNITUDE.copy(), PHASE.copy()
    magnitude[:, :, 2:4, echoes] = phase[:, :, 2:4, echoes] = 0
    magnitude[:, :, 6] = phase[:, :, 6] = 0  # the end is no loss
    paths = save(tmp_path / "m.nii.gz", magnitude), save(tmp_path / "p.nii.gz", phase)
    said = "is zero all over in planes between others, 2, 3 along the third axis, counted from 0: slices seem to be lost."
    assert [note for note in from_files(*paths, **TIMES).notes if said in note] == [f"The magnitude {said}"]
    assert caplog.text.count(said) == 1
    assert [note for note in from_files(files[0], paths[1], **TIMES).notes if said in note] == [f"The phase {said}"]


def test_what_is_missing_is_told(files):
    with pytest.raises(PhaseError, match=r"no phase, only .*mag\.nii\.gz"):
        from_files(files[0], (), **TIMES)
    with pytest.raises(PhaseError, match="no magnitude either"):
        from_files((), (), **TIMES)
    with pytest.raises(MetadataError, match=r"echo times of .*mag\.nii\.gz are not known.* in seconds, or state --echo-times\."):
        from_files(*files)
    root = files[0].parent  # run has no option for it
    with pytest.raises(MetadataError, match=r"echo times of .*mag\.nii\.gz are not known.* in seconds\.$"):
        from_files(*files, root=root)
    with pytest.raises(MetadataError, match=r"field strength of .*mag\.nii\.gz is not known.* in tesla\.$"):
        from_files(*files, root=root, echo_times=(0.004, 0.008))
    with pytest.raises(MetadataError, match=r"field strength of .*mag\.nii\.gz is not known"):
        from_files(*files, echo_times=(0.004, 0.008))
    with pytest.raises(MetadataError, match=r"mag\.nii\.gz.*Milliseconds"):
        from_files(*files, echo_times=(4, 8), b0=3)
    got = from_files(files[0], (), need_phase=False, **TIMES)
    assert not got.phase.any()
    assert from_files((), files[1], **TIMES).magnitude.unique().tolist() == [1.0]


def test_the_field_strength_need_not_be_known_where_nothing_goes_by_it(files):
    loose = {"echo_times": (0.004, 0.008), "need_b0": False}
    got = from_files(*files, **loose)
    assert got.scan.echo_times == (0.004, 0.008)
    assert "The field strength is not known, and nothing goes by it." in got.notes
    assert from_files(*files, **loose, b0=1.5).scan.b0 == 1.5
    sidecar = files[0].with_name("mag.json")
    sidecar.write_text('{"MagneticFieldStrength": 7}')
    assert from_files(*files, **loose).scan.b0 == 7.0
    sidecar.write_text('{"MagneticFieldStrength": "seven"}')
    assert "The field strength is not known, and nothing goes by it." in from_files(*files, **loose).notes


def test_pairs_that_do_not_fit_are_told(files, tmp_path):
    with pytest.raises(GeometryError, match="holds 1 echoes, but .* holds 2"):
        from_files(files[0], save(tmp_path / "one.nii.gz", PHASE[..., 0]), **TIMES)
    with pytest.raises(GeometryError, match="has shape"):
        from_files(files[0], save(tmp_path / "less.nii.gz", PHASE[1:]), **TIMES)
    with pytest.raises(GeometryError, match="different affines"):
        from_files(files[0], save(tmp_path / "moved.nii.gz", PHASE, np.diag([1, 1.2, 1.5, 1.0])), **TIMES)


def test_magnitude_and_phase_exchanged_or_void(files, tmp_path):
    with pytest.raises(InputError, match=r"ph\.nii\.gz holds negative.*exchanged"):
        from_files(files[1], files[1], **TIMES)
    with pytest.raises(PhaseError, match="cannot be told"):
        from_files(files[0], files[0], **TIMES)
    with pytest.raises(InputError, match="zero everywhere"):
        from_files(save(tmp_path / "zero.nii.gz", 0 * MAGNITUDE), files[1], **TIMES)
    with pytest.raises(PhaseError, match="every value is 0"):
        from_files(files[0], save(tmp_path / "zero.nii.gz", 0 * MAGNITUDE), **TIMES)


def test_slight_negatives_of_resampling_are_clipped(files, tmp_path):
    dips = MAGNITUDE.copy()
    dips[0, 0, 0, 0] = -1e-4
    got = from_files(save(tmp_path / "dips.nii.gz", dips), files[1], **TIMES)
    assert got.magnitude.min() == 0
    assert any("Negative magnitudes" in note for note in got.notes)


def test_nan_is_set_to_zero_and_its_place_kept(files, tmp_path):
    holes = PHASE.copy()
    holes[2, 3, 4, 1] = np.nan
    holes[5, 5, 5, 0] = np.inf
    got = from_files(files[0], save(tmp_path / "holes.nii.gz", holes), **TIMES)
    assert got.nonfinite.nonzero().tolist() == [[2, 3, 4], [5, 5, 5]]
    assert got.phase.isfinite().all()
    assert not got.magnitude[:, 2, 3, 4].any()
    assert any(note.startswith("2 voxels hold NaN") for note in got.notes)
    assert from_files(*files, **TIMES).nonfinite is None
    with pytest.raises(NonFiniteError, match=r"echo 1 of .*nan\.nii\.gz holds NaN or Inf in every voxel"):
        from_files(save(tmp_path / "nan.nii.gz", np.nan * MAGNITUDE), files[1], **TIMES)
    holes[..., 1] = np.nan
    with pytest.raises(NonFiniteError, match=r"echo 2 of .*gone\.nii\.gz holds NaN"):
        from_files(files[0], save(tmp_path / "gone.nii.gz", holes), **TIMES)
    parts = [save(tmp_path / f"p{echo}.nii.gz", holes[..., echo]) for echo in (0, 1)]
    with pytest.raises(NonFiniteError, match=r"p1\.nii\.gz holds NaN"):
        from_files(files[0], parts, **TIMES)
    half, other = MAGNITUDE.copy(), PHASE.copy()
    half[:5], other[5:] = np.nan, np.nan
    with pytest.raises(NonFiniteError, match=r"half\.nii\.gz and .*other\.nii\.gz together hold NaN"):
        from_files(save(tmp_path / "half.nii.gz", half), save(tmp_path / "other.nii.gz", other), **TIMES)


def test_masks(files, tmp_path):
    inside = np.zeros(SHAPE, np.uint8)
    inside[2:5, 2:5, 2:5] = 1
    got = from_files(*files, **TIMES, mask=save(tmp_path / "mask.nii.gz", inside))
    assert got.mask.dtype == torch.bool
    np.testing.assert_array_equal(got.mask, inside > 0)
    assert got.sources[-1].name == "mask.nii.gz"
    with pytest.raises(MaskError, match=r"empty\.nii\.gz is empty"):
        load_mask(save(tmp_path / "empty.nii.gz", 0 * inside), got)
    shares = np.where(inside, np.float32(0.8), np.float32(0.3))  # as after resampling
    shares[4, 4, 4] = 0.4
    assert int(load_mask(save(tmp_path / "shares.nii.gz", shares), got).sum()) == 26
    assert int(load_mask(save(tmp_path / "grey.nii.gz", 255.0 * inside), got).sum()) == 27
    with pytest.raises(MaskError, match=r"low\.nii\.gz is empty: no voxel is above 0\.5"):
        load_mask(save(tmp_path / "low.nii.gz", shares / 2), got)
    with pytest.raises(MaskError, match="has 2 volumes"):
        load_mask(save(tmp_path / "two.nii.gz", np.stack([inside, inside], 3)), got)
    with pytest.raises(GeometryError, match=r"small\.nii\.gz has shape \(8, 8, 7\), but .*mag\.nii\.gz has \(9, 8, 7\)"):
        load_mask(save(tmp_path / "small.nii.gz", inside[1:]), got)
    with pytest.raises(GeometryError, match="different affines"):
        load_mask(save(tmp_path / "moved.nii.gz", inside, np.eye(4)), got)
    nothing = MAGNITUDE.copy()
    nothing[2:5, 2:5, 2:5] = 0
    with pytest.raises(MaskError, match="does not overlap the data.*27 voxels"):
        from_files(save(tmp_path / "n.nii.gz", nothing), files[1], **TIMES, mask=tmp_path / "mask.nii.gz")


def test_a_plane_that_one_coil_does_not_see_is_not_lost(tmp_path, caplog):
    """Far from a coil its integers are zero; lost is what no coil holds."""
    magnitude = np.ones((*SHAPE, 2, 3), np.float32)
    magnitude[3, :, :, :, 0] = 0
    phase = save(tmp_path / "phase.nii.gz", np.repeat(PHASE[..., None], 3, -1))
    mag = save(tmp_path / "mag.nii.gz", magnitude)
    assert not any("slices seem to be lost" in note for note in coils_from_files(mag, phase, **TIMES).notes)
    assert not caplog.records
    magnitude[3] = 0
    said = coils_from_files(save(mag, magnitude), phase, **TIMES).notes
    assert any("planes between others, 3 along the first axis" in note for note in said)
