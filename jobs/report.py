"""Report: one self-contained page about the run."""

from si.stages.report import report
from si.stages.worker import work

if __name__ == "__main__":
    work("report", report)
