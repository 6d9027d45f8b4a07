"""What training computes in: by the device where the recipe leaves it, else as the recipe says."""

import pytest
import torch
from torch import nn

from mipp.retrain import Numerics, numerics
from mipp.retrain.numerics import layout_for, numerics_for

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


NEITHER = "no AMX or AVX512-BF16"


@pytest.mark.parametrize(
    ("capabilities", "gain", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, 0, ("bfloat16", "AMX")),
        ({"avx512_bf16": True}, 1.9, ("bfloat16", "bfloat16 is 1.9 times as fast")),
        ({"avx512_bf16": True}, 1.1, ("float32", "bfloat16 is 1.1 times as fast")),
        ({}, 9, ("float32", NEITHER)),
    ],
)
def test_a_cpu_computes_in_bfloat16_where_that_is_faster(monkeypatch, capabilities, gain, expected):
    monkeypatch.setattr(numerics, "capabilities", lambda: capabilities)
    monkeypatch.setattr(numerics, "_measured_gain", lambda: gain)
    found = numerics_for(CPU, "auto", "auto")
    assert (found.precision, found.channels_last) == (expected[0], True)
    assert expected[1] in found.why
    assert len(f"training {found}") <= 80  # a line of a terminal


def test_the_gain_of_bfloat16_is_that_of_the_times(monkeypatch):
    clock = [0.0]

    def convolution(x, *_weight, padding):
        clock[0] += 3.0 if x.dtype == torch.float32 else 2.0

    monkeypatch.setattr(numerics.F, "conv2d", convolution)
    monkeypatch.setattr(numerics.time, "perf_counter", lambda: clock[0])
    numerics._measured_gain.cache_clear()
    try:
        assert numerics._measured_gain() == 1.5
    finally:
        numerics._measured_gain.cache_clear()


@pytest.mark.parametrize(("supported", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_computes_in_bfloat16_where_it_has_it(monkeypatch, supported, precision):
    def is_bf16_supported(including_emulation=True):
        return including_emulation or supported

    monkeypatch.setattr(torch.cuda, "device", lambda _device: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Some GPU")
    found = numerics_for(CUDA, "auto", "auto")
    assert (found.precision, found.channels_last) == (precision, supported)
    assert str(found) == (
        "computes in bfloat16, channels-last: bfloat16 on Some GPU" if supported
        else "computes in float32, contiguous: no bfloat16 on Some GPU"
    )  # fmt: skip


def test_any_other_device_computes_in_float32():
    assert numerics_for(MPS, "auto", "auto") == Numerics("float32", False, "not measured on mps")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("last", [False, True])
def test_what_a_recipe_says_is_taken(precision, last):
    for device in (CPU, MPS):
        assert numerics_for(device, precision, last) == Numerics(precision, last)
        assert numerics_for(device, "auto", last).channels_last is last
        assert numerics_for(device, precision, "auto").precision == precision


def test_an_older_torch_leaves_the_capabilities_to_linux(monkeypatch, tmp_path):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    for flags, has in (("fpu avx512_bf16 amx_bf16 amx_tile", True), ("fpu avx512_bf16", False)):
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor\t: 0\nflags\t\t: {flags}\nprocessor\t: 1\n")
        monkeypatch.setattr(numerics, "_CPUS", path)
        assert ("amx_bf16" in numerics.capabilities()) is has
    monkeypatch.setattr(numerics, "_CPUS", tmp_path / "none")
    assert numerics_for(CPU, "auto", "auto").precision == "float32"


def test_evaluation_is_channels_last_on_a_cpu_unless_told():
    net = nn.Conv2d(1, 1, 1)
    assert layout_for(net, "auto") is True
    assert layout_for(net, False) is False
    assert layout_for(nn.Conv2d(1, 1, 1, device="meta"), "auto") is False
