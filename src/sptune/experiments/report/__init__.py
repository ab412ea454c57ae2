"""The report of a comparison: every table and plot, rebuilt from the files that its folder keeps."""

from sptune.experiments.report.write import WrittenComparison, write_comparison

__all__ = ["WrittenComparison", "write_comparison"]
