"""Resample: the second round's draws, as the strategy asks for them."""

from si.stages.resample import resample
from si.stages.worker import work

if __name__ == "__main__":
    work("resample", resample)
