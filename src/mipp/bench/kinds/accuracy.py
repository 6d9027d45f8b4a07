"""``accuracy``: at once, refitted and retrained, every method on the same footing."""

from mipp.bench.ground import finished
from mipp.bench.kinds.kind import Kind

KIND = Kind(
    "accuracy",
    "accuracy at once, refitted and retrained",
    lambda suite, _: suite.rows(),
    finished,
)
