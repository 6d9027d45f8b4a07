"""``ablation``: MIPP beside versions of itself that lack one part, with the information kept."""

from collections import defaultdict

from lab.images import test_images
from lab.kinds.kind import Kind
from lab.measurements import Result
from lab.workbench import Workbench, finished
from mipp import data, planning

JUDGED_ON = 2560
"""Test images that information is measured on, at most: other ones than units are chosen by."""


def perform(workbench: Workbench) -> Result:
    """As ``accuracy``; nats by the default estimator, whatever the method measured itself."""
    plan = workbench.plan()
    found = finished(workbench, plan)
    images = test_images(workbench.item)
    judged = data.calibration(images, min(JUDGED_ON, len(images)), 256, workbench.item.seed)
    kept = planning.information_kept(workbench.model, judged, plan, seed=workbench.item.seed)
    before: dict[str, float] = defaultdict(float)
    after: dict[str, float] = defaultdict(float)
    for row in kept:
        before[row.group] += row.before
        after[row.group] += row.after
    nats = {name: (before[name], before[name] - after[name]) for name in before}
    return found.model_copy(update={"nats": nats})


KIND = Kind("ablation", "MIPP without one part of itself", lambda s, _: s.rows(), perform)
