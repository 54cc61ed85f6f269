"""The phantom's closed forms against the dipole, and against what they are known to do."""

import math

import pytest
import torch

from paradia.errors import GeometryError, InputError
from paradia.fft import crop, pad
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.phantom import CONTENTS, Cylinder, Sphere, _field, _share, phantom

GRID = Grid((81, 80, 78), (2.0, 2.05, 2.1), (0.2, -0.3, 0.93))


@pytest.mark.parametrize("name", ["sphere_200ppb", "cylinder_x_100ppb", "cylinder_z_100ppb"])
def test_a_body_has_the_field_that_the_dipole_gives_it(name):
    body = CONTENTS[name]._replace(centre=(2.0, -3.0, 1.0))
    grid = Grid((56, 60, 54), (1.3, 1.2, 1.35), GRID.b0_dir)
    axes = [(torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * v for n, v in zip(grid.shape, grid.voxel_size, strict=True)]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    field = _field(place, body, torch.tensor(grid.b0_dir, dtype=torch.float64)).float()
    chi = (body.chi * _share(axes, body, grid)).float()
    shape = [4 * n for n in grid.shape]
    if isinstance(body, Cylinder):  # a transform is periodic: along its axis a cylinder then has no end
        shape[body.axis] = grid.shape[body.axis]
    found = crop(Dipole(grid.with_shape(shape))(pad(chi, shape)), grid.shape)
    offset = place - torch.tensor(body.centre, dtype=torch.float64)
    if isinstance(body, Cylinder):
        offset[..., body.axis] = 0
    apart = offset.square().sum(-1).sqrt()
    clear = (apart - body.radius).abs() > 2.5  # a voxel on the surface is partly inside
    found, field = found[clear] - found[clear].mean(), field[clear] - field[clear].mean()  # a transform gives no mean
    assert float((found * field).sum() / field.square().sum()) == pytest.approx(1, abs=0.01)
    assert float((found - field).square().mean().sqrt()) < 0.04 * float(field.square().mean().sqrt())


def test_what_a_bottle_holds_is_where_it_should_be():
    truth = phantom(GRID)
    assert truth.mask[40, 40, 39]
    assert not truth.mask[0, 0, 0]
    assert float(truth.mask.sum()) * GRID.voxel_volume == pytest.approx(4 / 3 * math.pi * 75**3, rel=0.01)
    for label, name in truth.names.items():
        if label < 2:
            continue
        body, inside = CONTENTS[name], truth.labels == label
        assert float(truth.chi[inside].median()) == pytest.approx(body.chi, rel=1e-6)
        if isinstance(body, Sphere):
            assert float(inside.sum()) * GRID.voxel_volume == pytest.approx(4 / 3 * math.pi * body.radius**3, rel=0.06)
    assert torch.equal(truth.total_field, truth.local_field)


def test_nothing_touches_anything_else():
    grid = Grid((160, 160, 160))
    axes = [torch.arange(160, dtype=torch.float64) - 79.5] * 3
    shares = [_share(axes, body._replace(radius=body.radius + 4), grid) for body in CONTENTS.values()]
    bottle = _share(axes, Sphere((0.0, 0.0, 0.0), 71.0, 0.0), grid)
    assert torch.stack([share > 0 for share in shares]).sum(0).max() == 1
    for body, share in zip(CONTENTS.values(), shares, strict=True):
        if isinstance(body, Sphere):
            assert bottle[share > 0].min() == 1


def test_its_echoes_hold_field_and_rate():
    truth, scan = phantom(GRID, b0=7.0), Scan((0.004, 0.010), 7.0)
    first, second = gre(truth, scan, snr=math.inf, dephasing=False)
    inside = truth.mask & (truth.magnitude0 > 0.99)
    rate = -torch.log(second.abs() / first.abs())[inside] / 0.006
    torch.testing.assert_close(rate, truth.r2star[inside], rtol=1e-3, atol=1e-2)
    turned = (second / first).angle()[inside]
    torch.testing.assert_close(turned / scan.rad_per_ppm(0.006), truth.total_field[inside], rtol=0, atol=1e-4)


def test_bad_input_is_told():
    with pytest.raises(GeometryError, match="too coarse"):
        phantom(Grid((20, 20, 20), (6.0, 6.0, 6.0)))
    with pytest.raises(InputError, match="field strength must be positive"):
        phantom(GRID, b0=-3.0)
