"""Resample: the second round's draws, as the strategy asks for them."""

from si.resample import resample
from si.work import work

if __name__ == "__main__":
    work("resample", resample)
