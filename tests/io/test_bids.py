import gzip
import json
import logging
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paradia.errors import FileError, GeometryError, InputError, MaskError, MetadataError, PhaseError, UnknownNameError
from paradia.io import bids

AFFINE = np.diag([1.0, 1.2, 1.5, 1.0])
SHAPE = (6, 5, 7)


def touch(root, *names):
    for name in names:
        sub, _, rest = name.partition("_")
        ses = rest.partition("_")[0] if rest.startswith("ses-") else ""
        path = root / sub / ses / "anat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def describe(root):
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "test", "BIDSVersion": "1.10.0"}))
    return root


def pair(prefix, echoes=(1, 2), parts=("mag", "phase"), suffix="MEGRE"):
    return [f"{prefix}_echo-{e}_part-{p}_{suffix}.nii.gz" for e in echoes for p in parts]


@pytest.fixture
def root(tmp_path):
    return describe(tmp_path / "study")


def real_data(root, prefix="sub-01", echoes=(0.004, 0.008), parts=("mag", "phase"), **more):
    rng = np.random.default_rng(3)
    phase = rng.uniform(-np.pi, np.pi, (len(echoes), *SHAPE))
    magnitude = rng.uniform(1, 2, (len(echoes), *SHAPE))
    values = {"mag": magnitude, "phase": phase, "real": magnitude * np.cos(phase), "imag": magnitude * np.sin(phase)}
    touch(root, *pair(prefix, range(1, len(echoes) + 1), parts))
    folder = next(root.glob(f"{prefix.partition('_')[0]}/**/anat"))
    for k, te in enumerate(echoes):
        for part in parts:
            path = folder / f"{prefix}_echo-{k + 1}_part-{part}_MEGRE.nii.gz"
            nib.save(nib.Nifti1Image(values[part][k].astype(np.float32), AFFINE), path)
        (folder / f"{prefix}_echo-{k + 1}_MEGRE.json").write_text(json.dumps({"EchoTime": te, "MagneticFieldStrength": 3, **more}))
    return magnitude, phase


def test_files_are_grouped_by_acquisition_and_ordered_by_echo(root):
    touch(root, *pair("sub-01_ses-1_acq-x_run-1", range(1, 12)), *pair("sub-01_ses-1_acq-x_run-02"), *pair("sub-02"))
    entries = bids.find(root)
    assert [e.name for e in entries] == ["sub-01_ses-1_acq-x_run-02", "sub-01_ses-1_acq-x_run-1", "sub-02"]
    assert entries[1].echoes["phase"] == tuple(range(1, 12))
    assert [p.name for p in entries[1].magnitude][8:10] == [f"sub-01_ses-1_acq-x_run-1_echo-{k}_part-mag_MEGRE.nii.gz" for k in (9, 10)]
    assert (entries[0].subject, entries[0].session, entries[2].session) == ("01", "1", None)
    assert all(p.is_file() for e in entries for p in (*e.magnitude, *e.phase))
    assert len({hash(e.name) for e in entries}) == 3


@pytest.mark.parametrize("suffix", ["GRE", "T2starw"])
def test_single_echo_and_four_dimensional_layouts(root, suffix):
    touch(root, f"sub-01_part-mag_{suffix}.nii", f"sub-01_part-phase_{suffix}.nii", "sub-01_T1w.nii.gz", f"sub-01_part-mag_{suffix}.json")
    (entry,) = bids.find(root)
    assert entry.complete
    assert entry.name == "sub-01"
    assert entry.echoes == {"magnitude": (1,), "phase": (1,)}


def test_two_suffixes_of_one_name_get_two_names(root):
    touch(root, *pair("sub-01"), *pair("sub-01", suffix="T2starw"))
    assert [e.name for e in bids.find(root)] == ["sub-01_MEGRE", "sub-01_T2starw"]


def test_what_is_left_out_changes_no_name(root, caplog):
    touch(root, *pair("sub-01"), *pair("sub-01", suffix="T2starw", parts=("mag",)))
    with caplog.at_level(logging.WARNING):
        assert [e.name for e in bids.find(root)] == ["sub-01"]
    assert "sub-01_T2starw was left out: it has no phase" in caplog.text


def test_subjects_and_sessions_are_chosen_with_or_without_prefix(root):
    touch(root, *(n for s in ("01", "02", "patient7") for k in "12" for n in pair(f"sub-{s}_ses-{k}")))
    assert [e.name for e in bids.find(root, ["sub-02", "patient7"], ["ses-2"])] == ["sub-02_ses-2", "sub-patient7_ses-2"]
    with pytest.raises(UnknownNameError, match="no participant 'patient' in .*Did you mean 'patient7'"):
        bids.find(root, ["patient"])
    with pytest.raises(UnknownNameError, match="no session '3'.*There is: 1, 2"):
        bids.find(root, None, ["3"])


def test_a_long_list_of_subjects_is_not_recited(root):
    touch(root, *(f"sub-{k:03d}_part-mag_MEGRE.nii" for k in range(40)))
    with pytest.raises(UnknownNameError, match="There are 40, from 000 to 039"):
        bids.find(root, ["zzz"])


@pytest.mark.parametrize("name", ["study.v2", ".hidden", "sub-study"])
def test_any_name_of_the_folder_will_do(tmp_path, name):
    root = touch(describe(tmp_path / name), *pair("sub-01"))
    assert bids.find(root)[0].magnitude[0].parent == root / "sub-01" / "anat"


def test_a_relative_root_will_do(root, monkeypatch):
    touch(root, *pair("sub-01"))
    monkeypatch.chdir(root)
    assert len(bids.find(".")) == 1


def test_what_is_no_data_set_is_refused_unless_told_otherwise(tmp_path):
    with pytest.raises(FileError, match="no folder"):
        bids.find(tmp_path / "nowhere")
    touch(tmp_path, *pair("sub-01"))
    with pytest.raises(FileError, match="no dataset_description.json.*--skip-bids-validation"):
        bids.find(tmp_path)
    assert len(bids.find(tmp_path, validate=False)) == 1
    (tmp_path / "dataset_description.json").write_text('{"Name": "x"}')
    with pytest.raises(MetadataError, match="lacks BIDSVersion"):
        bids.find(tmp_path)
    with pytest.raises(FileError, match="no folder sub-"):
        bids.find(describe(tmp_path / "empty"))


def test_nothing_to_do_is_told(root):
    touch(root, "sub-01_T1w.nii.gz")
    with pytest.raises(InputError, match="no gradient-echo images.*_MEGRE"):
        bids.find(root)


def test_magnitudes_alone_fail_when_loaded_and_name_what_was_found(root):
    touch(root, *pair("sub-03", parts=("mag",)))
    (entry,) = bids.find(root)
    with pytest.raises(PhaseError, match="sub-03 has no phase; found sub-03_echo-1_part-mag_MEGRE.nii.gz, sub-03_echo-2"):
        bids.load(entry)


def test_an_incomplete_acquisition_beside_a_complete_one_is_left_out_with_a_warning(root, caplog):
    touch(root, *pair("sub-03"), *pair("sub-03_rec-norm", parts=("mag",)), "sub-03_echo-1_part-odd_MEGRE.nii.gz")
    with caplog.at_level(logging.WARNING):
        assert [e.name for e in bids.find(root)] == ["sub-03"]
    assert "sub-03_rec-norm_MEGRE was left out" in caplog.text
    assert "part-odd" in caplog.text


def test_a_subject_without_gradient_echoes_is_told_where_others_have_them(root, caplog):
    touch(root, *pair("sub-01"), "sub-02_T1w.nii.gz", "sub-03_T1w.nii.gz")
    with caplog.at_level(logging.WARNING):
        assert [e.name for e in bids.find(root)] == ["sub-01"]
        assert [e.name for e in bids.find(root, subjects=["01"])] == ["sub-01"]
    assert caplog.text.count("sub-02 was passed over: it has no gradient-echo images") == 1
    assert caplog.text.count("sub-03 was passed over") == 1


def test_a_missing_echo_is_told(root):
    touch(root, *pair("sub-01", (1, 2, 3), ("mag",)), *pair("sub-01", (1, 3), ("phase",)))
    with pytest.raises(PhaseError, match=r"echoes \(1, 2, 3\) of the magnitude and \(1, 3\) of the phase"):
        bids.load(bids.find(root)[0])


def test_an_echo_that_is_there_twice_is_told(root):
    real_data(root)
    image = root / "sub-01" / "anat" / "sub-01_echo-2_part-phase_MEGRE.nii.gz"
    image.with_suffix("").write_bytes(gzip.decompress(image.read_bytes()))
    (entry,) = bids.find(root)
    with pytest.raises(InputError, match=r"echo 2 of the phase more than once: .*MEGRE\.nii, .*MEGRE\.nii\.gz\. Remove all but one"):
        bids.load(entry)


def test_spin_echoes_are_those_of_the_session_or_of_the_same_name(root, caplog):
    touch(root, *pair("sub-01_ses-1"), *pair("sub-01_ses-1", parts=("mag", "phase"), suffix="MESE"))
    touch(root, *pair("sub-01_ses-2_run-1"), *pair("sub-01_ses-2_run-2"), *pair("sub-02_ses-1_run-1"), *pair("sub-02_ses-1_run-3"))
    touch(root, *(f"sub-01_ses-2_echo-{echo}_MESE.nii.gz" for echo in (10, 9, 11)))
    touch(root, *(f"sub-02_ses-1_run-{run}_echo-{echo}_MESE.nii.gz" for run in (1, 2) for echo in (1, 2)))
    found = {entry.name: [path.name for path in entry.spin_echo] for entry in bids.find(root)}
    assert found == {
        "sub-01_ses-1": [f"sub-01_ses-1_echo-{echo}_part-mag_MESE.nii.gz" for echo in (1, 2)],
        **{f"sub-01_ses-2_run-{run}": [f"sub-01_ses-2_echo-{echo}_MESE.nii.gz" for echo in (9, 10, 11)] for run in (1, 2)},
        "sub-02_ses-1_run-1": [f"sub-02_ses-1_run-1_echo-{echo}_MESE.nii.gz" for echo in (1, 2)],
        "sub-02_ses-1_run-3": [],
    }
    assert "sub-02_ses-1_run-3 has 2 multi-echo spin-echo scans in its session, and none was used" in caplog.text


def test_an_acquisition_is_loaded_with_inherited_metadata(root):
    magnitude, phase = real_data(root, "sub-01_ses-1", ImagingFrequency=123.25)
    (root / "MEGRE.json").write_text(json.dumps({"Units": "rad", "Manufacturer": "ours"}))
    acquisition = bids.load(bids.find(root)[0])
    assert acquisition.name == "sub-01_ses-1"
    assert acquisition.scan.echo_times == (0.004, 0.008)
    assert acquisition.scan.b0 == pytest.approx(2.8947, abs=1e-4)
    assert acquisition.grid.voxel_size == pytest.approx((1, 1.2, 1.5))
    assert acquisition.metadata["Manufacturer"] == "ours"
    np.testing.assert_allclose(acquisition.phase, phase, atol=1e-6)
    np.testing.assert_allclose(acquisition.magnitude, magnitude, rtol=1e-6)
    flipped = bids.load(bids.find(root)[0], flip_sign=True)
    torch.testing.assert_close(flipped.phase, -acquisition.phase)


def test_real_and_imaginary_parts_are_combined(root):
    magnitude, phase = real_data(root, parts=("real", "imag"))
    acquisition = bids.load(bids.find(root)[0])
    np.testing.assert_allclose(acquisition.phase, phase, atol=1e-5)
    np.testing.assert_allclose(acquisition.magnitude, magnitude, rtol=1e-5)
    assert any("real and imaginary" in note for note in acquisition.notes)


def test_masks_come_from_derivatives(root, tmp_path):
    real_data(root, "sub-01_ses-1_acq-x")
    masks = tmp_path / "masks"
    folder = masks / "sub-01" / "ses-1" / "anat"
    folder.mkdir(parents=True)
    inside = np.zeros(SHAPE, np.uint8)
    inside[1:4, 1:4, 1:4] = 1
    with pytest.raises(MaskError, match="should hold one _mask for sub-01_ses-1_acq-x, found none"):
        bids.load(bids.find(root, masks=masks)[0])
    nib.save(nib.Nifti1Image(inside, AFFINE), folder / "sub-01_ses-1_desc-brain_mask.nii.gz")
    nib.save(nib.Nifti1Image(inside, AFFINE), folder / "sub-01_ses-1_acq-other_mask.nii.gz")
    acquisition = bids.load(bids.find(root, masks=masks)[0])
    assert int(acquisition.mask.sum()) == 27
    nib.save(nib.Nifti1Image(inside, AFFINE), folder / "sub-01_ses-1_desc-local_mask.nii.gz")
    with pytest.raises(MaskError, match="found sub-01_ses-1_desc-.*_mask.nii.gz, sub-01_ses-1_desc-.*_mask.nii.gz"):
        bids.load(bids.find(root, masks=masks)[0])
    inside[2, 2, 2] = 0  # as Paradia writes them: of the three, the one without desc is the brain
    nib.save(nib.Nifti1Image(inside, AFFINE), folder / "sub-01_ses-1_acq-x_mask.nii.gz")
    assert int(bids.load(bids.find(root, masks=masks)[0]).mask.sum()) == 26
    with pytest.raises(MaskError, match="should hold one _mask"):  # of regions none is the plain one
        bids.find_mask(bids.find(root)[0], masks, brain=False)
    nib.save(nib.Nifti1Image(inside, AFFINE), folder / "sub-01_ses-1_mask.nii.gz")
    with pytest.raises(MaskError, match="found sub-01_ses-1_.*mask.nii.gz, sub-01_ses-1_.*mask.nii.gz"):
        bids.load(bids.find(root, masks=masks)[0])
    with pytest.raises(FileError, match="no folder .*gone"):
        bids.load(bids.find(root, masks=masks / "gone")[0])


def test_masks_of_ours_are_told_apart_where_acquisitions_are_by_their_suffixes(root, tmp_path):
    names = list(pair("sub-01"))
    touch(root, *names, *(name.replace("MEGRE", "GRE") for name in names))
    folder = tmp_path / "masks" / "sub-01" / "anat"
    folder.mkdir(parents=True)
    entries = bids.find(root)
    assert [entry.name for entry in entries] == ["sub-01_GRE", "sub-01_MEGRE"]
    for entry in entries:
        nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE), folder / f"{entry.name}_mask.nii.gz")
    for entry in entries:
        assert bids.find_mask(entry, tmp_path / "masks").name == f"{entry.name}_mask.nii.gz"
    (folder / "sub-01_GRE_mask.nii.gz").rename(folder / "sub-01_mask.nii.gz")
    assert bids.find_mask(entries[0], tmp_path / "masks").name == "sub-01_mask.nii.gz"


def test_a_sheared_affine_names_the_file(root):
    real_data(root)
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.2
    for path in root.glob("sub-01/anat/*.nii.gz"):
        nib.save(nib.Nifti1Image(nib.load(path).get_fdata(dtype=np.float32), sheared), path)
    with pytest.raises(GeometryError, match=r"sub-01_echo-1_part-mag_MEGRE.*sheared"):
        bids.load(bids.find(root)[0])


label = st.text("abcXYZ0123456789", min_size=1, max_size=6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sub=label,
    ses=st.none() | label,
    acq=st.none() | label,
    run=st.none() | st.integers(1, 30),
    echoes=st.sets(st.integers(1, 20), min_size=1),
)
def test_every_bids_name_is_understood(tmp_path_factory, sub, ses, acq, run, echoes):
    root = describe(tmp_path_factory.mktemp("names"))
    prefix = f"sub-{sub}" + "".join(f"_{k}-{v}" for k, v in (("ses", ses), ("acq", acq), ("run", run)) if v is not None)
    touch(root, *pair(prefix, echoes))
    (entry,) = bids.find(root, [sub], None if ses is None else [ses])
    assert entry.name == prefix
    assert entry.echoes == {"magnitude": tuple(sorted(echoes)), "phase": tuple(sorted(echoes))}
    assert entry.session == ses


@pytest.mark.slow
def test_a_thousand_subjects_are_indexed_within_ten_seconds(root):
    for k in range(1000):
        folder = root / f"sub-{k:04d}" / "anat"
        folder.mkdir(parents=True)
        for name in pair(f"sub-{k:04d}", (1, 2, 3, 4)):
            (folder / name).touch()
            (folder / name.replace(".nii.gz", ".json")).touch()
    start = time.perf_counter()
    entries = bids.find(root)
    seconds = time.perf_counter() - start
    assert len(entries) == 1000
    assert seconds < 10, f"took {seconds:.1f} s"
