"""Networks of the pruning literature, built by name: ``mipp.models.build("lenet5")``."""

from mipp.models.registry import ModelSpec, build, input_shape, names, spec

__all__ = ["ModelSpec", "build", "input_shape", "names", "spec"]
