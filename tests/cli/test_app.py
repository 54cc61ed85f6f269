import os
import platform
import re
import resource
import signal
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

import paradia
from paradia.cli import main
from paradia.errors import ParadiaWarning
from paradia.io.atomic import replacing
from paradia.pipeline.protocol import Protocol, protocol_names
from paradia.registry import STAGES, description, methods, summary


def test_version(command):
    assert command("--version").out.strip() == paradia.__version__


def test_help_names_every_command(command):
    told = command("--help")
    assert told.status == 0
    for name in ("run", "qsm", "simulate", "demo", "methods", "protocol", *STAGES):
        assert name in told.out


@pytest.mark.parametrize("name", ["run", "qsm", "demo", "methods", "protocol", "protocol show"])
def test_every_command_has_help(name, command):
    told = command(*name.split(), "--help")
    assert told.status == 0
    assert "Usage: paradia " + name in told.out
    assert ":math:" not in told.out


@pytest.mark.parametrize(
    ("words", "stage", "method"),
    [
        (("inversion", "medi"), "inversion", "medi"),  # a line of it begins with a formula
        (("inversion", "tkd"), "inversion", "tkd"),  # a paragraph does
        (("tune", "inversion", "tv"), "inversion", "tv"),
        (("unwrap", "best-path"), "unwrap", "best_path"),
    ],
)
def test_help_of_a_method_says_all_that_its_docstring_says_before_the_parameters(words, stage, method, command):
    told = " ".join(command(*words, "--help").out.partition("╭")[0].split())
    for paragraph in description(stage, method).split("\n\n"):
        assert re.sub(":math:`[^`]*`|`", "", paragraph).split()[-1] in told, paragraph
    assert ("Choose a knob of inversion tv" in told) == (words[0] == "tune")
    assert "Steps that they share are done once." in " ".join(command("compare", "--help").out.split())
    listed = " ".join(re.sub("[│╰─╯]", "", command(*words[:-1], "--help").out).split())
    assert ("Choose a knob of inversion tv on your own data." if words[0] == "tune" else summary(stage, method)) in listed
    assert told[-25:] not in listed


def test_help_of_a_training_says_that_it_goes_on(command):
    assert "Run it again to go on where it stopped" in " ".join(command("train", "varnet", "--help").out.split())


def test_help_comes_at_once_and_without_torch():
    """Half a second of the processor: how long that takes is a matter of what else it does."""

    def spent():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    seconds = []
    for _ in range(4):
        start = spent()
        told = subprocess.run([sys.executable, "-X", "importtime", "-m", "paradia", "--help"], capture_output=True, text=True, check=True)
        seconds.append(spent() - start)
        if seconds[-1] < 0.5:
            break
    assert "Usage" in told.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in told.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "scipy", "nibabel", "matplotlib", "pyarrow", "bids2table", "rich_rst"}
    assert min(seconds) < 0.5


def test_methods_are_listed(command):
    told = command("methods")
    assert told.status == 0
    for stage in STAGES:
        for method in methods(stage):
            assert method in told.out
    assert ":math:" not in told.out
    told = command("methods", "inversion")
    assert "tkd" in told.out
    assert "10.1002/mrm.22135" in told.out  # the paper of tkd
    assert "romeo" not in told.out
    told = command("methods", "inversoin")
    assert told.status == 2
    assert "Did you mean 'inversion'?" in told.err


@pytest.mark.parametrize("name", protocol_names())
def test_a_protocol_reads_back_as_it_is_shown(name, command):
    told = command("protocol", "show", name)
    assert told.status == 0
    assert Protocol.parse(told.out, name).record() == Protocol.load(name).record()
    assert f"{name}: " in command("protocol", "list").out


def test_a_shown_protocol_has_its_knobs_turned(command):
    told = command("protocol", "show", "fast", "--set", "inversion.threshold=0.5", "background.method=pdf")
    assert "threshold = 0.5" in told.out
    assert 'method = "pdf"' in told.out
    told = command("protocol", "show", "fst")
    assert told.status == 2
    assert told.err == "paradia: there is no protocol 'fst'. Did you mean 'fast'? A file is given with its suffix .toml.\n"


def test_an_unknown_command_offers_the_nearest(command):
    told = command("rnu")
    assert told.status == 2
    assert 'Did you mean "run"?' in told.err


@pytest.mark.parametrize(
    ("words", "where"), [(("qsm", "a.nii"), "qsm"), (("inversion", "tv", "x.nii", "--no-such", "3"), "inversion tv"), (("rnu",), "")]
)
def test_a_wrong_call_points_to_the_help_of_its_command(words, where, command):
    told = command(*words)
    assert told.status == 2
    assert told.err.endswith(f" See {' '.join(['paradia', *where.split()])} --help.\n")


def test_a_warning_is_a_sentence(command, monkeypatch):
    monkeypatch.setattr("paradia.cli.protocol.protocol_names", lambda: warnings.warn("mind the gap.", ParadiaWarning, stacklevel=2) or [])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert command("protocol", "list").err == "paradia: mind the gap.\n"


def test_an_interruption_is_told(command, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("paradia.cli.protocol.protocol_names", interrupted)
    told = command("protocol", "list")
    assert told.status == 130
    assert "goes on from there" in told.err


@pytest.fixture
def unhandled():
    """SIGTERM as a process begins with it."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    assert signal.signal(signal.SIGTERM, before) is signal.SIG_DFL


def test_sigterm_ends_a_command_as_ctrl_c_does(command, monkeypatch, tmp_path, unhandled):
    path = tmp_path / "maps" / "chi.json"

    def ended():
        with replacing(path) as handle:
            handle.write(b"half")
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)  # a batch script passes it on: what tidies up is not cut short

    monkeypatch.setattr("paradia.cli.protocol.protocol_names", ended)
    for _ in range(2):
        told = command("protocol", "list")
        assert told.status == 143
        assert told.err == "paradia: ended by SIGTERM. What was finished is kept; the same command goes on from there.\n"
        assert not list(path.parent.iterdir())


def test_who_handles_or_ignores_sigterm_goes_on_doing_so(command, monkeypatch, unhandled):
    monkeypatch.setattr("paradia.cli.protocol.protocol_names", lambda: signal.raise_signal(signal.SIGTERM) or [])
    came = []
    for handler in (lambda number, frame: came.append(number), signal.SIG_IGN):
        signal.signal(signal.SIGTERM, handler)
        assert command("protocol", "list").status == 0
        assert signal.signal(signal.SIGTERM, signal.SIG_DFL) is handler
    assert came == [signal.SIGTERM]
    monkeypatch.undo()
    with ThreadPoolExecutor(1) as pool:  # only the first thread can say what a signal does
        assert pool.submit(main, ["protocol", "list"]).result() == 0


def test_a_bug_is_not_dressed_up(command, monkeypatch):
    monkeypatch.setattr("paradia.cli.protocol.protocol_names", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command("protocol", "list")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another")
@pytest.mark.parametrize(("said", "kept"), [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "1000"}, False)])
def test_memory_of_freed_volumes_is_kept_unless_the_user_says_otherwise(said, kept):
    """Seen from outside: how much of 400 MB, asked for and freed, still belongs to the process."""
    code = """
import resource
from paradia.cli import main
main(["protocol", "list"])
pages = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
import torch
before = pages()
volume = torch.ones(100_000_000)
del volume
print(pages() - before)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | said
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert (int(done.stdout.split()[-1]) > 300e6) == kept


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("inversion", "tkd", "chi.nii.gz"), "inversion tkd needs --local-field, which was not given. See paradia inversion tkd --help."),
        (("qsm", "a", "b"), "qsm needs OUT, which was not given."),
        (("inversion", "tkd", "x.nii.gz", "--local-field", "f", "--masc", "m"), "needs --mask, which was not given. Did you mean --mask"),
        (("inversion", "tkd", "chi.nii.gz", "--mask"), "parameter --mask requires an argument."),
    ],
)
def test_what_was_not_given_is_not_said_to_lack_a_value(words, said, command):
    told = command(*words)
    assert told.status == 2
    assert said in told.err


def test_ctrl_c_before_anything_is_begun_shows_no_traceback():
    """While modules are imported and when all is done the signal ends the process; in between it is an exception."""
    code = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # one who runs tests in the background may ignore it
from paradia.cli import main
seen = {}
class Spy:
    def find_spec(self, name, path=None, target=None):
        seen[name] = signal.getsignal(signal.SIGINT)
sys.meta_path.insert(0, Spy())
import paradia.pipeline.protocol
paradia.pipeline.protocol.protocol_names = lambda: seen.update(run=signal.getsignal(signal.SIGINT)) or []
sys.argv = ["paradia", "protocol", "list"]
assert main() == 0
assert seen["cyclopts"] is signal.SIG_DFL, seen["cyclopts"]
assert seen["paradia.cli.protocol"] is signal.SIG_DFL
assert seen["run"] is signal.default_int_handler
assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
"""
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
