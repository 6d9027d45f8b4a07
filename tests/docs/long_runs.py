"""What takes minutes, and runs with ``make integrations`` alone."""

import os

import pytest

with_integrations = pytest.mark.skipif(
    not os.environ.get("MIPP_GUIDES"), reason="takes three minutes: make integrations"
)
