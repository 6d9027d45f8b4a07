"""``ablation``: MIPP beside versions of itself that lack one part, with the information kept."""

from collections import defaultdict

from mipp import data, planning
from mipp.bench.ground import Ground, finished
from mipp.bench.images import test_images
from mipp.bench.kinds.kind import Kind
from mipp.measurements import Result

JUDGED_ON = 2560
"""Test images that information is measured on, at most: other ones than units are chosen by."""


def perform(ground: Ground) -> Result:
    """As ``accuracy``; nats by the default estimator, whatever the method measured itself."""
    plan = ground.plan()
    found = finished(ground, plan)
    images = test_images(ground.item)
    judged = data.calibration(images, min(JUDGED_ON, len(images)), 256, ground.item.seed)
    kept = planning.information_kept(ground.model, judged, plan, seed=ground.item.seed)
    before: dict[str, float] = defaultdict(float)
    after: dict[str, float] = defaultdict(float)
    for row in kept:
        before[row.group] += row.before
        after[row.group] += row.after
    nats = {name: (before[name], before[name] - after[name]) for name in before}
    return found.model_copy(update={"nats": nats})


KIND = Kind("ablation", "MIPP without one part of itself", lambda s, _: s.rows(), perform)
