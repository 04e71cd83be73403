"""The report of an update: a table for the terminal, a page, a picture."""

from t5patches.report.report import terminal_table, write_report

__all__ = ["terminal_table", "write_report"]
