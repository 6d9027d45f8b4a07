"""``collapse``: which layers a method empties where nothing holds it back (``min_units=0``)."""

from collections.abc import Iterable

import torch

from lab.kinds.kind import Kind, NoSettings
from lab.measurements import Item, Result
from lab.suite import Suite
from lab.workbench import Workbench, sizes


def expand(suite: Suite, _settings: NoSettings) -> Iterable[Item]:
    """The rows, without retraining: the widths tell."""
    return suite.rows()


def perform(workbench: Workbench) -> Result:
    """Empty groups, and whether the pruned net still tells its inputs apart.

    It does not where its outputs are the same for all calibration images, to the last bit, in
    evaluation mode: then no training of what is left brings back an answer.
    """
    plan = workbench.plan(min_units=0)
    small = plan.apply(refit=False).eval()
    x = torch.cat([batch[0] for batch in workbench.calibration])[:256].to(workbench.device)
    with torch.no_grad():
        outputs = small(x)
    constant = bool((outputs == outputs[:1]).all()) or not bool(outputs.isfinite().all())
    return workbench.measured(**sizes(plan), untrainable=constant)


KIND = Kind("collapse", "layers without units when nothing holds a method back", expand, perform)
