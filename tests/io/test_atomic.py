import errno
import json
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

from paradia.errors import FileError
from paradia.io.atomic import MARK, check_writable, replacing, sweep, write_json, write_text
from paradia.io.hashing import fingerprints, sha256
from paradia.io.nifti import write


def left(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_appears_whole_and_alone(tmp_path):
    path = write_json(tmp_path / "new" / "a.json", {"χ": [1, 2.5]})
    assert json.loads(path.read_text()) == {"χ": [1, 2.5]}
    assert left(path.parent) == ["a.json"]


def test_the_file_has_ordinary_permissions(tmp_path):
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("broken")])
def test_what_was_there_stays_when_writing_fails(tmp_path, error):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises((KeyboardInterrupt, ValueError)), replacing(path) as handle:  # noqa: PT012
        handle.write(b"half")
        raise error
    assert path.read_text() == "old"
    assert left(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "disk is full.*Free some space"),
        (errno.EROFS, "read-only.*another folder"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "disk reports"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_is_told_with_advice_and_leaves_nothing(tmp_path, monkeypatch, code, advice, call):
    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(FileError, match=rf"cannot write .*a\.txt: .*{advice}"):
        write_text(tmp_path / "a.txt", "text")
    assert left(tmp_path) == []


def test_a_real_limit_on_the_file_size_is_told_and_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(FileError, match=r"map\.nii\.gz.*larger than the system allows"):
            write(tmp_path / "map.nii.gz", np.random.default_rng(0).random((20, 21, 22)), np.eye(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert left(tmp_path) == []


def test_a_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(FileError, match="cannot write"):
        write_text(tmp_path / "a" / "b.txt", "text")


def test_what_could_not_be_written_is_told_beforehand_and_nothing_is_made(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(FileError, match=r"cannot write .*b\.txt: .*A part of the path is a file"):
        check_writable(tmp_path / "a" / "b" / "b.txt")
    check_writable(tmp_path / "new" / "folder" / "c.txt")
    assert left(tmp_path) == ["a"]


def test_a_killed_run_leaves_no_half_written_file_and_is_swept(tmp_path):
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom paradia.io.atomic import replacing\n"
        "with replacing(Path(sys.argv[1]) / 'deep' / 'map.nii') as f:\n"
        "    f.write(b'half')\n    f.flush()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "deep" / "map.nii").exists()
    (part,) = (tmp_path / "deep").iterdir()
    assert part.name.startswith(".")
    assert part.name.endswith(MARK)
    assert sweep(tmp_path) == 1
    assert left(tmp_path / "deep") == []


def test_json_refuses_nan_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert left(tmp_path) == []


def test_fingerprints(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "a") == known
    assert fingerprints([tmp_path / "a"]) == {str(tmp_path / "a"): known}
    with pytest.raises(FileError, match="cannot read"):
        sha256(tmp_path / "b")
