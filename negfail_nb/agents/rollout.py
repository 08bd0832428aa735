"""One episode: the model acts, its tools answer, until it finishes; it always ends in a record."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from negfail_nb.actions import as_played, is_open, read_actions, why_no_action
from negfail_nb.agents.counts import PromptCounts
from negfail_nb.agents.protocol import (
    OBSERVATION,
    EpisodeTooLong,
    Model,
    ModelError,
    Reply,
    Sampling,
    Task,
)
from negfail_nb.agents.spending import BudgetSpent
from negfail_nb.agents.tools import Tool, instruction, make_message, schemas
from negfail_nb.environment import redact
from negfail_nb.grading import grade
from negfail_nb.said import as_said, split_thought
from negfail_nb.settings import LiveSettings
from negfail_nb.steps import Action, parse_actions, text
from negfail_nb.trajectory import Message, Source, Trajectory, Usage, replace_surrogates

LONG_WAIT = 0.02  # seconds that a tool's call waits instead of computing ..
LONG_WAITS = 3  # .. and such calls in a row: a single one may be a busy machine

logger = logging.getLogger("negfail_nb")


class Toolbox:
    """The tools that many episodes share.

    A tool that computes is called in place: a thread would not make it faster, and handing a call
    over costs more than a search in a small corpus. One that waits, such as for a server of its
    own, is called in a thread after three calls in a row that waited for over 20 ms, so that it
    blocks no other episode.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self.tools = {tool.name.lower(): tool for tool in tools}
        self.schemas = schemas(tools)
        self._waits = dict.fromkeys(self.tools, 0)

    async def call(self, name: str, argument: str) -> str:
        """Return a tool's observation; raises what the tool raises."""
        tool = self.tools[name]
        if self._waits[name] >= LONG_WAITS:
            return str(await asyncio.to_thread(tool, argument))
        start = time.perf_counter()
        computing = time.thread_time()
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
    after: Callable[[Reply, Sequence[Message]], None] = lambda reply, messages: None,
    thoughts: str = "neither",
) -> Trajectory:
    """Play one episode.

    The first action that a reply says decides: finish ends the episode; a tool is called, and its
    answer is the next turn; any other name is answered with the valid ones. Thoughts are kept as
    ``reasoning_content``, and no action is read from them. A reply is cut after its first action,
    and before an observation that the model wrote itself: what follows never happened. A tool call
    written as text becomes one of the message's ``tool_calls`` if tools were offered.

    Parameters
    ----------
    model
        An entered model.
    task, tools, settings
        What is asked, what may be called besides finish (a `Toolbox` if many episodes share it),
        and the protocol.
    attempt
        From 0; it decides the temperature and, with ``settings.seed``, the seed.
    after
        Called with each reply, and what it replied to.
    thoughts
        As in `PrefixSettings`: ``"neither"`` hides earlier thoughts from the model;
        ``"history"`` and ``"loss"`` show them.

    Returns
    -------
    Trajectory
        ``id`` is ``"<task>/<attempt>"``. ``termination`` is ``"finished"``, ``"parse_error"`` (a
        reply without an action), ``"empty"`` (nothing was said), ``"max_steps"`` (no calls left, or
        the window is full), ``"tool_error"`` (no calls left after a tool's error) or ``"crashed"``.
        ``error`` says why. ``usage`` is summed over the calls, ``seconds`` are the model's; if one
        call does not report its tokens, their sum is unknown.

    Raises
    ------
    ModelError
        If no episode could succeed.
    BudgetSpent
        If nothing is left of the budget.
    """
    toolbox = tools if isinstance(tools, Toolbox) else Toolbox(tools)
    episode = _Episode(model, task, toolbox, settings, attempt, thoughts)
    try:
        termination = await episode.play(after)
        error = episode.reason
    except (ModelError, BudgetSpent):
        raise
    except EpisodeTooLong as reason:
        termination = "max_steps"
        error = redact(str(reason))
    except Exception as reason:  # noqa: BLE001 - an episode that crashed is a record
        termination = "crashed"
        error = redact(f"{type(reason).__name__}: {reason}")
        logger.info("%s/%d crashed: %s", task.id, attempt, error)
    return episode.record(termination, replace_surrogates(error))


@dataclass
class _Episode:
    """An episode under way: the conversation so far, and its replies."""

    model: Model
    task: Task
    tools: Toolbox
    settings: LiveSettings
    attempt: int
    thoughts: str
    messages: list[Message] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    prediction: str | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        self.sampling = sampling(self.settings, self.attempt)
        self.schemas = self.tools.schemas if self.settings.style == "tools" else ()
        if self.settings.instruction:
            told = instruction(tuple(self.tools.tools.values()), self.settings.style)
            self.messages.append({"role": "system", "content": told})
        self.messages.append({"role": "user", "content": self.task.prompt or self.task.question})

    async def play(self, after: Callable[[Reply, Sequence[Message]], None]) -> str:
        """Return the termination."""
        failed = False
        for _ in range(self.settings.max_calls):
            shown = tuple(self.messages)
            if self.thoughts == "neither":
                shown = tuple({k: m[k] for k in m if k != "reasoning_content"} for m in shown)
            reply = await self.model.reply(shown, self.sampling, self.schemas)
            after(reply, shown)
            self._check_cut(reply)
            message = self._kept(reply)
            self.messages.append(message)
            actions = parse_actions(message)
            if not actions or self.reason:
                self.reason = self.reason or why_no_action(text(message))
                return "parse_error" if text(message).strip() else "empty"
            if actions[0].is_finish:
                self.prediction = actions[0].argument
                return "finished"
            self._check_window(reply)
            observation, failed = await self._observe(actions[0], message)
            self.messages.append(_answer(message, observation))
        return "tool_error" if failed else "max_steps"

    def _kept(self, reply: Reply) -> Message:
        """Return what is kept of a reply; `reason` says why no action may be read from it."""
        message = as_said(replace_surrogates(dict(reply.message)), aloud=True)
        calls = message.get("tool_calls")
        if not calls and self.schemas:
            made = make_message(text(message), self.schemas, len(self.messages))
            message = message | made
            calls = made.get("tool_calls")
        said = text(message)
        was_cut = reply.finish_reason == "length"
        tokens = reply.completion_tokens
        where = "" if tokens is None else f" after {tokens} tokens"
        if was_cut:
            where += " (it was cut there); raise LiveSettings.max_tokens"
        if not split_thought(text(reply.message))[2]:
            self.reason = f"the reply ends within its thought{where}"
        elif was_cut and not calls and (is_open(said) or not read_actions(said)):
            self.reason = f"the reply was cut before its action was whole{where}"
        # Not every server honours stop texts, so it is cut here too.
        ends = [i for stop in self.sampling.stop if (i := said.find(stop)) >= 0]
        message["content"] = as_played(said[: min(ends, default=len(said))])
        if calls:
            message["tool_calls"] = calls[:1]
        return message

    async def _observe(self, action: Action, message: Message) -> tuple[str, bool]:
        """Return the observation, and whether the tool failed."""
        tool = self.tools.tools.get(action.name)
        if tool is None:
            names = [f"{t.name}[{t.argument}]" for t in self.tools.tools.values()]
            valid = f"{', '.join(names)} and finish[answer]" if names else "finish[answer]"
            return f"Invalid action: {action.name}. Valid actions are {valid}.", False
        try:
            found = await self.tools.call(action.name, _argument(tool, action, message))
            return replace_surrogates(found), False
        except Exception as error:  # noqa: BLE001 - the agent is told, and goes on
            return replace_surrogates(f"Error: {redact(str(error)) or type(error).__name__}"), True

    def _check_cut(self, reply: Reply) -> None:
        before = self.replies[-1].prompt_tokens if self.replies else None
        self.replies.append(reply)
        if cut := PromptCounts().cut(self.messages, reply.prompt_tokens, before):
            raise EpisodeTooLong(cut)

    def _check_window(self, reply: Reply) -> None:
        tokens = (reply.prompt_tokens or 0) + (reply.completion_tokens or 0)
        window = self.settings.window_tokens or self.model.window
        if window and tokens >= window:
            raise EpisodeTooLong(
                f"the conversation has {tokens} tokens, which fills the window of {window}"
            )

    def record(self, termination: str, error: str) -> Trajectory:
        """Return the episode as a graded trajectory."""
        task = self.task
        scores = grade(self.prediction, task.answer, task.task) if task.answer else {}
        return Trajectory(
            id=f"{task.id}/{self.attempt}",
            question_id=task.id,
            question=task.question,
            answer=task.answer,
            task=task.task,
            messages=tuple(self.messages),
            prediction=self.prediction,
            scores=scores,
            success=scores["em"] == 1.0 if scores else None,
            termination=termination,
            source=Source(
                model=self.model.name,
                temperature=self.sampling.temperature,
                seed=self.sampling.seed,
                attempt=self.attempt,
                format="live",
            ),
            usage=Usage(
                prompt_tokens=_sum([reply.prompt_tokens for reply in self.replies]),
                completion_tokens=_sum([reply.completion_tokens for reply in self.replies]),
                calls=len(self.replies),
                seconds=round(sum(reply.seconds for reply in self.replies), 6),
            ),
            split=task.split,
            gold_titles=task.gold_titles,
            tools=self.schemas,
            error=error,
        )


def sampling(settings: LiveSettings, attempt: int) -> Sampling:
    """Return how the replies of an attempt are drawn: temperatures in turn, one seed each."""
    return Sampling(
        temperature=settings.temperatures[attempt % len(settings.temperatures)],
        max_tokens=settings.max_tokens,
        seed=(settings.seed + attempt) % 2**31,
        stop=(OBSERVATION,) if settings.style == "react" else (),
    )


def _answer(message: Message, observation: str) -> Message:
    calls = message.get("tool_calls")
    if calls:
        return {"role": "tool", "tool_call_id": calls[0].get("id", ""), "content": observation}
    return {"role": "user", "content": f"Observation: {observation}"}


def _argument(tool: Tool, action: Action, message: Message) -> str:
    """Return the tool's own argument if a call has several, else what the action says."""
    calls = message.get("tool_calls")
    try:
        given: Any = json.loads(calls[0]["function"]["arguments"] if calls else action.argument)
    except (ValueError, KeyError, RecursionError):
        given = None
    value = given.get(tool.argument) if isinstance(given, Mapping) else None
    return value if isinstance(value, str) else action.argument


def _sum(counts: Sequence[int | None]) -> int | None:
    return None if None in counts else sum(counts)
