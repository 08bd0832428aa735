"""Learning from failed agent trajectories, and long context against retrieval.

``import negfail_nb as nf`` gives one verb a stage. Some verbs bear the name of their room:
``nf.train`` is the function, ``from negfail_nb.training import ...`` reaches into the room. Heavy
libraries are imported when they are needed.
"""

from importlib.metadata import PackageNotFoundError as _NotInstalled
from importlib.metadata import version as _version

from negfail_nb.agents import (
    CalculatorTool,
    EndpointModel,
    LocalModel,
    ScriptedModel,
    SearchTool,
    Task,
    collect,
    load_corpus,
    load_tasks,
)
from negfail_nb.benchmarking import (
    MemoryPool,
    Passage,
    Pool,
    Question,
    benchmark,
    build_index,
    compare_arms,
    load_questions,
    make_contexts,
    read_passages,
    reading_scores,
    retrieval_metrics,
)
from negfail_nb.claims import (
    check_claims,
    extract_claims,
    paper_claims,
    read_folder,
    review,
    write_report,
)
from negfail_nb.curves import Prices, open_benchmark, tradeoff
from negfail_nb.evaluation import (
    agent_scores,
    compare,
    compare_agents,
    evaluate,
    join_seeds,
    perplexity,
    seed_table,
)
from negfail_nb.grading import grade
from negfail_nb.logs import Logs, importer, load_trajectories
from negfail_nb.pocket import generate_logs
from negfail_nb.prefix import Rendered, check_mask, export, load_templates, nat_k, render
from negfail_nb.quality import Report, assess
from negfail_nb.settings import Profile, describe, get_profile, profiles
from negfail_nb.speed import (
    Workload,
    calibrate,
    get_architecture,
    get_hardware,
    hardware_table,
    predict,
    speed_table,
)
from negfail_nb.steps import read_steps
from negfail_nb.studies import Condition, Swept, paper_studies, sweep
from negfail_nb.training import (
    TrainedRun,
    load_model,
    load_tokenizer,
    make_arms,
    plan,
    select,
    train,
    train_preference,
)
from negfail_nb.trajectory import (
    Problem,
    Trajectory,
    UnreadableLog,
    read_trajectories,
    write_trajectories,
)
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
    "MemoryPool",
    "Passage",
    "Pool",
    "Prices",
    "Problem",
    "Profile",
    "Question",
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
    "Workload",
    "agent_scores",
    "assess",
    "benchmark",
    "build_index",
    "calibrate",
    "check_claims",
    "check_mask",
    "collect",
    "compare",
    "compare_agents",
    "compare_arms",
    "describe",
    "evaluate",
    "export",
    "extract_claims",
    "generate_logs",
    "get_architecture",
    "get_hardware",
    "get_profile",
    "grade",
    "hardware_table",
    "importer",
    "join_seeds",
    "load_corpus",
    "load_model",
    "load_questions",
    "load_tasks",
    "load_templates",
    "load_tokenizer",
    "load_trajectories",
    "make_arms",
    "make_contexts",
    "nat_k",
    "open_benchmark",
    "open_walk",
    "paper_claims",
    "paper_studies",
    "perplexity",
    "plan",
    "predict",
    "profiles",
    "read_folder",
    "read_passages",
    "read_steps",
    "read_trajectories",
    "reading_scores",
    "render",
    "retrieval_metrics",
    "review",
    "seed_table",
    "select",
    "speed_table",
    "sweep",
    "tradeoff",
    "train",
    "train_preference",
    "write_report",
    "write_trajectories",
]
