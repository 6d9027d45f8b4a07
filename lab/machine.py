"""What measures: versions, machine and commit, for the records."""

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

import torch

import mipp
from lab.measurements import Machine, Versions
from mipp.retrain.numerics import capabilities

_CPUS = Path("/proc/cpuinfo")


def versions() -> Versions:
    """Of mipp, torch and Python."""
    return Versions(
        mipp=mipp.__version__, torch=torch.__version__, python=platform.python_version()
    )


def machine(device: torch.device) -> Machine:
    """This machine, with the threads that torch uses now."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Machine(
        processor=_processor(),
        cores=cores(),
        threads=torch.get_num_threads(),
        memory=_memory(),
        device=accelerator,
    )


def in_a_line() -> str:
    """The processor, what it multiplies with, and torch's threads, for records of experiments.

    Ratios differ between processors, too: one with AMX passes bfloat16 several times as fast as
    float32, and inverts matrices no faster.
    """
    has = capabilities()
    named = ("avx2", "avx512_f", "avx512f", "avx512_bf16", "amx_bf16")
    kinds = [platform.machine(), *(name for name in named if has.get(name))]
    return f"{' '.join(kinds)}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def commit() -> str | None:
    """Short hash of the commit that the lab is run from; None outside a git checkout.

    With ``+`` at the end where files under version control have changed since.
    """
    source = Path(__file__).resolve().parents[1]
    if not (source / "pyproject.toml").is_file():
        return None
    try:
        found = _git(source, "rev-parse", "--short=7", "HEAD")
        changed = _git(source, "status", "--porcelain", "--untracked-files=no", "--", "src", "lab")
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return None
    return found + ("+" if changed else "")


def _git(source: Path, *arguments: str) -> str:
    command = ["git", "-C", str(source), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed words


@cache
def _processor() -> str:
    lines = _CPUS.read_text().splitlines() if _CPUS.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _memory() -> int:
    """Bytes in all; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
