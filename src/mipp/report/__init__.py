"""Reports: one HTML file each, complete in itself. Made from records, never from a model."""

from mipp.report.block_plans import blocks_page
from mipp.report.notebook import blocks_notebook, plan_notebook, weights_notebook
from mipp.report.page import check_plotly, write
from mipp.report.plans import Measured, current_versions, plan_page
from mipp.report.weight_plans import weights_page

__all__ = [
    "Measured",
    "blocks_notebook",
    "blocks_page",
    "check_plotly",
    "current_versions",
    "plan_notebook",
    "plan_page",
    "weights_notebook",
    "weights_page",
    "write",
]
