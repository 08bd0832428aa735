"""01: agent logs of many formats become trajectories, and agents are run live; nothing is dropped silently."""

from negfail_nb.collect.agreement import label_agreement
from negfail_nb.collect.calculator import CalculatorError, calculate
from negfail_nb.collect.corpus import load_corpus
from negfail_nb.collect.endpoint import EndpointModel
from negfail_nb.collect.importers.atif import to_atif, write_atif
from negfail_nb.collect.live import collect
from negfail_nb.collect.loading import Logs, load, load_trajectories
from negfail_nb.collect.local import LocalModel
from negfail_nb.collect.protocol import EpisodeTooLong, Model, ModelError, Reply, Sampling, Task
from negfail_nb.collect.reading import LogFile
from negfail_nb.collect.registry import formats, importer
from negfail_nb.collect.scripted import ScriptedModel
from negfail_nb.collect.tasks import load_tasks
from negfail_nb.collect.tools import CalculatorTool, SearchTool, Tool, instruction, schemas

__all__ = [
    "CalculatorError",
    "CalculatorTool",
    "EndpointModel",
    "EpisodeTooLong",
    "LocalModel",
    "LogFile",
    "Logs",
    "Model",
    "ModelError",
    "Reply",
    "Sampling",
    "ScriptedModel",
    "SearchTool",
    "Task",
    "Tool",
    "calculate",
    "collect",
    "formats",
    "importer",
    "instruction",
    "label_agreement",
    "load",
    "load_corpus",
    "load_tasks",
    "load_trajectories",
    "schemas",
    "to_atif",
    "write_atif",
]
