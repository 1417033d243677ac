"""Train: the next policy from the examples."""

from si.stages.train import train
from si.stages.worker import work

if __name__ == "__main__":
    work("train", train)
