"""What all tests with packages of others share: these load, and look for nothing online."""

import pytest

from tests.integrations import loading  # noqa: F401 - before all tests


@pytest.fixture(autouse=True, scope="session")
def _no_network(tmp_path_factory):
    """ultralytics writes its settings into a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("settings")))
        patch.setenv("YOLO_OFFLINE", "true")
        patch.setenv("YOLO_AUTOINSTALL", "false")
        patch.setenv("YOLO_VERBOSE", "false")
        yield
