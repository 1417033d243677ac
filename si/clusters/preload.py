"""Imports that every worker needs, done once in the fork server."""

import pyarrow.compute
import pyarrow.parquet

import si.stages.evaluate
import si.stages.explore
import si.stages.levels
import si.stages.rebalance
import si.stages.resample
import si.stages.train
import si.stages.verify
import si.stages.worker
