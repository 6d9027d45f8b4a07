"""Networks of the pruning literature, built by name.

Examples:
    >>> import mipp
    >>> model = mipp.models.build("lenet5", seed=0)
"""

from mipp.models.registry import ModelSpec, build, input_shape, names, spec

__all__ = ["ModelSpec", "build", "input_shape", "names", "spec"]
