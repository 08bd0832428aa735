"""Word problems for the calculator: one to four steps, exact fractions."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from negfail_nb.pocket.wordings import of_split
from negfail_nb.pocket.world import check_split, make_world, stream

# A beginning ({who} has {n} of something), sentences that change the amount, and what is asked at
# the end. Kilograms can be divided into fractions; stamps and coins cannot. The last wording of
# each is the held-out one.
_STORIES = (
    {
        "begin": (
            "{who} has {n} {what}.",
            "On Monday there are {n} {what} on the desk of {who}.",
            "{who} starts the week with {n} {what}.",
        ),
        "+": (
            "A friend brings {n} more {what}.",
            "{who} finds {n} other {what} in the cellar.",
            "{who} gets {n} more {what} from a friend.",
        ),
        "-": (
            "{who} gives {n} {what} away.",
            "{who} loses {n} {what} on the way.",
            "Then {n} {what} are given away.",
        ),
        "*": (
            "A week later there are {n} times as many.",
            "Then {who} buys more and has {n} times as many.",
            "A week later {who} has {n} times as many.",
        ),
        "/": (
            "{who} makes {n} equal piles and keeps one pile.",
            "{n} people, {who} among them, share all the {what} equally.",
            "{who} keeps one of {n} equal parts.",
        ),
        "end": (
            "How many {what} does {who} have now?",
            "How many {what} are there now?",
            "How many {what} does {who} have in the end?",
        ),
        "what": ("stamps", "marbles", "postcards", "apples", "coins"),
    },
    {
        "begin": (
            "A baker named {who} mixes {n} kilograms of {what}.",
            "{who} starts with {n} kilograms of {what}.",
            "{who}, a baker, has {n} kilograms of {what}.",
        ),
        "+": (
            "{who} adds {n} kilograms.",
            "Another sack of {n} kilograms is poured in.",
            "Then {n} more kilograms are poured in.",
        ),
        "-": (
            "{n} kilograms are used at once.",
            "{who} takes out {n} kilograms.",
            "{who} uses {n} kilograms.",
        ),
        "*": (
            "For a feast {who} makes {n} times that amount.",
            "The amount is then multiplied by {n}.",
            "{who} then makes {n} times as much.",
        ),
        "/": (
            "{who} fills {n} equal bags and keeps one.",
            "It is split evenly among {n} bowls, and one is kept.",
            "{who} splits it evenly among {n} bags and keeps one.",
        ),
        "end": (
            "How many kilograms of {what} does {who} have in the end?",
            "How much {what} is that, in kilograms?",
            "How many kilograms of {what} does {who} have now?",
        ),
        "what": ("flour", "sugar", "dough", "salt"),
    },
    {
        "begin": (
            "{who} saves {n} {what}.",
            "{who} opens the day with {n} {what} in the till.",
            "{who} has {n} {what} in the till.",
        ),
        "+": (
            "{who} earns {n} {what} more.",
            "A customer pays {n} {what}.",
            "{who} gets {n} {what} from a customer.",
        ),
        "-": (
            "A repair costs {n} {what}.",
            "{who} spends {n} {what} on lunch.",
            "{who} pays {n} {what} for a repair.",
        ),
        "*": (
            "A lucky trade multiplies the money by {n}.",
            "By autumn the sum has grown to {n} times as much.",
            "By autumn the money is multiplied by {n}.",
        ),
        "/": (
            "{n} partners share the sum equally; {who} is one of them.",
            "{who} keeps one part of {n} equal parts.",
            "{who} and the other partners, {n} people in all, share the money equally.",
        ),
        "end": (
            "How many {what} does {who} have then?",
            "How many {what} does {who} end up with?",
            "How many {what} does {who} have in the end?",
        ),
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
        return {"+": left + right, "-": left - right, "*": left * right, "/": left / right}[
            self.sign
        ]

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
        Where ``split`` or ``wordings`` is none of these.
    """
    problems = plan_problems(count, seed, split, wordings)
    return [{"id": p.id, "question": p.text, "answer": f"#### {p.answer}"} for p in problems]


def plan_problems(count: int, seed: int, split: str = "", wordings: str = "") -> list[Problem]:
    """Make ``count`` word problems together with the steps that solve them; see `make_problems`."""
    check_split("wordings", wordings)
    people = [
        entity.name for entity in make_world(480, seed, split).entities if entity.kind == "person"
    ]
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
    story, who = rng.choice(_STORIES), rng.choice(people)
    what, start = rng.choice(story["what"]), Fraction(rng.randint(12, 96))

    def say(part: str, n: Fraction | None = None) -> str:
        return rng.choice(of_split(story[part], split)).format(who=who, what=what, n=n)

    sentences, steps, amount = [say("begin", start)], [], start
    for _ in range(count):
        options = _operands(amount, whole=what not in _STORIES[1]["what"])
        sign = rng.choice([s for s in options if options[s] and not (steps and s == steps[-1][0])])
        right = Fraction(rng.choice(options[sign]))
        steps.append((sign, right))
        amount = chain(amount, [steps[-1]])[0].value
        sentences.append(say(sign, right))
    return Problem(id, " ".join([*sentences, say("end")]), chain(start, steps))


def _operands(amount: Fraction, whole: bool) -> dict[str, list[int]]:
    """Return by what an amount can be changed, for each sign; the amount stays positive, and whole
    where it must.
    """
    return {
        "+": list(range(2, 41)),
        "-": list(range(2, min(41, int(amount)))),
        "*": list(range(2, 9)) if amount < 1000 else [],
        "/": [n for n in range(2, 9) if not whole or amount % n == 0],
    }
