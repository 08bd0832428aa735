"""01: worked demonstrations: the solutions that data sets come with, as episodes that succeeded.

They are played like live episodes, with the real tools; only who replies knows the solution.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from negfail_nb.agents.protocol import Reply, Sampling, Task
from negfail_nb.agents.queue import wait_for
from negfail_nb.agents.rollout import Toolbox, play
from negfail_nb.agents.tasks import read_passages, read_tasks
from negfail_nb.agents.tools import CalculatorTool, SearchTool, Tool
from negfail_nb.agents.worked import WANTED, Move, Solution, read_solution
from negfail_nb.data_sets import Records, read_asked
from negfail_nb.logs import Logs
from negfail_nb.logs.jsontext import explain
from negfail_nb.logs.reading import UNREADABLE
from negfail_nb.numeric import parse_number
from negfail_nb.settings import LiveSettings
from negfail_nb.steps import text
from negfail_nb.trajectory import Message, Problem, Source, Trajectory, Usage

NAME = "worked-solution"  # who replied, in the records
FORMAT = "worked"
_OBSERVED = "Observation: "

logger = logging.getLogger("negfail_nb")

Worked = tuple[Task, Solution, str]  # with the place of its record


def demonstrate(
    source: str | Path,
    *,
    part: str = "train",
    tools: Sequence[Tool] | None = None,
    settings: LiveSettings = LiveSettings(),
    data: str | Path = "",
    only: Collection[str] | None = None,
) -> Logs:
    """Return the worked solutions of a data set as episodes, as a live agent would have them.

    Parameters
    ----------
    source, part, data
        The name of a data set, or a file in the layout of one, as for
        `negfail_nb.agents.load_tasks`; GSM8K, SVAMP, HotpotQA and StrategyQA come with solutions.
    tools
        What the agent is told of and may call, in order; by default what the solutions use: the
        calculator, or a search in the passages of all the records.
    settings
        The protocol: ``instruction``, ``style``, ``max_calls`` and ``results`` count.
    only
        Ids of the questions that are wanted, as `load_tasks` gives them; by default all.

    Returns
    -------
    Logs
        Successful trajectories, in the order of the records, with ids such as
        ``"svamp-chal-1/worked"``. A solution that its tools or its answer contradict is none of
        them, nor one that takes more calls than ``settings.max_calls``, nor a record without one:
        they are the problems.

    Raises
    ------
    ValueError
        If no record has a worked solution, or the tools lack one that is used.
    """
    asked = read_asked(source, part, data)
    tasks, problems = read_tasks(asked)
    worked = []
    for task, (where, record) in tasks:
        if only is not None and task.id not in only:
            continue
        try:
            worked.append((task, _checked(read_solution(record, task), settings), where))
        except UNREADABLE as error:
            problems.append(Problem(asked.origin, where, explain(error)))
    if not worked:
        raise ValueError(_nothing(asked, problems))
    toolbox = _toolbox(worked, asked, tools, settings)
    played = _play_all(worked, toolbox, settings)
    return _sorted_out(worked, played, asked, problems)


def _checked(solution: Solution, settings: LiveSettings) -> Solution:
    calls = len(solution.moves) + 1
    if calls > settings.max_calls:
        raise ValueError(f"it takes {calls} calls, more than live.max_calls ({settings.max_calls})")
    return solution


def _nothing(asked: Records, problems: Sequence[Problem]) -> str:
    counts = Counter(problem.reason for problem in problems).most_common(3)
    named = "; ".join(f"{count} records: {reason}" for reason, count in counts)
    return (
        f"{asked.origin}: there is no demonstration; {named or 'it has no records'}. A worked "
        f"solution is read of the fields {WANTED}"
    )


def _toolbox(
    worked: Sequence[Worked], asked: Records, tools: Sequence[Tool] | None, settings: LiveSettings
) -> Toolbox:
    used = {move.tool for _, solution, _ in worked for move in solution.moves}
    toolbox = Toolbox(_tools_for(used, asked, settings.results) if tools is None else tools)
    if missing := sorted(used - toolbox.tools.keys()):
        raise ValueError(f"the demonstrations call {', '.join(missing)}; give these tools too")
    return toolbox


def _tools_for(used: Collection[str], asked: Records, results: int) -> list[Tool]:
    tools: list[Tool] = []
    if SearchTool.name in used:
        passages = (passage for record in asked for passage in read_passages(record))
        tools.append(SearchTool(dict.fromkeys(passages), results))
    if CalculatorTool.name in used:
        tools.append(CalculatorTool())
    return tools


def _play_all(
    worked: Sequence[Worked], toolbox: Toolbox, settings: LiveSettings
) -> list[Trajectory]:
    played: list[Trajectory] = []

    async def play_each() -> None:
        for task, solution, _ in worked:
            model = _Solver(solution, toolbox, settings)
            played.append(await play(model, task, toolbox, settings))

    wait_for(play_each())
    return played


class _Solver:
    """A model that replies with a solution."""

    name = NAME
    window = None

    def __init__(self, solution: Solution, toolbox: Toolbox, settings: LiveSettings) -> None:
        self._toolbox = toolbox
        self._react = settings.style == "react"
        calls = [(move.thought, move.tool, move.argument) for move in solution.moves]
        calls.append((solution.thought, "finish", solution.answer))
        self._replies = iter([self._said(n, *call) for n, call in enumerate(calls)])

    def _said(self, number: int, thought: str, tool: str, argument: str) -> Message:
        if self._react:
            content = f"Thought: {thought}\nAction: {tool}[{argument}]"
            return {"role": "assistant", "content": content}
        name = "answer" if tool == "finish" else self._toolbox.tools[tool].argument
        arguments = json.dumps({name: argument}, ensure_ascii=False)
        function = {"name": tool, "arguments": arguments}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        return {"role": "assistant", "content": thought, "tool_calls": [call]}

    async def reply(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[dict[str, Any]] = ()
    ) -> Reply:
        return Reply(message=next(self._replies))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass


def _sorted_out(
    worked: Sequence[Worked],
    played: Sequence[Trajectory],
    asked: Records,
    problems: Sequence[Problem],
) -> Logs:
    """Keep the episodes that say what their solutions say."""
    found = []
    problems = list(problems)
    for (task, solution, where), episode in zip(worked, played, strict=True):
        if reason := next(_contradictions(solution, episode), ""):
            problems.append(Problem(asked.origin, where, reason))
            continue
        source = Source(model=NAME, file=Path(asked.origin).name, record=where, format=FORMAT)
        usage = Usage(calls=episode.usage.calls)
        found.append(episode.replace(id=f"{task.id}/{FORMAT}", source=source, usage=usage))
    if problems:
        counts = f"{len(found)} demonstrations, {len(problems)} records without"
        logger.warning("%s: %s, such as %s", asked.origin, counts, problems[0])
    return Logs(tuple(found), tuple(problems))


def _contradictions(solution: Solution, episode: Trajectory) -> Iterator[str]:
    after = [m for m in episode.messages if m["role"] != "system"][2::2]
    observed = [text(message).removeprefix(_OBSERVED) for message in after]
    for move, observation in zip(solution.moves, observed, strict=False):
        yield from _differs(move, observation)
    calls = len(solution.moves) + 1
    if episode.success is not True or episode.usage.calls != calls:
        yield (
            f"it ends after {episode.usage.calls} of {calls} calls with the answer "
            f"{episode.prediction!r}, not {episode.answer!r} ({episode.termination})"
        )


def _differs(move: Move, observation: str) -> Iterator[str]:
    called = f"{move.tool}[{move.argument}]"
    if move.tool == CalculatorTool.name:
        if parse_number(observation) != parse_number(move.wanted[0]):
            yield f"{called} gives {observation}, not {move.wanted[0]}"
        return
    found = " ".join(observation.split())
    for wanted in move.wanted:
        if wanted not in found:
            yield f"{called} does not find the supporting sentence {wanted!r}"
