"""Settings of stages 06 to 08: retrieval, contexts and arms; the load of a server; claims."""

from __future__ import annotations

from dataclasses import dataclass

from negfail_nb.settings.addresses import served_encoder
from negfail_nb.settings.checked import Checked, option

RETRIEVERS = ("bm25", "dense", "hybrid", "linked", "linked-hybrid")
DEFAULT_ARMS = ("closed_book", "oracle", "long_context", "retrieve_1", "retrieve_3")
CACHES = ("cold", "warm")
RULES = ("tfidf", "dense", "numbers", "direction", "negation", "names")
CHECKS = (*RULES, "entailment", "judge")
SEARCHES = ("folder", "arxiv")
PLAYERS = ("rules", "model", "endpoint")
AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalSettings(Checked):
    """06: how passages are found."""

    method: str = option(
        "bm25",
        "words, vectors, or both fused; linked: links between passages are followed too",
        choices=RETRIEVERS,
    )
    k1: float = option(1.5, "BM25: saturation of repeated words", low=0.0, high=10.0)
    b: float = option(0.75, "BM25: length normalisation", low=0.0, high=1.0)
    encoder: str = option(
        "minilm",
        "sentence encoder: hub id, folder, minilm (a Python package), or endpoint:MODEL, asked for "
        "/v1/embeddings at the endpoint's address or at its own: endpoint:MODEL@http://host/v1",
        path=True,
    )
    fusion: str = option(
        "z", "fusion of scores: reciprocal ranks, or sums of z-scores", choices=("rank", "z")
    )
    depth: int = option(100, "passages per retriever that are fused", low=1, high=100_000)
    first: int = option(10, "first passages whose links are followed", low=1, high=1000)
    reranker: str = option("", "cross-encoder: hub id or folder; empty: none", path=True)

    def __post_init__(self) -> None:
        """Check every field, and that no key is written down with an encoder's address."""
        Checked.__post_init__(self)
        served_encoder(self.encoder)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextSettings(Checked):
    """06: how long contexts are filled. A length counts the whole prompt and the answer."""

    lengths: tuple[int, ...] = option(
        (4096, 8192, 16384, 32768, 65536, 131072), "target lengths, tokens", items=int
    )
    fill: str = option(
        "mixed",
        "filler around gold: random passages, retrieved ones, or half of each",
        choices=("random", "hard", "mixed"),
    )
    depth: float = option(
        -1.0,
        "place of gold: 0 beginning, 1 end; -1: uniform, shuffled per question",
        low=-1.0,
        high=1.0,
    )
    answers: str = option(
        "drop",
        "filler with the answer in it: dropped, or kept and recorded",
        choices=("drop", "keep"),
    )
    near_duplicate: float = option(
        0.8,
        "filler is dropped above this word overlap with a gold passage; 0: off",
        low=0.0,
        high=1.0,
    )
    seed: int = option(
        0, "seed of order and filler, of its own per question", low=0, high=2**31 - 1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkSettings(Checked):
    """06: which questions, which arms, and who answers."""

    data: str = option(
        "pocket",
        "pocket, a data set (hotpotqa ..), or a file of questions",
        path=True,
        names=("pocket", "hotpotqa", "2wikimultihopqa", "musique"),  # also if a file is called so
    )
    questions: int = option(
        40, "number of questions, drawn by the seed; 0: all", low=0, high=10_000_000
    )
    corpus: str = option(
        "", "file of passages; empty: those of the questions themselves", path=True
    )
    arms: tuple[str, ...] = option(
        DEFAULT_ARMS,
        "arms, in order; of those with lengths also one length, such as long_context@8192",
        items=str,
        known="negfail_nb.benchmarking.arms:ARMS",
    )
    model: str = option(
        "", "who reads: hub id, folder or pocket-llama; empty: model.name, untuned", path=True
    )
    player: str = option(
        "model", "who answers: that model, or the endpoint", choices=("model", "endpoint")
    )
    reader_examples: int = option(
        0,
        "other questions that the reader is tuned on, once each; 0: it reads as it comes",
        low=0,
        high=10_000_000,
    )
    agent: str = option("nat", "training arm whose model plays the arm agent")
    seed: int = option(0, "seed of the draw of questions", low=0, high=2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingSettings(Checked):
    """06: how a question is asked under every arm."""

    steps: int = option(3, "retrievals of retrieve_3, at most", low=1, high=100)
    passages: int = option(5, "passages per retrieval", low=1, high=1000)
    total: int = option(15, "passages in the prompt, at most", low=1, high=10_000)
    prompt: str = option(
        "instructed",
        "prompt: with instructions, or bare as small base models know it",
        choices=("instructed", "bare"),
    )
    strict: bool = option(False, "count only answers in the asked form; off: plain answers too")
    answer_tokens: int = option(96, "tokens per reply, at most", low=1, high=65_536)
    temperature: float = option(0.0, "temperature of the replies", low=0.0, high=5.0)
    concurrency: int = option(16, "questions at once", low=1, high=4096, counts=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings(Checked):
    """07: the load under which a server is measured. Each load with each cache is one cell."""

    concurrency: tuple[int, ...] = option(
        (1, 4, 16), "closed loops: requests at once, one cell each", items=int
    )
    rates: tuple[float, ...] = option(
        (), "open loops: Poisson arrivals per second, one cell each", items=float
    )
    caches: tuple[str, ...] = option(
        CACHES, "cold: prompts are new; warm: each was sent once before", items=str, known=CACHES
    )
    requests: int = option(64, "measured requests per cell", low=1, high=1_000_000)
    warmup: int = option(
        2, "requests before a cell, not measured, with other texts", low=0, high=10_000
    )
    output_tokens: int = option(64, "tokens per reply, at most", low=1, high=1_048_576)
    fixed_length: bool = option(True, "replies have exactly so many tokens, if the server can")
    reset_cache: bool = option(
        False, "empty the server's prefix cache before each cell, if it can be"
    )

    def __post_init__(self) -> None:
        """Check every field."""
        Checked.__post_init__(self)  # not super(), see EndpointSettings
        if any(n < 1 for n in self.concurrency):
            self._refuse("concurrency", self.concurrency, "each number must be 1 or more")
        if any(not 0 < rate < float("inf") for rate in self.rates):
            self._refuse("rates", self.rates, "each rate must be above 0")
        if not self.concurrency and not self.rates:
            self._refuse("concurrency", self.concurrency, "give at least one load here or in rates")
        if not self.caches or not set(self.caches) <= set(CACHES):
            self._refuse("caches", self.caches, f"use some of {', '.join(map(repr, CACHES))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteratureSettings(Checked):
    """08: where the sources of claims come from."""

    folder: str = option(
        "", "folder of text, PDF, BibTeX and JSON files; empty: those of the package", path=True
    )
    queries: tuple[str, ...] = option((), "search queries; empty: all of the folder", items=str)
    searches: tuple[str, ...] = option(
        ("folder",), "where to search", items=str, known=("folder", "arxiv")
    )
    limit: int = option(20, "sources per query and search, at most", low=1, high=1000)
    timeout: float = option(
        60.0, "seconds for all searches together", low=0.1, high=3600.0, counts=False
    )

    def __post_init__(self) -> None:
        """Check every field, and that the searches exist."""
        Checked.__post_init__(self)
        unknown = sorted(set(self.searches) - set(SEARCHES))
        if unknown:
            raise ValueError(
                f"LiteratureSettings.searches has {', '.join(unknown)}; use {', '.join(SEARCHES)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSettings(Checked):
    """08: how a claim is compared with its sources, and who reviews it."""

    file: str = option("", "JSON or TOML file of claims; empty: those of the papers", path=True)
    threshold: float = option(
        0.15, "TF-IDF cosine above which a sentence counts as found", low=0.0, high=1.0
    )
    checks: tuple[str, ...] = option(
        ("tfidf", "numbers", "direction", "negation", "names"),
        "checks that a claim must pass to count as backed",
        items=str,
        known=CHECKS,
    )
    encoder: str = option(
        "",
        "sentence encoder of the check dense; empty: none; auto: retrieval.encoder, if installed",
        path=True,
    )
    entailment: str = option(
        "", "cross-encoder of the check entailment: hub id or folder; empty: none", path=True
    )
    judge: str = option(
        "rules",
        "who makes the check judge: nobody, so that rules decide, or a model",
        choices=PLAYERS,
    )
    extraction: str = option(
        "rules", "who extracts claims from sources: rules, or a model", choices=PLAYERS
    )
    roles: str = option(
        "rules", "who plays sceptic, validator and synthesiser: rules, or a model", choices=PLAYERS
    )

    def __post_init__(self) -> None:
        """Check every field, that the checks exist, and that dense has an encoder."""
        Checked.__post_init__(self)
        served_encoder(self.encoder)
        unknown = sorted(set(self.checks) - set(CHECKS))
        if unknown:
            raise ValueError(
                f"ClaimSettings.checks has {', '.join(unknown)}; use {', '.join(CHECKS)}"
            )
        needed = {
            "dense": (self.encoder, "encoder is empty; give one, such as minilm"),
            "entailment": (self.entailment, "entailment is empty; give a hub id or folder"),
            "judge": (self.judge != "rules", "judge is rules; give model or endpoint"),
        }
        for check, (there, why) in needed.items():
            if check in self.checks and not there:
                raise ValueError(f"ClaimSettings.checks has {check}, but {why}")
