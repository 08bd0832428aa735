"""A scripted teacher that plays ReAct episodes and makes mistakes at set rates, so that logs can be
made anywhere.

The protocol is the paper's (arXiv 2402.11651, section 4): runs at temperatures 0.2, 0.5 and 0.7, at
most seven calls.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from negfail_nb.agents.tools import SearchTool
from negfail_nb.grading import grade
from negfail_nb.pocket.passages import write_passage
from negfail_nb.pocket.problems import Problem
from negfail_nb.pocket.questions import DEFAULT_FORMS, Question
from negfail_nb.pocket.solve import Calculator, Reader, Solution, Turn
from negfail_nb.pocket.tasks import gold_titles, plan_tasks
from negfail_nb.pocket.world import stream
from negfail_nb.trajectory import Message, Source, Trajectory, Usage

TEMPERATURES = (0.2, 0.5, 0.7)
MAX_CALLS = 7
_REFUSALS = (
    "I'm sorry, but I can't help with that request.",
    "I'm sorry, I cannot assist with this question.",
)
_UNKNOWN = ("unknown", "I don't know", "cannot be determined", "not enough information")
_ERRORS = (
    "Error: the tool timed out after 10 seconds",
    "Error: service unavailable (503)",
    "Error: internal tool failure",
)
_CRASHES = (
    "RateLimitError: Error code: 429 - rate limit reached for requests",
    "APITimeoutError: Request timed out.",
    "APIConnectionError: Connection error.",
)
_AGAIN = (
    "Let me try that again.",
    "I still need this, so I repeat the call.",
    "I should check once more.",
)
_NO_IDEA = (
    "I could not find what is asked for.",
    "This leads nowhere, so I give up.",
    "There is too little to go on.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistakes:
    """How often each kind of failure is meant to happen, as a share of the attempts at a question
    of mean difficulty.

    An attempt fails in one way at most. The sum is the failure rate; temperature and difficulty
    shift its odds. Kinds that a task cannot have (a wrong operation in a search) do not happen
    there. ``detour`` is no failure: a useless, refused or failed call from which the teacher
    recovers.
    """

    wrong_entity: float = 0.15
    stops_early: float = 0.10
    wrong_operation: float = 0.07
    partly_right: float = 0.05
    wrong_form: float = 0.04
    parse_error: float = 0.05
    tool_error: float = 0.03
    loop: float = 0.05
    wanders: float = 0.04
    invented_observation: float = 0.05
    gave_up: float = 0.04
    refusal: float = 0.015
    empty: float = 0.015
    crash: float = 0.015
    detour: float = field(default=0.15, metadata={"failure": False})

    def __post_init__(self) -> None:
        for name, rate in (*self.failures().items(), ("detour", self.detour)):
            if not 0 <= rate <= 1:
                raise ValueError(f"Mistakes: {name} is {rate!r}; use a rate between 0 and 1")
        if sum(self.failures().values()) > 1 + 1e-9:
            total = sum(self.failures().values())
            raise ValueError(f"Mistakes: the rates of failure add up to {total:g}; use 1 at most")

    @classmethod
    def only(cls, **rates: float) -> Mistakes:
        """Return rates that are 0 but for those given: ``Mistakes.only(loop=1.0)``."""
        return cls(**{f.name: 0.0 for f in fields(cls)} | rates)

    def failures(self) -> dict[str, float]:
        """Return the rates of the kinds that make an attempt fail."""
        return {
            f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("failure", True)
        }


def generate_logs(
    questions: int,
    attempts: int,
    seed: int,
    mistakes: Mistakes | None = None,
    *,
    split: str = "",
    wordings: str = "",
    forms: Sequence[str] = DEFAULT_FORMS,
    results: int = 3,
) -> list[Trajectory]:
    """Make logs: a world, questions about it and word problems (one in four), and attempts at each.

    Parameters
    ----------
    questions, attempts
        How many questions, and how many attempts at each.
    seed
        Equal arguments give equal logs, on every machine.
    mistakes
        How the teacher fails; by default in about 60 % of the attempts, as in the paper's hard
        tasks.
    split, wordings, forms
        Whose names, which wordings and which forms of question; see `make_world` and
        `make_questions`.
    results
        How many passages a search returns, at most.

    Returns
    -------
    list of Trajectory
        Attempt by attempt, ordered by question; graded, with ``source.format`` ``"generated"``.

    Raises
    ------
    ValueError
        If ``questions``, ``attempts`` or ``results`` is below 1, or a split or a form is unknown.
    """
    for name, value in (("questions", questions), ("attempts", attempts)):
        if value < 1:
            raise ValueError(f"{name} is {value}; generated logs need at least 1")
    asked, world = plan_tasks(questions, seed, split, wordings, forms)
    passages = [write_passage(world, entity.index) for entity in world.entities]
    search = SearchTool([(passage.title, passage.text) for passage in passages], results)
    reader = Reader(world, search)
    mistakes = mistakes or Mistakes()
    logs = []
    for task in asked:
        solver = Calculator() if isinstance(task, Problem) else reader
        gold = gold_titles(task, world)
        logs += [_attempt(task, solver, n, mistakes, seed, gold) for n in range(attempts)]
    return logs


def _attempt(
    task: Question | Problem,
    solver: Reader | Calculator,
    attempt: int,
    mistakes: Mistakes,
    seed: int,
    gold: tuple[str, ...],
) -> Trajectory:
    """Play one episode; the attempt's number decides the temperature and, with the seed, every
    choice.
    """
    number = int(task.id.rsplit("-", 1)[1])
    calculates = isinstance(task, Problem)
    temperature = TEMPERATURES[attempt % len(TEMPERATURES)]
    rng = stream(seed, number, attempt, 5 + calculates)
    odds = 2.2 ** (temperature / 0.5 - 1) * {"easy": 0.7, "medium": 1.0, "hard": 1.4}[task.level]
    # Some questions are hard for no reason.
    odds *= 3 ** stream(seed, number, 7 + calculates).uniform(-1, 1)
    cannot = {"" if calculates else "wrong_operation", "" if task.task == "qa" else "partly_right"}
    rates = {kind: rate for kind, rate in mistakes.failures().items() if kind not in cannot}
    episode = Episode(task, solver, rng, mistakes.detour)
    episode.play(_draw_mistake(rates, odds, rng))
    about = {"temperature": temperature, "seed": seed, "attempt": attempt, "format": "generated"}
    source = Source(model="scripted-teacher", **about)
    return episode.record(id=f"{task.id}/{attempt}", gold_titles=gold, source=source)


def _draw_mistake(rates: dict[str, float], odds: float, rng: random.Random) -> str:
    """Draw the kind of mistake, ``""`` for none; the odds leave rates of 0 and 1 as they are."""
    total = sum(rates.values())
    if rng.random() >= total * odds / (1 - total + total * odds):
        return ""
    return rng.choices(list(rates), list(rates.values()))[0]


class Episode:
    """An episode on the way: the messages so far, and how it ended.

    Parameters
    ----------
    task, solver
        What is asked, and who knows how to solve it and how to get it wrong.
    rng
        Every choice is drawn from it.
    detour
        How often a useless, refused or failed call comes in between.
    """

    def __init__(
        self,
        task: Question | Problem,
        solver: Reader | Calculator,
        rng: random.Random,
        detour: float,
    ) -> None:
        self._task = task
        self._solver = solver
        self._rng = rng
        self._detour = detour
        self._messages: list[Message] = [{"role": "user", "content": task.text}]
        self._prediction: str | None = None
        self._termination = "finished"
        self._error = ""

    def play(self, mistake: str) -> None:
        """Play to the end with one mistake (a field of `Mistakes`), or none (``""``)."""
        solution = self._solver.solve(self._task, self._rng)
        ways: dict[str, Callable[[Solution], None]] = {
            "": self._finish,
            "wrong_entity": lambda _: self._finish(self._solver.confuse(self._task, self._rng)),
            "stops_early": lambda _: self._finish(self._solver.stop_early(self._task, self._rng)),
            "wrong_operation": lambda _: self._finish(self._solver.slip(self._task, self._rng)),
            "partly_right": lambda s: self._finish(s, self._solver.shorten(self._task, self._rng)),
            "wrong_form": lambda s: self._finish(s, self._solver.misform(self._task, self._rng)),
            "parse_error": self._break_action,
            "tool_error": self._break_tool,
            "loop": self._loop,
            "wanders": self._wander,
            "invented_observation": self._invent,
            "gave_up": self._give_up,
            "refusal": lambda s: self._fall_silent(s, self._rng.choice(_REFUSALS), "refused"),
            "empty": lambda s: self._fall_silent(s, "", "empty"),
            "crash": self._crash,
        }
        ways[mistake](solution)

    def record(self, **rest: Any) -> Trajectory:
        """Return the episode as a graded trajectory; ``rest`` are the other fields."""
        task = self._task
        scores = grade(self._prediction, self._task.answer, self._task.task)
        return Trajectory(
            question_id=task.id,
            question=task.text,
            answer=task.answer,
            task=task.task,
            messages=tuple(self._messages),
            prediction=self._prediction,
            scores=scores,
            success=scores["em"] == 1.0,
            termination=self._termination,
            error=self._error,
            usage=Usage(calls=self._calls),
            **rest,
        )

    @property
    def _calls(self) -> int:
        return sum(message["role"] == "assistant" for message in self._messages)

    def _finish(self, solution: Solution, answer: str | None = None) -> None:
        self._take(solution.turns)
        self._answer(solution.because, solution.answer if answer is None else answer)

    def _answer(self, thought: str, answer: str) -> None:
        self._say(f"Thought: {thought}\nAction: finish[{answer}]")
        self._prediction = answer

    def _break_action(self, solution: Solution) -> None:
        """Write an action that is none; or call a tool that does not exist, be told so, and do it
        again.
        """
        done = self._take_some(solution, whole=True)
        thought = solution.because
        action = f"finish[{solution.answer}]"
        if done < len(solution.turns):
            thought = solution.turns[done].thought
            action = solution.turns[done].action
        self._termination = "parse_error"
        form = self._rng.randrange(3)
        if form == 0:  # the bracket is never closed
            self._say(f"Thought: {thought}\nAction: {action[:-1]}")
        elif form == 1:  # no brackets at all
            self._say(f"Thought: {thought}\nAction: {action[:-1].replace('[', ' for ', 1)}")
        else:
            for name in ("browse", "lookup"):
                self._take_turn(self._refused(Turn(thought, action, ""), name))

    def _break_tool(self, solution: Solution) -> None:
        done = self._take_some(solution)
        failed = [solution.turns[done], self._solver.stray(self._task, self._rng)]
        for turn in failed[: self._rng.choice((1, 2))]:
            self._take_turn(Turn(turn.thought, turn.action, self._rng.choice(_ERRORS)))
        self._termination = "tool_error"

    def _loop(self, solution: Solution) -> None:
        turn = solution.turns[self._take_some(solution)]
        self._take_turn(turn)
        while self._calls < MAX_CALLS:
            self._take_turn(Turn(self._rng.choice(_AGAIN), turn.action, turn.observation))
        self._termination = "max_steps"

    def _wander(self, solution: Solution) -> None:
        self._take_some(solution)
        tried: set[str] = set()
        while self._calls < MAX_CALLS:
            turn = self._solver.stray(self._task, self._rng)
            if turn.action not in tried:  # the same call again would be a loop
                tried.add(turn.action)
                self._take_turn(turn)
        self._termination = "max_steps"

    def _invent(self, solution: Solution) -> None:
        """Write the tool's answer oneself, and answer from that."""
        turn = solution.turns[self._take_some(solution)]
        answer = self._solver.guess(self._task, self._rng)
        invented = self._solver.invent(self._task, answer, self._rng)
        self._say(
            f"Thought: {turn.thought}\nAction: {turn.action}\nObservation: {invented}\n"
            f"Thought: That tells me the answer: {answer}.\nAction: finish[{answer}]"
        )
        self._prediction = answer

    def _give_up(self, solution: Solution) -> None:
        self._take_some(solution)
        self._take_turn(self._solver.stray(self._task, self._rng))
        self._answer(self._rng.choice(_NO_IDEA), self._rng.choice(_UNKNOWN))

    def _fall_silent(self, solution: Solution, content: str, termination: str) -> None:
        self._take_some(solution)
        self._say(content)
        self._termination = termination

    def _crash(self, solution: Solution) -> None:
        self._take_some(solution)
        self._termination, self._error = "crashed", self._rng.choice(_CRASHES)

    def _take_some(self, solution: Solution, whole: bool = False) -> int:
        """Take some of the right turns, seldom none, not all unless ``whole``; return how many."""
        done = max(self._rng.randrange(len(solution.turns) + whole) for _ in range(2))
        self._take(solution.turns[:done])
        return done

    def _take(self, turns: Sequence[Turn]) -> None:
        turns = list(turns)
        if turns and self._rng.random() < self._detour:
            at = self._rng.randrange(len(turns))
            turns.insert(at, self._sidestep(turns[at]))
        for turn in turns:
            self._take_turn(turn)

    def _sidestep(self, turn: Turn) -> Turn:
        """Return a call from which the teacher recovers: useless, refused, or failed."""
        way = self._rng.randrange(3)
        if way == 0:
            return self._solver.stray(self._task, self._rng)
        if way == 1:
            return self._refused(turn, "lookup")
        return Turn(turn.thought, turn.action, self._rng.choice(_ERRORS))

    def _refused(self, turn: Turn, name: str) -> Turn:
        argument = turn.action[turn.action.index("[") :]
        told = f"Invalid action: {name}. Valid actions are {self._solver.tools}."
        return Turn(turn.thought, name + argument, told)

    def _take_turn(self, turn: Turn) -> None:
        self._say(f"Thought: {turn.thought}\nAction: {turn.action}")
        self._messages.append({"role": "user", "content": f"Observation: {turn.observation}"})

    def _say(self, content: str) -> None:
        self._messages.append({"role": "assistant", "content": content})
