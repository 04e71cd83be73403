"""Reports of an update, or of several: a table for the terminal, a page, a picture."""

from t5patches.report.comparison import write_comparison
from t5patches.report.report import terminal_table, write_report

__all__ = ["terminal_table", "write_comparison", "write_report"]
