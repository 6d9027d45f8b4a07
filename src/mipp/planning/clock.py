"""How long each stage of planning takes."""

import time


class Clock:
    """Seconds since the last lap, added up by stage.

    ``capture``: tracing, and every pass through the model; ``plan``: scoring and selection;
    ``train``: the training that some methods do; ``timing``: layers and models, for a budget of
    latency.
    """

    def __init__(self) -> None:
        self.seconds = {"capture": 0.0, "plan": 0.0}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Adds the time since the last lap to the stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
