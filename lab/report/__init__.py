"""Reports of suites: one HTML file, complete in itself."""

from lab.report.suites import SuiteRecords, suites_page

__all__ = ["SuiteRecords", "suites_page"]
