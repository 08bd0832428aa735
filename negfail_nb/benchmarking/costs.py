"""What a benchmark will cost, before it starts: requests and tokens of each arm, at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from negfail_nb.agents.protocol import Model
from negfail_nb.agents.spending import CHARS_PER_TOKEN
from negfail_nb.benchmarking.arms import Sizes, expand_arms, get_arm, length_of
from negfail_nb.benchmarking.prompts import open_prompt
from negfail_nb.benchmarking.records import PassagePool, Question
from negfail_nb.settings import ContextSettings, LiveSettings, ReadingSettings

if TYPE_CHECKING:
    import pandas as pd

SAMPLE = 200  # passages, and questions, that are measured
TEMPLATE = 40  # tokens of a chat template around a message and its reply, if no tokenizer counts


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a benchmark costs at most, if every step is taken and every reply as long as allowed.

    Attributes
    ----------
    table
        One row per arm: ``arm``, ``questions``, ``requests``, ``prompt_tokens``,
        ``completion_tokens``, of the whole arm. What a prefix cache saves is not taken off.
    """

    table: pd.DataFrame

    @property
    def requests(self) -> int:
        """Requests of all arms."""
        return int(self.table["requests"].sum())

    def gpu_hours(self, prompt_rate: float, completion_rate: float, gpus: int = 1) -> float:
        """Return the GPU hours of all arms.

        The rates are the tokens per second that the server reads, and writes, over all requests at
        once. ``ValueError`` for a rate or a number of GPUs that is not above 0.
        """
        if not (prompt_rate > 0 and completion_rate > 0 and gpus > 0):
            raise ValueError(
                f"rates {prompt_rate:g} and {completion_rate:g} and {gpus} GPUs: all must be above "
                "0"
            )
        prompt = self.table["prompt_tokens"].sum()
        completion = self.table["completion_tokens"].sum()
        return float((prompt / prompt_rate + completion / completion_rate) / 3600 * gpus)

    def __str__(self) -> str:
        prompt = self.table["prompt_tokens"].sum()
        completion = self.table["completion_tokens"].sum()
        return (
            f"at most {self.requests:,} requests, {prompt:,} prompt tokens and {completion:,} "
            "completion tokens"
        )


def estimate(
    arms: Sequence[str],
    questions: Sequence[Question],
    settings: ReadingSettings,
    pool: PassagePool,
    model: Model | None = None,
    contexts: ContextSettings = ContextSettings(),
    live: LiveSettings = LiveSettings(),
    *,
    tokenizer: Any = None,
) -> Estimate:
    """Return what a benchmark costs, from the mean length of a sample of passages and questions.

    Parameters
    ----------
    arms, questions, settings, pool, model, contexts, tokenizer
        As for `negfail_nb.benchmarking.grid.benchmark`. Without a tokenizer, tokens are estimated
        from characters, rather too many than too few.
    live
        How the agent plays.
    """
    import pandas as pd

    tokenizer = tokenizer or getattr(model, "tokenizer", None)

    def mean(texts: Sequence[str]) -> float:
        if tokenizer is None:
            return sum(map(len, texts)) / CHARS_PER_TOKEN / len(texts)
        rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return sum(map(len, rows)) / len(texts)

    prompt = open_prompt(settings.prompt)
    asked = _spread(questions)
    template = _template_tokens(tokenizer, mean)
    sizes = {
        "frame": template + mean([prompt.before(q) + prompt.step(q) for q in asked]),
        "closed_book": template + mean([prompt.closed_book(q) for q in asked]),
        "passage": mean([prompt.passage(10, passage) for passage in _spread(pool)]),
        "template": template,
        "gold": sum(len(q.gold) for q in asked) / len(asked),
        "settings": settings,
        "live": live,
    }
    rows = []
    for label in expand_arms(arms, contexts.lengths):
        arm = get_arm(label)
        length = length_of(label)
        prompts = arm.prompts(Sizes(length=length, **sizes))
        reply = live.max_tokens if "agent" in arm.needs else settings.answer_tokens
        requests = len(questions) * len(prompts)
        tokens = round(len(questions) * sum(prompts))
        rows.append((label, len(questions), requests, tokens, requests * reply))
    names = ["arm", "questions", "requests", "prompt_tokens", "completion_tokens"]
    return Estimate(pd.DataFrame(rows, columns=names))


def _template_tokens(tokenizer: Any, mean: Any) -> float:
    """Return the tokens of the chat template around a message and its reply."""
    if tokenizer is None:
        return TEMPLATE
    if not getattr(tokenizer, "chat_template", None):
        return 0
    asked = [{"role": "user", "content": "x"}]
    return mean([tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)])


def _spread(items: Any) -> list[Any]:
    """Return a sample, evenly from beginning to end."""
    count = min(len(items), SAMPLE)
    return [items[i * len(items) // count] for i in range(count)]
