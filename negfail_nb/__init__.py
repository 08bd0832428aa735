"""Learning from failed agent trajectories, and long context against retrieval.

``import negfail_nb as nf`` gives one verb a stage. Some verbs bear the name of their room: ``nf.train`` is the
function, ``from negfail_nb.train import ...`` reaches into the room. Heavy libraries are imported when they are needed.
"""

from importlib.metadata import PackageNotFoundError as _NotInstalled
from importlib.metadata import version as _version

from negfail_nb.collect import (
    CalculatorTool,
    EndpointModel,
    LocalModel,
    Logs,
    ScriptedModel,
    SearchTool,
    Task,
    collect,
    importer,
    load_corpus,
    load_tasks,
    load_trajectories,
)
from negfail_nb.evaluate import agent_scores, compare, compare_agents, evaluate, join_seeds, perplexity, seed_table
from negfail_nb.grading import grade
from negfail_nb.pocket import generate_logs
from negfail_nb.prefix import Rendered, check_mask, export, load_templates, nat_k, render
from negfail_nb.profiles import Profile, describe, get_profile, profiles
from negfail_nb.quality import Report, assess
from negfail_nb.steps import steps
from negfail_nb.sweep import Condition, Swept, paper_studies, sweep
from negfail_nb.train import TrainedRun, load_model, load_tokenizer, make_arms, plan, select, train, train_preference
from negfail_nb.trajectory import Problem, Trajectory, UnreadableLog, read_trajectories, write_trajectories
from negfail_nb.walk import Walk, open_walk

try:
    __version__ = _version("negfail_nb")
except _NotInstalled:  # a source tree that was not installed
    __version__ = "0"

__all__ = [
    "CalculatorTool",
    "Condition",
    "EndpointModel",
    "LocalModel",
    "Logs",
    "Problem",
    "Profile",
    "Rendered",
    "Report",
    "ScriptedModel",
    "SearchTool",
    "Swept",
    "Task",
    "TrainedRun",
    "Trajectory",
    "UnreadableLog",
    "Walk",
    "agent_scores",
    "assess",
    "check_mask",
    "collect",
    "compare",
    "compare_agents",
    "describe",
    "evaluate",
    "export",
    "generate_logs",
    "get_profile",
    "grade",
    "importer",
    "join_seeds",
    "load_corpus",
    "load_model",
    "load_tasks",
    "load_templates",
    "load_tokenizer",
    "load_trajectories",
    "make_arms",
    "nat_k",
    "open_walk",
    "paper_studies",
    "perplexity",
    "plan",
    "profiles",
    "read_trajectories",
    "render",
    "seed_table",
    "select",
    "steps",
    "sweep",
    "train",
    "train_preference",
    "write_trajectories",
]
