"""Networks run in half precision only where the machine reckons in it."""

from __future__ import annotations

import pytest
import torch

from paradia.nets import precision
from paradia.nets.precision import halves, quick


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True, "avx512_bf16": False}, True),
        ({"bf16": True}, True),
        ({"avx512_bf16": False, "avx512_f": True, "avx512_vnni": True}, False),
        ({}, False),
    ],
)
def test_a_processor_without_it_is_not_asked_to_imitate_it(monkeypatch, flags, expected):
    monkeypatch.setattr(precision.torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert halves("cpu") is expected
    convolution = torch.nn.Conv3d(1, 1, 3)
    with quick("cpu"):
        assert convolution(torch.ones(1, 1, 4, 4, 4)).dtype == (torch.bfloat16 if expected else torch.float32)


def test_a_torch_that_cannot_say_is_taken_at_single_precision(monkeypatch):
    monkeypatch.delattr(precision.torch.cpu, "get_capabilities", raising=False)
    assert not halves("cpu")


@pytest.mark.parametrize("has", [True, False])
def test_a_gpu_that_only_imitates_it_is_left_alone(monkeypatch, has):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: asked.append(including_emulation) or has)
    assert halves("cuda") is has
    assert asked == [False]
