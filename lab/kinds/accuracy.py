"""``accuracy``: at once, refitted and retrained, every method on the same footing."""

from lab.kinds.kind import Kind
from lab.workbench import finished

KIND = Kind(
    "accuracy",
    "accuracy at once, refitted and retrained",
    lambda suite, _: suite.rows(),
    finished,
)
