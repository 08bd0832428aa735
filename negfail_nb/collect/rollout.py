"""One episode: the model acts, its tools answer, until it finishes or may not go on. It always ends in a record."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from negfail_nb.collect.counts import PromptCounts
from negfail_nb.collect.jsontext import mend
from negfail_nb.collect.protocol import OBSERVATION, EpisodeTooLong, Model, ModelError, Reply, Sampling, Task
from negfail_nb.collect.spending import BudgetSpent
from negfail_nb.collect.tools import Tool, instruction, schemas
from negfail_nb.environment import redact
from negfail_nb.grading import grade
from negfail_nb.profiles import LiveSettings
from negfail_nb.steps import Action, parse_actions, text
from negfail_nb.trajectory import Message, Source, Trajectory, Usage

LONG_WAIT = 0.02  # seconds of a tool's call that are not spent on computing ..
LONG_WAITS = 3  # .. and calls in a row that waited so long: a single one may be a busy machine

logger = logging.getLogger("negfail_nb")


class Toolbox:
    """The tools of many episodes, and which of them wait.

    A tool that computes is called in place: Python's threads would not make it quicker, and handing a call over costs
    more than a search in a small corpus. One that waits, such as for a server of its own, is called in a thread once
    three calls in a row were seen to wait for over 20 ms, so that it holds up no other episode.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self.tools = {tool.name.lower(): tool for tool in tools}
        self.schemas = schemas(tools)
        self._waits = dict.fromkeys(self.tools, 0)

    def instruction(self, style: str) -> str:
        """Return the text that tells an agent which tools there are."""
        return instruction(tuple(self.tools.values()), style)

    async def call(self, name: str, argument: str) -> str:
        """Return a tool's observation; raises what the tool raises."""
        tool = self.tools[name]
        if self._waits[name] >= LONG_WAITS:
            return str(await asyncio.to_thread(tool, argument))
        start, computing = time.perf_counter(), time.thread_time()
        try:
            return str(tool(argument))
        finally:
            waited = time.perf_counter() - start - (time.thread_time() - computing)
            self._waits[name] = self._waits[name] + 1 if waited > LONG_WAIT else 0


async def play(
    model: Model,
    task: Task,
    tools: Sequence[Tool] | Toolbox = (),
    settings: LiveSettings = LiveSettings(),
    attempt: int = 0,
    *,
    before: Callable[[], None] = lambda: None,
    after: Callable[[Reply, Sequence[Message]], None] = lambda reply, messages: None,
) -> Trajectory:
    """Play one episode.

    The first action of a reply decides: finish ends the episode, a tool is called and its answer is the next turn, any
    other name is told the valid ones. A reply is cut before an observation that the model wrote itself, and keeps its
    first tool call only, as no other is played.

    Parameters
    ----------
    model
        An entered model.
    task, tools, settings
        What is asked, what may be called besides finish (a `Toolbox` where many episodes share it), and the protocol.
    attempt
        Number of the attempt, from 0; it decides the temperature and, with ``settings.seed``, the seed.
    before, after
        Called before each call of the model, and with its reply and what it replied to.

    Returns
    -------
    Trajectory
        ``id`` is ``"<task>/<attempt>"``. ``termination`` is ``"finished"``, ``"parse_error"`` (a reply without an
        action), ``"empty"``, ``"max_steps"`` (the calls ran out, or the window: ``error`` says so), ``"tool_error"``
        (the calls ran out on a tool's error) or ``"crashed"`` (``error`` says why). ``usage`` is summed over the calls,
        ``seconds`` are those of the model; where one call does not say its tokens, the sum is unknown.

    Raises
    ------
    ModelError
        Where no episode could succeed.
    BudgetSpent
        Where ``before`` raises it.
    """
    toolbox = tools if isinstance(tools, Toolbox) else Toolbox(tools)
    episode = _Episode(model, task, toolbox, settings, attempt)
    try:
        termination, error = await episode.play(before, after), ""
    except (ModelError, BudgetSpent):
        raise
    except EpisodeTooLong as reason:
        termination, error = "max_steps", redact(str(reason))
    except Exception as reason:  # noqa: BLE001 - an episode that crashed is a record
        termination, error = "crashed", redact(f"{type(reason).__name__}: {reason}")
        logger.info("%s/%d crashed: %s", task.id, attempt, error)
    return episode.record(termination, mend(error))


class _Episode:
    """An episode on the way: the conversation so far, and what it cost."""

    def __init__(self, model: Model, task: Task, tools: Toolbox, settings: LiveSettings, attempt: int) -> None:
        self._model, self._task, self._tools = model, task, tools
        self._settings, self._attempt = settings, attempt
        self._schemas = tools.schemas if settings.style == "tools" else ()
        self._sampling = sampling(settings, attempt)
        self._window = settings.window_tokens or model.window or 0
        system = [{"role": "system", "content": tools.instruction(settings.style)}] if settings.instruction else []
        self._messages: list[Message] = [*system, {"role": "user", "content": task.prompt or task.question}]
        self._replies: list[Reply] = []
        self._prediction: str | None = None

    async def play(self, before: Callable[[], None], after: Callable[[Reply, Sequence[Message]], None]) -> str:
        """Return the termination."""
        failed = False
        for _ in range(self._settings.max_calls):
            before()
            reply = await self._model.reply(tuple(self._messages), self._sampling, self._schemas)
            after(reply, self._messages)
            self._check_cut(reply)
            message = _kept(reply.message, self._sampling.stop)
            self._messages.append(message)
            actions = parse_actions(message)
            if not actions:
                return "parse_error" if text(message).strip() else "empty"
            if actions[0].is_finish:
                self._prediction = actions[0].argument
                return "finished"
            self._check_window(reply)
            observation, failed = await self._observe(actions[0], message)
            self._messages.append(_answer(message, observation))
        return "tool_error" if failed else "max_steps"

    async def _observe(self, action: Action, message: Message) -> tuple[str, bool]:
        """Return the observation, and whether the tool failed."""
        tool = self._tools.tools.get(action.name)
        if tool is None:
            names = [f"{t.name}[{t.argument}]" for t in self._tools.tools.values()]
            valid = f"{', '.join(names)} and finish[answer]" if names else "finish[answer]"
            return f"Invalid action: {action.name}. Valid actions are {valid}.", False
        try:
            return mend(await self._tools.call(action.name, _argument(tool, action, message))), False
        except Exception as error:  # noqa: BLE001 - the agent is told, and goes on
            return mend(f"Error: {redact(str(error)) or type(error).__name__}"), True

    def _check_cut(self, reply: Reply) -> None:
        before = self._replies[-1].prompt_tokens if self._replies else None
        self._replies.append(reply)
        if cut := PromptCounts().cut(self._messages, reply.prompt_tokens, before):
            raise EpisodeTooLong(cut)

    def _check_window(self, reply: Reply) -> None:
        tokens = (reply.prompt_tokens or 0) + (reply.completion_tokens or 0)
        if self._window and tokens >= self._window:
            raise EpisodeTooLong(f"the conversation has {tokens} tokens, which fills the window of {self._window}")

    def record(self, termination: str, error: str) -> Trajectory:
        """Return the episode as a graded trajectory."""
        task, settings = self._task, self._sampling
        scores = grade(self._prediction, task.answer, task.task) if task.answer else {}
        return Trajectory(
            id=f"{task.id}/{self._attempt}",
            question_id=task.id,
            question=task.question,
            answer=task.answer,
            task=task.task,
            messages=tuple(self._messages),
            prediction=self._prediction,
            scores=scores,
            success=scores["em"] == 1.0 if scores else None,
            termination=termination,
            source=Source(
                model=self._model.name,
                temperature=settings.temperature,
                seed=settings.seed,
                attempt=self._attempt,
                format="live",
            ),
            usage=_usage(self._replies),
            split=task.split,
            gold_titles=task.gold_titles,
            tools=self._schemas,
            error=error,
        )


def sampling(settings: LiveSettings, attempt: int) -> Sampling:
    """Return how the replies of an attempt are drawn: temperatures in turn, a seed for each attempt."""
    return Sampling(
        temperature=settings.temperatures[attempt % len(settings.temperatures)],
        max_tokens=settings.max_tokens,
        seed=(settings.seed + attempt) % 2**31,
        stop=(OBSERVATION,) if settings.style == "react" else (),
    )


def _kept(message: Message, stop: Sequence[str]) -> Message:
    """Return what is kept of a reply. Servers differ in whether they honour stop texts, so it is cut here too."""
    message = mend(dict(message))
    content = text(message)
    message["content"] = content[: min((i for s in stop if (i := content.find(s)) >= 0), default=len(content))]
    if message.get("tool_calls"):
        message["tool_calls"] = message["tool_calls"][:1]
    return message


def _answer(message: Message, observation: str) -> Message:
    calls = message.get("tool_calls")
    if calls:
        return {"role": "tool", "tool_call_id": calls[0].get("id", ""), "content": observation}
    return {"role": "user", "content": f"Observation: {observation}"}


def _argument(tool: Tool, action: Action, message: Message) -> str:
    """Return the tool's own argument where a tool call has several, else what the action says."""
    calls = message.get("tool_calls")
    try:
        given: Any = json.loads(calls[0]["function"]["arguments"]) if calls else None
    except (ValueError, KeyError, RecursionError):
        given = None
    value = given.get(tool.argument) if isinstance(given, Mapping) else None
    return value if isinstance(value, str) else action.argument


def _usage(replies: Sequence[Reply]) -> Usage:
    return Usage(
        prompt_tokens=_sum([reply.prompt_tokens for reply in replies]),
        completion_tokens=_sum([reply.completion_tokens for reply in replies]),
        calls=len(replies),
        seconds=round(sum(reply.seconds for reply in replies), 6),
    )


def _sum(counts: Sequence[int | None]) -> int | None:
    return None if None in counts else sum(counts)
