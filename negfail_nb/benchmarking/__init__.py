"""06: long context against retrieval: questions, pools, indexes, contexts, arms, scores.

The function of the same name is ``negfail_nb.benchmarking`` after ``import negfail_nb``; ``from
negfail_nb.benchmarking import ...`` reaches into this room.
"""

from negfail_nb.benchmarking.arms.answers import Answered, read_answers
from negfail_nb.benchmarking.arms.costs import Estimate, estimate
from negfail_nb.benchmarking.arms.grid import benchmark
from negfail_nb.benchmarking.arms.reading import (
    Benchmark,
    ReadingScores,
    compare_arms,
    reading_scores,
)
from negfail_nb.benchmarking.arms.sitting import Agent
from negfail_nb.benchmarking.contexts.making import make_contexts
from negfail_nb.benchmarking.corpora.pool import MemoryPool, Pool, read_passages
from negfail_nb.benchmarking.corpora.questions import Questions, draw, load_questions
from negfail_nb.benchmarking.corpora.records import Passage, PassagePool, Question
from negfail_nb.benchmarking.retrieval.index import Hits, Index, build_index, open_index
from negfail_nb.benchmarking.retrieval.links import build_links
from negfail_nb.benchmarking.retrieval.paths import linked_search
from negfail_nb.benchmarking.retrieval.recall import retrieval_metrics
from negfail_nb.settings import (
    BenchmarkSettings,
    ContextSettings,
    ReadingSettings,
    RetrievalSettings,
)

__all__ = [
    "Agent",
    "Answered",
    "Benchmark",
    "BenchmarkSettings",
    "ContextSettings",
    "Estimate",
    "Hits",
    "Index",
    "MemoryPool",
    "Passage",
    "PassagePool",
    "Pool",
    "Question",
    "Questions",
    "ReadingScores",
    "ReadingSettings",
    "RetrievalSettings",
    "benchmark",
    "build_index",
    "build_links",
    "compare_arms",
    "draw",
    "estimate",
    "linked_search",
    "load_questions",
    "make_contexts",
    "open_index",
    "read_answers",
    "read_passages",
    "reading_scores",
    "retrieval_metrics",
]
