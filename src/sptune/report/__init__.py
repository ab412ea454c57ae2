"""The report of a run: one page that says what was run, what came of it, and how to go on."""

from sptune.report.write import write_report

__all__ = ["write_report"]
