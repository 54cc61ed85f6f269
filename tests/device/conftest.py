"""A pretend CUDA device for machines that have none: tensors that compute on the CPU and behave as if they lay on a GPU.

``with pretend() as device:`` gives ``torch.device("cuda", 0)``, and inside it all that torch makes there or moves there is a
`Pretend`: a wrapper around a CPU tensor, whose values it has to the last bit. So control flow on values works, which it does
not with torch's own fake tensors. Below autograd and autocast every operation passes `_run`, which keeps these rules of a real device:

- A tensor on the device and a CPU tensor do not meet in one operation. Exempt, as in torch, are CPU tensors of no dimension
  in elementwise operations (never tensors of the device among those of the CPU), copies from one device to the other, and indices on the
  CPU of a tensor on the device.
- ``.numpy()``, ``np.asarray`` and ``np.array`` raise TypeError; ``.item()``, ``float()``, ``bool()``, ``.tolist()``, ``.cpu()`` and
  ``.to`` work.
- A random-number generator of the CPU makes no numbers on the device.
- Integers have no matrix product, and an operation for which torch has no CUDA kernel fails.
- Autocast is that of CUDA; modules, their parameters and files of weights move to the device and back.

Not imitated: which types a CUDA kernel takes (matrix products apart), how it rounds and in which order it adds, memory, streams,
time, a second GPU, generators on the device, pinned memory, and the backward pass, which torch built without CUDA refuses.
Inference mode is that of no gradients.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from paradia.grid import Grid
from paradia.nets import store
from paradia.scan import Scan
from paradia.simulate.gre import gre
from paradia.simulate.head import head

GRID, SCAN = Grid((26, 31, 24), (7.0, 6.6, 7.4), (0.2, -0.3, 0.93)), Scan((0.006, 0.012, 0.018))
DEVICE = torch.device("cuda", 0)
CUDA, META = 1, 14
"""Numbers of two kinds of devices, in torch's own list."""

aten = torch.ops.aten

CROSSING = {aten.copy_.default, aten._to_copy.default, aten.fill_.Tensor}
"""Operations whose tensors may lie on different devices."""

INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
"""Operations whose second argument is a list of indices, which may lie on the CPU."""

ONE_NUMBER = {aten.masked_fill.Tensor, aten.masked_fill_.Tensor, *INDEXING}
"""Operations that are not elementwise to torch, and yet take a CPU tensor of no dimension for a value."""

STRICT = {aten.lerp, aten.lerp_, aten.addcmul, aten.addcmul_, aten.addcdiv, aten.addcdiv_, aten.complex, aten.polar}
"""Elementwise operations that want all tensors on one device, those of no dimension too."""

PRODUCTS = {aten.mm, aten.bmm, aten.addmm, aten.addmm_, aten.baddbmm, aten.mv, aten.addmv, aten.dot, aten.vdot, aten.convolution}
"""Operations of which CUDA has none for integers."""


class Pretend(Tensor):
    """A tensor that says it is on the device; its values are in `held`, on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, tensor: Tensor):
        held = tensor.conj() if tensor.is_conj() else tensor
        held = held._neg_view() if held.is_neg() else held
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=DEVICE
        )
        made.held = held
        torch._C._set_conj(made, tensor.is_conj())  # torch looks for it on the outside
        torch._C._set_neg(made, tensor.is_neg())
        return made

    def unwrapped(self) -> Tensor:
        """Return the tensor on the CPU, to be conjugated or negated when it is used like this one."""
        held = self.held._neg_view() if self.is_neg() else self.held
        return held.conj() if self.is_conj() else held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __tensor_flatten__(self):
        """Say, together with the next one, that there is a tensor within, so that `torch.nn.Module.to` exchanges whole parameters."""
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(parts, *_) -> Pretend:
        return Pretend(parts["held"])

    def new_tensor(self, data, *, dtype=None, device=None, requires_grad=False) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device, requires_grad=requires_grad)

    def numpy(self, *, force: bool = False) -> np.ndarray:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.numpy()

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def __reduce_ex__(self, protocol):
        return self.detach().cpu().__reduce_ex__(protocol)  # a file knows nothing of wrappers

    def __repr__(self, *, tensor_contents=None) -> str:
        return f"{type(self).__name__}({self.detach().cpu()!r})"


class _Mode(TorchDispatchMode):
    """Sees the operations without a tensor of the device among their arguments too: those that make or move one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


@pytest.fixture
def device() -> Iterator[torch.device]:
    """The pretend device, for one test."""
    with pretend() as place:
        yield place


@pytest.fixture(scope="session", autouse=True)
def forgotten() -> Iterator[None]:
    """Networks that were loaded onto the device do not outlive these tests."""
    yield
    store.network.cache_clear()


@contextmanager
def pretend() -> Iterator[torch.device]:
    """Have a CUDA device for a while."""
    if torch.cuda.is_available():
        torch.cuda.init()  # a real one must not find later that all has been set up
    lifted = torch._C._only_lift_cpu_tensors()
    _guard()
    with ExitStack() as stack:
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(..., device=...)` is made on the CPU and then moved, in sight of the mode
        for name, answer in {"_lazy_init": None, "is_available": True, "device_count": 1, "current_device": 0, "synchronize": None}.items():
            stack.enter_context(patch(f"torch.cuda.{name}", lambda *_, answer=answer, **__: answer))
        stack.enter_context(patch("torch.cuda.is_bf16_supported", lambda *_, **__: True))
        stack.enter_context(patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
        stack.enter_context(patch("torch.inference_mode", torch.no_grad))  # wrappers cannot be inference tensors
        stack.enter_context(patch("torch.load", _loaded(torch.load)))
        stack.enter_context(patch("paradia.fft.BY_PLANES", ("cpu", "cuda")))  # so that both round alike
        stack.enter_context(_Mode())
        yield DEVICE


def _loaded(load):
    """Make of `torch.load` one that knows the device."""

    def there(file, map_location=None, **how):
        place = torch.device(map_location or "cpu")
        return tree_map_only(Tensor, lambda tensor: tensor.to(place), load(file, map_location="cpu", **how))

    return there


def _run(func, args, kwargs):
    """Do an operation on the CPU when it would have gone well on the device."""
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    wanted = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    within = {id(tensor): tensor.unwrapped() for tensor in tensors if isinstance(tensor, Pretend)}
    own = {id(within[id(tensor)]): tensor for tensor in tensors if id(tensor) in within}
    if own:
        _check(func, args, tensors)
    where = wanted or (args[0].device if func in CROSSING | INDEXING else DEVICE if own else torch.device("cpu"))
    if where.type != "cpu":  # "meta" is what becomes of "cuda" without a number: see `_guard`
        if any(isinstance(leaf, torch.Generator) for leaf in leaves):
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if func.name() in _without_kernel():
            raise NotImplementedError(f"Could not run '{func.name()}' with arguments from the 'CUDA' backend.")
    args, kwargs = tree_map_only(Pretend, lambda tensor: within[id(tensor)], (args, kwargs))
    args, kwargs = tree_map_only(torch.device, lambda _: torch.device("cpu"), (args, kwargs))
    given = func(*args, **{name: value for name, value in kwargs.items() if name != "pin_memory"})
    if where.type != "cpu":
        given = tree_map_only(Tensor, lambda tensor: own[id(tensor)] if id(tensor) in own else Pretend(tensor), given)
    for tensor in own.values():
        if tensor.shape != tensor.held.shape:
            raise NotImplementedError(f"the pretend device does not know {func.name()}, which changes a shape in place")
    return given


def _check(func, args, tensors) -> None:
    """Refuse what a real device would refuse."""
    first = args[0] if args else None
    if func in INDEXING and isinstance(first, Pretend):
        tensors = [tensor for tensor in tensors if tensor.is_cuda or all(tensor is not index for index in args[1])]
    strangers = [tensor for tensor in tensors if not tensor.is_cuda]
    if func not in CROSSING and strangers:
        elementwise = torch.Tag.pointwise in func.tags and func.overloadpacket not in STRICT
        one_number = all(tensor.ndim == 0 for tensor in strangers) and (elementwise or func in ONE_NUMBER)
        if not one_number or (func._schema.is_mutable and isinstance(first, Tensor) and not first.is_cuda):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, {DEVICE} and cpu! (when checking {func})"
            )
    if func.overloadpacket in PRODUCTS and not (tensors[0].is_floating_point() or tensors[0].is_complex()):
        raise RuntimeError(f'"{func}" not implemented for {tensors[0].dtype} on CUDA')


@cache
def _guard() -> None:
    """Have torch switch to the device as to that of its meta tensors, by doing nothing. Built without CUDA, it would refuse.

    Asked for the number of the device that is in use, it then answers with that of the meta tensors, "meta".
    """
    torch._C._ensureCUDADeviceGuardSet()
    library = next((Path(torch.__file__).parent / "lib").glob("libc10.*"))
    guards = (ctypes.c_void_p * (META + 1)).in_dll(ctypes.CDLL(str(library)), "_ZN3c104impl26device_guard_impl_registryE")
    guards[CUDA] = guards[CUDA] or guards[META]


@cache
def _without_kernel() -> frozenset[str]:
    """Return the names of the operations that torch has for the CPU and not for CUDA, as its own table says."""
    import yaml

    spec = find_spec("torchgen")
    assert spec
    assert spec.submodule_search_locations
    table = Path(spec.submodule_search_locations[0]) / "packaged" / "ATen" / "native" / "native_functions.yaml"
    found = set()
    for entry in yaml.load(table.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        keys = {key.strip() for keys in entry.get("dispatch", {}) for key in keys.split(",")}
        if "CPU" in keys and "CUDA" not in keys:
            found.add("aten::" + entry["func"].partition("(")[0])
    return frozenset(found)


@pytest.fixture(scope="session")
def board():
    """A head, its echoes in three coils, and whatever a method may ask for."""
    truth = head(GRID, seed=1)
    mask, echoes = truth.mask, gre(truth, SCAN, seed=1)
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in GRID.shape), indexing="ij")
    coils = torch.stack([torch.polar(1 + 0.4 * size, turn) for size, turn in ((x, y), (-y, 0.5 * z), (z, -x))])
    fluid = mask & (x.square() + y.square() + z.square() < 0.1)
    r2star = torch.where(fluid, 2.0, truth.r2star) * mask
    return {
        "grid": GRID,
        "scan": SCAN,
        "coil_images": echoes[:, None] * coils,
        "coil_noise": 2e-4 * torch.eye(3, dtype=torch.complex64) + 2e-5j * torch.tensor([[0, 1, 0], [-1, 0, 0], [0, 0, 0]]),
        "magnitude": echoes.abs(),
        "phase": echoes.angle(),
        "mask": mask,
        "region": fluid,
        "unwrapped": torch.stack([SCAN.rad_per_ppm(t) * truth.total_field + truth.offset for t in SCAN.echo_times]) * mask,
        "total_field": truth.total_field * mask,
        "noise": 0.003 * (1 + x.square()) * mask,
        "local_field": truth.local_field * mask,
        "chi": truth.chi * mask,
        "r2star": r2star,
        "r2": 0.6 * r2star,
        "r2prime": 0.4 * r2star,
        "r2star_noise": 0.5 * mask.float(),
        "r2_noise": 0.6 * mask.float(),
        "r2prime_noise": 0.7 * mask.float(),
    }
