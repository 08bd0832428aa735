"""Why a run failed, how far it got, and the `Finding` that says so.

A kind of failure is one small function under ``@failure_kind``. Kinds of answers and endings hold
for failures only; parse errors, tool errors, repeated actions and invented observations are also
counted in successes, where they are incidents.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from negfail_nb.grading import grade, normalize_answer
from negfail_nb.numeric import parse_number
from negfail_nb.quality.answers import QUOTES, same_answer
from negfail_nb.steps import Step, read_steps, text
from negfail_nb.trajectory import Trajectory

_OBSERVATION_PART = re.compile(r"^[ \t]*Observation[ \t]*\d*[ \t]*:", re.MULTILINE | re.IGNORECASE)
_REFUSAL = re.compile(
    r"\bas an ai\b|\bagainst my (?:guidelines|programming|policy)\b"
    r"|\b(?:i'm (?:sorry|afraid|unable)|i am (?:sorry|afraid|unable)|i can(?:no|')t|i can not"
    r"|i won't|i will not)\b[^.]{0,80}"
    r"\b(?:assist|help|comply|fulfil|engage|your request|provide (?:assistance|help))",
    re.IGNORECASE,
)
_GAVE_UP = re.compile(
    r"(?:unknown|none|n/?a|uncertain|inconclusive|undetermined|maybe|idk|no answer|noanswer"
    r"|not sure|unclear)[.!]?\Z"
    r"|.*\b(?:(?:do not|don't|dont|did not|didn't)"
    r" (?:know|have (?:enough|sufficient|the information))"
    r"|(?:cannot|can't|can not|could not|couldn't|unable to|not able to|impossible to"
    r"|not possible to) (?:be )?"
    r"(?:determin|find|found|answer|identif|verif|confirm|solve|locat|conclud|know|say|tell"
    r"|calculat|provid|giv)\w*"
    r"|(?:not enough|insufficient|not sufficient|lack of) (?:\w+ )?(?:information|data|context)"
    r"|no (?:\w+ )?(?:information|answer|data) (?:\w+ )?(?:available|found|provided|given)"
    r"|(?:is|was|are|were) (?:not (?:known|specified|mentioned|available|provided|found)"
    r"|unknown|unclear))\b",
    re.IGNORECASE | re.DOTALL,
)
# ReAct's Lookup moves to the next hit each time it is repeated, as paging does: a repetition of
# them is no loop.
_PAGING = frozenset({"lookup", "next", "scroll", "page_down", "page_up"})
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
# What each part of the quality score counts; parts that cannot be known are left out and the rest
# is rescaled.
WEIGHTS = {"answer": 0.4, "evidence": 0.3, "actions": 0.2, "finished": 0.1}


@dataclass(frozen=True, slots=True)
class Run:
    """A trajectory and what was read from it, once.

    Attributes
    ----------
    steps
        The agent's turns.
    written
        All that the agent wrote, its tool calls included.
    f1
        Of its answer: the log's own F1 if it has one, else our grader's; 0 without an answer.
    same
        Whether a failed answer says what the reference says, in another form.
    """

    trajectory: Trajectory
    steps: list[Step]
    written: str
    f1: float
    same: bool

    @property
    def failed(self) -> bool:
        """Whether it is known to have failed."""
        return self.trajectory.success is False

    @property
    def answered(self) -> bool:
        """Whether it failed with an answer that says something."""
        return self.failed and bool((self.trajectory.prediction or "").strip())

    @property
    def acting(self) -> list[Step]:
        """The turns that act, or fail to."""
        return [step for step in self.steps if step.actions or step.error]

    def ended(self, *terminations: str) -> bool:
        """Whether it ended in one of these ways."""
        return self.trajectory.termination in terminations


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of failure: its name, what it means, and the function that recognises it."""

    name: str
    description: str
    holds: Callable[[Run], bool]


# The first that holds is a run's primary kind: how it ended comes before what happened on the way.
KINDS: list[Kind] = []


def failure_kind(holds: Callable[[Run], bool]) -> Callable[[Run], bool]:
    """Register a kind of failure behind the others: the function says if a run shows it.

    The function's name names the kind, its docstring describes it.
    """
    KINDS.append(Kind(holds.__name__, " ".join((holds.__doc__ or "").split()), holds))
    return holds


@failure_kind
def unlabelled(run: Run) -> bool:
    """Nobody knows whether it succeeded: no label in the log, and no answer that could be
    judged.
    """
    return run.trajectory.success is None


@failure_kind
def crashed(run: Run) -> bool:
    """An exception ended it."""
    # With these endings the error only says that the window was full, or why no action could be
    # read.
    told = bool(run.trajectory.error) and not run.ended("max_steps", "parse_error", "empty")
    return run.trajectory.success is not True and (run.ended("crashed") or told)


@failure_kind
def empty(run: Run) -> bool:
    """The agent wrote nothing, or finished with an empty answer."""
    prediction = run.trajectory.prediction
    blank = prediction is not None and not prediction.strip()
    silent = not run.written.strip() and not crashed(run)
    return run.failed and (run.ended("empty") or blank or silent)


@failure_kind
def refusal(run: Run) -> bool:
    """The agent declined to do the task."""
    if not run.failed or run.ended("refused"):
        return run.failed
    # A refusal is an answer, or a last turn without an action; "I'm sorry" before a new attempt is
    # none.
    words = run.trajectory.prediction
    last = run.steps[-1] if run.steps else None
    if words is None:
        stopped = last and not last.actions
        words = text(run.trajectory.messages[last.message]) if stopped else ""
    return _REFUSAL.search(words.translate(QUOTES)) is not None


@failure_kind
def wrong_form(run: Run) -> bool:
    """The right answer in the wrong form: equal number, reference whole in a short answer,
    accents or dashes.
    """
    return run.same


@failure_kind
def gave_up(run: Run) -> bool:
    """It finished by saying that it does not know."""
    prediction = (run.trajectory.prediction or "").strip().translate(QUOTES)
    return run.answered and _GAVE_UP.match(prediction) is not None and not run.same


@failure_kind
def out_of_steps(run: Run) -> bool:
    """The limit of steps ended it."""
    return run.failed and run.ended("max_steps")


@failure_kind
def partly_right(run: Run) -> bool:
    """Some words of its answer are right: 0 < F1 < 1."""
    return run.answered and 0 < run.f1 < 1


@failure_kind
def wrong_answer(run: Run) -> bool:
    """It gave an answer, and no word of it is known to be right."""
    # The rest: also if a log calls an answer wrong that it gives an F1 of 1, and there is no
    # reference to compare.
    return run.answered and not (partly_right(run) or run.same or gave_up(run) or refusal(run))


@failure_kind
def no_answer(run: Run) -> bool:
    """It stopped by itself without an answer."""
    return run.failed and run.trajectory.prediction is None and run.ended("finished")


@failure_kind
def parse_error(run: Run) -> bool:
    """A turn without a valid action, or one that the environment did not understand."""
    return run.ended("parse_error") or any(step.error == "parse" for step in run.steps)


@failure_kind
def tool_error(run: Run) -> bool:
    """A tool answered with an error."""
    return run.ended("tool_error") or any(step.error == "tool" for step in run.steps)


@failure_kind
def repeated_action(run: Run) -> bool:
    """A loop: the same action with the same argument again (not lookups)."""
    calls = [call for step in run.steps for call in calls_of(step)]
    return len(set(calls)) < len(calls)


@failure_kind
def invented_observation(run: Run) -> bool:
    """The agent wrote an "Observation:" part itself."""
    return invents(run.written)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found in one trajectory.

    Attributes
    ----------
    kinds
        Kinds of failure, most telling first. Each failure has at least one.
    turns, calls
        Turns of the agent; calls of tools among its actions, finishing aside.
    actions, errors
        Turns that act, or fail to; those among them that are errors.
    characters
        Of all messages: the length from which tokens are estimated.
    score
        The quality score: 1 for a success, ``None`` for an unlabelled run.
    """

    id: str
    question: str
    answer: str
    prediction: str | None
    model: str
    outcome: str
    termination: str
    kinds: tuple[str, ...]
    turns: int
    calls: int
    actions: int
    errors: int
    characters: int
    score: float | None

    @property
    def primary(self) -> str:
        """The most telling kind of failure; ``""`` for a success."""
        return self.kinds[0] if self.kinds and self.outcome != "success" else ""

    @property
    def action_errors(self) -> float | None:
        """Share of actions that are errors (arXiv 2402.11651, Table 6); ``None`` without."""
        return self.errors / self.actions if self.actions else None


def read(trajectory: Trajectory) -> Run:
    """Read a trajectory once: its steps, its text, the grade of its answer."""
    prediction = trajectory.prediction or ""
    answer = trajectory.answer
    graded = grade(prediction, answer, trajectory.task) if prediction and answer else {}
    f1 = float(trajectory.scores.get("f1", graded.get("f1", 0.0)))
    wrong = trajectory.success is False and prediction.strip() and answer
    same = bool(wrong) and (graded["em"] == 1 or same_answer(prediction, answer))
    return Run(trajectory, read_steps(trajectory), agent_text(trajectory), f1, same)


def examine(run: Run) -> Finding:
    """Return what was found in one run."""
    trajectory = run.trajectory
    others = (m for m in trajectory.messages if m["role"] != "assistant")
    return Finding(
        id=trajectory.id,
        question=trajectory.question,
        answer=trajectory.answer,
        prediction=trajectory.prediction,
        model=trajectory.source.model,
        outcome=trajectory.outcome,
        termination=trajectory.termination,
        kinds=tuple(kind.name for kind in KINDS if kind.holds(run)),
        turns=len(run.steps),
        calls=sum(not action.is_finish for step in run.steps for action in step.actions),
        actions=len(run.acting),
        errors=sum(bool(step.error) for step in run.acting),
        characters=len(run.written) + sum(len(text(m)) for m in others),
        score=quality(run),
    )


def quality(run: Run) -> float | None:
    """Return how far a run got, between 0 and 1: 1 for a success, ``None`` for an unlabelled run.

    The mean, weighted by ``WEIGHTS``, of the answer's F1, the share of the evidence seen, the share
    of valid actions, and whether it finished with an answer. That the quality of failures matters
    is arXiv 2402.11651, Table 5; the score itself is ours.
    """
    if not run.failed:
        return 1.0 if run.trajectory.success else None
    acting = run.acting
    parts = {
        "answer": run.f1,
        "evidence": evidence(run),
        "actions": sum(not step.error for step in acting) / len(acting) if acting else 0.0,
        "finished": float(run.ended("finished") and run.trajectory.prediction is not None),
    }
    known = [(WEIGHTS[name], value) for name, value in parts.items() if value is not None]
    return min(1.0, sum(w * value for w, value in known) / sum(w for w, _ in known))


def evidence(run: Run) -> float | None:
    """Return the share of the evidence that the agent saw, between 0 and 1; ``None`` if unknown.

    Gold titles if they are known (compared without case), else the words of the reference answer,
    else, for numbers, whether the number was seen. Unknown for yes/no questions without titles:
    "yes" in an observation proves nothing.
    """
    trajectory = run.trajectory
    seen = "\n".join(step.observation for step in run.steps)
    lowered = seen.lower()
    if titles := trajectory.gold_titles:
        return sum(title.lower() in lowered for title in titles) / len(titles)
    if trajectory.task == "math":
        number = parse_number(trajectory.answer)
        found = any(parse_number(n) == number for n in set(_NUMBER.findall(seen)))
        return None if number is None else float(found)
    words = normalize_answer(trajectory.answer).split()
    if trajectory.task == "yes_no" or not words or words[0] in ("yes", "no"):
        return None
    return sum(has_words(lowered, word) for word in words) / len(words)


def calls_of(step: Step) -> list[tuple[str, str]]:
    """Return the calls of a step that say the same if they are repeated: name and argument, without
    lookups and paging.
    """
    return [(a.name, " ".join(a.argument.split())) for a in step.actions if a.name not in _PAGING]


def invents(written: str) -> bool:
    """Whether a text of the agent has an "Observation:" part."""
    # The plain search comes first: it is ten times faster, and most runs have none.
    return "observation" in written.lower() and _OBSERVATION_PART.search(written) is not None


def has_words(seen: str, words: str) -> bool:
    """Whether a text holds words, as they are written, that no letter or digit touches."""
    start = seen.find(words)
    while start >= 0:
        end = start + len(words)
        if not (seen[start - 1 : start].isalnum() or seen[end : end + 1].isalnum()):
            return True
        start = seen.find(words, start + 1)
    return False


def agent_text(trajectory: Trajectory) -> str:
    """Return what the agent wrote, turn by turn, tool calls included, without observations."""
    return "\n".join(
        "\n".join((text(message), *map(_call_text, message.get("tool_calls") or ())))
        for message in trajectory.messages
        if message["role"] == "assistant"
    )


def _call_text(call: dict) -> str:
    function = call.get("function") or call
    return f"{function.get('name', '')} {function.get('arguments', '')}"
