"""What came of one question under one arm, and how that is kept: every call, every retrieval, and
how it ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from negfail_nb.trajectory import read_records

ENDINGS = ("answered", "no_answer", "length", "max_steps", "too_long", "crashed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to the model. ``None`` means that the model does not say.

    Attributes
    ----------
    reply
        Its text, as it came.
    finish
        ``"stop"``, ``"length"``, or whatever else the model says.
    prompt_tokens, completion_tokens, cached_tokens
        As in `negfail_nb.agents.protocol.Reply`.
    seconds, first_seconds
        From asking to having the whole reply, and its first token.
    """

    reply: str
    finish: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    seconds: float = 0.0
    first_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """One search: the query, the numbers of the passages that were taken from it, best first, and
    its seconds.
    """

    query: str
    passages: tuple[int, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One question, answered or not, under one arm.

    Attributes
    ----------
    question_id, arm, target
        Which question, which arm, and the length of the context in tokens; 0 where the arm has
        none.
    prediction
        The answer; ``None`` where there is none.
    cited
        Names of the cited passages: of gold as in ``question.gold``, else the title, with its place
        behind it where several passages have that title; of a number that no passage has, the
        number in brackets. ``None`` where the reply cites nothing in the form that was asked for.
    cites
        Whether the model was asked to cite.
    plain
        Whether the answer was read from a reply without the form that was asked for; see
        `negfail_nb.grading.plain_answer`.
    passages
        Numbers of the passages that it was shown, in order.
    gold_found
        Names of the gold passages among them, as in ``question.gold``.
    gold_depths, fill, truncated
        Of a long context: where gold stands (0 to 1), tokens / target, and whether its last filler
        was cut (``"sentence"``, ``"token"``) or not (empty).
    calls, retrievals
        In order.
    termination
        One of ``ENDINGS``: no answer could be read (``"no_answer"``), also because the reply was
        cut (``"length"``); the agent's calls ran out (``"max_steps"``); the prompt did not fit the
        window (``"too_long"``); or an exception ended it (``"crashed"``). All but ``"answered"``
        score 0.
    error
        Text of that exception.
    """

    question_id: str
    arm: str
    target: int = 0
    prediction: str | None = None
    cited: tuple[str, ...] | None = None
    cites: bool = False
    plain: bool = False
    passages: tuple[int, ...] = ()
    gold_found: tuple[str, ...] = ()
    gold_depths: tuple[float, ...] = ()
    fill: float | None = None
    truncated: str = ""
    calls: tuple[Call, ...] = ()
    retrievals: tuple[Retrieval, ...] = ()
    termination: str = "answered"
    error: str = ""

    def __post_init__(self) -> None:
        if self.termination not in ENDINGS:
            raise ValueError(
                f"answer {self.id!r}: termination is {self.termination!r}; use one of {ENDINGS}"
            )

    @property
    def label(self) -> str:
        """The arm and, where it has one, its length: ``long_context@4096``."""
        return arm_label(self.arm, self.target)

    @property
    def id(self) -> str:
        """Unique in a grid."""
        return f"{self.label}/{self.question_id}"

    @property
    def parse_failed(self) -> bool:
        """Whether the model replied, but not in a form from which an answer can be read."""
        return self.termination in ("no_answer", "length")

    @property
    def queries(self) -> tuple[str, ...]:
        """What was searched for, in order."""
        return tuple(retrieval.query for retrieval in self.retrievals)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Answered:
        """Build an answer from JSON values.

        Raises
        ------
        ValueError, TypeError
            Where a field is missing, unknown, or holds what it must not.
        """
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        values["calls"] = tuple(Call(**call) for call in record.get("calls", ()))
        found = (
            {**r, "passages": tuple(r.get("passages", ()))} for r in record.get("retrievals", ())
        )
        values["retrievals"] = tuple(Retrieval(**retrieval) for retrieval in found)
        return cls(**values)


def arm_label(arm: str, target: int) -> str:
    """Return how an arm at a length is called."""
    return f"{arm}@{target}" if target else arm


def read_answers(path: str | Path) -> Iterator[Answered]:
    """Yield the answers of a grid's journal.

    Raises
    ------
    UnreadableLog
        At the first line that is not an answer; the text names file and line.
    """
    return read_records(path, Answered.from_dict)
