"""06: long context against retrieval.

A measurement in order: `questions` and their `pools`; an `index` or `contexts`; the `grid`, which
plays each question under each of the `arms` with its `prompts`, in a `question_run`; `scores`.
What a reader may be tuned on before: `reading`.
"""

from negfail_nb.benchmarking.arms import ARMS, Arm
from negfail_nb.benchmarking.contexts import make_contexts, served_window
from negfail_nb.benchmarking.costs import Estimate, estimate
from negfail_nb.benchmarking.grid import benchmark, open_benchmark
from negfail_nb.benchmarking.hits import Hits
from negfail_nb.benchmarking.index import Index, build_index, open_index
from negfail_nb.benchmarking.layouts import read_passages
from negfail_nb.benchmarking.links import build_links
from negfail_nb.benchmarking.paths import linked_search
from negfail_nb.benchmarking.pools import MemoryPool, Pool, open_pool
from negfail_nb.benchmarking.question_run import Agent, Answered, read_answers
from negfail_nb.benchmarking.questions import Questions, draw, load_questions
from negfail_nb.benchmarking.reading import AS_ASKED, reading_examples, spare_questions
from negfail_nb.benchmarking.recall import retrieval_metrics
from negfail_nb.benchmarking.records import Passage, PassagePool, Question
from negfail_nb.benchmarking.scores import Benchmark, ReadingScores, compare_arms, reading_scores

__all__ = [
    "ARMS",
    "AS_ASKED",
    "Agent",
    "Answered",
    "Arm",
    "Benchmark",
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
    "benchmark",
    "build_index",
    "build_links",
    "compare_arms",
    "draw",
    "estimate",
    "linked_search",
    "load_questions",
    "make_contexts",
    "open_benchmark",
    "open_index",
    "open_pool",
    "read_answers",
    "read_passages",
    "reading_examples",
    "reading_scores",
    "retrieval_metrics",
    "served_window",
    "spare_questions",
]
