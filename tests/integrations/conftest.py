"""Packages of others load here as they do for users; their torch operators are made good."""

from importlib.util import find_spec

import pytest

from lab.experiments.packages_models import load_torchvision

if find_spec("torchvision") is not None:
    load_torchvision()  # before any test imports a package that imports it


@pytest.fixture(autouse=True, scope="session")
def no_network(tmp_path_factory):
    """ultralytics writes its settings into a temporary folder, and looks for nothing online."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("settings")))
        patch.setenv("YOLO_OFFLINE", "true")
        patch.setenv("YOLO_AUTOINSTALL", "false")
        patch.setenv("YOLO_VERBOSE", "false")
        yield
