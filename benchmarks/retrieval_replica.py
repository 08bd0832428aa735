"""Recall of BM25, of BM25 fused with MiniLM, and of three steps without a model, on a replica of a
published pool.

Of 1,287 real HotpotQA questions 1,000 are drawn, five times; the pool of a draw holds its
questions' own passages, about 9,800. The settings of the three steps were chosen on 500 questions
(`chosen`); the recall on the others of a draw stands beside as ``unseen``. Vectors are kept between
runs in the folder that is given, or else in the system's folder for temporary files: the first run
encodes 12,573 passages, which takes minutes.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

from _data import COUNT, HOTPOTQA

from negfail_nb.benchmarking.index import build_index
from negfail_nb.benchmarking.links import build_links
from negfail_nb.benchmarking.paths import linked_search
from negfail_nb.benchmarking.pools import MemoryPool
from negfail_nb.benchmarking.questions import draw, load_questions
from negfail_nb.benchmarking.recall import retrieval_metrics
from negfail_nb.settings import EvaluateSettings, RetrievalSettings

CACHE = Path(tempfile.gettempdir()) / "negfail_nb-vectors"
DRAWS, KS = 5, (2, 5)
HYBRID = RetrievalSettings(method="hybrid", fusion="z")
THREE_STEP = RetrievalSettings()
METHODS = ("bm25", "hybrid", "three_step")
PEERS = {
    "bm25_r2": "57.3, published by HippoRAG 2 (table 9)",
    "bm25_r5": "74.8, published by HippoRAG 2 (table 9)",
    "three_step_r2": "67.9, published: IRCoT with ColBERTv2 and a language model",
    "three_step_r5": "82.0, published: IRCoT with ColBERTv2 and a language model",
}


def chosen(questions) -> set[str]:
    """Return the ids of the questions on which settings were chosen."""
    numbers = sorted(random.Random(100).sample(range(len(questions)), COUNT))
    return {questions[n].id for n in random.Random(777).sample(numbers, 500)}


def main(cache: Path) -> None:
    if not HOTPOTQA.is_file():
        print(json.dumps({name: {"skipped": "HotpotQA is not on this machine"} for name in PEERS}))
        return
    questions = load_questions(HOTPOTQA)
    seen = chosen(questions)
    draws = [measure(draw(questions, COUNT, seed), seen, cache) for seed in range(DRAWS)]
    print(json.dumps({f"{name}_r{k}": result(draws, name, k) for name in METHODS for k in KS}))


def measure(drawn, seen: set[str], cache: Path) -> dict[tuple, float]:
    """Return percent by (method, group, measure, k), and milliseconds a question by method, of one
    draw.
    """
    pool, texts = MemoryPool(drawn.passages), [question.question for question in drawn]
    unseen = [at for at, question in enumerate(drawn) if question.id not in seen]
    few, found = EvaluateSettings(resamples=100), {}
    for name, search in methods(pool, cache).items():
        start = time.perf_counter()
        rows = search(texts, max(KS)).numbers.tolist()
        found[name] = 1000 * (time.perf_counter() - start) / len(texts)
        tables = (
            retrieval_metrics(rows, drawn, pool, KS, few),
            retrieval_metrics(
                [rows[at] for at in unseen], [drawn[at] for at in unseen], pool, KS, few
            )
            .query("group == 'all'")
            .assign(group="unseen"),
        )
        for table in tables:
            found |= {
                (name, row.group, row.measure, row.k): 100 * row.value for row in table.itertuples()
            }
    return found


def methods(pool, cache: Path) -> dict:
    bm25, links = build_index(pool), build_links(pool)
    hybrid = build_index(pool, HYBRID, cache=cache)
    return {
        "bm25": bm25.search,
        "hybrid": hybrid.search,
        "three_step": lambda texts, k: linked_search(bm25, links, texts, k, THREE_STEP),
        "three_step_from_hybrid": lambda texts, k: linked_search(
            hybrid, links, texts, k, THREE_STEP
        ),
    }


def result(draws: list[dict], name: str, k: int) -> dict:
    def percent(group: str, measured: str = "recall", method: str = name) -> float:
        return round(mean(draw[method, group, measured, k] for draw in draws), 2)

    values = [draw[name, "all", "recall", k] for draw in draws]
    beside = {group: percent(group) for group in ("bridge", "comparison", "unseen")}
    if name == "three_step":
        beside["first_step_hybrid"] = percent("all", method="three_step_from_hybrid")
    return {
        "value": percent("all"),
        "unit": "%",
        "peer": PEERS.get(f"{name}_r{k}"),
        "low": round(min(values), 2),
        "high": round(max(values), 2),
        "n": DRAWS,
        "all_gold": percent("all", "all_gold"),
        **beside,
        "ms_per_question": round(mean(draw[name] for draw in draws), 2),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CACHE)
