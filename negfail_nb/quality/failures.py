"""Why a run failed: each kind of failure is one small function that looks at a `Run`, and a row of
``KINDS``.

Kinds of answers and endings hold for failures only; parse errors, tool errors, repeated actions and
invented observations are also counted in successes, where they are incidents.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from negfail_nb.grading import (
    answer_overlap,
    exact_match,
    grade,
    normalize_answer,
    parse_number,
    parse_yes_no,
)
from negfail_nb.steps import Step, read_steps, text
from negfail_nb.trajectory import Trajectory

_OBSERVATION_PART = re.compile(r"^[ \t]*Observation[ \t]*\d*[ \t]*:", re.MULTILINE | re.IGNORECASE)
_REFUSAL = re.compile(
    r"\bas an ai\b|\bagainst my (?:guidelines|programming|policy)\b"
    r"|\b(?:i'm (?:sorry|afraid|unable)|i am (?:sorry|afraid|unable)|i can(?:no|')t|i can not|i won't|i will not)\b"
    r"[^.]{0,80}\b(?:assist|help|comply|fulfil|engage|your request|provide (?:assistance|help))",
    re.IGNORECASE,
)
_GAVE_UP = re.compile(
    r"(?:unknown|none|n/?a|uncertain|inconclusive|undetermined|maybe|idk|no answer|noanswer|not sure|unclear)[.!]?\Z"
    r"|.*\b(?:(?:do not|don't|dont|did not|didn't) (?:know|have (?:enough|sufficient|the information))"
    r"|(?:cannot|can't|can not|could not|couldn't|unable to|not able to|impossible to|not possible to) (?:be )?"
    r"(?:determin|find|found|answer|identif|verif|confirm|solve|locat|conclud|know|say|tell|calculat|provid|giv)\w*"
    r"|(?:not enough|insufficient|not sufficient|lack of) (?:\w+ )?(?:information|data|context)"
    r"|no (?:\w+ )?(?:information|answer|data) (?:\w+ )?(?:available|found|provided|given)"
    r"|(?:is|was|are|were) (?:not (?:known|specified|mentioned|available|provided|found)|unknown|unclear))\b",
    re.IGNORECASE | re.DOTALL,
)
_SCALE = re.compile(r"\b(?:hundred|thousand|million|billion|trillion)\b")
_BARE = re.compile(rf"[$\u20ac\u00a3]? ?[\d.,/]+ ?%?(?: {_SCALE.pattern})?")
_DASHES = re.compile("[\u2010-\u2015\u2212]")
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'"})
_HEDGES = frozenset({"and", "or", "not", "either", "neither", "nor"})
# ReAct's Lookup moves to the next hit each time it is repeated, as paging does: a repetition of
# them is no loop.
_PAGING = frozenset({"lookup", "next", "scroll", "page_down", "page_up"})
_SHORT = 6  # words that an answer may have beside the reference and still count as the reference in another form


@dataclass(frozen=True, slots=True)
class Run:
    """A trajectory and what was read from it, once.

    Attributes
    ----------
    steps
        The agent's turns.
    written
        All that the agent wrote, its tool calls included.
    em, f1
        Of its answer, under our grader's lenient rule; the log's own F1 where it has one. 0 without
        an answer.
    same
        Whether a failed answer says what the reference says, in another form.
    """

    trajectory: Trajectory
    steps: list[Step]
    written: str
    em: float
    f1: float
    same: bool

    @property
    def answered(self) -> bool:
        """Whether it failed with an answer that says something."""
        return _answered(self.trajectory)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of failure: its name, what it means, and the function that recognises it."""

    name: str
    description: str
    holds: Callable[[Run], bool]


def read(trajectory: Trajectory) -> Run:
    """Read a trajectory once: its steps, its text, the grade of its answer."""
    graded = {"em": 0.0, "f1": 0.0}
    if trajectory.prediction and trajectory.answer:
        graded = grade(trajectory.prediction, trajectory.answer, trajectory.task)
    f1 = float(trajectory.scores.get("f1", graded["f1"]))
    same = _answered(trajectory) and bool(trajectory.answer)
    same = same and (
        graded["em"] == 1 or same_answer(trajectory.prediction or "", trajectory.answer)
    )
    return Run(trajectory, read_steps(trajectory), agent_text(trajectory), graded["em"], f1, same)


def agent_text(trajectory: Trajectory) -> str:
    """Return what the agent wrote, turn by turn, tool calls included; observations are not its
    words.
    """
    return "\n".join(
        "\n".join((text(message), *map(_call_text, message.get("tool_calls") or ())))
        for message in trajectory.messages
        if message["role"] == "assistant"
    )


def _unlabelled(run: Run) -> bool:
    return run.trajectory.success is None


def _crashed(run: Run) -> bool:
    trajectory = run.trajectory
    # Elsewhere the text says that the window was full, or why no action could be read.
    told = bool(trajectory.error) and trajectory.termination not in (
        "max_steps",
        "parse_error",
        "empty",
    )
    return trajectory.success is not True and (trajectory.termination == "crashed" or told)


def _empty(run: Run) -> bool:
    trajectory = run.trajectory
    blank = trajectory.prediction is not None and not trajectory.prediction.strip()
    silent = not run.written.strip() and not _crashed(run)
    return trajectory.success is False and (trajectory.termination == "empty" or blank or silent)


def _refusal(run: Run) -> bool:
    if run.trajectory.success is not False:
        return False
    if run.trajectory.termination == "refused":
        return True
    last = _last_words(run)
    return _REFUSAL.search(last.translate(_QUOTES)) is not None


def _wrong_form(run: Run) -> bool:
    return run.same


def _gave_up(run: Run) -> bool:
    prediction = (run.trajectory.prediction or "").strip().translate(_QUOTES)
    return run.answered and _GAVE_UP.match(prediction) is not None and not run.same


def _out_of_steps(run: Run) -> bool:
    return run.trajectory.success is False and run.trajectory.termination == "max_steps"


def _partly_right(run: Run) -> bool:
    return run.answered and 0 < run.f1 < 1


def _wrong_answer(run: Run) -> bool:
    # The rest: also where a log calls an answer wrong that it gives an F1 of 1, and there is no
    # reference to compare.
    return run.answered and not (_partly_right(run) or run.same or _gave_up(run) or _refusal(run))


def _no_answer(run: Run) -> bool:
    trajectory = run.trajectory
    return (
        trajectory.success is False
        and trajectory.prediction is None
        and trajectory.termination == "finished"
    )


def _parse_error(run: Run) -> bool:
    return run.trajectory.termination == "parse_error" or any(
        step.error == "parse" for step in run.steps
    )


def _tool_error(run: Run) -> bool:
    return run.trajectory.termination == "tool_error" or any(
        step.error == "tool" for step in run.steps
    )


def _repeated_action(run: Run) -> bool:
    seen = set()
    for step in run.steps:
        for action in step.actions:
            call = (action.name, " ".join(action.argument.split()))
            if call in seen and action.name not in _PAGING:
                return True
            seen.add(call)
    return False


def _invented_observation(run: Run) -> bool:
    # The plain search comes first: it is ten times faster, and most runs have none.
    return (
        "observation" in run.written.lower() and _OBSERVATION_PART.search(run.written) is not None
    )


def same_answer(prediction: str, reference: str) -> bool:
    """Whether an answer says what the reference says, in another form.

    Covered: accents and dashes folded; the same words in another order; a yes/no reference and an
    answer that begins or ends with it; one quantity, with or without its unit in lower case; the
    reference whole in an answer of at most six more words without "and", "or", "not". Not covered:
    aliases and paraphrases.

    Examples
    --------
    >>> same_answer("Yes, both are", "yes"), same_answer("3,677 seated", "3,677"), same_answer("Delhi or Goa", "Goa")
    (True, True, False)
    """
    prediction, reference = fold(prediction), fold(reference)
    if exact_match(prediction, reference) or answer_overlap(prediction, reference).f1 == 1:
        return True
    if normalize_answer(reference) in ("yes", "no"):
        return _verdict(prediction) == parse_yes_no(reference)
    return _same_quantity(prediction, reference) or _contains(prediction, reference)


def fold(answer: str) -> str:
    """Return a text without accents, with plain dashes and quotes.

    Examples
    --------
    >>> fold("Beyonc\u00e9, 1981\u20132001")
    'Beyonce, 1981-2001'
    """
    plain = unicodedata.normalize("NFKD", _DASHES.sub("-", answer).translate(_QUOTES))
    return "".join(c for c in plain if not unicodedata.combining(c))


def _verdict(answer: str) -> bool | None:
    """Return the truth value that an answer begins with, or ends with: "They are the same, so yes"."""
    first, words = parse_yes_no(answer), normalize_answer(answer).split()
    if first is not None or not words or _HEDGES & set(words[-2:]):
        return first
    return parse_yes_no(words[-1])


def _same_quantity(prediction: str, reference: str) -> bool:
    # "3,677" and "3,677 seated" are one quantity; "3" and "3 Idiots", "1987" and "May 1987" are
    # not: a name changes it. Nor are "150" and "150 million", or "12th century" and "late 12th
    # century": one side must be the bare number.
    sides = (prediction.strip(), reference.strip())
    if any(len(side) > 100 or any(c.isupper() for c in side) for side in sides) or not any(
        map(_BARE.fullmatch, sides)
    ):
        return False
    ours, theirs = map(parse_number, sides)
    return (
        ours is not None and ours == theirs and _SCALE.findall(sides[0]) == _SCALE.findall(sides[1])
    )


def _contains(prediction: str, reference: str) -> bool:
    ours, theirs = normalize_answer(prediction).split(), normalize_answer(reference).split()
    if not theirs or len(ours) > len(theirs) + _SHORT or _HEDGES & set(ours) - set(theirs):
        return False
    return any(ours[i : i + len(theirs)] == theirs for i in range(len(ours) - len(theirs) + 1))


def _answered(trajectory: Trajectory) -> bool:
    return trajectory.success is False and bool((trajectory.prediction or "").strip())


def _last_words(run: Run) -> str:
    # A refusal is an answer, or a last turn without an action; "I'm sorry" before a new attempt is
    # none.
    if run.trajectory.prediction is not None:
        return run.trajectory.prediction
    last = run.steps[-1] if run.steps else None
    return text(run.trajectory.messages[last.message]) if last and not last.actions else ""


def _call_text(call: dict) -> str:
    function = call.get("function") or call
    return f"{function.get('name', '')} {function.get('arguments', '')}"


# The first that holds is a run's primary kind: how it ended comes before what happened on the way.
KINDS: tuple[Kind, ...] = (
    Kind(
        "unlabelled",
        "Nobody knows whether it succeeded: no label in the log, and no answer that could be judged.",
        _unlabelled,
    ),
    Kind("crashed", "An exception ended it.", _crashed),
    Kind("empty", "The agent wrote nothing, or finished with an empty answer.", _empty),
    Kind("refusal", "The agent declined to do the task.", _refusal),
    Kind(
        "wrong_form",
        "The right answer in the wrong form: equal number, reference whole in a short answer, accents or dashes.",
        _wrong_form,
    ),
    Kind("gave_up", "It finished by saying that it does not know.", _gave_up),
    Kind("out_of_steps", "The limit of steps ended it.", _out_of_steps),
    Kind("partly_right", "Some words of its answer are right: 0 < F1 < 1.", _partly_right),
    Kind(
        "wrong_answer", "It gave an answer, and no word of it is known to be right.", _wrong_answer
    ),
    Kind("no_answer", "It stopped by itself without an answer.", _no_answer),
    Kind(
        "parse_error",
        "A turn without a valid action, or one that the environment did not understand.",
        _parse_error,
    ),
    Kind("tool_error", "A tool answered with an error.", _tool_error),
    Kind(
        "repeated_action",
        "A loop: the same action with the same argument again (not lookups).",
        _repeated_action,
    ),
    Kind(
        "invented_observation",
        'The agent wrote an "Observation:" part itself.',
        _invented_observation,
    ),
)


def kinds(run: Run) -> tuple[str, ...]:
    """Return the names of the kinds that hold for a run, most telling first. Each failure has at
    least one.
    """
    return tuple(kind.name for kind in KINDS if kind.holds(run))
