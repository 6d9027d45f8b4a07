"""Which numbers and which memory layout training computes in, by what the device does fast.

Measured by ``python -m lab run precision``: autocast to bfloat16 is faster than float32 on
processors with AMX, as fast or slower with AVX512-BF16 alone, and up to 21 times slower on those
that convert every number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

_CPUS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Numerics:
    """What a training computes in.

    Attributes:
        precision: of convolutions and matrix products.
        channels_last: whether images and filters lie channels-last.
        why: in words, for what was chosen here; empty where the recipe says both.

    Examples:
        >>> str(Numerics("float32", True, "the CPU has no AMX"))
        'computes in float32, channels-last: the CPU has no AMX'
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

    bfloat16 is chosen on CUDA where the GPU computes it by itself, and on CPUs with AMX.
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
        return fast, f"{name} {'has' if fast else 'has no'} bfloat16"
    if device.type == "cpu":
        fast = bool(_capabilities().get("amx_bf16"))  # torch and Linux have one name for it
        return fast, f"the CPU has {'AMX' if fast else 'no AMX'}"
    return False, f"not measured on {device.type}"


def _capabilities() -> Mapping[str, Any]:
    """Instructions of the CPU by name; those of Linux where this torch does not list them."""
    if hasattr(torch.cpu, "get_capabilities"):
        found: Mapping[str, Any] = torch.cpu.get_capabilities()
        return found
    lines = _CPUS.read_text().splitlines() if _CPUS.exists() else []
    flags = next((line for line in lines if line.startswith("flags")), "")
    return dict.fromkeys(flags.partition(":")[2].split(), True)
