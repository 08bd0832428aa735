"""llm-analysis as a peer of the speed model, and how errors are summed up."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
VARIABLE = "NEGFAIL_NB_LLM_ANALYSIS"
# Its README: "up to 0.7 for inference" and "0.9 can be an aggressive target".
PEERS = {"default": {}, "suggested": {"flops_efficiency": 0.7, "hbm_memory_efficiency": 0.9}}


def as_asked(measurement):
    """Return a row as llm-analysis takes it."""
    shape, gpu, work = measurement.architecture, measurement.hardware, measurement.workload
    model = {"num_layers": shape.layers, "n_head": shape.heads, "hidden_dim": shape.hidden}
    model |= {"vocab_size": shape.vocabulary, "num_key_value_heads": shape.kv_heads}
    model |= {"ffn_embed_dim": shape.ffn, "expansion_ratio": shape.ffn / shape.hidden}
    rates = {"mem_per_GPU_in_GB": gpu.memory_gib, "hbm_bandwidth_in_GB_per_sec": gpu.memory_gbs}
    rates |= {
        "intra_node_bandwidth_in_GB_per_sec": gpu.link_gbs,
        "intra_node_min_message_latency": 8e-6,
    }
    rates |= {"peak_fp16_TFLOPS": gpu.bf16_tflops}
    asked = {"batch_size_per_gpu": work.batch, "seq_len": work.input_tokens}
    asked |= {"num_tokens_to_generate": work.output_tokens}
    return {"model": model, "gpu": rates, "gpus": work.tensor_parallel, "work": asked}


def llm_analysis(measurements):
    """Return absolute errors of llm-analysis on rows, NaN where it refuses one; or why there are
    none.
    """
    python = Path(os.environ.get(VARIABLE, "")) / "bin" / "python"
    if not os.environ.get(VARIABLE):
        return {"skipped": f"{VARIABLE} names no environment"}
    if not python.is_file():
        return {"skipped": f"{VARIABLE} names a folder without bin/python"}
    result = {}
    for name, efficiencies in PEERS.items():
        asked = json.dumps(
            {"efficiencies": efficiencies, "rows": [as_asked(m) for m in measurements]}
        )
        done = subprocess.run(
            [python, HERE / "_llm_analysis.py"], input=asked, capture_output=True, text=True
        )
        if done.returncode:
            return {"skipped": f"llm-analysis failed: {done.stderr.strip().splitlines()[-1]}"}
        predicted = np.array(json.loads(done.stdout.splitlines()[-1]), dtype=float)
        result[name] = np.abs(predicted / [m.value for m in measurements] - 1)
    return result


def spread(errors):
    return {"rows": len(errors), **dict(zip(("median", "p90"), quantiles(errors), strict=True))}


def quantiles(errors):
    return [round(float(np.quantile(errors, q)), 4) if len(errors) else None for q in (0.5, 0.9)]
