"""One item from plain data to plain data, wherever it is done: here, in a process, on a cluster."""

import time
import traceback
from datetime import UTC, datetime
from typing import Any, Literal

import torch

from mipp.bench import kinds, machine
from mipp.bench.ground import Ground
from mipp.errors import InputError, MippError
from mipp.measurements import Item

Device = Literal["auto", "cpu", "cuda"]


def perform(content: dict[str, Any], device: Device, n_threads: int) -> dict[str, Any]:
    """The parts of the item's record that are known where it is measured.

    Plain data in and out, so that nothing but mipp is needed on the other side. A failure is told
    under ``error``: it is this item's alone, and the others go on.
    """
    torch.set_num_threads(n_threads)
    item = Item.model_validate(content)
    try:
        where = device_of(device)
        ground = Ground(item, where)
        started = time.perf_counter()
        if item.kind != "parent" and item.stage == "trained":
            ground.model  # noqa: B018 - training a missing parent is no part of the item's seconds
            started = time.perf_counter()
        result = kinds.get(item.kind).perform(ground)
        total = round(time.perf_counter() - started, 3)
    except MippError as error:
        return {"id": item.id, "error": str(error)}
    except Exception as error:  # noqa: BLE001 - told at the end of the run, with its place
        place = traceback.format_exc(limit=-1).splitlines()[1].strip()
        return {"id": item.id, "error": f"unexpected {type(error).__name__}: {error} ({place})"}
    seconds = result.seconds.model_copy(update={"total": total})
    result = result.model_copy(update={"seconds": seconds})
    return {
        "id": item.id,
        "result": result.model_dump(mode="json", exclude_none=True),
        "versions": machine.versions().model_dump(),
        "machine": machine.machine(where).model_dump(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def device_of(device: Device) -> torch.device:
    """The device by its word; ``auto`` is the GPU where there is one.

    Raises:
        InputError: ``cuda`` without a GPU that torch can use.
    """
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise InputError(
            "--device cuda was given, and torch finds no GPU. Give --device cpu, or install a "
            "build of torch for the GPU."
        )
    return torch.device("cuda" if device == "cuda" or (device == "auto" and there) else "cpu")
