"""Settings of stages 01 to 05: from logs to compared arms."""

from __future__ import annotations

from dataclasses import dataclass

from negfail_nb.secrets import check_no_secret, check_variable
from negfail_nb.settings.addresses import check_addresses, split_addresses
from negfail_nb.settings.checked import Checked, option


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectSettings(Checked):
    """01: which logs to read, or how many to generate or play."""

    logs: tuple[str, ...] = option(
        (), "log files or folders; none: logs are generated or played", items=str, path=True
    )
    format: str = option("", "name of the importer; empty: guess from the content")
    questions: tuple[str, ...] = option(
        (),
        "files of questions, or data sets (svamp/train ..): to be played live, or for logs that "
        "hold only ids",
        items=str,
        path=True,
    )
    task: str = option(
        "",
        "how answers are graded; empty: guess from the log",
        choices=("", "qa", "math", "yes_no"),
    )
    score: str = option("", "name of the score that decides success, if a log has several")
    strict: bool = option(
        False, "raise at the first record that cannot be read; off: it is counted"
    )
    max_record_mb: float = option(
        8.0, "largest record that is read, megabytes", low=0.001, high=1024
    )
    player: str = option(
        "teacher",
        "who plays if there are no logs: the scripted teacher, or, live, the profile's model or "
        "endpoint",
        choices=("teacher", "model", "endpoint"),
    )
    corpus: str = option("", "file of passages to search, for questions of your own", path=True)
    generate: int = option(
        240,
        "questions to generate, if no logs or questions are given; of given questions, those that "
        "are played, if demonstrations is above 0",
        low=2,
        high=1_000_000,
    )
    demonstrations: int = option(
        0,
        "worked solutions of other questions that the model is tuned on first, while an endpoint "
        "gets the instruction; 0: who plays does so as it comes",
        low=0,
        high=1_000_000,
    )
    seed: int = option(0, "seed of generated questions and attempts", low=0, high=2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSettings(Checked):
    """01: how episodes are played live. The defaults are the paper's protocol."""

    attempts: int = option(
        3, "episodes per question, also of the scripted teacher", low=1, high=1000
    )
    temperatures: tuple[float, ...] = option(
        (0.2, 0.5, 0.7), "temperatures of the attempts, in turn", items=float
    )
    max_calls: int = option(7, "model calls per episode, at most", low=1, high=1000)
    max_tokens: int = option(512, "tokens per reply, at most", low=1, high=1_048_576)
    window_tokens: int = option(
        0,
        "longest prompt and reply together, tokens; 0: what the model says",
        low=0,
        high=16_777_216,
    )
    style: str = option(
        "react",
        "how tools are called: as text (react) or by tool_calls (tools)",
        choices=("react", "tools"),
    )
    instruction: bool = option(
        True, "tell the model before the question which tools it has and how to call them"
    )
    results: int = option(3, "passages per search", low=1, high=100)
    concurrency: int = option(32, "episodes at once", low=1, high=4096, counts=False)
    seed: int = option(0, "seed of the replies, if the model takes one", low=0, high=2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings(Checked):
    """01: an OpenAI-compatible server. Its key is read from an environment variable, never from a
    setting.
    """

    base_url: tuple[str, ...] = option(
        (),
        "such as http://localhost:8000/v1, or several that serve the same model; empty: OpenAI's "
        "own, or OPENAI_BASE_URL",
        items=str,
        counts=False,
    )
    model: str = option("", "name of the model on the server")
    key_variable: str = option(
        "OPENAI_API_KEY", "environment variable that holds the key", counts=False
    )
    timeout: float = option(
        120.0, "seconds that a reply may take", low=0.1, high=86_400, counts=False
    )
    retries: int = option(
        5,
        "retries after 408, 409, 429, 5xx, a timeout or a lost connection",
        low=0,
        high=100,
        counts=False,
    )
    start_timeout: float = option(
        600.0,
        "seconds to wait for a server that still loads its model",
        low=0.0,
        high=86_400.0,
        counts=False,
    )

    def __post_init__(self) -> None:
        """Check every field, and that none holds a key: settings are saved with results."""
        if isinstance(self.base_url, str):
            object.__setattr__(self, "base_url", split_addresses(self.base_url))
        check_no_secret("EndpointSettings.model", str(self.model))
        check_variable("EndpointSettings.key_variable", str(self.key_variable))
        check_addresses("EndpointSettings.base_url", self.base_url)
        # Not super(): a dataclass with slots is a new class, which super() would not know.
        Checked.__post_init__(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings(Checked):
    """01: what live collection may spend; checked before each call. 0: no limit."""

    episodes: int = option(0, "episodes, at most", low=0, high=1_000_000_000, counts=False)
    tokens: int = option(
        0, "prompt and completion tokens, at most", low=0, high=10**15, counts=False
    )
    money: float = option(
        0.0,
        "cost of the tokens, at most, in the currency of the prices",
        low=0.0,
        high=1e9,
        counts=False,
    )
    prompt_price: float = option(
        0.0, "price per million prompt tokens", low=0.0, high=1e6, counts=False
    )
    completion_price: float = option(
        0.0, "price per million completion tokens", low=0.0, high=1e6, counts=False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QualitySettings(Checked):
    """02: which trajectories stay, and how questions are split."""

    window_tokens: int = option(
        4096,
        "longer trajectories are dropped (estimated: 3.5 characters a token)",
        low=64,
        high=1_048_576,
    )
    check_labels: bool = option(True, "drop trajectories whose label contradicts their answer")
    near_duplicate: float = option(
        0.9,
        "Jaccard similarity above which two trajectories are duplicates; 0: keep all",
        low=0.0,
        high=1.0,
    )
    cap_question: int = option(
        0, "trajectories per question and outcome, at most; 0: no limit", low=0, high=1_000_000
    )
    cap_source: int = option(
        0, "trajectories per model, at most; 0: no limit", low=0, high=10_000_000
    )
    solved_overlap: float = option(
        0.0,
        "word overlap with a solved question that a failure must have; 0: none",
        low=0.0,
        high=1.0,
    )
    min_score: float = option(0.0, "drop failures with a lower quality score", low=0.0, high=1.0)
    failure_temperatures: tuple[float, ...] = option(
        (),
        "keep failures sampled at these temperatures, [lowest, highest]; empty: all",
        items=float,
    )
    evaluation: tuple[str, ...] = option(
        (),
        "files or data sets (svamp ..) of evaluation questions that must not be trained on",
        items=str,
        path=True,
    )
    leak_similarity: float = option(
        0.8, "similarity above which two questions are the same", low=0.1, high=1.0
    )
    heldout: float = option(0.2, "share of questions held out for evaluation", low=0.0, high=0.9)
    seed: int = option(0, "seed of the split and of the caps", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        """Check every field, and that temperatures are a range."""
        Checked.__post_init__(self)  # not super(), see EndpointSettings
        given = self.failure_temperatures
        if given and not (len(given) == 2 and given[0] <= given[1]):
            self._refuse("failure_temperatures", given, "give [lowest, highest], or an empty list")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixSettings(Checked):
    """03: how a trajectory becomes a label, tokens and a loss mask."""

    template: str = option(
        "target-aware",
        "name of the label template of the NAT arms",
        known="negfail_nb.prefix.templates:known_templates",
    )
    template_file: str = option("", "TOML file of label templates of your own", path=True)
    score: str = option("quality", "score that the NAT-k arm bins on", choices=("quality", "f1"))
    edges: tuple[float, ...] = option(
        (0.5, 1.0), "ascending edges of the NAT-k classes; k edges make k + 1 classes", items=float
    )
    instruction: bool = option(
        False, "put the paper's instruction before questions without one, if logs use its actions"
    )
    chat_template: str = option(
        "", "file of a chat template, or a name of ours; empty: the tokenizer's own", path=True
    )
    max_tokens: int = option(
        2048, "longer trajectories are cut between turns", low=32, high=1_048_576
    )
    train_on_errors: bool = option(
        True, "erroneous turns count in the loss; off: they are context only"
    )
    thoughts: str = option(
        "neither",
        "private reasoning: in later prompts (history), also trained (loss), or neither",
        choices=("neither", "history", "loss"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings(Checked):
    """04: which model is tuned. The shape counts only if ``name`` is empty."""

    name: str = option(
        "", "hub id or local folder; empty: a small Llama of the shape below", path=True
    )
    layers: int = option(4, "layers", low=1, high=128)
    width: int = option(192, "hidden size", low=32, high=16_384)
    heads: int = option(6, "attention heads; must divide the width", low=1, high=128)
    vocabulary: int = option(
        4096, "tokens of the byte-level BPE trained on the logs", low=300, high=262_144
    )
    positions: int = option(8192, "longest context", low=64, high=1_048_576)
    seed: int = option(0, "seed of the weights", low=0, high=2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings(Checked):
    """04: the adapter. Rank 0 tunes all weights."""

    rank: int = option(
        0, "rank of the adapter; 0: tune all weights, as the paper did", low=0, high=1024
    )
    alpha: int = option(32, "the adapter is scaled by alpha / rank", low=1, high=4096)
    dropout: float = option(0.0, "dropout of the adapter", low=0.0, high=0.9)
    targets: str = option("all-linear", "modules with an adapter, comma-separated")
    modules_to_save: str = option(
        "", "modules trained whole, comma-separated: embed_tokens,lm_head if tokens are new"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings(Checked):
    """04: the arms and how each is trained."""

    arms: tuple[str, ...] = option(
        ("vanilla", "nut", "nat", "nat-k"),
        "arms to train",
        items=str,
        counts=False,
        known="negfail_nb.training.arms:ALL_ARMS",
    )
    successes: int = option(0, "successful trajectories used; 0: all", low=0, high=10_000_000)
    failures: int = option(
        0, "failed trajectories used, by arms that use any; 0: all", low=0, high=10_000_000
    )
    budget: str = option(
        "epochs",
        "what is equal for all arms: epochs (as in the paper) or steps",
        choices=("epochs", "steps"),
    )
    epochs: float = option(2.0, "passes over an arm's data", low=0.01, high=1000.0)
    steps: int = option(200, "optimiser steps, if budget is steps", low=1, high=10_000_000)
    batch_tokens: int = option(8192, "tokens per optimiser step, packed", low=64, high=16_777_216)
    learning_rate: float = option(
        1e-3, "peak learning rate; 3 % warm-up, then cosine", low=1e-7, high=1.0
    )
    seed: int = option(0, "seed of sampling and training", low=0, high=2**31 - 1)
    save_steps: int = option(100, "steps between checkpoints", low=1, high=1_000_000, counts=False)
    dtype: str = option(
        "float32",
        "weights and arithmetic; auto: what this machine is fast in, measured in a second",
        choices=("float32", "bfloat16", "auto"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceSettings(Checked):
    """04: how the arms dpo and kto go on from the vanilla arm; seed and dtype as above."""

    beta: float = option(0.1, "strength of the pull towards the vanilla arm", low=1e-4, high=100.0)
    pairs: int = option(
        4, "pairs of success and failure per question, at most (dpo)", low=1, high=10_000
    )
    batch: int = option(16, "pairs (dpo) or runs (kto) per optimiser step", low=2, high=65_536)
    epochs: float = option(1.0, "passes over the pairs or runs", low=0.01, high=1000.0)
    learning_rate: float = option(
        5e-5, "peak learning rate; 3 % warm-up, then cosine", low=1e-9, high=1.0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings(Checked):
    """05: how the arms are compared."""

    agent_questions: int = option(
        0, "questions each arm's agent is asked live; 0: none", low=0, high=1_000_000
    )
    questions: tuple[str, ...] = option(
        (),
        "files of these questions, or data sets (svamp ..), asked in equal shares; none: "
        "generated, with unseen names",
        items=str,
        path=True,
    )
    corpus: str = option("", "file of passages to search, for questions of your own", path=True)
    temperature: float = option(
        0.2, "temperature of the agents; the paper's is 0.2", low=0.0, high=5.0
    )
    max_questions: int = option(0, "held-out questions used; 0: all", low=0, high=10_000_000)
    resamples: int = option(2000, "bootstrap resamples over questions", low=100, high=1_000_000)
    confidence: float = option(0.95, "confidence level of the intervals", low=0.5, high=0.999)
    batch_tokens: int = option(16384, "tokens per forward pass", low=64, high=16_777_216)
    seed: int = option(0, "seed of the bootstrap", low=0, high=2**31 - 1)
