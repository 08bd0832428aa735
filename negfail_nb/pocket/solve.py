"""How tasks are solved turn by turn, with search or calculator, and plausible ways to go wrong."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from negfail_nb.agents.tools import SearchTool
from negfail_nb.grading import normalize_answer
from negfail_nb.pocket.problems import Problem, chain
from negfail_nb.pocket.questions import Hop, Question, decide, walk
from negfail_nb.pocket.world import World

NOUNS = {
    "born": "year of birth",
    "founded": "founding year",
    "published": "year of publication",
    "released": "year of release",
    "length": "length in minutes",
    "employees": "number of employees",
    "headquarters": "head office",
    "home": "home city",
}  # the other relations are nouns already
_FIRST = (
    "To answer this I first need the {noun} of {x}.",
    "The question is about {x}. I should search for it and look for the {noun}.",
    "Let me begin with {x}: what is the {noun}?",
    "I will take this step by step. First, the {noun} of {x}.",
)
_NEXT = (
    "{note} Next I need the {noun} of {x}.",
    "{note} So I have to search for {x} and find the {noun}.",
    "{note} Now for the {noun} of {x}.",
    "{note} With that I can look up {x}, to find the {noun}.",
)
_NOTE = (
    "The {noun} of {x} [{n}] is {v}.",
    "I found it: the {noun} of {x} [{n}] is {v}.",
    "According to the passage, the {noun} of {x} [{n}] is {v}.",
    "By the search result, the {noun} of {x} [{n}] is {v}.",
)
_QUERIES = ("{x}", "{x} {noun}", "{noun} of {x}", "What is the {noun} of {x}", "{x}, {noun}")
_STRAY = ("Perhaps {x} is connected with this.", "I am not sure. I try {x}.", "Maybe {x} helps.")
_DONE = (
    "{note} So the answer is {a}.",
    "{note} That means that the answer is {a}.",
    "{note} I can answer now: {a}.",
)
_CALCULATE = (
    "{note}The amount {verb} {n}, so I calculate {sum}.",
    "{note}The next step of the story: it {verb} {n}. That makes {sum}.",
    "{note}Now it {verb} {n}. I need {sum}.",
    "{note}I read that it {verb} {n}. The calculator can tell me {sum}.",
)
_VERBS = {"+": "grows by", "-": "falls by", "*": "is multiplied by", "/": "is divided by"}
_SO_FAR = ("The amount is now {v}. ", "So far that is {v}. ", "That gives {v}. ")
_TOTAL = (
    "The last result is {a}, and that is all.",
    "All steps are done. The answer is {a}.",
    "The result is {a}.",
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the agent: thought, action as it is written, and what the tool answers."""

    thought: str
    action: str
    observation: str


@dataclass(frozen=True, slots=True)
class Solution:
    """The turns, the answer, the thought before it, and what was noted after each turn."""

    turns: tuple[Turn, ...]
    answer: str
    because: str
    notes: tuple[str, ...] = ()


class Reader:
    """Answers questions with a search tool over the passages of a world, in its order."""

    tool = "search"
    tools = "search[query] and finish[answer]"

    def __init__(self, world: World, search: SearchTool) -> None:
        self._world = world
        self._search = search
        self._found: dict[str, list[int]] = {}

    def solve(self, question: Question, rng: random.Random) -> Solution:
        """Look every fact up, in order, and answer."""
        return self._play(question.paths, question.answer, rng)

    def confuse(self, question: Question, rng: random.Random) -> Solution:
        """Read one fact in a wrong passage, a namesake's if there is one, and go on from there."""
        for _ in range(8):
            path = rng.randrange(len(question.paths))
            paths = list(question.paths)
            paths[path] = self._misread(paths[path], rng.randrange(len(paths[path])), rng)
            answer = decide(self._world, paths, question.verdict)
            if normalize_answer(answer) != normalize_answer(question.answer):
                return self._play(paths, answer, rng)
        return replace(self.solve(question, rng), answer=self.guess(question, rng))

    def slip(self, question: Question, rng: random.Random) -> None:
        """Nothing is calculated here, so nothing can be miscalculated."""

    def stop_early(self, question: Question, rng: random.Random) -> Solution:
        """Answer from the last fact but one; in a comparison, without looking at the second side;
        a single fact, without looking it up.
        """
        solution = self.solve(question, rng)
        if len(question.hops) == 1:
            thought = "I think that I know this without a search."
            return Solution((), self.guess(question, rng), thought)
        value = question.verdict == "value"
        answer = question.hops[-2].value if value else self.guess(question, rng)
        thought = f"{solution.notes[-2]} That answers the question."
        return Solution(solution.turns[:-1], answer, thought)

    def shorten(self, question: Question, rng: random.Random) -> str | None:
        """Return an answer that is partly right, or ``None`` for yes and no."""
        if question.task == "yes_no":
            return None
        words = question.answer.split()
        if len(words) > 1:
            return rng.choice([w for w in (words[0], words[-1]) if normalize_answer(w)])
        return f"{question.answer} or {self.guess(question, rng)}"

    def misform(self, question: Question, rng: random.Random) -> str:
        """Return the right answer in a form that the grader does not take."""
        if question.task == "yes_no":
            alike = "the same" if question.answer == "yes" else "different"
            return f"They are {alike}, so {question.answer}"
        forms = ("The answer is {a}", "{a}, by the search results", "It is {a}, as stated above")
        return rng.choice(forms).format(a=question.answer)

    def guess(self, question: Question, rng: random.Random) -> str:
        """Return a wrong answer of the right kind."""
        if question.verdict == "same":
            return {"yes": "no", "no": "yes"}[question.answer]
        if question.verdict != "value":
            names = [self._world.entities[path[0].entity].name for path in question.paths]
            return names[names[0] == question.answer]
        last = question.hops[-1]
        for _ in range(100):
            other = self._world.entities[self._world.another(last.entity, rng)]
            value = other.values[last.relation]
            if normalize_answer(value) != normalize_answer(question.answer):
                return value
        return question.hops[0].value

    def stray(self, question: Question, rng: random.Random) -> Turn:
        """Search for something that does not help."""
        hop = rng.choice(question.hops)
        about = self._world.entities[self._world.another(hop.entity, rng)].name
        thought = rng.choice(_STRAY).format(x=about)
        return Turn(thought, f"search[{about}]", self._search.show(self._find(about)))

    def invent(self, question: Question, answer: str, rng: random.Random) -> str:
        """Return what a search that was never run might say."""
        hop = question.hops[-1]
        fact = f"The {noun(hop.relation)} of {self._mention(hop)} is {answer}."
        return f"{self._world.entities[hop.entity].title} [1]: {fact}"

    def _misread(self, path: Sequence[Hop], at: int, rng: random.Random) -> tuple[Hop, ...]:
        hop = path[at]
        entity = self._world.entities[path[at].entity]
        other = entity.namesake
        if other is None or self._world.entities[other].kind != entity.kind:
            near = [found for found in self._find(self._mention(hop)) if found != entity.index]
            alike = [found for found in near if self._world.entities[found].kind == entity.kind]
            other = rng.choice(alike) if alike else self._world.another(entity.index, rng)
        rest = walk(self._world, other, [later.relation for later in path[at:]])
        return (*path[:at], replace(rest[0], entity=entity.index), *rest[1:])

    def _play(self, paths: Sequence[Sequence[Hop]], answer: str, rng: random.Random) -> Solution:
        turns: list[Turn] = []
        notes: list[str] = []
        for hop in (hop for path in paths for hop in path):
            turn, place = self._turn(hop, notes[-1] if notes else "", rng)
            turns.append(turn)
            notes.append(self._note(hop, place, rng))
        because = rng.choice(_DONE).format(note=notes[-1], a=answer)
        return Solution(tuple(turns), answer, because, tuple(notes))

    def _turn(self, hop: Hop, note: str, rng: random.Random) -> tuple[Turn, int]:
        """Return the turn that looks a fact up, and the number of its passage in the result."""
        words = {"x": self._mention(hop), "noun": noun(hop.relation)}
        thought = rng.choice(_NEXT if note else _FIRST).format(note=note, **words)
        query = rng.choice(_QUERIES).format(**words)
        if hop.entity not in self._find(query):
            query = self._world.entities[hop.entity].title
        found = self._find(query)
        turn = Turn(thought, f"search[{query}]", self._search.show(found))
        return turn, found.index(hop.entity) + 1

    def _find(self, query: str) -> list[int]:
        """Return the entities whose passages a query finds; many attempts ask alike."""
        if query not in self._found:
            self._found[query] = self._search.find(query)
        return self._found[query]

    def _note(self, hop: Hop, place: int, rng: random.Random) -> str:
        words = {"noun": noun(hop.relation), "x": self._mention(hop)}
        return rng.choice(_NOTE).format(n=place, v=hop.value, **words)

    def _mention(self, hop: Hop) -> str:
        return self._world.mention(hop.entity)


class Calculator:
    """Solves word problems with exact arithmetic; the counterpart of `Reader`, method by method."""

    tool = "calculate"
    tools = "calculate[expression] and finish[answer]"

    def solve(self, problem: Problem, rng: random.Random) -> Solution:
        """Calculate every step, in order, and answer."""
        return self._play(problem, [(step.sign, step.right) for step in problem.steps], rng)

    def confuse(self, problem: Problem, rng: random.Random) -> Solution:
        """Take a wrong number out of the text."""
        steps = [(step.sign, step.right) for step in problem.steps]
        at = rng.randrange(len(steps))
        steps[at] = (steps[at][0], steps[at][1] + rng.choice((1, 2, 10)))
        return self._play(problem, steps, rng)

    def slip(self, problem: Problem, rng: random.Random) -> Solution:
        """Use a wrong operation in one step, and go on from there."""
        steps = [(step.sign, step.right) for step in problem.steps]
        at = rng.randrange(len(steps))
        wrong = [(sign, steps[at][1]) for sign in "+-*/" if sign != steps[at][0]]
        start = problem.steps[0].left
        chains = [[*steps[:at], other, *steps[at + 1 :]] for other in wrong]
        wrong_ends = [c for c in chains if str(chain(start, c)[-1].value) != problem.answer]
        return self._play(problem, rng.choice(wrong_ends), rng)

    def stop_early(self, problem: Problem, rng: random.Random) -> Solution:
        """Answer before the last step."""
        solution = self.solve(problem, rng)
        reached = str(problem.steps[-1].left)
        return Solution(solution.turns[:-1], reached, rng.choice(_TOTAL).format(a=reached))

    def shorten(self, problem: Problem, rng: random.Random) -> None:
        """A number is right or wrong, never partly right."""

    def misform(self, problem: Problem, rng: random.Random) -> str:
        """Return the right answer in a form that the grader does not take: more than one number."""
        value = problem.steps[-1].value
        text = problem.steps[-1].text
        return rng.choice((f"{text} makes {value}", f"{value} (that is, {text})"))

    def guess(self, problem: Problem, rng: random.Random) -> str:
        """Return a wrong number that is near."""
        return str(problem.steps[-1].value + rng.choice((-2, -1, 1, 2, 10)))

    def stray(self, problem: Problem, rng: random.Random) -> Turn:
        """Calculate something that does not help."""
        step = rng.choice(problem.steps)
        extra = Fraction(rng.randint(2, 9))
        sign = rng.choice("+-*/")
        useless = chain(step.right, [(sign, extra)])[0]
        forms = "Let me see what {s} says.", "I am not sure. I try {s}.", "Perhaps {s} helps."
        thought = rng.choice(forms).format(s=useless.text)
        return Turn(thought, f"calculate[{useless.text}]", str(useless.value))

    def invent(self, problem: Problem, answer: str, rng: random.Random) -> str:
        """Return what a calculation that was never run might say."""
        return answer

    def _play(
        self, problem: Problem, steps: list[tuple[str, Fraction]], rng: random.Random
    ) -> Solution:
        turns = []
        sums = chain(problem.steps[0].left, steps)
        for number, step in enumerate(sums):
            note = rng.choice(_SO_FAR) if number else "It begins with {v}. "
            told = {"note": note.format(v=step.left), "n": step.right, "sum": step.text}
            thought = rng.choice(_CALCULATE).format(verb=_VERBS[step.sign], **told)
            turns.append(Turn(thought, f"calculate[{step.text}]", str(step.value)))
        answer = str(sums[-1].value)
        return Solution(tuple(turns), answer, rng.choice(_TOTAL).format(a=answer))


def noun(relation: str) -> str:
    """Return what a relation is called in a sentence: ``"year of birth"`` of ``"born"``."""
    return NOUNS.get(relation, relation)
