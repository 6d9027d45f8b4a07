"""Imports packages of others that do not load as they are, or that warn when they are imported.

Processes that tests start import this module as well.
"""

import warnings
from importlib import import_module
from importlib.util import find_spec

from lab.experiments.packages_models import load_torchvision

if find_spec("torchvision") is not None:
    load_torchvision()  # before any test imports a package that imports it

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name in ("torchao", "lightning"):  # transformers imports the first of them
        if find_spec(name) is not None:
            import_module(name)
