"""Report: one self-contained page about the run."""

from si.report import report
from si.work import work

if __name__ == "__main__":
    work("report", report)
