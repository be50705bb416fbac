"""Results as a table, as text, and as one page of HTML that needs nothing else."""

from flowpipe.report.page import Sample, write_report
from flowpipe.report.results import Result, results_table, summary_text

__all__ = ["Result", "Sample", "results_table", "summary_text", "write_report"]
