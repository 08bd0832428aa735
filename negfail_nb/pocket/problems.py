"""Word problems for the calculator: one to four steps, exact fractions."""

from __future__ import annotations

import operator
import random
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from negfail_nb.pocket.wordings import of_split, words
from negfail_nb.pocket.world import check_split, make_world, stream

_SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@dataclass(frozen=True, slots=True)
class Sum:
    """One step: ``left`` (the amount so far) ``sign`` ``right``."""

    left: Fraction
    sign: str
    right: Fraction

    @property
    def value(self) -> Fraction:
        """The exact result."""
        return _SIGNS[self.sign](self.left, self.right)

    @property
    def text(self) -> str:
        """The step as a calculator takes it; a fraction on the left stands in parentheses."""
        left = f"({self.left})" if self.left.denominator > 1 else str(self.left)
        return f"{left} {self.sign} {self.right}"


@dataclass(frozen=True, slots=True)
class Problem:
    """A word problem, and the steps that solve it."""

    id: str
    text: str
    steps: tuple[Sum, ...]
    task: str = "math"

    @property
    def answer(self) -> str:
        """The result: a whole number or a fraction in lowest terms."""
        return str(self.steps[-1].value)

    @property
    def level(self) -> str:
        """``easy`` (one step), ``medium`` (two) or ``hard``."""
        return ("easy", "medium", "hard", "hard")[len(self.steps) - 1]


def make_problems(
    count: int, seed: int, split: str = "", wordings: str = ""
) -> list[dict[str, Any]]:
    """Make word problems as records with ``id``, ``question`` and ``answer`` (GSM8K's ``#### 39``).

    Parameters
    ----------
    count, seed
        How many, and the seed of every choice.
    split
        ``"train"`` or ``"heldout"``: whose names the people have; see `make_world`.
    wordings
        ``"train"`` or ``"heldout"``: only sentences that the other never uses. ``""``: all.

    Raises
    ------
    ValueError
        If ``split`` or ``wordings`` is none of these.
    """
    problems = plan_problems(count, seed, split, wordings)
    return [{"id": p.id, "question": p.text, "answer": f"#### {p.answer}"} for p in problems]


def plan_problems(count: int, seed: int, split: str = "", wordings: str = "") -> list[Problem]:
    """Make ``count`` word problems together with the steps that solve them; see `make_problems`."""
    check_split("wordings", wordings)
    people = [e.name for e in make_world(480, seed, split).entities if e.kind == "person"]
    found: dict[str, Problem] = {}
    tries = 0
    while len(found) < count:
        number, rng = len(found), stream(seed, tries := tries + 1, 4)
        name = "-".join(filter(None, ("pocket-math", split, str(seed), f"{number:06d}")))
        problem = _make_problem(name, 1 + number % 4, people, rng, wordings)
        found.setdefault(problem.text, problem)
    return list(found.values())


def chain(start: Fraction, steps: Iterable[tuple[str, Fraction]]) -> tuple[Sum, ...]:
    """Return the steps in a row, each beginning with the value of the one before."""
    sums = []
    for sign, right in steps:
        sums.append(Sum(start, sign, right))
        start = sums[-1].value
    return tuple(sums)


def _make_problem(
    id: str, count: int, people: list[str], rng: random.Random, split: str
) -> Problem:
    story = rng.choice(words("stories"))
    who = rng.choice(people)
    what = rng.choice(story["what"])
    start = Fraction(rng.randint(12, 96))

    def say(part: str, n: Fraction | None = None) -> str:
        return rng.choice(of_split(story[part], split)).format(who=who, what=what, n=n)

    sentences = [say("begin", start)]
    steps = []
    amount = start
    for _ in range(count):
        options = _operands(amount, whole=story.get("whole", True))
        sign = rng.choice([s for s in options if options[s] and not (steps and s == steps[-1][0])])
        right = Fraction(rng.choice(options[sign]))
        steps.append((sign, right))
        amount = chain(amount, [steps[-1]])[0].value
        sentences.append(say(sign, right))
    return Problem(id, " ".join([*sentences, say("end")]), chain(start, steps))


def _operands(amount: Fraction, whole: bool) -> dict[str, list[int]]:
    """Return by what an amount can be changed, for each sign; it stays positive, and whole if it
    must.
    """
    return {
        "+": list(range(2, 41)),
        "-": list(range(2, min(41, int(amount)))),
        "*": list(range(2, 9)) if amount < 1000 else [],
        "/": [n for n in range(2, 9) if not whole or amount % n == 0],
    }
