"""``cost``: seconds and memory until the units are chosen."""

import torch

from mipp import planning
from mipp.bench import alone, memory
from mipp.bench.ground import Ground, own_training, sizes
from mipp.bench.kinds.kind import Kind
from mipp.measurements import Item, Result


def perform(ground: Ground) -> Result:
    """In a process of its own, so that nothing else that was done counts in its memory."""
    content = ground.item.model_dump(mode="json")
    return Result.model_validate(alone.run(content, str(ground.device)))


def measured(item: Item, device: str) -> Result:
    """The plan, with the memory that the process gets beyond what net and images take."""
    ground = Ground(item, torch.device(device))
    # net, images and all code that is loaded on first use are there before anything is measured
    planning.plan(ground.model, ground.calibration, "units=90%", method="random")
    with memory.peak(ground.device) as beyond:
        plan = ground.plan()
    return ground.measured(**sizes(plan), peak_memory=beyond(), own_training=own_training(plan))


KIND = Kind("cost", "seconds and memory to choose the units", lambda s, _: s.rows(), perform)
