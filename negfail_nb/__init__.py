"""Learning from failed agent trajectories, and long context against retrieval.

``import negfail_nb as nf`` gives what the notebooks call. The rest is in the packages, one per
stage: ``logs``, ``quality``, ``prefix``, ``training``, ``agents``, ``evaluation``,
``benchmarking``, ``speed``, ``curves`` and ``claims``. Heavy libraries are imported when they are
needed.
"""

import sys as _sys
from importlib.metadata import PackageNotFoundError as _NotInstalled
from importlib.metadata import version as _version

try:
    from negfail_nb import earlier
    from negfail_nb.agents import CalculatorTool, EndpointModel, LocalModel, SearchTool, collect
    from negfail_nb.benchmarking import (
        benchmark,
        build_index,
        estimate,
        load_questions,
        open_benchmark,
        open_pool,
    )
    from negfail_nb.claims import check_claims, review, write_report
    from negfail_nb.curves import Prices, tradeoff
    from negfail_nb.evaluation import compare, compare_agents, evaluate, perplexity
    from negfail_nb.executors import ray_executor
    from negfail_nb.logs import importer, load_trajectories
    from negfail_nb.prefix import check_mask, export, load_templates, render
    from negfail_nb.project import open_project
    from negfail_nb.quality import assess
    from negfail_nb.sources import make_logs, open_model, open_tasks
    from negfail_nb.speed import calibrate
    from negfail_nb.swept import Swept
    from negfail_nb.training import load_tokenizer, make_arms, plan, select, train, train_preference
except ModuleNotFoundError as _error:
    if (_error.name or "").startswith("negfail_nb"):
        raise
    raise ModuleNotFoundError(
        f"{_error}: this Python ({_sys.executable}) lacks what negfail_nb needs. In a clone, "
        "`make run` and `make lab` make one that has it: .venv/bin/python (for this shell: "
        "source .venv/bin/activate). Elsewhere: pip install negfail_nb",
        name=_error.name,
    ) from None

try:
    __version__ = _version("negfail_nb")
except _NotInstalled:  # a source tree that was not installed
    __version__ = "0"

__all__ = [
    "CalculatorTool",
    "EndpointModel",
    "LocalModel",
    "Prices",
    "SearchTool",
    "Swept",
    "assess",
    "benchmark",
    "build_index",
    "calibrate",
    "check_claims",
    "check_mask",
    "collect",
    "compare",
    "compare_agents",
    "earlier",
    "estimate",
    "evaluate",
    "export",
    "importer",
    "load_questions",
    "load_templates",
    "load_tokenizer",
    "load_trajectories",
    "make_arms",
    "make_logs",
    "open_benchmark",
    "open_model",
    "open_pool",
    "open_project",
    "open_tasks",
    "perplexity",
    "plan",
    "ray_executor",
    "render",
    "review",
    "select",
    "tradeoff",
    "train",
    "train_preference",
    "write_report",
]
