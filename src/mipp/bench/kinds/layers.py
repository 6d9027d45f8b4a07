"""``layers``: how many units of each layer a method leaves."""

from mipp.bench.ground import Ground, sizes
from mipp.bench.kinds.kind import Kind
from mipp.measurements import Result


def perform(ground: Ground) -> Result:
    """Widths alone; nothing is trained."""
    plan = ground.plan()
    return ground.measured(**sizes(plan))


KIND = Kind("layers", "share of units left in every layer", lambda s, _: s.rows(), perform)
