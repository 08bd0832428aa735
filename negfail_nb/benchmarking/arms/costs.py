"""What a grid will cost, before it starts: requests and tokens of each arm, at most, and hours at a
given speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from negfail_nb.agents.spending import CHARS_PER_TOKEN
from negfail_nb.benchmarking.arms.prompts import open_prompt
from negfail_nb.benchmarking.corpora.records import PassagePool, Question
from negfail_nb.settings import LiveSettings, ReadingSettings

if TYPE_CHECKING:
    import pandas as pd

SAMPLE = 200  # passages, and questions, that are measured
TEMPLATE = 40  # tokens of a chat template around a message and its reply, where there is no tokenizer to count them


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a grid costs at most, were every step taken and every reply as long as allowed.

    Attributes
    ----------
    table
        One row an arm: ``arm``, ``questions``, ``requests``, ``prompt_tokens``,
        ``completion_tokens``, all of the whole arm. What a prefix cache saves is not taken off.
    """

    table: pd.DataFrame

    @property
    def requests(self) -> int:
        """Requests of all arms."""
        return int(self.table["requests"].sum())

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens of all arms."""
        return int(self.table[["prompt_tokens", "completion_tokens"]].to_numpy().sum())

    def gpu_hours(self, prompt_rate: float, completion_rate: float, gpus: int = 1) -> float:
        """Return the GPU hours of all arms.

        Parameters
        ----------
        prompt_rate, completion_rate
            Tokens that the server reads, and writes, in a second, over all requests at once.
        gpus
            Of the server.

        Raises
        ------
        ValueError
            For a rate or a number of GPUs that is not above 0.
        """
        if not (prompt_rate > 0 and completion_rate > 0 and gpus > 0):
            raise ValueError(
                f"rates {prompt_rate:g} and {completion_rate:g} and {gpus} GPUs: all must be above 0"
            )
        prompt, completion = (
            self.table["prompt_tokens"].sum(),
            self.table["completion_tokens"].sum(),
        )
        return float((prompt / prompt_rate + completion / completion_rate) / 3600 * gpus)

    def __str__(self) -> str:
        prompt, completion = (
            self.table["prompt_tokens"].sum(),
            self.table["completion_tokens"].sum(),
        )
        return f"at most {self.requests:,} requests, {prompt:,} prompt tokens and {completion:,} completion tokens"


def estimate(
    labels: Sequence[str],
    questions: Sequence[Question],
    settings: ReadingSettings,
    pool: PassagePool,
    *,
    tokenizer: Any = None,
    live: LiveSettings = LiveSettings(),
) -> Estimate:
    """Return what a grid costs, from the mean length of a sample of passages and questions.

    Parameters
    ----------
    labels
        Arms with their lengths, see `negfail_nb.benchmarking.arms.playing.expand_arms`.
    questions, settings, pool
        As for `negfail_nb.benchmarking.arms.grid.benchmark`.
    tokenizer
        What counts tokens; without one they are estimated from characters, rather too many than too
        few.
    live
        How the agent plays.
    """
    import pandas as pd

    costs = _Costs(questions, settings, pool, tokenizer, live)
    rows = [{"arm": label, "questions": len(questions), **costs.of(label)} for label in labels]
    return Estimate(pd.DataFrame(rows))


class _Costs:
    """Mean tokens of what prompts are made of."""

    def __init__(
        self,
        questions: Sequence[Question],
        settings: ReadingSettings,
        pool: PassagePool,
        tokenizer: Any,
        live: LiveSettings,
    ) -> None:
        self._settings, self._live, self._count, self._tokenizer = (
            settings,
            live,
            len(questions),
            tokenizer,
        )
        prompt, asked = open_prompt(settings.prompt), _spread(questions)
        self._gold = sum(len(question.gold) for question in asked) / len(asked)
        self._passage = self._mean([prompt.passage(10, passage) for passage in _spread(pool)])
        self._template = self._chat_tokens()
        frames = [prompt.before(question) + prompt.step(question) for question in asked]
        self._frame = self._template + self._mean(frames)
        self._closed = self._template + self._mean(
            [prompt.closed_book(question) for question in asked]
        )

    def of(self, label: str) -> dict[str, int]:
        """Requests and tokens of an arm, over all questions."""
        arm, _, length = label.partition("@")
        reply = self._live.max_tokens if arm == "agent" else self._settings.answer_tokens
        prompts = self._prompts(arm, int(length or 0))
        requests = self._count * len(prompts)
        tokens = {
            "prompt_tokens": round(self._count * sum(prompts)),
            "completion_tokens": requests * reply,
        }
        return {"requests": requests, **tokens}

    def _prompts(self, arm: str, length: int) -> list[float]:
        """Tokens of each prompt of one question; a later one holds the earlier ones and their
        replies.
        """
        settings, live, frame, passage = self._settings, self._live, self._frame, self._passage
        if arm == "long_context":
            return [length - settings.answer_tokens]
        if arm == "agent":
            turn = self._template + live.max_tokens + live.results * passage
            return [frame + step * turn for step in range(live.max_calls)]
        shown = [
            min(step * settings.passages, settings.total) for step in range(1, settings.steps + 1)
        ]
        if arm == "retrieve_3":
            turn = frame + settings.answer_tokens
            return [n * passage + frame + step * turn for step, n in enumerate(shown)]
        passages = {"oracle": self._gold, "retrieve_1": shown[0], "retrieve_3_no_model": shown[-1]}
        return [self._closed if arm == "closed_book" else frame + passages[arm] * passage]

    def _chat_tokens(self) -> float:
        """Tokens of the chat template around a message and its reply."""
        if self._tokenizer is None:
            return TEMPLATE
        if not getattr(self._tokenizer, "chat_template", None):
            return 0
        asked = [{"role": "user", "content": "x"}]
        text = self._tokenizer.apply_chat_template(
            asked, tokenize=False, add_generation_prompt=True
        )
        return self._mean([text])

    def _mean(self, texts: Sequence[str]) -> float:
        if self._tokenizer is None:
            return sum(map(len, texts)) / CHARS_PER_TOKEN / len(texts)
        rows = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return sum(map(len, rows)) / len(texts)


def _spread(items: Any) -> list[Any]:
    """Return a sample, evenly from beginning to end."""
    count = min(len(items), SAMPLE)
    return [items[i * len(items) // count] for i in range(count)]
