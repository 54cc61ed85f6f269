import nibabel as nib
import numpy as np
import pytest
import torch

from paradia.errors import GeometryError, InputError, MaskError
from paradia.grid import Grid
from paradia.simulate.labels import ZUBAL, from_labels
from paradia.simulate.subject import subject
from paradia.simulate.tissue import LABELS

GRID = Grid((20, 22, 18), (1.0, 1.2, 1.5), (0.2, -0.3, 0.93))
NAMES = {0: "air", 7: "bone", 11: "white_matter", 300: "putamen", 12: "eye", 13: "vein"}


def volume():
    """Draw a brain with a nucleus in bone, a bubble of air in it by mistake, an eye apart, a crumb of white matter outside."""
    labels = torch.zeros(GRID.shape, dtype=torch.int16)
    labels[3:15, 3:17, 3:15] = 7
    labels[4:14, 4:16, 4:14] = 11
    labels[6:9, 7:11, 7:11] = 300
    labels[11, 11, 11] = 0
    labels[12, 5, 5] = 13
    labels[16:18, 10:12, 5:8] = 12
    labels[18, 18, 16] = 11
    return labels


def test_numbers_become_tissues():
    anatomy = from_labels(volume(), NAMES, GRID)
    for number, name in NAMES.items():
        if name not in ("air", "white_matter"):
            assert torch.equal(anatomy.labels == LABELS[name], volume() == number), name
    assert anatomy.fibres is None
    assert anatomy.grid == GRID
    assert torch.equal(anatomy.veins > 0, volume() == 13)


def test_brain_is_the_largest_part_with_its_holes_filled():
    anatomy = from_labels(volume(), NAMES, GRID)
    expected = torch.zeros(GRID.shape, dtype=torch.bool)
    expected[4:14, 4:16, 4:14] = True
    # a corner of a box is no voxel's neighbour face to face after the outermost layer is gone; edges may be rounded
    assert (anatomy.mask & ~expected).sum() == 0
    assert float(anatomy.mask.sum() / expected.sum()) > 0.85
    assert anatomy.mask[11, 11, 11]
    assert anatomy.labels[11, 11, 11] == LABELS["csf"]
    assert not anatomy.mask[18, 18, 16]


def test_a_mask_may_be_given():
    mask = torch.zeros(GRID.shape, dtype=torch.bool)
    mask[5:10, 5:10, 5:10] = True
    assert torch.equal(from_labels(volume(), NAMES, GRID, mask=mask).mask, mask)


def test_detail_is_fine_structure_of_the_brain():
    one, same, other = (from_labels(volume(), NAMES, GRID, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.detail, same.detail)
    assert not torch.equal(one.detail, other.detail)
    assert float(one.detail[~one.mask].abs().max()) == 0
    assert 0.5 < float(one.detail[one.mask].std()) < 1.5


def test_a_thin_sheet_may_be_a_brain():
    labels = torch.zeros(GRID.shape, dtype=torch.int16)
    labels[:, :, 9] = 11
    assert torch.equal(from_labels(labels, NAMES, GRID).mask, labels == 11)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match=r"names no tissue for the labels \[12, 13, 300\]"):
        from_labels(volume(), {0: "air", 7: "bone", 11: "white_matter"}, GRID)
    with pytest.raises(InputError, match="Did you mean 'putamen'"):
        from_labels(volume(), {**NAMES, 300: "puttamen"}, GRID)
    with pytest.raises(MaskError, match="no voxel is brain"):
        from_labels(volume(), dict.fromkeys(NAMES, "bone"), GRID)
    with pytest.raises(GeometryError, match="labels has shape"):
        from_labels(volume()[1:], NAMES, GRID)


@pytest.mark.slow
def test_zubal_s_head_is_a_subject(shared_data):
    folder = shared_data / "head-zubal"
    numbers, drawn = (
        np.asarray(nib.load(folder / name).dataobj)[80:-80:3, 40:-40:3, ::3]
        for name in ("zubal_phantom_1iso.nii.gz", "zubalPhantom_brainMask_1iso.nii.gz")
    )
    labels = torch.from_numpy(numbers.astype(np.int16))
    grid = Grid(tuple(labels.shape), (2.325,) * 3, (0.0, 0.1, 0.995))  # the drawing's brain is 3.2 l at its nominal voxel
    anatomy = from_labels(labels, ZUBAL, grid, seed=1)
    brain = torch.from_numpy(drawn > 0)
    assert float(2 * (anatomy.mask & brain).sum() / (anatomy.mask.sum() + brain.sum())) > 0.97
    truth = subject(2, anatomy=anatomy, lesions=("rim_plaque",), age=40.0)
    assert float(truth.chi[truth.mask].max()) < 2  # no air inside
    order = [float(truth.chi[truth.region(name)].mean()) for name in ("white_matter", "thalamus", "pallidum_external")]
    assert order[0] < order[1] < order[2]
    assert 0.05 < float(truth.total_field[truth.mask].std()) < 1.5
