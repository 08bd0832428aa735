"""Worked solutions of public data sets, read as moves: a thought, a call, and what it must give.

GSM8K writes its calculations into the solution (``48/2 = <<48/2=24>>24``), SVAMP has an equation,
HotpotQA names the sentences that support its answer, StrategyQA has facts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from negfail_nb.agents.protocol import Task
from negfail_nb.agents.tasks import read_context
from negfail_nb.numeric import mentions_number, parse_number

CALCULATE = "Let me calculate this."
CALCULATED = "That is the answer."
WANTED = (
    "'answer' with calculations as <<48/2=24>> (GSM8K), 'Equation' (SVAMP), 'supporting_facts' and "
    "'context' (HotpotQA), or 'facts' (StrategyQA)"
)
_STEP = re.compile(r"<<([^<>]*)>>")
_LOOSE = " \t=$£€:,"  # what stands before a result
_BRACKETED = re.compile(r"\(\s+|(?<!\s)\s+\)")
_WHOLE = re.compile(r"(\d)\.0+(?!\d)")


@dataclass(frozen=True, slots=True)
class Move:
    """One call of a worked solution.

    Attributes
    ----------
    thought, tool, argument
        What is thought before it, and what is called.
    wanted
        What its observation must say: for a calculation the number, else texts that occur in it.
    """

    thought: str
    tool: str
    argument: str
    wanted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Solution:
    """Moves, and what is thought before the answer is given."""

    moves: tuple[Move, ...]
    thought: str
    answer: str


class NoSolution(ValueError):
    """A record that does not say how its question is solved."""


def read_solution(record: Mapping[str, Any], task: Task) -> Solution:
    """Return how a record solves its question.

    Raises
    ------
    NoSolution
        If it does not say.
    ValueError
        If what it says is no solution; the text names the field.
    """
    for known in (_equation, _annotated, _supported, _reasoned):
        if found := known(record, task):
            return found
    raise NoSolution("it has no worked solution")


def read_steps(solution: str, question: str = "") -> tuple[list[Move], str]:
    """Read a solution in GSM8K's form: each ``<<48/2=24>>`` is a call of the calculator.

    The thought of a call is what its line says before it, with the lines before that calculate
    nothing. Where that already tells the result, a fixed sentence stands instead.

    Parameters
    ----------
    solution
        Its lines; what follows ``####`` is not read.
    question
        Numbers in it are known, so that they tell nothing.

    Returns
    -------
    tuple
        The calls, and what is thought before the answer: the last line that calculates, as it is
        written, and those after it.

    Raises
    ------
    ValueError
        For a step without a result; the text has the step.

    Examples
    --------
    >>> moves, thought = read_steps("She sold 48/2 = <<48/2=24>>24 clips.")
    >>> moves[0].thought, moves[0].argument, moves[0].wanted, thought
    ('She sold 48/2', '48/2', ('24',), 'She sold 48/2 = 24 clips.')
    """
    moves: list[Move] = []
    last = ""
    pending: list[str] = []  # lines since then, which calculate nothing
    known = question
    for line in solution.partition("####")[0].split("\n"):
        plain = _STEP.sub("", line).strip()
        for step in _STEP.finditer(line):
            said = " ".join((*pending, _STEP.sub("", line[: step.start()]))).strip()
            moves.append(_move(step[1], said.rstrip(_LOOSE), known))
            known += f" {moves[-1].wanted[0]}"
            last = plain
            pending = []
        if not _STEP.search(line) and plain:
            pending.append(plain)
        known += f" {plain}"
    return moves, " ".join(filter(None, (last, *pending)))


def _move(step: str, said: str, known: str) -> Move:
    expression, _, rest = step.partition("=")
    result = rest.rpartition("=")[2].strip()
    value = parse_number(result)
    if not expression.strip() or value is None:
        raise ValueError(f"the step <<{step}>> is not of the form <<48/2=24>>")
    told = mentions_number(said, value) and not mentions_number(f"{known} {expression}", value)
    return Move(CALCULATE if told or not said else said, "calculate", expression.strip(), (result,))


def _annotated(record: Mapping[str, Any], task: Task) -> Solution | None:
    answer = record.get("answer")
    if not isinstance(answer, str) or "####" not in answer:
        return None
    moves, thought = read_steps(answer, task.question)
    if not moves:
        raise ValueError("its 'answer' has no calculation as <<48/2=24>>")
    return _calculated(moves, thought, task)


def _equation(record: Mapping[str, Any], task: Task) -> Solution | None:
    equation = record.get("Equation")
    if not isinstance(equation, str) or not equation.strip():
        return None
    move = Move(CALCULATE, "calculate", plain_equation(equation), (task.answer,))
    return _calculated([move], CALCULATED, task)


def _calculated(moves: list[Move], thought: str, task: Task) -> Solution:
    """Check that the last result is the answer, and write that in plain form."""
    answer = task.answer.replace(",", "").strip("$ ")
    last = moves[-1].wanted[0]
    if parse_number(last) != parse_number(answer):
        raise ValueError(f"its last calculation gives {last}, but its answer is {answer}")
    return Solution(tuple(moves), thought or CALCULATED, answer)


def plain_equation(equation: str) -> str:
    """Return an equation as people write it.

    Examples
    --------
    >>> plain_equation("( ( 76.0 - 25.0 ) * 2.5 )")
    '(76 - 25) * 2.5'
    """
    plain = _WHOLE.sub(r"\1", _BRACKETED.sub(lambda m: m[0].strip(), equation.strip()))
    return plain[1:-1] if _is_enclosed(plain) else plain


def _is_enclosed(text: str) -> bool:
    """Whether the first bracket is closed by the last one."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return sign == ")" and place == len(text) - 1
    return False


def _supported(record: Mapping[str, Any], task: Task) -> Solution | None:
    """Search each supporting passage by its title, those that the question names first."""
    if not record.get("supporting_facts") or not record.get("context"):
        return None
    evidence = _evidence(record)
    asked = task.question.lower()
    titles = sorted(evidence, key=lambda title: title.partition(" (")[0].lower() not in asked)
    moves = []
    known = ""
    for title in titles:
        thought = f"{known} I will search for {title}.".strip()
        moves.append(Move(thought, "search", title, tuple(evidence[title])))
        known = " ".join(evidence[title])
    return Solution(tuple(moves), f"{known} So the answer is {task.answer}.", task.answer)


def _evidence(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the supporting sentences by the titles of their passages, in the record's order."""
    facts = record["supporting_facts"]
    pairs = (
        zip(facts["title"], facts["sent_id"], strict=True)
        if isinstance(facts, Mapping)
        else (tuple(fact) for fact in facts)
    )
    passages: dict[str, list[str]] = {}
    for title, sentences in read_context(record):
        passages.setdefault(title, sentences)
    found: dict[str, list[str]] = {}
    for title, number in pairs:
        if title not in passages:
            raise ValueError(f"the supporting passage {title!r} is not in its context")
        if not 0 <= number < len(passages[title]):
            raise ValueError(f"the passage {title!r} has no supporting sentence {number}")
        found.setdefault(title, []).append(" ".join(passages[title][number].split()))
    return found


def _reasoned(record: Mapping[str, Any], task: Task) -> Solution | None:
    facts = record.get("facts")
    said = facts if isinstance(facts, str) else " ".join(map(_sentence, facts or ()))
    if not said.strip():
        return None
    return Solution((), f"{said.strip()} So the answer is {task.answer}.", task.answer)


def _sentence(fact: Any) -> str:
    said = " ".join(str(fact).split())
    return said if said.endswith((".", "!", "?")) else f"{said}."
