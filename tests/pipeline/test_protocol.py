import math

import pytest

from paradia.errors import FileError, InputError, UnknownKnobError, UnknownMethodError, UnknownProtocolError
from paradia.pipeline.protocol import Protocol, protocol_names
from paradia.pipeline.step import Step
from paradia.registry import STAGES


@pytest.mark.parametrize("name", protocol_names())
def test_shipped_protocols_read_back_from_what_they_print(name):
    protocol = Protocol.load(name)
    again = Protocol.parse(protocol.toml(), name)
    assert [(s.stage, s.method, s.settings) for s in again.steps] == [(s.stage, s.method, s.settings) for s in protocol.steps]
    assert protocol.description


@pytest.mark.parametrize("name", protocol_names())
def test_shipped_protocols_follow_the_order_of_the_data(name):
    order = list(STAGES)
    places = [order.index(step.stage) for step in Protocol.load(name).steps]
    assert places == sorted(places)


def test_a_file_is_a_protocol(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('description = "Mine."\n[inversion]\nmethod = "tkd"\nthreshold = 0.2\n')
    protocol = Protocol.load(str(path))
    assert protocol.name == "mine"
    assert protocol.steps == (Step("inversion", "tkd", {"threshold": 0.2}),)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('[inverison]\nmethod = "tkd"', UnknownProtocolError, "Did you mean 'inversion'"),
        ("two_pass = 3", InputError, "two_pass in the protocol bad must be true or false, got 3"),
        ("inversion = 3", UnknownProtocolError, "is no stage"),
        ("[inversion]\nthreshold = 0.1", UnknownProtocolError, "names no method"),
        ('[inversion]\nmethod = "tdk"', UnknownMethodError, "Did you mean 'tkd'"),
        ('[inversion]\nmethod = "tkd"\ntreshold = 0.1', UnknownKnobError, "tkd has no knob 'treshold'. Did you mean 'threshold'"),
        ("[inversion]\nmethod = 3", UnknownProtocolError, "names no method"),
        ('[inversion]\nmethod = "tv"\nweight = "big"', InputError, "inversion.weight must be a number, got 'big'"),
        ('[inversion]\nmethod = "tv"\nweight = nan', InputError, "inversion.weight must be a number, got nan"),
        ('[inversion]\nmethod = "tv"\nweight = true', InputError, "inversion.weight must be a number, got True"),
        ('[inversion]\nmethod = "tv"\nmax_iter = 2.5', InputError, "inversion.max_iter must be a whole number, got 2.5"),
        ('[unwrap]\nmethod = "romeo"\nmode = "both"', InputError, "unwrap.mode must be one of template, individual, got 'both'"),
        ('[unwrap]\nmethod = "romeo"\nweights = "phase"', InputError, "unwrap.weights must be a list, got 'phase'"),
        ('[unwrap]\nmethod = "romeo"\nweights = ["phase", 1]', InputError, "unwrap.weights must be a list, got \\('phase', 1\\)"),
        (
            '[separation]\nmethod = "sepnet_r2prime"\notherwise = "r2star_qsm"\nshare = true',
            InputError,
            "separation.share must be a number, got True",
        ),
        ("[inversion\n", FileError, "not valid TOML"),
    ],
)
def test_a_protocol_that_means_nothing_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        Protocol.parse(text, "bad")


def test_values_of_their_knobs_kind_are_taken():
    """Whole numbers are numbers, None is nothing, and what TOML calls a list is a tuple."""
    Step("inversion", "tv", {"weight": 1, "max_iter": 3})
    Step("fieldmap", "nonlinear", {"bipolar": None, "offset": "voxel"})
    Step("separation", "closed_form", {"dr_pos": None, "dr_neg": 140})
    assert Step("unwrap", "romeo", {"weights": ["phase", "magnitude"]}).knobs["weights"] == ("phase", "magnitude")


@pytest.mark.parametrize(
    ("stage", "method", "knob", "value", "message"),
    [
        ("background", "vsharp", "radius", -3.0, "background.radius must not be negative, got -3.0"),
        ("background", "vsharp", "radius", math.inf, "background.radius must be finite, got inf"),
        ("mask", "combined", "closing", math.inf, "mask.closing must be finite"),
        ("unwrap", "laplacian", "padding", -1, "unwrap.padding must not be negative, got -1"),
        ("inversion", "l1bayes", "reach", math.inf, "inversion.reach must be finite"),
        ("singlestep", "tfi", "rim", -0.1, "singlestep.rim must not be negative"),
        ("separation", "closed_form", "dr_pos", -137, "separation.dr_pos must not be negative"),
    ],
)
def test_numbers_beyond_any_range_are_refused_before_computing(stage, method, knob, value, message):
    with pytest.raises(InputError, match=message):
        Step(stage, method, {knob: value})


def test_knobs_without_limits_may_have_none():
    Step("inversion", "ndi", {"reach": -1.0})
    Step("singlestep", "tfi", {"rim": math.inf})
    Step("fieldmap", "mdi", {"noise_limit": math.inf})


def test_the_word_false_does_not_pass_for_true():
    """It is no TOML, and every word that is not empty is true to Python."""
    with pytest.raises(InputError, match="singlestep.residual must be true or false, got 'False'"):
        Protocol.load("separation").turned(["singlestep.residual=False"])


def test_a_description_may_have_lines_and_quotes():
    protocol = Protocol("mine", 'One\n"two"\t\\three', (Step("inversion", "tkd"),))
    assert Protocol.parse(protocol.toml(), "mine").description == protocol.description


def test_one_of_several_tables_is_named_by_its_method_or_by_the_one_that_takes_over():
    protocol = Protocol.load("separation").turned(["relaxometry.r2_epg.maximum=150.0", "separation.sepnet_r2star.band=0.2"])
    assert [s.settings["maximum"] for s in protocol.steps if s.stage == "relaxometry" and "maximum" in s.settings] == [500.0, 150.0]
    assert protocol.steps[-1].settings["band"] == 0.2


@pytest.mark.parametrize(("word", "value"), [(".3", 0.3), ("+.5", 0.5), ("1.", 1.0), ("1.e-1", 0.1), (".1E+0", 0.1), ("3e-1", 0.3)])
def test_numbers_are_read_as_on_the_rest_of_the_command_line(word, value):
    assert Protocol.load("consensus").turned([f"inversion.weight={word}"]).record()["steps"][5]["settings"]["weight"] == value


def test_a_file_that_is_no_text_is_told(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\x1f\x8b\xff")
    with pytest.raises(FileError, match=r"mine\.toml is no text in UTF-8\. Give a TOML file"):
        Protocol.load(str(path))


def test_unknown_protocol():
    with pytest.raises(UnknownProtocolError, match="Did you mean 'consensus'"):
        Protocol.load("consensu")
    with pytest.raises(FileError, match="cannot read the protocol"):
        Protocol.load("nowhere.toml")


def test_turning_knobs():
    protocol = Protocol.load("fast").turned(["inversion.threshold=0.25"])
    assert protocol.steps[-2].settings["threshold"] == 0.25
    other = Protocol.load("fast").turned(["inversion.method=tv"])
    assert [s.method for s in other.steps if s.stage == "inversion"] == ["tv"]
    for settings in (["inversion.weight=0.9", "inversion.method=tv"], ["inversion.method = tv", "inversion.weight=0.9"]):
        turned = next(s for s in Protocol.load("fast").turned(settings).steps if s.stage == "inversion")
        assert (turned.method, turned.knobs) == ("tv", {"weight": 0.9})
    with pytest.raises(UnknownKnobError, match="threshold"):  # a knob of the method that goes
        Protocol.load("fast").turned(["inversion.threshold=0.2", "inversion.method=tv"])


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ("inversion", InputError, "stage.knob=value"),
        ("inversion.threshold", InputError, "stage.knob=value"),
        ("inverison.threshold=1", UnknownProtocolError, "Did you mean 'inversion'"),
        ("inversion.treshold=1", UnknownKnobError, "Did you mean 'threshold'"),
        ("inversion.tv.threshold=1", UnknownMethodError, "inversion in the protocol fast is not by 'tv'. There is: tkd"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(setting, error, message):
    with pytest.raises(error, match=message):
        Protocol.load("fast").turned([setting])


def test_record_is_json_and_complete():
    import json

    record = json.loads(json.dumps(Protocol.load("consensus").record()))
    assert [step["stage"] for step in record["steps"]] == [s.stage for s in Protocol.load("consensus").steps]
    assert all(step["settings"] or step["stage"] in {"reference"} for step in record["steps"])


def test_infinity_is_a_word_in_json_and_a_number_in_toml():
    import json

    protocol = Protocol.load("consensus").turned(["fieldmap.noise_limit=inf"])
    assert json.dumps(protocol.record(), allow_nan=False).count('"noise_limit": "inf"') == 1
    assert Protocol.parse(protocol.toml(), "mine").steps[2].settings["noise_limit"] == float("inf")


def test_two_passes_are_asked_for_at_the_top():
    protocol = Protocol.parse('two_pass = true\n[inversion]\nmethod = "tkd"\n', "mine")
    assert protocol.two_pass
    assert Protocol.parse(protocol.toml(), "mine").two_pass
    assert protocol.turned(["inversion.threshold=0.2"]).two_pass
    assert protocol.without(["mask"]).two_pass
    assert protocol.record()["two_pass"] is True
    assert not Protocol.load("fast").two_pass
