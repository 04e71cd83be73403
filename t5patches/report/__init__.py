"""Reports of an update, or of several: a table for the terminal, a page, a picture."""

from t5patches.report.methods_report import write_comparison
from t5patches.report.update_report import terminal_table, write_report

__all__ = ["terminal_table", "write_comparison", "write_report"]
