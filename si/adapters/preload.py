"""What every worker needs, imported once in the fork server."""

import pyarrow.compute
import pyarrow.parquet

import si.evaluate
import si.explore
import si.levels
import si.rebalance
import si.resample
import si.train
import si.verify
import si.work
