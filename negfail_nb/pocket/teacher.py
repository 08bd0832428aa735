"""A scripted teacher that plays ReAct episodes and makes mistakes at set rates, so that logs can be
made anywhere.

The protocol is the paper's (arXiv 2402.11651, section 4): runs at temperatures 0.2, 0.5 and 0.7, at
most seven calls.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from negfail_nb.agents.tools import SearchTool
from negfail_nb.pocket.episode import Episode
from negfail_nb.pocket.passages import write_passage
from negfail_nb.pocket.problems import Problem
from negfail_nb.pocket.questions import DEFAULT_FORMS, Question
from negfail_nb.pocket.solve import Calculator, Reader
from negfail_nb.pocket.tasks import gold_titles, plan_tasks
from negfail_nb.pocket.world import World, stream
from negfail_nb.trajectory import Source, Trajectory

TEMPERATURES = (0.2, 0.5, 0.7)


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

    @classmethod
    def worse(cls) -> Mistakes:
        """Return the rates of a worse teacher: its failures hold fewer right steps, as those of a
        weaker model do.
        """
        return cls.only(
            parse_error=0.16,
            tool_error=0.06,
            loop=0.16,
            wanders=0.16,
            invented_observation=0.18,
            gave_up=0.08,
            refusal=0.04,
            empty=0.04,
            crash=0.02,
            detour=0.3,
        )

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
        Where ``questions``, ``attempts`` or ``results`` is below 1, or a split or a form is
        unknown.
    """
    for name, value in (("questions", questions), ("attempts", attempts)):
        if value < 1:
            raise ValueError(f"{name} is {value}; generated logs need at least 1")
    asked, world = plan_tasks(questions, seed, split, wordings, forms)
    teacher = Teacher(world, mistakes or Mistakes(), seed, results)
    return [teacher.attempt(task, attempt) for task in asked for attempt in range(attempts)]


class Teacher:
    """Plays episodes on questions about one world, and on word problems."""

    def __init__(self, world: World, mistakes: Mistakes, seed: int, results: int = 3) -> None:
        passages = [write_passage(world, entity.index) for entity in world.entities]
        search = SearchTool([(passage.title, passage.text) for passage in passages], results)
        self._world, self._mistakes, self._seed = world, mistakes, seed
        self._reader, self._calculator = Reader(world, search), Calculator()

    def attempt(self, task: Question | Problem, attempt: int) -> Trajectory:
        """Play one episode; the attempt's number decides the temperature and, with the seed, every
        choice.
        """
        number, temperature = (
            int(task.id.rsplit("-", 1)[1]),
            TEMPERATURES[attempt % len(TEMPERATURES)],
        )
        calculates = isinstance(task, Problem)
        rng = stream(self._seed, number, attempt, 5 + calculates)
        odds = (
            2.2 ** (temperature / 0.5 - 1) * {"easy": 0.7, "medium": 1.0, "hard": 1.4}[task.level]
        )
        odds *= 3 ** stream(self._seed, number, 7 + calculates).uniform(
            -1, 1
        )  # some questions are hard for no reason
        solver = self._calculator if calculates else self._reader
        episode = Episode(task, solver, rng, self._mistakes.detour)
        episode.play(_draw_mistake(self._applicable(calculates, task.task), odds, rng))
        return episode.record(
            id=f"{task.id}/{attempt}",
            gold_titles=gold_titles(task, self._world),
            source=Source(
                model="scripted-teacher",
                temperature=temperature,
                seed=self._seed,
                attempt=attempt,
                format="generated",
            ),
        )

    def _applicable(self, calculates: bool, task: str) -> dict[str, float]:
        without = {"wrong_operation"} if not calculates else set()
        without |= {"partly_right"} if task != "qa" else set()
        return {
            kind: rate for kind, rate in self._mistakes.failures().items() if kind not in without
        }


def _draw_mistake(rates: dict[str, float], odds: float, rng: random.Random) -> str:
    """Return the kind of mistake of an attempt, ``""`` for none; the odds leave rates of 0 and 1 as
    they are.
    """
    total = sum(rates.values())
    if rng.random() >= total * odds / (1 - total + total * odds):
        return ""
    return rng.choices(list(rates), list(rates.values()))[0]
