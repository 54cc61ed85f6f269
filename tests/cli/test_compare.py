"""Several methods on one subject: numbers held against numpy, pictures looked into."""

from __future__ import annotations

import csv
import io

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from paradia.errors import InputError, UnknownKnobError, UnknownMethodError, UnknownStageError
from paradia.pipeline.protocol import Protocol
from paradia.pipeline.variants import variants
from paradia.registry import methods
from paradia.report.comparison import Entry, compared, two_cuts
from paradia.report.orientation import Layout

from .conftest import save

TIMES = ("--echo-times", "0.004", "0.012", "0.020", "--b0", "3")


def rows_of(out):
    rows = list(csv.DictReader((out / "compare.csv").read_text().splitlines()))
    return {row["method"]: {k: float(v) for k, v in row.items() if k != "method" and v} for row in rows}


def maps_of(out, names, suffix="Chimap"):
    return {name: nib.load(out / f"{name}_{suffix}.nii.gz").get_fdata() for name in names}


@pytest.fixture(scope="session")
def field(files):
    return ("--local-field", files["local_field"], "--noise", files["noise"], "--mask", files["mask"])


def test_scores_are_those_of_the_maps_that_were_written(command, files, field, small, tmp_path):
    told = command("compare", tmp_path, *field, "--truth", files["chi"], "--methods", "inversion=tkd,tv:max_iter=5,rts")
    assert told.status == 0, told.err
    rows, truth = rows_of(tmp_path), small.chi[small.mask] - small.chi[small.mask].mean()
    assert list(rows) == ["tkd", "tv:max_iter=5", "rts"]
    for name, chi in maps_of(tmp_path, ["tkd", "tv-max_iter=5", "rts"]).items():
        row = rows[name.replace("tv-", "tv:")]
        chi = chi[small.mask]
        assert chi.mean() == pytest.approx(0, abs=1e-6)
        assert row["nrmse"] == pytest.approx(100 * np.linalg.norm(chi - truth) / np.linalg.norm(truth), rel=1e-4)
        assert row["correlation"] == pytest.approx(np.corrcoef(chi, truth)[0, 1], rel=1e-4)
        assert row["slope"] == pytest.approx(np.polyfit(truth, chi, 1)[0], rel=1e-4)
        assert row["covered"] == 100
        assert {"xsim", "hfen", "nrmse_detrended", "streaks", "unexplained"} <= set(row)
        assert f"{row['nrmse']:.3g}" in told.out
    with Image.open(tmp_path / "compare.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 4 * 200


def test_an_earlier_map_that_is_now_the_truth_is_not_overwritten(command, field, tmp_path):
    assert command("compare", tmp_path, *field, "--methods", "inversion=tkd").status == 0
    truth = tmp_path / "tkd_Chimap.nii.gz"
    before = truth.read_bytes()
    told = command("compare", tmp_path, *field, "--methods", "inversion=tsvd,tkd:threshold=0.3,tkd", "--truth", truth)
    assert told.status == 2
    assert f"the input {truth} would be overwritten" in told.err
    assert truth.read_bytes() == before
    assert not (tmp_path / "tsvd_Chimap.nii.gz").exists()
    told = command("compare", tmp_path, *field, "--methods", "inversion=tsvd,tkd:threshold=0.3", "--truth", truth)
    assert told.status == 0, told.err


def test_maps_whose_names_differ_by_a_sign_alone_are_all_written(command, field, tmp_path):
    told = command("compare", tmp_path, *field, "--methods", "inversion=tikhonov:weight=1e-1,tikhonov:weight=1e+1")
    assert told.status == 0, told.err
    low, high = maps_of(tmp_path, ["tikhonov-weight=1e-1", "tikhonov-weight=1e-1-2"]).values()
    assert np.abs(high).max() < 0.5 * np.abs(low).max()


def test_nan_outside_the_mask_changes_nothing_and_inside_the_truth_does_not_count(command, files, field, small, tmp_path):
    holes, gone = ~small.mask, np.zeros_like(small.mask)
    gone[:, : small.mask.shape[1] // 2] = True
    labels = small.mask + small.region.astype(float)
    whole = {"local_field": small.local_field, "chi": small.chi, "labels": labels}
    for name, values in whole.items():
        save(tmp_path / f"{name}.nii", np.where(holes, np.nan, values), small.affine)
    save(tmp_path / "labels_whole.nii", labels, small.affine)
    save(tmp_path / "chi_half.nii", np.where(gone, np.nan, small.chi), small.affine)
    call = ("--noise", files["noise"], "--mask", files["mask"], "--methods", "inversion=tkd,tsvd")
    told = command("compare", tmp_path / "whole", *field, "--truth", files["chi"], "--labels", tmp_path / "labels_whole.nii", *call[4:])
    assert told.status == 0, told.err
    broken = ("--local-field", tmp_path / "local_field.nii", "--truth", tmp_path / "chi.nii", "--labels", tmp_path / "labels.nii")
    told = command("compare", tmp_path / "holes", *broken, *call)
    assert told.status == 0, told.err
    timeless = [
        {name: {k: v for k, v in row.items() if "seconds" not in k} for name, row in rows_of(tmp_path / out).items()}
        for out in ("whole", "holes")
    ]
    assert timeless[0] == timeless[1]
    told = command("compare", tmp_path / "half", *field, "--truth", tmp_path / "chi_half.nii", *call[4:])
    assert told.status == 0, told.err
    counts = small.mask & ~gone
    chi, truth = maps_of(tmp_path / "half", ["tkd"])["tkd"][counts], small.chi[counts] - small.chi[counts].mean()
    error = 100 * np.linalg.norm(chi - truth) / np.linalg.norm(truth)
    assert rows_of(tmp_path / "half")["tkd"]["nrmse"] == pytest.approx(error, rel=1e-4)
    inside = np.where(small.mask & (np.cumsum(small.mask).reshape(small.mask.shape) < 3), np.nan, small.local_field)
    save(tmp_path / "inside.nii", inside, small.affine)
    told = command("compare", tmp_path / "no", "--local-field", tmp_path / "inside.nii", *call)
    assert told.status == 2
    assert "NaN or Inf in 2 of the" in told.err


def test_without_a_truth_maps_are_held_against_each_other(command, field, small, tmp_path):
    assert command("compare", tmp_path, *field, "--methods", "inversion=tkd,rts").status == 0
    rows, maps = rows_of(tmp_path), maps_of(tmp_path, ["tkd", "rts"])
    a, b = (maps[name][small.mask] for name in ("tkd", "rts"))
    expected = 100 * np.linalg.norm(a - b) / np.sqrt(np.linalg.norm(a) * np.linalg.norm(b))
    assert rows["tkd"]["difference:rts"] == rows["rts"]["difference:tkd"] == pytest.approx(expected, rel=1e-4)
    assert rows["tkd"]["difference:tkd"] == 0
    assert rows["rts"]["correlation:tkd"] == pytest.approx(np.corrcoef(a, b)[0, 1], rel=1e-4)
    assert "nrmse" not in rows["tkd"]


def test_a_scan_is_unwrapped_once_and_only_common_voxels_count(command, files, small, tmp_path):
    told = command(
        "compare", tmp_path, "--magnitude", files["magnitude"], "--phase", files["phase"], "--mask", files["mask"], *TIMES,
        "--protocol", "fast", "--methods", "background=vsharp,pdf:max_iter=10", "inversion=tkd,tkd:threshold=0.3",
        "--truth", files["chi"], "--labels", files["region"],
    )  # fmt: skip
    assert told.status == 2
    assert "needs two regions" in told.err
    told = command(
        "compare", tmp_path, "--magnitude", files["magnitude"], "--phase", files["phase"], "--mask", files["mask"], *TIMES,
        "--protocol", "fast", "--methods", "background=vsharp,pdf:max_iter=10", "inversion=tkd,tkd:threshold=0.3",
    )  # fmt: skip
    assert told.status == 0, told.err
    rows = rows_of(tmp_path)
    assert list(rows) == [f"{b} + {i}" for b in ("vsharp", "pdf:max_iter=10") for i in ("tkd", "tkd:threshold=0.3")]
    assert told.err.count("unwrap romeo  kept") >= 3
    assert "relaxometry" not in told.err
    assert rows["vsharp + tkd"]["covered"] < 95
    assert rows["pdf:max_iter=10 + tkd"]["covered"] == 100
    assert "% of the voxels that all have in common; vsharp + tkd covers least" in told.err.replace("\n", " ")
    chi = maps_of(tmp_path, ["vsharp-tkd", "pdf-max_iter=10-tkd"])
    common = chi["vsharp-tkd"] != 0
    assert chi["pdf-max_iter=10-tkd"][common].mean() == pytest.approx(0, abs=1e-6)
    assert rows["vsharp + tkd"]["own_seconds"] < rows["vsharp + tkd"]["seconds"]


def test_other_maps_and_whole_protocols(command, files, tmp_path):
    told = command(
        "compare", tmp_path, "--total-field", files["total_field"], "--mask", files["mask"], "--truth", files["local_field"],
        "--methods", "background=vsharp", "--protocols", "fast", "--map", "local_field",
    )  # fmt: skip
    assert told.status == 0, told.err
    rows = rows_of(tmp_path)
    assert list(rows) == ["vsharp", "fast"]
    assert "xsim" not in rows["fast"]
    assert "inversion" not in told.err
    assert (tmp_path / "vsharp_localfield.nii.gz").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "there is nothing to compare. Give for example"),
        (("--methods", "inversion"), "a choice is written stage=method,method, got 'inversion'"),
        (("--methods", "inversoin=tkd"), "there is no stage 'inversoin'"),
        (("--methods", "inversion=tdk"), "inversion has no method 'tdk'. Did you mean 'tkd'?"),
        (("--methods", "inversion=tkd:treshold=1"), "no knob 'treshold'"),
        (("--methods", "inversion=tkd:threshold=high"), "inversion.threshold must be a number"),
        (("--methods", "inversion=tkd", "--map", "ch"), "there is no map 'ch' to compare"),
        (("--methods", "inversion=tkd", "--map", "r2star"), "methods of inversion cannot be compared: r2star does not depend on it"),
        (("--protocols", "consensus", "--map", "r2star"), "consensus gives no r2star"),
        (("--methods", "inversion=tkd", "background=vsharp,pdf"), "methods of background cannot be compared: the local field is given"),
        (("--methods", "mask=bet,quality"), "methods of mask cannot be compared: the mask is given, and none would be run"),
        (("--methods", "inversion=tkd", "--flip-sign"), "--flip-sign say how phase is to be read, and a field is given"),
        (("--methods", "inversion=tkd", "--phase-units", "rad"), "--phase-units and"),
        (("--methods", "inversion=tkd", "--b0", "3"), "Give both --echo-times and --b0, or neither"),
        (("--protocols", "fast", "--set", "inversion.threshold=0.2"), "--protocols are run as they are"),
        (("--protocols", "fast", "--protocol", "learned"), "--protocols are run as they are"),
    ],
)
def test_what_cannot_be_compared_is_said(words, says, command, field, tmp_path):
    told = command("compare", tmp_path / "out", *field, *words)
    assert told.status == 2
    assert says in told.err


def test_a_beginning_is_needed_and_only_one(command, files, tmp_path):
    both = ("--methods", "inversion=tkd,rts")
    assert "nothing to work on" in command("compare", tmp_path, *both).err
    assert "Give its --mask too" in command("compare", tmp_path, *both, "--local-field", files["local_field"]).err
    two = ("--local-field", files["local_field"], "--total-field", files["total_field"], "--mask", files["mask"])
    assert "region means need a --truth" in command("compare", tmp_path, *both, *two[:2], *two[4:], "--labels", files["region"]).err
    assert "give one beginning" in command("compare", tmp_path, *both, *two).err
    phase = ("--magnitude", files["magnitude"], "--phase", files["phase"], *TIMES)
    assert "--noise belongs to a field" in command("compare", tmp_path, *both, *phase, "--noise", files["noise"]).err


def test_names_say_what_is_particular():
    base = Protocol.load("consensus")
    found = variants(base, ["background=vsharp,pdf", "inversion=tv,tkd:threshold=0.3"])
    assert list(found) == ["vsharp + tv", "vsharp + tkd:threshold=0.3", "pdf + tv", "pdf + tkd:threshold=0.3"]
    steps = {step.stage: step for step in found["pdf + tkd:threshold=0.3"].steps}
    assert steps["background"].method == "pdf"
    assert steps["inversion"].knobs == {"threshold": 0.3}
    assert [step.stage for step in base.steps] == list(steps)
    turned = base.turned(["inversion.weight=0.5"])
    kept = variants(turned, ["inversion=l1bayes:max_iter=3"])["l1bayes:max_iter=3"]
    assert next(step.knobs for step in kept.steps if step.stage == "inversion") == {"weight": 0.5, "max_iter": 3}
    for choice, error in (("mask=no", UnknownMethodError), ("combine=rss", UnknownStageError), ("inversion=tv:no=1", UnknownKnobError)):
        with pytest.raises(error):
            variants(base, [choice])
    with pytest.raises(InputError, match="stage=method"):
        variants(base, ["inversion="])


def test_what_is_said_of_a_stage_twice_adds_up():
    found = variants(Protocol.load("consensus"), ["inversion=tv", "background=pdf", "inversion=rts"])
    methods = {name: {step.stage: step.method for step in protocol.steps} for name, protocol in found.items()}
    assert {name: (used["inversion"], used["background"]) for name, used in methods.items()} == {
        "tv + pdf": ("tv", "pdf"),
        "rts + pdf": ("rts", "pdf"),
    }


def test_single_steps_stand_beside_the_combinations():
    names = methods("singlestep")
    if not names:
        pytest.skip("no method goes from the total field to χ in one step yet")
    found = variants(Protocol.load("consensus"), ["inversion=tv,tkd", f"singlestep={names[0]}"])
    assert list(found) == ["tv", "tkd", names[0]]
    assert [step.stage for step in found[names[0]].steps][-2:] == ["singlestep", "reference"]
    assert not {"background", "inversion"} & {step.stage for step in found[names[0]].steps}
    bare = Protocol.load("separation-classical").without(["reference"])
    assert [step.stage for step in variants(bare, ["singlestep=tgv"])["tgv"].steps][-2:] == ["singlestep", "separation"]
    none = bare.without(["background", "inversion"])
    assert [step.stage for step in variants(none, ["singlestep=tgv"])["tgv"].steps][-2:] == ["singlestep", "separation"]


def head_with_nuclei(shape=(60, 70, 50)):
    x, y, z = np.meshgrid(*(np.arange(n) - n / 2 for n in shape), indexing="ij")
    mask = (x / 27) ** 2 + (y / 32) ** 2 + (z / 22) ** 2 < 1
    chi = np.zeros(shape)
    for side in (-6, 6):
        chi[(x - side) ** 2 + (y - 4) ** 2 + (z + 3) ** 2 < 9] = 0.12
    chi[(np.abs(x) < 2) & (np.abs(z - 18) < 2) & mask] = 0.4  # a sinus at the surface
    return chi, mask


def test_slices_go_through_the_nuclei():
    chi, mask = head_with_nuclei()
    axial, coronal = two_cuts(Layout(mask, (1.0, 1.0, 1.0), np.eye(4)), chi)
    assert (axial.plane, coronal.plane) == ("axial", "coronal")
    assert abs(axial.index - 22) <= 1
    assert abs(coronal.index - 39) <= 1
    middle = two_cuts(Layout(mask, (1.0, 1.0, 1.0), np.eye(4)))
    assert abs(middle[0].index - 25) <= 1
    slab = slice(18, 27)
    cuts = two_cuts(Layout(mask[..., slab], (1.0, 1.0, 1.0), np.eye(4)), chi[..., slab])
    assert [cut.plane for cut in cuts] == ["axial", "axial"]
    assert abs(cuts[0].index - 4) <= 1


def test_maps_have_one_window_and_equal_ones_no_difference():
    chi, mask = head_with_nuclei()
    entries = [Entry("one", ("1 s",), chi, mask), Entry("two", (), chi.copy(), mask), Entry("three", (), chi + 0.02, mask)]
    layout = Layout(mask, (1.0, 1.2, 1.5))
    shown = np.asarray(Image.open(io.BytesIO(compared(entries, layout, map="chi"))).convert("RGB")).astype(int)
    text = np.abs(shown - 255).sum(-1) > 0
    assert text.any()
    columns = [slice(round(dpi * (0.3 + i * 2.1)), round(dpi * (0.3 + i * 2.1 + 2.0))) for dpi in (140,) for i in range(3)]
    maps = [shown[80:400, column] for column in columns]
    assert np.abs(maps[0][100:300, 40:240] - maps[1][100:300, 40:240]).mean() < 1
    red, blue = (shown[..., 0] - shown[..., 2]), (shown[..., 2] - shown[..., 0])
    assert (red[:, columns[2]] > 60).sum() > 5000  # 0.02 above, everywhere
    assert (red[:, columns[1]] > 60).sum() == 0
    assert (blue[:, columns[1]] > 60).sum() == 0
    with_truth = Image.open(io.BytesIO(compared(entries, layout, map="chi", truth=entries[0])))
    assert with_truth.width > shown.shape[1]
