"""The pretend device behaves like a real one: what fails there fails here, and what works there gives what the CPU gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

ROWS, COLUMNS = 4, 5


@pytest.fixture
def here():
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def there(here, device):
    return here.to(device)


MIXED = {
    "added": lambda a, b: a + b,
    "added in place": lambda a, b: a.clone().add_(b),
    "the other way round": lambda a, b: b * a,
    "into a tensor of the CPU": lambda a, b: b.clone().add_(a),
    "a number of the device": lambda a, b: b * a.sum(),
    "a number of the CPU as the result": lambda a, b: torch.tensor(0.0).add_(a.sum()),
    "a condition": lambda a, b: torch.where(b > 0, a, 0.0),
    "one after the other": lambda a, b: torch.cat([a, b]),
    "numbers one after the other": lambda a, b: torch.stack([a.sum(), b.sum()]),
    "product": lambda a, b: a.T @ b,
    "product with a vector": lambda a, b: a @ b[0],
    "sorted in": lambda a, b: torch.searchsorted(a[0].sort().values, b[0]),
    "complex": lambda a, b: torch.complex(a[0, 0], b[0, 0]),
    "polar": lambda a, b: torch.polar(a, b.abs()),
    "filled": lambda a, b: a.masked_fill(b > 0, 0.0),
    "indices of the device": lambda a, b: b[a > 0],
    "assigned by a mask": lambda a, b: a.clone().__setitem__(b > 0, b[b > 0]),
    "assigned to the CPU by a mask": lambda a, b: b.clone().__setitem__(b > 0, a[a > 0]),
    "gathered": lambda a, b: a.gather(0, torch.zeros(1, COLUMNS, dtype=torch.int64)),
    "convolved": lambda a, b: nn.functional.conv1d(a[:, None], torch.ones(1, 1, 3)),
    "padded and convolved by a module": lambda a, b: nn.Conv1d(1, 1, 3)(a[:, None]),
    "eigenvectors applied": lambda a, b: torch.linalg.eigh(a.T @ a).eigenvectors @ b[0],
}


@pytest.mark.parametrize("name", MIXED)
def test_a_tensor_of_the_cpu_is_refused(name, here, there):
    with pytest.raises(RuntimeError, match="same device"):
        MIXED[name](there, here)
    MIXED[name](here, here)  # and nothing else is wrong with it


REFUSED = {
    "to numpy": (TypeError, "can't convert cuda:0", lambda a: a.numpy()),
    "as an array": (TypeError, "can't convert cuda:0", np.asarray),
    "as a new array": (TypeError, "can't convert cuda:0", np.array),
    "a function of numpy": (TypeError, "can't convert cuda:0", lambda a: np.sqrt(a.abs())),
    "numbers of a generator": (RuntimeError, "generator", lambda a: torch.randn(3, generator=torch.Generator(), device=a.device)),
    "filled by a generator": (RuntimeError, "generator", lambda a: a.normal_(generator=torch.Generator())),
    "permutation": (RuntimeError, "generator", lambda a: torch.randperm(3, generator=torch.Generator(), device=a.device)),
    "product of integers": (RuntimeError, "not implemented", lambda a: a.long().T @ a.long()),
    "histogram": (NotImplementedError, "CUDA", lambda a: torch.histogram(a.flatten(), 3)),
    "a new shape in place": (NotImplementedError, "does not know", lambda a: a.unsqueeze_(0)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_real_device_refuses(name, there):
    error, message, do = REFUSED[name]
    with pytest.raises(error, match=message):
        do(there)


ALIKE = {
    "number of the CPU": lambda a, d: a + torch.tensor(0.5),
    "condition": lambda a, d: torch.where(a > 0, a, torch.tensor(0.0)),
    "mask": lambda a, d: a[a > 0],
    "mask of the CPU": lambda a, d: a[torch.arange(ROWS) % 2 == 0],
    "index of the CPU": lambda a, d: a[torch.tensor([0, 2])],
    "slice assigned from the CPU": lambda a, d: put(a.clone(), 0, torch.ones(COLUMNS)),
    "mask assigned": lambda a, d: put(a.clone(), a > 0, a[a > 0] ** 2),
    "mask assigned a number": lambda a, d: put(a.clone(), a > 0, torch.tensor(3.0)),
    "view changed": lambda a, d: doubled(a.clone()),
    "made there": lambda a, d: a + torch.arange(COLUMNS, device=a.device) + torch.full((COLUMNS,), 0.5, device=a.device),
    "made like it": lambda a, d: a + torch.ones_like(a) + a.new_tensor([1.0, 2.0, 3.0, 4.0, 5.0]) + a.new_full((COLUMNS,), 2.0),
    "made from numbers": lambda a, d: a * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], device=a.device),
    "made from an array": lambda a, d: a * torch.from_numpy(np.arange(5.0)).to(a),
    "moved like it": lambda a, d: a * torch.ones(COLUMNS, dtype=torch.float64).to(a),
    "moved and precise": lambda a, d: a * torch.full((COLUMNS,), 1 / 3, dtype=torch.float64).to(d),
    "to the device by name": lambda a, d: torch.ones(2).to(d.type) + a[0, 0],
    "spectrum": lambda a, d: torch.fft.irfftn(torch.fft.rfftn(a), s=a.shape),
    "conjugated": lambda a, d: torch.fft.fft(a).conj() * torch.fft.fft(a) + torch.fft.fft(a).conj().imag,
    "adjoint": lambda a, d: (lambda m: m @ m.mH)(torch.complex(a, a.flip(0))).conj().clone(),
    "linear algebra": lambda a, d: torch.linalg.solve(a.T @ a + torch.eye(COLUMNS, device=a.device), a[0]),
    "loop that stops": lambda a, d: halved(a),
    "sorted": lambda a, d: a.flatten().sort().values.cumsum(0),
    "counted": lambda a, d: (a > 0).long().flatten().bincount(),
    "module": lambda a, d: network().to(d)(a[None, None]),
    "buffer": lambda a, d: nn.BatchNorm1d(COLUMNS).eval().to(d)(a),
    "without gradients": lambda a, d: inferred(a, d),
}


def put(tensor, place, value):
    tensor[place] = value
    return tensor


def doubled(tensor):
    tensor[0].mul_(2)
    tensor.T[1:2] += 1
    return tensor


def halved(tensor):
    while float(tensor.norm()) > 0.1 and bool((tensor != 0).any()):
        tensor = tensor / 2
    return tensor


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.GroupNorm(1, 2), nn.ReLU(), nn.Conv2d(2, 1, 1)).requires_grad_(False)


def inferred(tensor, device):
    with torch.inference_mode():
        return network().to(device)(tensor[None, None]).clone()


@pytest.mark.parametrize("name", ALIKE)
def test_the_rest_gives_what_the_cpu_gives(name, here, there, device):
    result = ALIKE[name](there, device)
    assert result.device == device
    if name == "to the device by name":
        assert torch.equal(result.cpu(), 1 + here[0, :1].expand(2))
        return
    assert torch.equal(result.cpu(), ALIKE[name](here, torch.device("cpu")))
    assert result.cpu().device == result.to("cpu").device == torch.device("cpu")


def test_numbers_leave_the_device(here, there):
    assert there.tolist() == here.tolist()
    assert there[0, 0].item() == float(there[0, 0]) == float(here[0, 0])
    assert int((there > 0).sum()) == int((here > 0).sum())
    assert np.array_equal(there.cpu().numpy(), here.numpy())
    assert there.is_cuda
    assert there.cpu().is_cpu


def test_autocast_is_that_of_the_device(there, device):
    net = network().to(device)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(there[None, None]).dtype == torch.float32
    with torch.autocast("cuda", torch.bfloat16):
        assert net(there[None, None]).dtype == torch.bfloat16


def test_weights_load_onto_the_device_and_back(device, tmp_path):
    from safetensors import safe_open

    net = network().to(device)
    assert all(weight.device == device for weight in net.parameters())
    save_file({name: weight.cpu() for name, weight in net.state_dict().items()}, tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", "pt", device="cuda") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    assert all(weight.device == device for weight in weights.values())
    net.load_state_dict(weights)
    assert all(weight.is_cpu for weight in net.to("cpu").parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real one")
def test_afterwards_there_is_none():
    with pytest.raises((AssertionError, RuntimeError), match="CUDA"):
        torch.zeros(2, device="cuda")
