"""01: agent logs of many formats become trajectories; what cannot be read is reported, never dropped silently."""

from negfail_nb.collect.agreement import label_agreement
from negfail_nb.collect.loading import Logs, load, load_trajectories
from negfail_nb.collect.reading import LogFile
from negfail_nb.collect.registry import formats, importer

__all__ = ["LogFile", "Logs", "formats", "importer", "label_agreement", "load", "load_trajectories"]
