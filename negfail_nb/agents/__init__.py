"""01 and 05: agents at work: models, tools, and the episodes they play."""

from negfail_nb.agents.demonstrations import demonstrate
from negfail_nb.agents.division import divide, overlaps
from negfail_nb.agents.endpoint import EndpointModel
from negfail_nb.agents.live import collect
from negfail_nb.agents.local import LocalModel
from negfail_nb.agents.protocol import EpisodeTooLong, Model, ModelError, Reply, Sampling, Task
from negfail_nb.agents.scripted import ScriptedModel
from negfail_nb.agents.tasks import load_corpus, load_tasks
from negfail_nb.agents.tools import CalculatorTool, SearchTool, Tool, instruction

__all__ = [
    "CalculatorTool",
    "EndpointModel",
    "EpisodeTooLong",
    "LocalModel",
    "Model",
    "ModelError",
    "Reply",
    "Sampling",
    "ScriptedModel",
    "SearchTool",
    "Task",
    "Tool",
    "collect",
    "demonstrate",
    "divide",
    "instruction",
    "load_corpus",
    "load_tasks",
    "overlaps",
]
