"""The run report a person looks at."""

from jaxpt.reporting.report import write_report

__all__ = ["write_report"]
