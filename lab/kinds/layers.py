"""``layers``: how many units of each layer a method leaves."""

from lab.kinds.kind import Kind
from lab.measurements import Result
from lab.workbench import Workbench, sizes


def perform(workbench: Workbench) -> Result:
    """Widths alone; nothing is trained."""
    plan = workbench.plan()
    return workbench.measured(**sizes(plan))


KIND = Kind("layers", "share of units left in every layer", lambda s, _: s.rows(), perform)
