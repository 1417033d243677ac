"""Train: the next policy from the examples."""

from si.train import train
from si.work import work

if __name__ == "__main__":
    work("train", train)
