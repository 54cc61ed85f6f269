"""``paradia tune`` from files to a table, a picture and lines for a protocol."""

import csv
import struct
import tomllib

import pytest

from paradia.cli.tune import sweep_values
from paradia.errors import InputError


@pytest.fixture
def call(files, command):
    def run(*more, stage="inversion", method="tkd", field="local_field"):
        return command("tune", stage, method, f"--{field.replace('_', '-')}", files[field], "--mask", files["mask"], *more)

    return run


def test_a_sweep_becomes_a_table_a_picture_and_a_protocol(call, files, tmp_path):
    told = call("--noise", files["noise"], "--knob", "threshold", "--values", "0.03:0.5:7", "--out", tmp_path / "out")
    assert told.status == 0, told.err
    rows = list(csv.DictReader((tmp_path / "out" / "tune.csv").read_text().splitlines()))
    assert len(rows) >= 7
    assert set(rows[0]) == {"threshold", "misfit_in_noise", "roughness", "rules"}
    picture = (tmp_path / "out" / "tune.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert min(struct.unpack(">II", picture[16:24])) > 800
    for rule in ("discrepancy", "inflection", "corner"):
        assert f"{rule}: " in told.out
    assert "[inversion]" in told.out
    protocol = tomllib.loads("[inversion]" + told.out.partition("[inversion]")[2].partition("Table and")[0])
    assert protocol["inversion"]["method"] == "tkd"
    assert 0.03 < protocol["inversion"]["threshold"] < 0.5


def test_without_values_the_sweep_is_around_the_default(call, tmp_path):
    told = call("--out", tmp_path / "out", "--max-iter", "3", "--refine", "0", method="tv")
    assert told.status == 0, told.err
    rows = list(csv.DictReader((tmp_path / "out" / "tune.csv").read_text().splitlines()))
    assert float(rows[0]["weight"]) == pytest.approx(0.11 / 30, rel=1e-3)
    assert float(rows[-1]["weight"]) == pytest.approx(0.11 * 30, rel=1e-3)
    assert "Without a noise map" in told.out
    assert "max_iter" in told.err, "warnings of the method are told"


def test_values_beyond_the_range_of_the_knob_are_left_out(call, tmp_path):
    """Around the default, or as stated: of a threshold no more than the strength of the dipole."""
    told = call("--out", tmp_path / "out", "--knob", "threshold", "--refine", "0")
    assert told.status == 0, told.err
    rows = list(csv.DictReader((tmp_path / "out" / "tune.csv").read_text().splitlines()))
    assert 5 <= len(rows) < 11
    assert max(float(row["threshold"]) for row in rows) <= 2 / 3
    assert "tkd does not take threshold = " in told.err
    assert "left out of the sweep: threshold must lie between 0 and 2/3" in told.err
    told = call("--out", tmp_path / "few", "--knob", "threshold", "--values", "0.1:3:6")
    assert told.status == 2
    assert "only 3 of 6 values can be run, and a curve needs 5. threshold must lie between" in told.err
    told = call("--out", tmp_path / "none", "--knob", "threshold", "--values", "1:3:6")
    assert told.status == 2
    assert "threshold must lie between" in told.err
    assert not (tmp_path / "few").exists()


def test_help_has_the_knobs_of_the_method_and_its_own(command):
    told = command("tune", "inversion", "tv", "--help")
    assert told.status == 0
    for word in ("--knob", "--values", "--out", "--local-field", "--max-iter", "--noise", "Choose a knob of inversion tv"):
        assert word in told.out


@pytest.mark.parametrize(("stage", "method"), [("inversion", "varnet"), ("singlestep", "nextqsm"), ("background", "bgnet")])
def test_a_knob_with_the_name_of_an_option_of_tune_gives_way(stage, method, command):
    """Networks have a knob `refine`; here the word is how often to run again."""
    told = command("tune", stage, method, "--help")
    assert told.status == 0
    assert told.out.count("--refine") == 1
    assert "How often to run again" in told.out


def test_background_removal_can_be_tuned(call, files, tmp_path):
    told = call(
        "--noise", files["noise"], "--knob", "threshold", "--values", "0.01:0.3:5", "--out", tmp_path / "[tuned]", "--refine", "0",
        stage="background", method="vsharp", field="total_field",
    )  # fmt: skip
    assert told.status == 0, told.err
    assert (tmp_path / "[tuned]" / "tune.png").is_file()
    assert str(tmp_path / "[tuned]" / "tune.csv") in told.out, "brackets are no markup"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--knob", "treshold"), "Did you mean 'threshold'"),
        (("--knob", "threshold", "--values", "1:2"), "FIRST:LAST:COUNT"),
        (("--knob", "threshold", "--values", "0.1,0.2"), "at least 5"),
        (("--knob", "threshold", "--device", "tpu"), "tpu"),
    ],
)
def test_what_cannot_be_swept_is_told_and_nothing_is_made(call, tmp_path, more, said):
    told = call("--out", tmp_path / "out", *more)
    assert told.status == 2
    assert said in told.err
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_told_before_the_sweep(call, tmp_path):
    (tmp_path / "file").touch()
    told = call("--out", tmp_path / "file" / "out", "--knob", "threshold", "--values", "0.03:0.5:7")
    assert told.status == 2
    assert "cannot write" in told.err
    assert not told.out


def test_values():
    assert sweep_values("1e-4:1e-2:3") == [1e-4, 1e-3, 1e-2]
    assert sweep_values("1,2.5,3") == [1, 2.5, 3]
    for wrong in ("", "a:b:c", "1;2", "1:10:2.5", "-1:1:9", "0:1:9", "nan:1:9", "0.1:inf:9"):
        with pytest.raises(InputError, match="FIRST:LAST:COUNT"):
            sweep_values(wrong)
