"""01: agent logs of many formats become trajectories; nothing is dropped silently."""

from negfail_nb.logs.agreement import label_agreement
from negfail_nb.logs.loading import Logs, load_trajectories
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import formats, importer

__all__ = ["LogFile", "Logs", "formats", "importer", "label_agreement", "load_trajectories"]
