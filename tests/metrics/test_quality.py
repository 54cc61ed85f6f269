"""Each number tells a good case from the bad one it was made for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paradia.errors import MaskError
from paradia.grid import Grid
from paradia.metrics import inputs, results
from paradia.metrics._masks import erode
from paradia.metrics.quality import CHECKS, judge
from paradia.operators.dipole import Dipole
from paradia.operators.smv import SMV
from paradia.scan import Scan
from paradia.simulate.acquire import scan
from paradia.simulate.acquisition import Gre
from paradia.simulate.subject import subject

GRID = Grid((48, 57, 44), (2.0, 1.8, 2.2), (0.2, -0.3, 0.93))
SCAN = Scan((0.004, 0.008, 0.012))


def places():
    axes = [(torch.arange(n) - (n - 1) / 2) * d for n, d in zip(GRID.shape, GRID.voxel_size, strict=True)]
    return torch.meshgrid(*axes, indexing="ij")


def ball(radius: float, centre=(0.0, 0.0, 0.0)):
    x, y, z = places()
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < radius**2


@pytest.fixture(scope="module")
def tissue():
    noise = torch.randn(GRID.shape, generator=torch.Generator().manual_seed(3))
    return SMV(GRID, 5.0)(noise) * ball(36)


@pytest.fixture(scope="module")
def board(tissue):
    mask = ball(36)
    field = Dipole(GRID, 2)(tissue) * mask
    x, _, z = places()
    total = 8 * (1 + z / 40 - 0.3 * x / 40)
    echoes = torch.stack([total * i for i in (1, 2, 3)])
    noise = torch.randn(3, *GRID.shape, generator=torch.Generator().manual_seed(4))
    return {
        "magnitude": 100 + noise, "phase": (echoes + math.pi).remainder(2 * math.pi) - math.pi, "unwrapped": echoes, "mask": mask,
        "grid": GRID, "scan": SCAN, "noise": 0.002 * mask, "local_field": field, "chi": tissue, "r2star": 20 + 100 * tissue.abs(),
    }  # fmt: skip


def test_harmonic_residue():
    mask = ball(30)
    x, y, z = places()
    sources = ball(5, (0.0, 0.0, 40.0)).float() + ball(5, (38.0, 10.0, -20.0)).float()
    outside = Dipole(GRID, 2)(SMV(GRID, 5.0)(sources)) * mask  # smooth sources, so that their field does not ring
    inside = Dipole(GRID, 2)(ball(4, (5.0, 3.0, 2.0)).float() - ball(4, (-10.0, 3.0, -8.0)).float()) * mask
    polynomial = (x**2 - y**2 + 3 * x * z + 40 * z) * mask
    assert results.harmonic_residue(polynomial, mask, GRID) == pytest.approx(1, abs=1e-6)
    assert results.harmonic_residue(outside, mask, GRID) > 0.75  # sources at the very edge have higher degrees, too
    assert results.harmonic_residue(outside, ball(22), GRID) > 0.9
    assert results.harmonic_residue(inside, mask, GRID) < 0.05
    assert results.harmonic_residue((x**2 + y**2 + z**2 - 500) * mask, mask, GRID) < 0.5  # smooth but not harmonic


def test_solid_harmonics_are_harmonic():
    """A harmonic function equals the mean of itself over a small sphere, here over the corners of a cube up to 4th order."""
    generator = torch.Generator().manual_seed(9)
    points = torch.rand(40, 3, generator=generator, dtype=torch.float64) - 0.5
    step = 1e-3 * torch.cat([torch.eye(3), -torch.eye(3), torch.zeros(1, 3)]).double()
    cloud = (points[:, None] + step).reshape(-1, 3)
    basis = results._solid_harmonics(cloud).reshape(40, 7, -1)
    laplacian = (basis[:, :6].sum(1) - 6 * basis[:, 6]) / 1e-6
    assert basis.shape[-1] == 81
    assert float(laplacian.abs().max()) < 1e-3 * float(basis.abs().max()) * 64
    assert torch.linalg.matrix_rank(basis[:, 6]) == 40


def test_consistency(tissue):
    mask = ball(36)
    field = Dipole(GRID, 2)(tissue) * mask
    exact = results.consistency(field, tissue, mask, GRID)
    shifted = results.consistency(field, tissue + 0.07 * mask, mask, GRID)
    assert exact.relative < 0.02
    assert shifted.relative == pytest.approx(exact.relative, abs=1e-3)  # blind to the reference
    assert results.consistency(field, 0 * tissue, mask, GRID).relative == pytest.approx(1, abs=0.02)
    assert results.consistency(field, -tissue, mask, GRID).relative == pytest.approx(2, abs=0.05)
    sd = 0.003
    noisy = field + sd * torch.randn(GRID.shape, generator=torch.Generator().manual_seed(1)) * mask
    told = results.consistency(noisy, tissue, mask, GRID, sd * mask.float())
    assert told.noises == pytest.approx(1, abs=0.1)
    assert told.rms == pytest.approx(sd, rel=0.1)


def test_streaks(tissue):
    mask = ball(36)
    white = torch.randn(GRID.shape, generator=torch.Generator().manual_seed(5))
    assert results.streaks(white * mask, mask, GRID) == pytest.approx(1, abs=0.15)
    kernel = Dipole(GRID).kernel
    streaky = torch.fft.irfftn(torch.fft.rfftn(white) / kernel.abs().clamp_min(0.02), GRID.shape)
    emptied = torch.fft.irfftn(torch.fft.rfftn(white) * (kernel.abs() > 0.07), GRID.shape)
    everywhere = torch.ones_like(mask)
    assert results.streaks(streaky, everywhere, GRID) > 6
    assert results.streaks(emptied, everywhere, GRID) < 0.3
    assert results.streaks(tissue, mask, GRID) < 2
    single = torch.zeros_like(mask)
    single[3, 4, 5] = True
    assert math.isnan(results.streaks(tissue, single, GRID))


def test_rim(tissue):
    mask = ball(36)
    edge = mask & ~erode(mask, 2)
    assert results.rim(torch.ones(GRID.shape), mask) == pytest.approx(1)
    assert results.rim(1 + 3 * edge.float(), mask) == pytest.approx(4)


def test_sign(board):
    mask = board["mask"]
    veins = torch.rand(GRID.shape, generator=torch.Generator().manual_seed(6)) > 0.98
    chi = board["chi"] / board["chi"].std() * 0.02 + 0.2 * veins
    rates = 20 + 60.0 * veins
    assert results.skewness(chi, mask) > 0.1
    assert results.skewness(-chi, mask) == pytest.approx(-results.skewness(chi, mask), abs=0.05)
    assert results.iron_follows_decay(chi, rates, mask) > 0.2
    assert results.iron_follows_decay(-chi, rates, mask) < -0.2
    verdicts = [next(f for f in judge({**board, "chi": sign * chi, "r2star": rates}) if f.name == "sign") for sign in (1.0, -1.0)]
    assert [f.verdict for f in verdicts] == ["good", "bad"]
    assert "Wrong sign" in verdicts[1].sentence


@given(offset=st.floats(-20, 20), where=st.integers(1, 30))
@settings(max_examples=10, deadline=None)
def test_residual_wraps(offset, where):
    mask = torch.ones(31, 9, 8, dtype=torch.bool)
    phase = torch.full((2, 31, 9, 8), offset)
    phase[1, where:] += 2 * math.pi
    pairs = 30 * 72 + 31 * 8 * 8 + 31 * 9 * 7
    none, some = inputs.residual_wraps(phase, mask).tolist()
    assert none == 0
    assert some == pytest.approx(72 / pairs)


def test_filtered_phase(board):
    x, _, _ = places()
    gyri = (0.5 * torch.sin(2 * math.pi * x / 6)).expand(1, *GRID.shape)
    slow = (0.9 * torch.sin(2 * math.pi * x / 200)).expand(1, *GRID.shape)
    assert inputs.low_frequencies(gyri, board["mask"], GRID) < 0.1
    assert inputs.low_frequencies(slow, board["mask"], GRID) > 0.9
    assert inputs.low_frequencies(board["phase"], board["mask"], GRID) == 1
    found = {f.name: f for f in judge({**board, "phase": gyri})}
    assert found["smooth share of the phase"].verdict == "bad"
    assert "high-pass filtered" in found["smooth share of the phase"].sentence


def test_coverage_volume_saturation_snr(board):
    mask = board["mask"]
    assert inputs.mask_volume(mask, GRID) == pytest.approx(4 / 3 * math.pi * 36**3 / 1000, rel=0.02)
    assert inputs.cut(mask) == 0
    assert inputs.cut(mask[:, :, 22:]) > 0.95
    assert inputs.cut(mask[:, :, 22:23]) == 1
    assert inputs.cut(mask[:, :, 22:23] & False) == 0
    clipped = board["magnitude"].clamp_max(100.5)
    assert inputs.saturation(board["magnitude"]) == pytest.approx(1 / board["magnitude"].numel())
    assert inputs.saturation(clipped) == pytest.approx(0.309, abs=0.01)
    assert inputs.snr(board["magnitude"], mask) == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize(
    ("grid", "bound"),
    [
        pytest.param(Grid((152, 184, 20), (1.0, 1.0, 1.0), (0.0, 0.2, 0.98)), 0.04, marks=pytest.mark.slow),
        pytest.param(Grid((88, 102, 80), (2.0, 2.0, 2.0), (0.0, 0.2, 0.98)), 0.04, marks=pytest.mark.slow),
        (Grid((58, 68, 52), (3.0, 3.0, 3.0), (0.0, 0.2, 0.98)), 0.06),
    ],
    ids=["1mm", "2mm", "3mm"],
)
def test_anatomy_is_no_noise(grid, bound):
    """The ratio of a simulated scan is found from three echoes, in coarse voxels too, and roughly from fewer."""
    person = subject(3, grid=grid)
    for snr in (30.0, 100.0, 150.0):
        gre = Gre(echo_times=(0.005, 0.013, 0.020, 0.029), snr=snr)
        seen = scan(person, gre, seed=1)
        magnitude = seen.images.abs()
        truth = float(magnitude[0][seen.mask].median() / seen.noise[seen.mask].median())
        assert inputs.snr(magnitude, seen.mask, seen.scan) == pytest.approx(truth, rel=bound)
        assert 0.7 * truth < inputs.snr(magnitude[:2], seen.mask, None) < 1.1 * truth
        assert 0.7 * truth < inputs.snr(magnitude[:1], seen.mask, None) < 1.1 * truth


def test_noise_of_any_unit_and_place(generator):
    mask = torch.zeros(40, 39, 33, dtype=torch.bool)
    mask[3:37, 2:38, 1:32] = True
    rates, times = 10 + 20 * torch.rand(mask.shape, generator=generator), (0.004, 0.009, 0.021)
    decay = torch.stack([torch.exp(-rates * time) for time in times])
    noisy = decay + torch.randn(decay.shape, generator=generator) / 60
    scan_of = Scan(times)
    truth = 60 * float(decay[0][mask].median())
    assert inputs.snr(noisy, mask, scan_of) == pytest.approx(truth, rel=0.06)
    assert inputs.snr(1e6 * noisy, mask, scan_of) == pytest.approx(inputs.snr(noisy, mask, scan_of), rel=1e-4)
    assert inputs.snr(noisy[:, :, :, 4:5], mask[:, :, 4:5], scan_of) == pytest.approx(truth, rel=0.2)  # a single slice
    assert inputs.snr(torch.ones(3, 8, 8, 8), torch.ones(8, 8, 8, dtype=torch.bool), scan_of) == math.inf
    assert math.isnan(inputs.snr(noisy, torch.zeros_like(mask), scan_of))
    broken = noisy.clone()
    broken[1, 5, 5, 5], broken[0, 6, 6, 6], broken[2, 8, 9, 10] = math.nan, math.inf, -1.0
    assert inputs.snr(broken, mask, scan_of) == pytest.approx(inputs.snr(noisy, mask, scan_of), rel=0.01)


@pytest.mark.parametrize(
    ("times", "missing"),
    [((4, 8, 12, 16), 0), ((4, 8, 16, 20), 1), ((4, 8, 12, 24), 2), ((5,), 0), ((4.9, 7.4), 0), ((3, 5, 12, 28), 0)],
)
def test_missing_echoes(times, missing):
    assert inputs.missing_echoes(Scan(tuple(t / 1000 for t in times))) == missing


def test_erosion():
    mask = torch.zeros(9, 11, 7, dtype=torch.bool)
    mask[1:8, 2:9] = True
    eroded = erode(mask, 2)
    assert eroded.nonzero().amin(0).tolist() == [3, 4, 0]  # the edge of the volume takes nothing away
    assert int(eroded.sum()) == 3 * 3 * 7


def test_judge_says_only_what_the_data_tell(board):
    everything = judge({**board, "novelty": torch.tensor(0.4)})  # which only networks give
    assert [f.name for f in everything] == [c.name for c in CHECKS]
    assert judge({}) == []
    assert {f.name for f in judge({"scan": SCAN, "mask": board["mask"], "grid": GRID})} == {
        "missing echoes",
        "mask volume",
        "mask cut off",
        "brain mapped",
    }
    assert all(f.verdict in ("good", "check", "bad") and f.sentence.endswith(".") for f in everything)


@pytest.mark.parametrize("voxels", [0, 1, 3])
@pytest.mark.parametrize("name", ["mask", "local_mask"])
def test_a_mask_of_next_to_nothing_leaves_numbers_out_and_one_of_nothing_is_refused(board, name, voxels):
    few = torch.zeros_like(board["mask"])
    few.flatten()[board["mask"].flatten().nonzero()[:voxels]] = True
    if voxels:
        assert len(judge({**board, name: few})) < len(judge(board))
    else:
        with pytest.raises(MaskError, match="the mask is empty"):
            judge({**board, name: few})


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.name)
def test_limits(check):
    """Good, check and bad lie on the right sides of the limits, whichever way is better."""
    middle = (check.good + check.bad) / 2
    worst = check.bad + (check.bad - check.good)
    verdicts = []
    for value in (check.good, middle, worst):
        stub = type(check)(**{**vars(check), "measure": lambda _, v=value: v, "needs": ()})
        verdicts.append(stub.judge({}).verdict)
    assert verdicts == ["good", "check", "bad"]


@pytest.mark.parametrize(("edge", "verdict", "word"), [(50, "good", "adult"), (62, "check", "muscle"), (5, "bad", "small")])
def test_a_mask_may_be_too_large_for_a_brain_as_well_as_too_small(edge, verdict, word):
    """2.3 litres of head were once a good brain."""
    mask = torch.zeros((64, 64, 64), dtype=torch.bool)
    mask[:edge, :edge, : edge // 2] = True
    told = {finding.name: finding for finding in judge({"mask": mask, "grid": Grid((64, 64, 64), (2.6, 2.6, 2.6))})}["mask volume"]
    assert told.verdict == verdict
    assert word in told.sentence


@pytest.mark.parametrize("echoes", [1, 2, 3])
@pytest.mark.parametrize("slices", [1, 2])
def test_the_signal_to_noise_of_a_slice_or_two(slices, echoes, generator):
    magnitude = 100 + torch.randn((echoes, 40, 41, slices), generator=generator)
    scan = Scan(tuple(0.005 * n for n in range(1, echoes + 1)))
    assert inputs.snr(magnitude, torch.ones(40, 41, slices, dtype=torch.bool), scan) == pytest.approx(100, rel=0.15)


def test_what_is_no_number_does_not_hide_saturation():
    magnitude = torch.arange(120.0).view(2, 3, 4, 5).clamp_max(100.0)
    clean = inputs.saturation(magnitude)
    magnitude[0, 0, 0, 0] = math.inf
    assert inputs.saturation(magnitude) == clean > 0


@pytest.mark.parametrize("unknown", [0.0, math.inf, math.nan])
def test_unknown_noise_does_not_count_for_the_field_noise(unknown):
    mask, noise = torch.ones(4, 4, 4, dtype=torch.bool), torch.full((4, 4, 4), 0.02)
    noise[:3] = unknown
    assert {f.name: f.value for f in judge({"noise": noise, "mask": mask})}["field noise"] == pytest.approx(20)
    assert "field noise" not in {f.name for f in judge({"noise": 0 * noise, "mask": mask})}


@pytest.mark.parametrize("unknown", [0.0, math.inf, math.nan])
def test_what_is_left_is_told_in_noises_where_these_are_known(unknown, generator):
    grid = Grid((21, 18, 16), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    mask, noise = torch.ones(grid.shape, dtype=torch.bool), torch.full(grid.shape, 0.01)
    left = 0.01 * torch.randn(grid.shape, generator=generator)
    noise[7:] = unknown
    assert results.consistency(left, 0 * left, mask, grid, noise).noises == pytest.approx(1, abs=0.05)


def test_maps_that_hold_no_numbers_outside_the_mask_are_judged_alike(generator):
    grid = Grid((41, 38, 33), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[2:-2, 3:-2, 2:-3] = True
    mask[4, 5, 6] = False
    chi = torch.randn(grid.shape, generator=generator) * mask
    field = Dipole(grid, padding=1.5)(chi)
    spoilt = torch.where(mask, chi, math.nan)
    assert results.consistency(field, spoilt, mask, grid).rms == results.consistency(field, chi, mask, grid).rms
    assert results.streaks(spoilt, mask, grid) == results.streaks(chi, mask, grid)
