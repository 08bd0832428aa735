"""Word problems for the calculator: one to four steps, exact fractions."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from negfail_nb.pocket.world import make_world, stream

# A beginning ({who} has {n} of something), sentences that change the amount, and what is asked at the end.
# Kilograms can be divided into fractions; stamps and coins cannot.
_STORIES = (
    {
        "begin": ("{who} has {n} {what}.", "On Monday there are {n} {what} on the desk of {who}."),
        "+": ("A friend brings {n} more {what}.", "{who} finds {n} other {what} in the cellar."),
        "-": ("{who} gives {n} {what} away.", "{who} loses {n} {what} on the way."),
        "*": ("A week later there are {n} times as many.", "Then {who} buys more, to have {n} times as many."),
        "/": ("{who} makes {n} equal piles and keeps one pile.", "{n} people share them equally, {who} among them."),
        "end": ("How many {what} does {who} have now?", "How many {what} are left to {who}?"),
        "what": ("stamps", "marbles", "postcards", "apples", "coins"),
    },
    {
        "begin": ("A baker named {who} mixes {n} kilograms of {what}.", "{who} starts with {n} kilograms of {what}."),
        "+": ("{who} adds {n} kilograms.", "Another sack of {n} kilograms is poured in."),
        "-": ("{n} kilograms are used at once.", "{who} takes out {n} kilograms."),
        "*": ("For a feast {who} makes {n} times that amount.", "The amount is then multiplied by {n}."),
        "/": ("{who} fills {n} equal bags and keeps one.", "It is split evenly among {n} bowls, and one is kept."),
        "end": ("How many kilograms of {what} does {who} have in the end?", "How much {what} is that, in kilograms?"),
        "what": ("flour", "sugar", "dough", "salt"),
    },
    {
        "begin": ("{who} saves {n} {what}.", "{who} opens the day with {n} {what} in the till."),
        "+": ("{who} earns {n} {what} more.", "A customer pays {n} {what}."),
        "-": ("A repair costs {n} {what}.", "{who} spends {n} {what} on lunch."),
        "*": ("A lucky trade multiplies the money by {n}.", "By autumn the sum has grown to {n} times as much."),
        "/": ("{n} partners share the sum equally; {who} is one of them.", "{who} keeps one part of {n} equal parts."),
        "end": ("How many {what} does {who} have then?", "How many {what} remain to {who}?"),
        "what": ("crowns", "florins", "ducats"),
    },
)


@dataclass(frozen=True, slots=True)
class Sum:
    """One step: ``left`` (the amount so far) ``sign`` ``right``."""

    left: Fraction
    sign: str
    right: Fraction

    @property
    def value(self) -> Fraction:
        """The exact result."""
        left, right = self.left, self.right
        return {"+": left + right, "-": left - right, "*": left * right, "/": left / right}[self.sign]

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


def make_problems(count: int, seed: int) -> list[dict[str, Any]]:
    """Make word problems as records with ``id``, ``question`` and ``answer`` (GSM8K's ``#### 39``)."""
    return [{"id": p.id, "question": p.text, "answer": f"#### {p.answer}"} for p in plan_problems(count, seed)]


def plan_problems(count: int, seed: int) -> list[Problem]:
    """Make ``count`` word problems together with the steps that solve them; see `make_problems`."""
    people = [entity.name for entity in make_world(480, seed).entities if entity.kind == "person"]
    found: dict[str, Problem] = {}
    tries = 0
    while len(found) < count:
        problem = _make_problem(len(found), people, stream(seed, tries := tries + 1, 4), seed)
        found.setdefault(problem.text, problem)
    return list(found.values())


def chain(start: Fraction, steps: Iterable[tuple[str, Fraction]]) -> tuple[Sum, ...]:
    """Return the steps in a row, each beginning with the value of the one before."""
    sums = []
    for sign, right in steps:
        sums.append(Sum(start, sign, right))
        start = sums[-1].value
    return tuple(sums)


def _make_problem(number: int, people: list[str], rng: random.Random, seed: int) -> Problem:
    story, who = rng.choice(_STORIES), rng.choice(people)
    what, start = rng.choice(story["what"]), Fraction(rng.randint(12, 96))
    sentences, steps, amount = [rng.choice(story["begin"]).format(who=who, n=start, what=what)], [], start
    for _ in range(1 + number % 4):
        options = _operands(amount, whole=what not in _STORIES[1]["what"])
        sign = rng.choice([s for s in options if options[s] and not (steps and s == steps[-1][0])])
        right = Fraction(rng.choice(options[sign]))
        steps.append((sign, right))
        amount = chain(amount, [steps[-1]])[0].value
        sentences.append(rng.choice(story[sign]).format(who=who, n=right, what=what))
    sentences.append(rng.choice(story["end"]).format(who=who, what=what))
    return Problem(f"pocket-math-{seed}-{number:06d}", " ".join(sentences), chain(start, steps))


def _operands(amount: Fraction, whole: bool) -> dict[str, list[int]]:
    """Return by what an amount can be changed, for each sign; the amount stays positive, and whole where it must."""
    return {
        "+": list(range(2, 41)),
        "-": list(range(2, min(41, int(amount)))),
        "*": list(range(2, 9)) if amount < 1000 else [],
        "/": [n for n in range(2, 9) if not whole or amount % n == 0],
    }
