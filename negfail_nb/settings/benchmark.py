"""Settings of room 06: retrieval, contexts, and the grid of arms."""

from __future__ import annotations

from dataclasses import dataclass

from negfail_nb.settings.checked import Checked, option

RETRIEVERS = ("bm25", "dense", "hybrid", "linked", "linked-hybrid")
ARMS = (
    "closed_book",
    "oracle",
    "long_context",
    "retrieve_1",
    "retrieve_3",
    "retrieve_3_no_model",
    "agent",
)
DEFAULT_ARMS = ARMS[:5]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalSettings(Checked):
    """06: how passages are found."""

    method: str = option(
        "bm25",
        "words, vectors or both fused; linked: the links between passages are followed too",
        choices=RETRIEVERS,
    )
    k1: float = option(
        1.5, "BM25: how soon more of the same word stops to count", low=0.0, high=10.0
    )
    b: float = option(0.75, "BM25: how much long passages are discounted", low=0.0, high=1.0)
    encoder: str = option(
        "minilm",
        "sentence encoder: hub id, folder, or minilm (comes from a Python package)",
        path=True,
    )
    fusion: str = option(
        "z", "how scores are fused: reciprocal ranks, or sums of z-scores", choices=("rank", "z")
    )
    depth: int = option(100, "passages of each retriever that are fused", low=1, high=100_000)
    first: int = option(10, "first passages whose links are followed", low=1, high=1000)
    link_weight: float = option(
        1.0, "weight of what the second passage of a path adds", low=0.0, high=10.0
    )
    reranker: str = option("", "cross-encoder, by hub id or folder; empty: none", path=True)
    approximate_above: int = option(
        1_000_000,
        "vectors from which search is approximate (usearch)",
        low=1000,
        high=1_000_000_000,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextSettings(Checked):
    """06: how long contexts are filled. Lengths count the whole prompt, chat template and answer
    included.
    """

    lengths: tuple[int, ...] = option(
        (4096, 8192, 16384, 32768, 65536, 131072), "target lengths, tokens", items=int
    )
    fill: str = option(
        "mixed",
        "what surrounds gold: random passages, retrieved ones, or half of each",
        choices=("random", "hard", "mixed"),
    )
    depth: float = option(
        -1.0,
        "where gold stands: 0 the beginning, 1 the end; -1: uniform, shuffled per question",
        low=-1.0,
        high=1.0,
    )
    answers: str = option(
        "drop",
        "filler that holds the answer: left out, or kept and recorded",
        choices=("drop", "keep"),
    )
    near_duplicate: float = option(
        0.8,
        "word overlap with a gold passage from which filler is left out; 0: off",
        low=0.0,
        high=1.0,
    )
    seed: int = option(
        0, "seed of order and filler; each question has its own stream", low=0, high=2**31 - 1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkSettings(Checked):
    """06: which questions, which arms, and who answers."""

    data: str = option(
        "pocket", "pocket, a data set's name (hotpotqa ..), or a file of questions", path=True
    )
    questions: int = option(40, "questions, drawn by the seed; 0: all", low=0, high=10_000_000)
    corpus: str = option(
        "", "file of passages; empty: those of the questions themselves", path=True
    )
    arms: tuple[str, ...] = option(DEFAULT_ARMS, "arms, in order", items=str)
    model: str = option(
        "",
        "who reads: hub id, folder or pocket-llama; empty: the model of room 04, untuned",
        path=True,
    )
    player: str = option(
        "model",
        "whether that model or the profile's endpoint answers",
        choices=("model", "endpoint"),
    )
    agent: str = option("nat", "arm of room 04 whose tuned model plays the arm agent")
    seed: int = option(0, "seed of the questions that are drawn", low=0, high=2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingSettings(Checked):
    """06: how a question is asked under every arm."""

    steps: int = option(3, "retrievals of retrieve_3, at most", low=1, high=100)
    passages: int = option(5, "passages that one retrieval adds", low=1, high=1000)
    total: int = option(15, "passages in the prompt, at most", low=1, high=10_000)
    prompt: str = option(
        "instructed",
        "how the model is asked: with instructions, or bare as small base models know it",
        choices=("instructed", "bare"),
    )
    strict: bool = option(
        False, "count only answers in the asked form; off: a plain answer is an answer too"
    )
    answer_tokens: int = option(96, "tokens of one reply, at most", low=1, high=65_536)
    temperature: float = option(0.0, "of all replies", low=0.0, high=5.0)
    concurrency: int = option(16, "questions at once", low=1, high=4096, counts=False)
    seed: int = option(0, "seed of the replies, where the model takes one", low=0, high=2**31 - 1)
