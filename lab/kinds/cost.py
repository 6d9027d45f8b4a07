"""``cost``: seconds and memory until the units are chosen."""

from typing import Any

import torch

from lab import isolated, memory
from lab.kinds.kind import Kind
from lab.measurements import Item, Result
from lab.workbench import Workbench, own_training, sizes
from mipp import planning


def perform(workbench: Workbench) -> Result:
    """In a process of its own, so that nothing else that was done counts in its memory."""
    content = workbench.item.model_dump(mode="json")
    return Result.model_validate(
        isolated.call("lab.kinds.cost:measured", [content, str(workbench.device)])
    )


def measured(content: dict[str, Any], device: str) -> dict[str, Any]:
    """The plan, as JSON, with the memory that the process gets beyond what net and images take."""
    workbench = Workbench(Item.model_validate(content), torch.device(device))
    # net, images and all code that is loaded on first use are there before anything is measured
    planning.plan(workbench.model, workbench.calibration, "units=90%", method="random")
    with memory.peak(workbench.device) as beyond:
        plan = workbench.plan()
    found = workbench.measured(**sizes(plan), peak_memory=beyond(), own_training=own_training(plan))
    return found.model_dump(mode="json", exclude_none=True)


KIND = Kind("cost", "seconds and memory to choose the units", lambda s, _: s.rows(), perform)
