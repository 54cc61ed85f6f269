"""The page holds everything, needs nothing else, shows it at true proportions, and is the same every time."""

from __future__ import annotations

import ast
import base64
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import paradia.report
from paradia.errors import FileError
from paradia.grid import Grid
from paradia.metrics.lesions import lesions as measure
from paradia.metrics.quality import Finding
from paradia.nets.store import cards
from paradia.registry import methods as methods_of
from paradia.report import figures, methods
from paradia.report.captions import TITLES, caption
from paradia.report.lesions import Row, drawn
from paradia.report.orientation import Layout
from paradia.report.page import number, render, write_report
from paradia.report.record import RunRecord
from paradia.scan import Scan

GRID = Grid((34, 41, 20), (1.5, 1.2, 3.0), (0.2, -0.3, 0.93))
VOID = {"meta", "img", "br", "link", "input", "hr"}


def step(stage="inversion", method="tkd", settings=None, cite="10.1002/mrm.22135", cached=False):
    return SimpleNamespace(stage=stage, method=method, settings=settings or {"threshold": 0.15}, cite=cite, seconds=1.234, cached=cached)


@pytest.fixture(scope="module")
def maps():
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(GRID.shape, dtype=torch.bool)
    mask[5:30, 6:37, 3:18] = True
    image = torch.randn(GRID.shape, generator=generator)
    echoes = torch.stack([image + i for i in range(7)])
    return {
        "magnitude": echoes.abs(), "phase": echoes.sin() * math.pi, "unwrapped": echoes * mask, "mask": mask, "local_mask": mask,
        "total_field": image * mask, "noise": 0.002 * mask, "local_field": 0.02 * image * mask, "chi": 0.05 * image * mask,
        "r2star": image.abs() * 20 * mask, "grid": GRID, "local_noise": 0.002 * mask, "chi_noise": image.abs() * 0.01 * mask,
        "residual": 0.001 * image * mask,
    }  # fmt: skip


@pytest.fixture(scope="module")
def record():
    return RunRecord(
        title="sub-01 <script>alert(1)</script> & Söhne",
        grid=GRID,
        scan=Scan(tuple(0.004 * (i + 1) for i in range(7))),
        protocol="consensus",
        steps=[step(), step("reference", "unheard_of", {"of": (1, 2.5), "on": True}, "10.1000/a 10.1002/mrm.22135", cached=True)],
        messages=["The phase's sign was <flipped>."],
        versions={"paradia": "0.1.0", "torch": "2.13.0"},
        command="paradia qsm 'a & b.nii' out",
        sources={"<img src=x>.nii.gz": "ab" * 32},
        numbers=[
            Finding("streak energy", 1.25, "ratio", "good", "No streaks."),
            Finding("sign", -0.4, "index", "bad", "Wrong sign? Flip it."),
            Finding("mask cut off", 80.0, "%", "check", "Partial coverage."),
        ],
    )


@pytest.fixture(scope="module")
def page(record, maps):
    return render(record, maps, affine=np.diag([-1.5, 1.2, 3.0, 1.0]))


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_self_contained(page, read):
    assert "script" not in {tag for tag, _ in read.tags}
    assert "link" not in {tag for tag, _ in read.tags}
    assert all(a["src"].startswith("data:image/") for _, a in read.tags if "src" in a)
    assert all(a["href"].startswith(("https://doi.org/10.", "#")) for _, a in read.tags if "href" in a)
    assert "@import" not in page
    assert "url(" not in page
    assert len(page) < 6e6


def test_every_stage_has_its_figure_and_words(read):
    figures_there = {a["id"] for tag, a in read.tags if tag == "figure"}
    # the protocol of these runs has no contrasts, no spin echoes and no separation
    others = {"swi", "minip", "r2", "r2prime", "field_residual", "rate_residual", "disagreement"}
    others |= {name for name in TITLES if name.startswith(("chi_pos", "chi_neg", "closed_"))}
    assert figures_there == {*TITLES, "chi-histogram", "r2star-histogram"} - others
    alts = [a["alt"] for tag, a in read.tags if tag == "img"]
    assert all(len(alt) > 20 for alt in alts)


def test_text_is_escaped_and_complete(page, read):
    text = " ".join("".join(read.text).split())
    for expected in (
        "sub-01 <script>alert(1)</script> & Söhne", "<img src=x>.nii.gz", "ab" * 32, "paradia qsm 'a & b.nii' out", "2.13.0",
        "The phase's sign was <flipped>.", "Wrong sign? Flip it.", "Partial coverage.", "threshold = 0.15", "of = (1, 2.5)", "on = yes",
        "kept from an earlier run", "1 of 3 numbers is bad, 1 more deserves a look", "34 × 41 × 20", "https://doi.org/10.1002/mrm.22135",
    ):  # fmt: skip
        assert expected in text
    assert "<script" not in page


def test_verdicts_are_words_not_only_colours(read):
    text = "".join(read.text)
    assert text.count("look at it") == 2  # at a glance and in the table
    box = next(a for tag, a in read.tags if a.get("id") == "warnings")
    assert "serious" in box["class"]


def test_a_rim_gone_wrong_does_not_hide_the_anatomy(record, maps):
    """The window is that of the inside: an edge a hundred times as strong leaves it as it is."""
    mask = maps["mask"].numpy()
    layout, look = Layout(mask, GRID.voxel_size), figures.LOOKS["r2prime"]
    inside = np.where(mask, 10.0, 0.0)
    inner = figures.core(mask, GRID.voxel_size)
    assert 0.2 < inner.sum() / mask.sum() < 0.6
    assert not inner[5:8].any()
    assert not inner[:, :, 3].any()
    spoilt = np.where(mask & ~inner, 1000.0, inside)
    assert figures.strip(spoilt, mask, layout, look, inner).window == figures.strip(inside, mask, layout, look).window
    assert figures.core(mask[:, :, 10:11], GRID.voxel_size).any()  # a single slice has no rim above and below
    thin = mask & ~inner
    assert (figures.core(thin, GRID.voxel_size) == thin).all()


def test_iron_of_nuclei_is_not_all_white():
    """Nuclei are few voxels: the 99th percentile of the brain alone would saturate them."""
    brain = np.full(10000, 0.03)
    assert figures.choose_window(brain, figures.LOOKS["chi_pos"]) == (0.0, 0.12)
    assert figures.choose_window(10 * brain, figures.LOOKS["chi_pos"])[1] > 0.3


@pytest.mark.parametrize(
    ("window", "names"),
    [
        ((0.0, 0.15), ["0", "0.05", "0.1", "0.15"]),
        ((0.0, 25.0), ["0", "5", "10", "15", "20", "25"]),
        ((0.0, 0.1), ["0", "0.02", "0.04", "0.06", "0.08", "0.1"]),
        ((-6.0, 6.0), ["−6", "−3", "0", "3", "6"]),
        ((-0.025, 0.025), ["−0.025", "0", "0.025"]),
        ((-0.1, 0.2), ["−0.1", "0", "0.1", "0.2"]),
        ((-0.05, 0.1), ["−0.05", "0", "0.05", "0.1"]),
    ],
)
def test_ticks_are_short_numbers_from_end_to_end(window, names):
    assert [figures.signed(tick) for tick in figures.choose_ticks(window)] == names


def test_a_separation_says_what_its_numbers_rest_on():
    def told(*steps, b0=3.0):
        return caption("chi_pos", RunRecord("x", GRID, Scan((0.01, 0.02), b0), steps=steps))

    dr = {"dr_pos": None, "dr_neg": None}
    assert "measured with spin echoes; both maps depend on the relaxivities, Dr+ 137 and Dr− 137 Hz/ppm." in told(
        step("relaxometry", "r2prime"), step("separation", "chisep_medi", dr)
    )
    alone = told(step("relaxometry", "r2star"), step("separation", "r2star_qsm", dr | {"dr_neg": 114.0}), b0=7.0)
    assert "R2′ was not measured: a fixed share of R2* stands for it, a guess" in alone
    assert "Dr+ 319.7 and Dr− 114 Hz/ppm" in alone
    assert "the network judges by R2*" in told(step("separation", "sepnet_r2star", dr))
    assert "one R2 for all tissue" in told(step("relaxometry", "r2prime_constant"), step("separation", "chisep_medi", dr))
    assert told(step("separation", "decompose", {})).endswith("dark.")


@pytest.mark.parametrize("name", sorted(methods_of("reference")))
def test_every_zero_of_chi_is_told(name):
    said = caption("chi", RunRecord("x", GRID, Scan((0.01,)), steps=[step("reference", name)]))
    assert " Zero is " in said


def test_without_a_reference_only_differences_count():
    assert caption("chi", RunRecord("x", GRID, Scan((0.01,)))).endswith("only differences count.")


def test_relaxivities_that_were_not_given_are_in_the_settings(record, maps):
    split = step("separation", "chisep_medi", {"dr_pos": None, "dr_neg": 150.0, "weight": 0.1})
    page = render(RunRecord("x", GRID, record.scan, steps=[split]), {"mask": maps["mask"]})
    assert "dr_pos = 137</code>" in page
    assert "dr_neg = 150</code>" in page


@pytest.mark.parametrize(("b0_dir", "said"), [((0.0, 0.01, 1.0), ""), ((0.0, -0.5, 0.866), "oblique to B0 by 30°"), ((1.0, 0.0, 0.0), "")])
def test_the_tilt_is_told_in_degrees(b0_dir, said):
    text = methods.introduction(RunRecord("x", Grid((4, 5, 6), b0_dir=b0_dir), Scan((0.01,))))
    assert said in text
    assert ("oblique" in text) == bool(said)
    assert "slab" not in text


def test_good_runs_have_no_warnings(record, maps):
    calm = RunRecord("x", GRID, record.scan, numbers=record.numbers[:1])
    page = render(calm, maps)
    assert 'id="warnings"' not in page
    assert "All 1 numbers are good" in page
    assert "array axes" in page


def test_same_input_same_bytes(record, maps, page):
    assert render(record, maps, affine=np.diag([-1.5, 1.2, 3.0, 1.0])) == page


def test_written_whole_or_not_at_all(tmp_path, record, maps):
    path = write_report(tmp_path / "new" / "report.html", record, maps)
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        write_report(tmp_path / "file" / "report.html", record, maps)


def test_whatever_is_missing_is_left_out(record, maps):
    few = {name: maps[name] for name in ("mask", "chi")}
    page = render(record, few)
    assert 'id="chi"' in page
    assert 'id="magnitude"' not in page


def test_broken_values_are_drawn(record, maps):
    chi = maps["chi"].clone()
    chi[10:12] = math.nan
    assert 'id="chi"' in render(record, {**maps, "chi": chi, "magnitude": 0 * maps["magnitude"]})


def decode(source):
    return Image.open(io.BytesIO(source))


def test_proportions_are_true():
    """A ball in voxels of 1 × 2 × 4 mm is as wide as tall, in mm, in every panel."""
    shape, size = (81, 41, 31), (1.0, 2.0, 4.0)
    x, y, z = (np.arange(n) - (n - 1) / 2 for n in shape)
    ball = (x[:, None, None] * 1) ** 2 + (y[None, :, None] * 2) ** 2 + (z[None, None, :] * 4) ** 2 < 34**2
    picture = figures.strip(ball.astype(float), ball, Layout(ball, size), figures.Look("1", window=(0.0, 1.0)))
    pixels = np.asarray(decode(picture.data).convert("RGB")).astype(int)
    dark = pixels.sum(2) < 90
    columns = np.flatnonzero(dark.any(0))
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > 4) + 1)
    panels = [g for g in groups if len(g) > 60][:3]
    assert len(panels) == 3
    for panel in panels:
        rows = np.flatnonzero(dark[:, panel].sum(1) > 10)
        white = pixels[rows[0] : rows[-1], panel[0] : panel[-1]].min(2) > 200  # letters are yellow
        white = white[8:-8, 8:-8]
        wide, tall = np.ptp(np.flatnonzero(white.any(0))), np.ptp(np.flatnonzero(white.any(1)))
        assert wide == pytest.approx(tall, rel=0.07)


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_the_patients_right_is_on_the_left(flip, order):
    """However the array lies, the marked corner right-anterior-superior is at the same place of every picture."""
    world = np.zeros((12, 14, 16))
    world[8:, 9:, 10:] = 1  # indices grow to right, anterior, superior
    array = world.transpose(order)
    affine = np.zeros((4, 4))
    for axis, anatomical in enumerate(order):
        sign = flip[anatomical]
        affine[anatomical, axis] = sign
        if sign < 0:
            array = np.flip(array, axis)
    affine[3, 3] = 1
    layout = Layout(np.ones(array.shape, dtype=bool), (1.0, 1.0, 1.0), affine)
    cuts = {cut.plane: cut for cut in layout.three()}
    assert list(cuts) == ["axial", "coronal", "sagittal"]
    assert [cuts[p].letters for p in cuts] == [("R", "L", "P", "A"), ("R", "L", "I", "S"), ("A", "P", "I", "S")]
    for cut in cuts.values():
        near = max if layout.signs[layout.axes.index(cut.axis)] > 0 else min
        last = near(0, array.shape[cut.axis] - 1)
        image = type(cut)(**{**vars(cut), "index": last}).take(array)
        assert image[0, 0] == 1
        assert image[-1, -1] == image[0, -1] == image[-1, 0] == 0
        assert image.shape[0] / image.shape[1] == pytest.approx(cut.size[1] / cut.size[0])


def test_a_few_slices_are_shown_flat():
    mask = np.zeros((60, 50, 5), dtype=bool)
    mask[10:50, 10:40] = True
    cuts = Layout(mask, (2.0, 2.0, 4.0), np.diag([2.0, 2.0, 4.0, 1.0])).three()
    assert {cut.plane for cut in cuts} == {"axial"}
    assert [cut.index for cut in cuts] == [1, 2, 3]
    single = Layout(mask[:, :, :1], (2.0, 2.0, 4.0)).three()
    assert [(cut.plane, cut.index) for cut in single] == [("z", 0)]


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (-0.123456, "−0.123"), (1512.3, "1512"), (1e-5, "< 0.001"), (1e7, "1.0e+07")])
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("value", "top"), [(0.0234, 0.025), (1.0, 1.0), (7.0, 8.0), (99.0, 100.0), (0.0, 1.0), (math.nan, 1.0)])
def test_round_windows(value, top):
    assert figures.round_up(value) == top


def test_methods_come_from_the_docstrings():
    known, unknown = methods.sentences([step(), step("reference", "unheard_of", cite="10.1000/a")])[0]
    assert known.stage == "Dipole inversion"
    assert known.says.startswith("Divide by the dipole")
    assert known.references == (1,)
    assert unknown.says == "Set the zero of susceptibility."
    assert unknown.references == (2,)
    assert methods.plain(r"Minimise :math:`\frac12\|D\chi - f\|^2` by ``admm``") == "Minimise ½‖Dχ - f‖² by admm"


def test_no_global_drawing_state():
    for file in Path(paradia.report.__file__).parent.glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not any("pyplot" in (name or "") for name in names)


def test_pictures_are_embedded_whole(page):
    sources = re.findall(r'src="data:image/webp;base64,([^"]+)" width="(\d+)" height="(\d+)"', page)
    assert len(sources) == 14
    for source, width, height in sources:
        assert decode(base64.b64decode(source)).size == (int(width), int(height))


def test_the_weights_of_networks_and_how_to_cite_are_told(record, maps):
    split = step("separation", "sepnet_r2prime", {"dr_pos": 137.0, "dr_neg": 137.0})
    card = cards()["sepnet"]
    page = render(replace(record, steps=[split, step()]), {"mask": maps["mask"]})
    assert f"weights sepnet version {card['version']}:" in page
    assert card["sha256"] in page
    assert "The papers below, and the software: The Paradia developers." in page
    assert f"version {record.versions['paradia']}." in page
    assert "Weights of the networks" not in render(record, {"mask": maps["mask"]})


def test_spin_echoes_that_were_used_are_in_the_methods(record):
    spins = replace(record, spin_echo_scan=Scan((0.01, 0.02)))
    assert "spin echoes" not in methods.introduction(spins)
    used = replace(spins, steps=[SimpleNamespace(**vars(step("relaxometry", "r2_epg")), on="spin_echo")])
    assert "R2 was measured with spin echoes of the same head (echo times 10, 20 ms)." in methods.introduction(used)


def test_what_was_left_to_the_method_is_not_called_none():
    assert methods.settings({"bipolar": None, "offset": "none"}) == "offset = none"
    assert methods.setting(None) == "not given"


def test_numbers_of_colour_bars_and_words_for_pictures(page):
    assert figures.signed(10000.0) == "10000"
    assert figures.signed(-0.25) == "−0.25"
    assert "a.u.." not in page


def lesion(labels, image, affine, name="sub-1", size=(2.0, 2.0, 2.0)):
    """What the picture of a study gets of one lesion."""
    found = measure(
        torch.from_numpy(labels), {"chi": torch.from_numpy(image)}, torch.ones(labels.shape, dtype=torch.bool), Grid(labels.shape, size)
    )
    return Row(name, found[0], {"chi": image}, labels, size, affine)


def test_a_lesion_is_shown_with_the_patients_right_on_the_left_however_the_array_lies():
    generator = np.random.default_rng(0)
    image = generator.normal(0, 0.05, (24, 26, 22)).astype(np.float32)
    labels = np.zeros(image.shape, np.int32)
    labels[4:8, 15:18, 10:13] = 1
    pictures = [drawn([lesion(labels, image, np.diag([2.0, 2.0, 2.0, 1.0]))])]
    for axis in (0, 1):
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        affine[axis, axis] *= -1
        pictures.append(drawn([lesion(np.flip(labels, axis).copy(), np.flip(image, axis).copy(), affine)]))
    turned = np.array([[0, 0, 2.0, 0], [2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])  # the axes are anterior, superior, right
    pictures.append(drawn([lesion(labels.transpose(1, 2, 0).copy(), image.transpose(1, 2, 0).copy(), turned)]))
    seen = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[:, 180:] for data in pictures]  # words at the left tell the slice
    for other in seen[1:]:
        np.testing.assert_array_equal(other, seen[0])
    unknown = np.asarray(Image.open(io.BytesIO(drawn([lesion(labels, image, None)]))).convert("RGB"))[:, 180:]
    assert (unknown != seen[0]).any()  # no letters but those of the array's axes


def test_long_names_of_subjects_do_not_run_into_the_picture():
    image, labels = np.zeros((24, 26, 22), np.float32), np.zeros((24, 26, 22), np.int32)
    image[...] = np.random.default_rng(0).normal(0, 0.05, image.shape)
    labels[4:8, 15:18, 10:13] = 1
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    long, short = (
        np.asarray(Image.open(io.BytesIO(drawn([lesion(labels, image, affine, name)]))).convert("RGB"))[:, 172:]
        for name in ("sub-01_ses-baseline_acq-highres_run-1_desc-lesions", "sub-1")
    )
    np.testing.assert_array_equal(long, short)
