"""The demo, on a head that takes no time."""

from functools import partial

import pytest

from paradia.cli import demo
from paradia.grid import Grid
from paradia.io.simulated import TRUTH
from paradia.simulate.subject import subject


@pytest.mark.slow
def test_the_demo_maps_a_head_and_tells_how_far_it_is_from_the_truth(command, onion, brief, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "subject", partial(subject, anatomy=onion))
    monkeypatch.setattr(demo, "GRID", Grid((44, 50, 38), (4.4, 4.6, 4.8), (0.0, 0.17, 0.985)))
    told = command("demo", tmp_path / "demo", "--protocol", "fast")
    assert told.status == 0
    lines = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in told.out.splitlines() if line.startswith("│")}
    off = lines["total field, median error"]
    assert float(off[0].split()[0]) < 5
    assert float(off[1].split()[0]) < 5
    for region in ("grey matter", "white matter", "putamen"):
        mean, truth, _ = (float(cell) for cell in lines[region])
        assert abs(mean - truth) < 40
    assert float(lines["putamen"][0]) > float(lines["white matter"][0]) + 20
    assert (tmp_path / "demo" / "derivatives" / "paradia" / "sub-demo.html").is_file()
    assert (tmp_path / "demo" / "bids" / TRUTH / "sub-demo" / "anat" / "sub-demo_Chimap.nii.gz").is_file()
