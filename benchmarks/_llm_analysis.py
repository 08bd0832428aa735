"""Predict rows with llm-analysis: run by that environment's own Python, rows as JSON on stdin,
seconds on stdout.
"""

import json
import logging
import sys

logging.disable(logging.CRITICAL)

from llm_analysis.analysis import LLMAnalysis  # noqa: E402
from llm_analysis.config import DtypeConfig, GPUConfig, ModelConfig, ParallelismConfig  # noqa: E402


def seconds(row, efficiencies):
    """Return the total latency of one row, or None where llm-analysis refuses it for lack of
    memory.
    """
    analysis = LLMAnalysis(
        ModelConfig(name="llama", max_seq_len=None, model_type="llama", **row["model"]),
        GPUConfig(name="gpu", **row["gpu"]),
        DtypeConfig(),
        ParallelismConfig(tp_size=row["gpus"]),
        **efficiencies,
    )
    try:
        return analysis.inference(**row["work"])["total_latency"]
    except AssertionError:
        return None


asked = json.load(sys.stdin)
print(json.dumps([seconds(row, asked["efficiencies"]) for row in asked["rows"]]))
