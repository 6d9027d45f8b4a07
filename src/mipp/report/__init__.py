"""Reports: one HTML file each, complete in itself. Made from records, never from a model."""

from mipp.report.page import check_plotly, write
from mipp.report.plans import Measured, plan_page, versions
from mipp.report.suites import Suite, suites_page
from mipp.report.weight_plans import weights_page

__all__ = [
    "Measured",
    "Suite",
    "check_plotly",
    "plan_page",
    "suites_page",
    "versions",
    "weights_page",
    "write",
]
