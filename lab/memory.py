"""How much memory a piece of work takes beyond what the process has when it starts."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def peak(device: torch.device) -> Iterator[Callable[[], int]]:
    """Gives a function that, afterwards, tells the bytes: on an accelerator its own memory.

    On a CPU it is the highest resident memory less that at the start, so memory that was freed and
    stays with the process is used again for nothing: measure in a new process.
    """
    found = 0
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: found
        torch.cuda.synchronize(device)
        found = torch.cuda.max_memory_allocated(device) - before
        return
    before = _start()
    yield lambda: found
    found = max(0, _highest() - before)


def _start() -> int:
    """Resident bytes now, with the highest so far forgotten where the system can do that."""
    if not _STATUS.exists():
        return _highest()
    try:
        _CLEAR.write_text("5")
    except OSError:  # not permitted in some containers: then only what exceeds the highest counts
        return _highest()
    return _status("VmRSS")


def _highest() -> int:
    if _STATUS.exists():
        return _status("VmHWM")
    import resource  # noqa: PLC0415 - not on Windows, whose processes are not measured

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _status(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"{_STATUS} has no {name}")
