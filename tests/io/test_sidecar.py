import json

import pytest

from paradia.errors import FileError, MetadataError
from paradia.io.sidecar import direction, read_json, scan_from, sidecar_of, stem
from paradia.scan import GAMMA_BAR


def put(path, **values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(("text", "says"), [("{", "not valid JSON"), ("[1]", "holds list"), ("[" * 100_000, "not valid JSON")])
def test_broken_json_is_told(tmp_path, text, says):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(FileError, match=rf"a\.json.*{says}"):
        read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(FileError, match="not valid JSON"):
        read_json(tmp_path / "b.json")
    with pytest.raises(FileError, match="cannot read"):
        read_json(tmp_path / "c.json")


def test_a_loose_file_has_its_own_sidecar_or_that_of_the_folder(tmp_path):
    image = tmp_path / "mag.nii.gz"
    assert stem(image) == "mag"
    assert sidecar_of(image) == {}
    put(tmp_path / "scan.json", EchoTime=[0.004])
    assert sidecar_of(image) == {"EchoTime": [0.004]}
    put(tmp_path / "mag.json", EchoTime=0.005)
    assert sidecar_of(image) == {"EchoTime": 0.005}


def test_sidecars_are_inherited_and_the_nearest_wins(tmp_path):
    folder = tmp_path / "sub-01" / "ses-1" / "anat"
    put(tmp_path / "MEGRE.json", MagneticFieldStrength=3, Manufacturer="top", FlipAngle=1)
    put(tmp_path / "echo-2_MEGRE.json", EchoTime=0.008)
    put(tmp_path / "echo-1_MEGRE.json", EchoTime=0.004)
    put(tmp_path / "bold.json", EchoTime=9)
    put(tmp_path / "sub-01" / "sub-01_MEGRE.json", Manufacturer="subject")
    put(tmp_path / "sub-01" / "sub-02_MEGRE.json", Manufacturer="other")
    put(folder / "sub-01_ses-1_echo-2_part-mag_MEGRE.json", FlipAngle=15)
    put(tmp_path.parent / "MEGRE.json", Manufacturer="beyond the root", Outside=True)
    image = folder / "sub-01_ses-1_echo-2_part-mag_MEGRE.nii.gz"
    assert sidecar_of(image, tmp_path) == {"MagneticFieldStrength": 3, "Manufacturer": "subject", "FlipAngle": 15, "EchoTime": 0.008}


@pytest.mark.parametrize(
    "sidecars",
    [
        [{"EchoTime": 0.004}, {"EchoTime": 0.008}],
        [{"EchoTime": [0.004, 0.008]}],
        [{"EchoTime": [0.004, 0.008]}, {"EchoTime": [0.004, 0.008]}],
    ],
)
def test_echo_times_in_every_form(sidecars):
    scan, _ = scan_from([{**s, "MagneticFieldStrength": 3} for s in sidecars], "mag.nii", 2)
    assert scan.echo_times == (0.004, 0.008)
    assert scan.b0 == 3


@pytest.mark.parametrize(
    ("times", "says"),
    [
        ([4.0, 8.0], "in seconds, got .4.0, 8.0.. Milliseconds"),
        ([0.008, 0.004], "must increase"),
        ([0.004, 0.004], "must increase"),
        ([None, None], "no sidecar gives EchoTime.*--echo-times"),
        ([0.004, None], "give no EchoTime for echo 2, of 2. Add it.*--echo-times"),
        ([[0.004, 0.008, 0.012], None], "holds 2 echoes, but there are 3 echo times"),
        (["4 ms", 0.008], "must be numbers of seconds, got '4 ms'"),
        ([-0.004, 0.008], "must be positive"),
        ([True, 0.008], "must be numbers"),
    ],
)
def test_wrong_echo_times_name_the_files_and_the_fix(times, says):
    sidecars = [{"MagneticFieldStrength": 3} | ({} if t is None else {"EchoTime": t}) for t in times]
    with pytest.raises(MetadataError, match=rf"mag\.nii.*{says}|{says}.*mag\.nii"):
        scan_from(sidecars, "mag.nii", 2)


def test_what_is_stated_holds():
    scan, notes = scan_from([{"EchoTime": 5, "MagneticFieldStrength": "x"}], "mag.nii", 2, echo_times=(0.004, 0.008), b0=7)
    assert (scan.echo_times, scan.b0, notes) == ((0.004, 0.008), 7, ())
    with pytest.raises(MetadataError, match="1 echo, but there are 2"):
        scan_from([{}], "mag.nii", 1, echo_times=(0.004, 0.008), b0=7)


def test_the_centre_frequency_gives_the_exact_field():
    scan, (note,) = scan_from([{"EchoTime": 0.004, "MagneticFieldStrength": 3, "ImagingFrequency": 123.25}], "m", 1)
    assert scan.b0 == pytest.approx(123.25e6 / GAMMA_BAR)
    assert "from ImagingFrequency 123.25" in note
    scan, (note,) = scan_from([{"EchoTime": 0.004, "ImagingFrequency": 123.25}], "m", 1)
    assert scan.b0 == pytest.approx(2.8947, abs=1e-4)


@pytest.mark.parametrize("frequency", [49.9, 123.25e6])
def test_a_frequency_that_does_not_fit_is_not_used(frequency):
    scan, (note,) = scan_from([{"EchoTime": 0.004, "MagneticFieldStrength": 3, "ImagingFrequency": frequency}], "m", 1)
    assert scan.b0 == 3
    assert "does not fit" in note
    assert ("this looks like Hz" in note) == (frequency > 1e6)


@pytest.mark.parametrize(
    ("sidecars", "says"),
    [
        ([{}, {}], "field strength of m is not known.*--b0"),
        (
            [{"ImagingFrequency": 123e6}, {}],
            r"not known.*1\.23e\+08 is none\. It belongs there in MHz; this looks like Hz\. Add",
        ),
        ([{"MagneticFieldStrength": 3}, {"MagneticFieldStrength": 7}], "different MagneticFieldStrength: 3 and 7"),
        ([{"MagneticFieldStrength": "3T"}, {}], "must be a number, got '3T'"),
        ([{"MagneticFieldStrength": 30000}, {}], "in tesla"),
    ],
)
def test_wrong_field_strengths(sidecars, says):
    with pytest.raises(MetadataError, match=says):
        scan_from(sidecars, "m", 2, echo_times=(0.004, 0.008))


def test_direction_of_b0():
    assert direction({}, "m") is None
    assert direction({"B0_dir": [0, 0.1, 1]}, "m") == (0, 0.1, 1)
    for wrong in ([0, 1], [0, 0, 0], "z", [0, "1", 1], [0, 0, float("nan")]):
        with pytest.raises(MetadataError, match="B0_dir in the sidecar of m must be three numbers"):
            direction({"B0_dir": wrong}, "m")


def test_files_of_several_coils_an_echo_are_pointed_to_combine():
    sidecars = [{"EchoTime": t, "MagneticFieldStrength": 3} for t in (0.004, 0.008)]
    with pytest.raises(MetadataError, match=r"holds 64 echoes, but there are 2 .* single coils\? .* paradia combine"):
        scan_from(sidecars, "mag.nii", 64)
    with pytest.raises(MetadataError, match=r"holds 3 echoes, but there are 2 echo times .* each echo\.$"):
        scan_from(sidecars, "mag.nii", 3)
