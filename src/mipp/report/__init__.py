"""Reports: one HTML file each, complete in itself. Made from records, never from a model."""

from mipp.report.page import check_plotly, write
from mipp.report.plans import Measured, current_versions, plan_page
from mipp.report.weight_plans import weights_page

__all__ = ["Measured", "check_plotly", "current_versions", "plan_page", "weights_page", "write"]
