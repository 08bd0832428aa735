"""Settings of rooms 01 to 05: from logs to compared arms."""

from __future__ import annotations

from dataclasses import dataclass

from negfail_nb.secrets import check_address, check_no_secret, check_variable
from negfail_nb.settings.checked import Checked, option


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectSettings(Checked):
    """01: which logs to read, or how many to generate."""

    logs: tuple[str, ...] = option(
        (), "log files or folders; none: the package generates its own", items=str, path=True
    )
    format: str = option("", "name of the importer; empty: guess from the content")
    questions: str = option(
        "",
        "file with the questions: for logs that hold only their ids, or to be played live",
        path=True,
    )
    task: str = option(
        "",
        "how answers are graded; empty: guess from the log",
        choices=("", "qa", "math", "yes_no"),
    )
    score: str = option("", "name of the score that decides success, where a log has several")
    strict: bool = option(
        False, "raise at the first record that cannot be read, instead of counting it"
    )
    max_record_mb: float = option(
        8.0, "a single record larger than this many megabytes is not read", low=0.001, high=1024
    )
    player: str = option(
        "teacher",
        "who plays where there are no logs: the scripted teacher, or with the failures of a worse one; or, live, the "
        "profile's model or endpoint",
        choices=("teacher", "worse-failures", "model", "endpoint"),
    )
    corpus: str = option(
        "", "file with the passages to search, for questions of your own", path=True
    )
    generate: int = option(
        240, "questions to generate, where no logs or questions are given", low=2, high=1_000_000
    )
    attempts: int = option(5, "attempts of the scripted teacher at each question", low=1, high=100)
    seed: int = option(0, "seed of what is generated", low=0, high=2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSettings(Checked):
    """01: how episodes are played, live. The defaults are the paper's protocol."""

    attempts: int = option(3, "episodes a question", low=1, high=1000)
    temperatures: tuple[float, ...] = option(
        (0.2, 0.5, 0.7), "of the attempts, in turn", items=float
    )
    max_calls: int = option(7, "calls of the model in one episode, at most", low=1, high=1000)
    max_tokens: int = option(512, "tokens of one reply, at most", low=1, high=1_048_576)
    window_tokens: int = option(
        0,
        "longest prompt and reply together; 0: as the model says, else unbounded",
        low=0,
        high=16_777_216,
    )
    style: str = option(
        "react",
        "how tools are called: as text, or by the server's tool_calls",
        choices=("react", "tools"),
    )
    instruction: bool = option(
        True, "tell the model, before the question, which tools there are and how to call them"
    )
    results: int = option(3, "passages that one search returns", low=1, high=100)
    concurrency: int = option(32, "episodes at once", low=1, high=4096, counts=False)
    seed: int = option(0, "seed of the replies, where the model takes one", low=0, high=2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings(Checked):
    """01: an OpenAI-compatible server. The key comes from the environment variable named here,
    never from a setting.
    """

    base_url: str = option(
        "",
        "such as http://localhost:8000/v1; empty: OpenAI's own, or OPENAI_BASE_URL",
        counts=False,
    )
    model: str = option("", "the model's name, as the server knows it")
    key_variable: str = option(
        "OPENAI_API_KEY", "environment variable that holds the key", counts=False
    )
    timeout: float = option(
        120.0, "seconds that one reply may take", low=0.1, high=86_400, counts=False
    )
    retries: int = option(
        5,
        "further tries after 408, 409, 429, 5xx, a timeout or a lost connection",
        low=0,
        high=100,
        counts=False,
    )
    start_timeout: float = option(
        600.0,
        "seconds that a server which is loading its model is waited for",
        low=0.0,
        high=86_400.0,
        counts=False,
    )

    def __post_init__(self) -> None:
        """Check every field, and that none holds the key itself: settings are written down with the
        results.

        Raises
        ------
        ValueError
            As of all settings; a secret is not shown.
        """
        for name in ("base_url", "model"):
            check_no_secret(f"EndpointSettings.{name}", str(getattr(self, name)))
        check_address("EndpointSettings.base_url", str(self.base_url))
        check_variable("EndpointSettings.key_variable", str(self.key_variable))
        # Not `super()`: slots make the class anew, and the old one is what `super()` would look
        # for.
        Checked.__post_init__(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings(Checked):
    """01: what live collection may spend; checked before each call. 0: no limit."""

    episodes: int = option(0, "episodes, at most", low=0, high=1_000_000_000, counts=False)
    tokens: int = option(
        0, "prompt and completion tokens together, at most", low=0, high=10**15, counts=False
    )
    money: float = option(
        0.0,
        "what the tokens may cost, at most, in the currency of the prices",
        low=0.0,
        high=1e9,
        counts=False,
    )
    prompt_price: float = option(
        0.0, "price of a million prompt tokens", low=0.0, high=1e6, counts=False
    )
    completion_price: float = option(
        0.0, "price of a million completion tokens", low=0.0, high=1e6, counts=False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QualitySettings(Checked):
    """02: which trajectories stay, and how questions are split."""

    window_tokens: int = option(
        4096, "longer trajectories are dropped (estimated from characters)", low=64, high=1_048_576
    )
    chars_per_token: float = option(
        3.5, "characters a token, for that estimate", low=0.5, high=20.0
    )
    check_labels: bool = option(True, "drop runs whose label contradicts their answer")
    near_duplicate: float = option(
        0.9,
        "Jaccard similarity from which two trajectories are one; 0: keep all",
        low=0.0,
        high=1.0,
    )
    cap_question: int = option(
        0, "at most so many trajectories a question and outcome; 0: no limit", low=0, high=1_000_000
    )
    cap_source: int = option(
        0, "at most so many trajectories a model; 0: no limit", low=0, high=10_000_000
    )
    solved_overlap: float = option(
        0.0,
        "word overlap of a failure's question with a solved one; 1: itself solved",
        low=0.0,
        high=1.0,
    )
    min_score: float = option(
        0.0, "failures with a lower quality score are dropped", low=0.0, high=1.0
    )
    evaluation: tuple[str, ...] = option(
        (), "files with evaluation questions that must not be trained on", items=str, path=True
    )
    leak_similarity: float = option(
        0.8, "similarity from which two questions are the same", low=0.1, high=1.0
    )
    heldout: float = option(0.2, "share of the questions kept for evaluation", low=0.0, high=0.9)
    seed: int = option(0, "seed of the split and of the caps", low=0, high=2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixSettings(Checked):
    """03: how a trajectory becomes a label, tokens and a loss mask."""

    template: str = option("target-aware", "name of the label template of the NAT arms")
    template_file: str = option(
        "", "file with templates of your own (TOML, as the package's)", path=True
    )
    score: str = option(
        "quality", "score that the NAT-k arm bins on: quality, or f1", choices=("quality", "f1")
    )
    edges: tuple[float, ...] = option(
        (0.5, 1.0), "edges of the NAT-k classes, ascending; k edges make k + 1 classes", items=float
    )
    instruction: bool = option(
        False,
        "put the paper's instruction turns before a question that has none; for logs in its form of actions",
    )
    chat_template: str = option(
        "",
        "file with a chat template, or one of the package's by name; empty: the tokenizer's own",
        path=True,
    )
    max_tokens: int = option(
        2048, "longer trajectories are cut at a turn border", low=32, high=1_048_576
    )
    train_on_errors: bool = option(
        True, "erroneous turns count in the loss; off: they stay in the context only"
    )
    thoughts: str = option(
        "neither",
        "a model's private reasoning: in later prompts (history), in them and trained (loss), or neither",
        choices=("neither", "history", "loss"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings(Checked):
    """04: which model is tuned. The shape is used only where ``name`` is empty."""

    name: str = option(
        "", "hub id or local folder; empty: a small Llama made from the shape below", path=True
    )
    layers: int = option(4, "layers", low=1, high=128)
    width: int = option(192, "hidden size", low=32, high=16_384)
    heads: int = option(6, "attention heads; must divide the width", low=1, high=128)
    vocabulary: int = option(
        4096, "tokens of the byte-level BPE that is trained on the logs", low=300, high=262_144
    )
    positions: int = option(8192, "longest context", low=64, high=1_048_576)
    seed: int = option(0, "seed of the weights", low=0, high=2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings(Checked):
    """04: the adapter. Rank 0 tunes all weights."""

    rank: int = option(
        0, "rank of the adapter; 0: tune all weights, as the paper did", low=0, high=1024
    )
    alpha: int = option(32, "scale of the adapter: alpha / rank", low=1, high=4096)
    dropout: float = option(0.0, "dropout of the adapter", low=0.0, high=0.9)
    targets: str = option("all-linear", "modules that get an adapter, comma-separated")
    modules_to_save: str = option(
        "",
        "modules trained whole beside it, comma-separated, such as embed_tokens,lm_head for tokens new to the model",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings(Checked):
    """04: the arms and how each is trained."""

    arms: tuple[str, ...] = option(
        ("vanilla", "nut", "nat", "nat-k"), "arms to train", items=str, counts=False
    )
    successes: int = option(0, "successful trajectories used; 0: all", low=0, high=10_000_000)
    failures: int = option(
        0, "failed trajectories used by the arms that use any; 0: all", low=0, high=10_000_000
    )
    budget: str = option(
        "epochs",
        "what the arms share: epochs (as in the paper) or steps",
        choices=("epochs", "steps"),
    )
    epochs: float = option(2.0, "passes over an arm's data", low=0.01, high=1000.0)
    steps: int = option(200, "optimiser steps, where the arms share steps", low=1, high=10_000_000)
    batch_tokens: int = option(
        8192, "tokens in one optimiser step, packed", low=64, high=16_777_216
    )
    learning_rate: float = option(
        1e-3, "peak learning rate; cosine with 3 % warm-up", low=1e-7, high=1.0
    )
    seed: int = option(0, "seed of sampling and training", low=0, high=2**31 - 1)
    save_steps: int = option(100, "steps between checkpoints", low=1, high=1_000_000, counts=False)
    dtype: str = option("float32", "weights and arithmetic", choices=("float32", "bfloat16"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceSettings(Checked):
    """04: how the arms dpo and kto go on from the vanilla arm's model. Seed, dtype, checkpoints: as
    in training.
    """

    beta: float = option(
        0.1, "how strongly the model is held to the vanilla arm's", low=1e-4, high=100.0
    )
    pairs: int = option(
        4, "pairs a question, at most, of a success and a failure (dpo)", low=1, high=10_000
    )
    batch: int = option(16, "pairs (dpo) or runs (kto) in one optimiser step", low=2, high=65_536)
    epochs: float = option(1.0, "passes over the pairs or runs", low=0.01, high=1000.0)
    steps: int = option(0, "optimiser steps; 0: as the epochs say", low=0, high=10_000_000)
    learning_rate: float = option(
        5e-5, "peak learning rate; cosine with 3 % warm-up", low=1e-9, high=1.0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings(Checked):
    """05: how the arms are compared."""

    agent_questions: int = option(
        0, "questions that each arm is asked live; 0: none", low=0, high=1_000_000
    )
    questions: str = option(
        "", "file with these questions; empty: of a generated world of unseen names", path=True
    )
    corpus: str = option(
        "", "file with the passages to search, for questions of your own", path=True
    )
    temperature: float = option(
        0.2, "of the agents that are evaluated; the paper's is 0.2", low=0.0, high=5.0
    )
    max_questions: int = option(0, "held-out questions used; 0: all", low=0, high=10_000_000)
    resamples: int = option(2000, "bootstrap resamples over questions", low=100, high=1_000_000)
    confidence: float = option(0.95, "level of the intervals", low=0.5, high=0.999)
    batch_tokens: int = option(16384, "tokens in one forward pass", low=64, high=16_777_216)
    seed: int = option(0, "seed of the bootstrap", low=0, high=2**31 - 1)
