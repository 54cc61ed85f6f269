"""The same run as ``paradia qsm``, from Python: simulate a scan, run a protocol, turn a knob, compare.

python examples/quickstart.py
"""

from __future__ import annotations

from paradia.grid import Grid
from paradia.metrics.accuracy import nrmse
from paradia.pipeline.execute import execute
from paradia.pipeline.protocol import Protocol
from paradia.pipeline.step import Step
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.head import head

grid = Grid((96, 112, 80), voxel_size=(2.0, 2.0, 2.0), b0_dir=(0.0, 0.17, 0.98))
scan = Scan(echo_times=(0.004, 0.012, 0.020, 0.028), b0=3.0)
truth = head(grid, seed=1)
echoes = gre(truth, scan, snr=100.0, seed=1)
board = {"magnitude": echoes.abs(), "phase": echoes.angle(), "grid": grid, "scan": scan}

for name in ("fast", "consensus"):
    outcome = execute(Protocol.load(name), board)
    mask = outcome.maps["local_mask"] & truth.mask
    print(f"{name}: χ differs from the truth by {nrmse(outcome.maps['chi'], truth.chi, mask):.0f} %")

# A single step is a function with its knobs set, on tensors of one's own:
tkd = Step("inversion", "tkd", {"threshold": 0.2})
chi = tkd(outcome.maps["local_field"], outcome.maps["local_mask"], grid)
print(f"thresholded division: {nrmse(chi, truth.chi, mask):.0f} %")
