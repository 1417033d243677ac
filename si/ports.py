"""The protocols under the import path that custom engines and trackers have always used."""

from si.clusters.port import Cluster
from si.datasets.port import Hub
from si.engines.port import Sampler, Trainer
from si.events import Event
from si.runs.trackers.port import Tracker
from si.store.port import Store

__all__ = ["Cluster", "Event", "Hub", "Sampler", "Store", "Tracker", "Trainer"]
