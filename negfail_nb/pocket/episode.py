"""One episode of the scripted teacher: turns as chat messages, and one way to go wrong for each
kind of mistake.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from negfail_nb.grading import grade
from negfail_nb.pocket.problems import Problem
from negfail_nb.pocket.questions import Question
from negfail_nb.pocket.solve import Calculator, Reader, Solution, Turn
from negfail_nb.trajectory import Message, Trajectory, Usage

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
        self._task, self._solver, self._rng, self._detour = task, solver, rng, detour
        self._messages: list[Message] = [{"role": "user", "content": task.text}]
        self._prediction: str | None = None
        self._termination, self._error = "finished", ""

    def play(self, mistake: str) -> None:
        """Play to the end with this kind of mistake (a field of `Mistakes`) or, for ``""``, with
        none.
        """
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
        """Return the episode as a graded trajectory; ``rest`` are the fields that it does not know
        itself.
        """
        task, scores = self._task, grade(self._prediction, self._task.answer, self._task.task)
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
        thought, action = solution.because, f"finish[{solution.answer}]"
        if done < len(solution.turns):
            thought, action = solution.turns[done].thought, solution.turns[done].action
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
            if (
                turn.action not in tried
            ):  # the same call again would be a loop, which is another mistake
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
        return (
            self._refused(turn, "lookup")
            if way == 1
            else Turn(turn.thought, turn.action, self._rng.choice(_ERRORS))
        )

    def _refused(self, turn: Turn, name: str) -> Turn:
        argument = turn.action[turn.action.index("[") :]
        return Turn(
            turn.thought,
            name + argument,
            f"Invalid action: {name}. Valid actions are {self._solver.tools}.",
        )

    def _take_turn(self, turn: Turn) -> None:
        self._say(f"Thought: {turn.thought}\nAction: {turn.action}")
        self._messages.append({"role": "user", "content": f"Observation: {turn.observation}"})

    def _say(self, content: str) -> None:
        self._messages.append({"role": "assistant", "content": content})
