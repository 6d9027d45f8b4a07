"""Pages without the five megabytes of Plotly, where nothing is drawn."""

import pytest

from mipp.report import page


@pytest.fixture(scope="module")
def light():
    """Pages are made without Plotly, whose script is the same in all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "plotly_javascript", lambda: "/* Plotly */")
        yield
