"""Mutual information preserving pruning of PyTorch networks.

```python
plan = mipp.plan(model, batches, budget="macs=50%")  # nothing is changed yet
small = plan.apply()  # a new, smaller nn.Module
```

Start with `plan`; its settings are the fields of `Options`, for blocks (``granularity="block"``) of
`BlockOptions`, for single weights
(``granularity="weight"``) of `WeightOptions`. What is raised on purpose is a `MippError`.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mipp._api import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        """A public name or a module of this package, imported when it is first requested.

        PyTorch takes two seconds to import, and ``mipp --help`` shall not wait for it.
        """
        if name == "FeatureSelector":  # scikit-learn takes one more second
            return import_module("mipp.features").FeatureSelector
        if not name.startswith("_") and find_spec(f"mipp.{name}") is not None:
            return import_module(f"mipp.{name}")
        if name.startswith("_") and name != "__all__":
            raise AttributeError(f"module 'mipp' has no attribute {name!r}")
        public = import_module("mipp._api")
        if name == "__all__":  # who reads this wants all of them in the namespace
            globals().update({each: __getattr__(each) for each in public.__all__})
        if name in public.MOVED:
            # neither hasattr nor `from mipp import` swallows it, so that the text is seen
            raise import_module("mipp.errors").MovedError(
                f"mipp.{name} has moved: use {public.MOVED[name]}."
            )
        try:
            return getattr(public, name)
        except AttributeError:
            raise AttributeError(f"module 'mipp' has no attribute {name!r}") from None

    def __dir__() -> list[str]:
        return sorted({*globals(), *import_module("mipp._api").__all__})
