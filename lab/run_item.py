"""One item from plain data to plain data, wherever it is done: here, in a process, on a cluster."""

import time
import traceback
from datetime import UTC, datetime
from typing import Any, Literal

import torch

import mipp
from lab import experiments, isolated, kinds, machine
from lab.experiment import ExperimentItem
from lab.measurements import Item
from lab.workbench import Workbench
from mipp.errors import InputError, MippError
from mipp.progress import following

Device = Literal["auto", "cpu", "cuda"]


def perform(content: dict[str, Any], device: Device, n_threads: int) -> dict[str, Any]:
    """The parts of the item's record that are known where it is measured.

    Plain data in and out, so that only mipp and the lab are needed on the other side. A failure is
    reported under ``error``: it is this item's alone, and the others go on.
    """
    is_experiment = "experiment" in content
    item = ExperimentItem(**content) if is_experiment else Item.model_validate(content)
    try:
        with following(False):  # one bar, that of the whole run, is enough
            found = (
                _of_experiment(item, n_threads)
                if isinstance(item, ExperimentItem)
                else _of_suite(item, device, n_threads)
            )
    except MippError as error:
        return {"id": item.id, "error": str(error)}
    except Exception as error:  # noqa: BLE001 - reported at the end of the run, with its place
        place = traceback.format_exc(limit=-1).splitlines()[1].strip()
        return {"id": item.id, "error": f"unexpected {type(error).__name__}: {error} ({place})"}
    return {"id": item.id} | found


def _of_suite(item: Item, device: Device, n_threads: int) -> dict[str, Any]:
    torch.set_num_threads(n_threads)
    where = device_of(device)
    workbench = Workbench(item, where)
    started = time.perf_counter()
    if item.kind != "parent" and item.stage == "trained":
        workbench.model  # noqa: B018 - training a missing parent is no part of the item's seconds
        started = time.perf_counter()
    result = kinds.get(item.kind).perform(workbench)
    total = round(time.perf_counter() - started, 3)
    seconds = result.seconds.model_copy(update={"total": total})
    result = result.model_copy(update={"seconds": seconds})
    return {
        "result": result.model_dump(mode="json", exclude_none=True),
        "versions": machine.versions().model_dump(),
        "machine": machine.machine(where).model_dump(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _of_experiment(item: ExperimentItem, n_threads: int) -> dict[str, Any]:
    experiment = experiments.get(item.experiment)
    threads = n_threads if experiment.threads is None else experiment.threads
    torch.set_num_threads(threads)
    started = time.perf_counter()
    if experiment.isolated:
        given = [item.experiment, item.key, dict(item.settings)]
        result = isolated.call("lab.experiments:measure", given)
    else:
        result = experiment.measure(item.key, item.settings)
    return {
        "result": item.key | result,
        "seconds_in_all": round(time.perf_counter() - started, 1),
        "mipp": mipp.__version__,
        "torch": torch.__version__,
        "machine": machine.in_a_line(),
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
