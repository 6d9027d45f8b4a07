"""Which numbers and which memory layout training computes in, by what the device does fast.

Measured by ``python -m lab run precision``: autocast to bfloat16 is faster than float32 on
processors with AMX, and up to 21 times slower on those that convert every number. AVX512-BF16
alone makes it twice as fast on some processors and no faster on others, so there one convolution
is timed both ways.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

_CPUS = Path("/proc/cpuinfo")
_GAIN = 1.3
"""How many times faster a convolution in bfloat16 must be for training to use it."""


@dataclass(frozen=True)
class Numerics:
    """What a training computes in.

    Attributes:
        precision: of convolutions and matrix products.
        channels_last: whether images and filters lie channels-last.
        why: in words, for what was chosen here; empty where the recipe says both.

    Examples:
        >>> str(Numerics("float32", True, "no AMX or AVX512-BF16"))
        'computes in float32, channels-last: no AMX or AVX512-BF16'
    """

    precision: Literal["float32", "bfloat16"]
    channels_last: bool
    why: str = ""

    def __str__(self) -> str:
        layout = "channels-last" if self.channels_last else "contiguous"
        return f"computes in {self.precision}, {layout}" + (f": {self.why}" if self.why else "")


def numerics_for(
    device: torch.device,
    precision: Literal["auto", "float32", "bfloat16"],
    channels_last: "Literal['auto'] | bool",
) -> Numerics:
    """What to compute in on a device; ``"auto"`` leaves it to what that device does fast.

    bfloat16 is chosen on CUDA where the GPU computes it by itself, on CPUs with AMX, and on those
    with AVX512-BF16 alone where a convolution, timed once a process, is faster in it.
    Channels-last is chosen on CPUs, and on CUDA with bfloat16, whose tensor cores take
    that layout. On any other device it is float32, contiguous.

    Examples:
        >>> numerics_for(torch.device("cpu"), "bfloat16", channels_last=False)
        Numerics(precision='bfloat16', channels_last=False, why='')
    """
    fast, why = _computes_bfloat16(device)
    chosen: Literal["float32", "bfloat16"] = "bfloat16" if fast else "float32"
    if precision != "auto":
        chosen, why = precision, f"precision={precision!r} was given"
    if channels_last != "auto":
        return Numerics(chosen, channels_last, why if precision == "auto" else "")
    last = device.type == "cpu" or (device.type == "cuda" and chosen == "bfloat16")
    return Numerics(chosen, last, why)


def layout_for(model: nn.Module, channels_last: "Literal['auto'] | bool") -> bool:
    """Whether to compute channels-last, without autocast: ``"auto"`` does on CPUs."""
    if channels_last != "auto":
        return channels_last
    return all(parameter.device.type == "cpu" for parameter in model.parameters())


def _computes_bfloat16(device: torch.device) -> tuple[bool, str]:
    """Whether a device multiplies bfloat16 faster than float32, and by what one knows."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            # emulation, which torch counts as support by default, is slower than float32
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        name = torch.cuda.get_device_name(device)
        return fast, f"{'' if fast else 'no '}bfloat16 on {name}"
    if device.type == "cpu":
        has = capabilities()  # torch and Linux have the same names
        if has.get("amx_bf16"):
            return True, "AMX"
        if not has.get("avx512_bf16"):
            return False, "no AMX or AVX512-BF16"
        gain = _measured_gain()
        return gain >= _GAIN, f"bfloat16 is {gain:.1f} times as fast"
    return False, f"not measured on {device.type}"


@cache
def _measured_gain() -> float:
    """Time of a convolution in float32 divided by that in bfloat16, on the CPU."""
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    with torch.no_grad():
        for _ in range(12):  # in turn, so that a busy moment slows both; the first makes the kernel
            for dtype, taken in seconds.items():
                # 2.4 milliseconds of one core that does 64 operations a cycle
                x = torch.ones(16, 64, 16, 16, dtype=dtype)
                x = x.contiguous(memory_format=torch.channels_last)
                weight = torch.ones(64, 64, 3, 3, dtype=dtype)
                started = time.perf_counter()
                F.conv2d(x, weight, padding=1)
                taken.append(time.perf_counter() - started)
    return min(seconds[torch.float32]) / min(seconds[torch.bfloat16])


def capabilities() -> Mapping[str, Any]:
    """Instructions of the CPU by name; those of Linux where this torch does not list them."""
    if hasattr(torch.cpu, "get_capabilities"):
        found: Mapping[str, Any] = torch.cpu.get_capabilities()
        return found
    lines = _CPUS.read_text().splitlines() if _CPUS.exists() else []
    flags = next((line for line in lines if line.startswith("flags")), "")
    return dict.fromkeys(flags.partition(":")[2].split(), True)
