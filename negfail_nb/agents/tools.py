"""What an agent may call (search, calculator, finish), how it is told, and how calls are read.

A tool is any object with a name, an argument, a description and a call from text to text.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from negfail_nb.actions import read_calls
from negfail_nb.agents.calculator import calculate
from negfail_nb.said import as_said
from negfail_nb.trajectory import Message

STYLES = ("react", "tools")
NOTHING = "No results found."
# bm25s's own pattern skips words of one letter, as in "Vitamin C".
_WORD = re.compile(r"\w+")
# What an action's name is read as, and what servers accept.
_NAME = re.compile("[a-z](?:[a-z0-9_-]{0,62}[a-z0-9])?")
_COUNTS = "no types,one type,two types,three types,four types,five types,six types".split(",")


class Tool(Protocol):
    """A tool of an agent, called from several threads; an exception becomes an observation.

    Attributes
    ----------
    name, argument
        How it is called: ``name[argument]``, or by a tool call with this one argument.
    description
        What it does, as a clause after "which": "searches ..".
    """

    name: str
    argument: str
    description: str

    def __call__(self, argument: str) -> str:
        """Return the observation."""
        ...


class CalculatorTool:
    """Exact arithmetic, see `negfail_nb.agents.calculator.calculate`."""

    name = "calculate"
    argument = "expression"
    description = "calculates the expression and returns the answer"

    def __call__(self, expression: str) -> str:
        """Return the result; raises `CalculatorError`, whose text is meant for the agent."""
        return calculate(expression)


class SearchTool:
    """BM25 search over titles and texts: lower case, English stems, no stop words.

    Parameters
    ----------
    passages
        ``(title, text)`` pairs, see `negfail_nb.agents.tasks.load_corpus`.
    results
        Most passages that a call returns.

    Attributes
    ----------
    fingerprint
        Hash of the passages and of ``results``; resuming with another one is refused.

    Raises
    ------
    ValueError
        If ``results`` is below 1, or no passage has a word in it.

    Notes
    -----
    BM25 as in Lucene (k1 = 1.5, b = 0.75), by bm25s. The order is the same on every machine:
    passages of equal score stay in the order of the corpus. A word counts once, however often the
    query repeats it.
    """

    name = "search"
    argument = "query"
    description = (
        "searches a query in a collection of texts and returns short passages that may contain the "
        "answer. Note that sometimes the passages do not contain the answer, and some alternative "
        "search might be needed"
    )

    def __init__(self, passages: Iterable[tuple[str, str]], results: int = 3) -> None:
        import bm25s
        import Stemmer

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # on import it sets itself to DEBUG
        self.passages = tuple(passages)
        self.results = _at_least_one(results)
        self._titled: dict[str, list[int]] = {}
        for number, (title, _) in enumerate(self.passages):
            self._titled.setdefault(title.strip().lower(), []).append(number)
        digest = hashlib.sha256()
        for value in (self.results, *self.passages):
            digest.update(json.dumps(value).encode() + b"\n")
        self.fingerprint = digest.hexdigest()[:16]
        tokens = bm25s.tokenize(
            [f"{title} {text}" for title, text in self.passages],
            token_pattern=_WORD.pattern,
            stopwords="en",
            stemmer=Stemmer.Stemmer("english"),
            show_progress=False,
        )
        if not tokens.vocab:
            raise ValueError(
                f"none of the {len(self.passages)} passages has a word to search for; give others"
            )
        self._index = bm25s.BM25(backend="numpy")
        self._index.index(tokens, create_empty_token=False, show_progress=False)

    def __call__(self, query: str) -> str:
        """Return the best passages as one line: ``Title [1]: text Title [2]: text``."""
        return self.show(self.find(query))

    def find(self, query: str, results: int | None = None) -> list[int]:
        """Return the numbers of the best passages, best first, at most ``results`` of them.

        Only passages that share a word with the query are found. One whose title is the query comes
        before all others.
        """
        k = self.results if results is None else _at_least_one(results)
        titled = self._titled.get(query.strip().lower(), [])
        return [*titled, *(number for number in self._ranked(query, k) if number not in titled)][:k]

    def _ranked(self, query: str, k: int) -> list[int]:
        import numpy as np
        import Stemmer
        from bm25s.stopwords import STOPWORDS_EN

        words = set(_WORD.findall(query.lower())).difference(STOPWORDS_EN)
        # Each call has a stemmer of its own: threads must not share one.
        stems = set(Stemmer.Stemmer("english").stemWords(list(words)))
        # Sorted: the order of addition decides the last digit, which may decide the ranking.
        known = self._index.get_tokens_ids(sorted(stems))
        if not known:
            return []
        scores = self._index.get_scores_from_ids(known)
        hits = np.flatnonzero(scores)
        if len(hits) > k:  # keep equal scores together, so that the stable sort orders them
            hits = hits[scores[hits] >= np.partition(scores[hits], -k)[-k]]
        return hits[np.argsort(-scores[hits], kind="stable")][:k].tolist()

    def show(self, numbers: Sequence[int]) -> str:
        """Return the observation that lists these passages."""
        return show_passages(self.passages[number] for number in numbers)


def show_passages(found: Iterable[tuple[str, str]]) -> str:
    """Return passages as one line: ``Title [1]: text Title [2]: text``."""
    shown = (f"{title} [{rank}]: {text}" for rank, (title, text) in enumerate(found, 1))
    return " ".join(shown) or NOTHING


def _at_least_one(results: int) -> int:
    if results < 1:
        raise ValueError(f"results is {results}; a search must return at least 1 passage")
    return results


class _Finish:
    """How an episode ends; here for the instruction and the schemas."""

    name = "finish"
    argument = "answer"
    description = "returns the answer and finishes the task"


def instruction(tools: Sequence[Tool], style: str = "react") -> str:
    """Return the text that tells an agent which tools there are and how to call them.

    Parameters
    ----------
    tools
        What may be called besides finish.
    style
        ``"react"``: calls are written as text, in the paper's words (arXiv 2402.11651, appendix);
        ``"tools"``: calls are the server's tool calls, whose schemas list the tools.

    Raises
    ------
    ValueError
        For another style, and as `schemas`.
    """
    every = _with_finish(tools)
    if style not in STYLES:
        raise ValueError(f"style is {style!r}; use one of {', '.join(map(repr, STYLES))}")
    only_math = [tool.name for tool in tools] == [CalculatorTool.name]
    task = "Solve a math problem" if only_math else "Solve a question answering task"
    if style == "tools":
        return (
            f"{task} with interleaving thoughts and tool calls. Think about the current situation, "
            "then call one tool. Call finish with the answer, and nothing besides it, to finish "
            "the task."
        )
    count = _COUNTS[len(every)] if len(every) < len(_COUNTS) else f"{len(every)} types"
    actions = "\n".join(
        f"({number}) {tool.name}[{tool.argument}], which {tool.description}."
        for number, tool in enumerate(every, 1)
    )
    return (
        f"{task} with interleaving Thought, Action, Observation steps. Thought can reason about "
        f"the current situation, and Action can be {count}:\n{actions}\n"
        "Write one thought and one action at a time, in this form:\n"
        "Thought: ...\nAction: tool[argument]"
    )


def schemas(tools: Sequence[Tool]) -> tuple[dict[str, Any], ...]:
    """Return the tools, and finish, as JSON schemas of the OpenAI chat API.

    Raises
    ------
    ValueError
        For a tool's name that no call could have, and for two tools of one name.
    """
    return tuple(
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": f"{tool.description[:1].upper()}{tool.description[1:]}.",
                "parameters": {
                    "type": "object",
                    "properties": {tool.argument: {"type": "string"}},
                    "required": [tool.argument],
                },
            },
        }
        for tool in _with_finish(tools)
    )


def _with_finish(tools: Sequence[Tool]) -> tuple[Tool, ...]:
    every = (*tools, _Finish())
    names = [tool.name for tool in every]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"a tool has the name {name!r}; use lower-case letters, digits, - and _, 64 at most"
            )
        if names.count(name) > 1:
            raise ValueError(
                f"there are {names.count(name)} tools of the name {name!r}; give each its own"
            )
    return every


def make_message(text: str, tools: Sequence[dict[str, Any]], turn: int) -> Message:
    """Return an assistant message; calls of offered tools in its text become ``tool_calls``.

    Parameters
    ----------
    text
        What the model wrote. A thought in it becomes ``reasoning_content``; no call is read from
        it.
    tools
        Schemas of the offered tools; without any, nothing is taken for a call.
    turn
        Index of the message in its conversation; the ids of the calls are made from it.
    """
    message = as_said({"role": "assistant", "content": text}, aloud=True)
    if not tools:
        return message
    offered = {t.get("function", t)["name"].lower(): t.get("function", t)["name"] for t in tools}
    said = message["content"]
    found = [c for c in read_calls(said) if c.action.name in offered and isinstance(c.values, dict)]
    if not found:
        return message
    calls = [
        {
            "id": f"call_{turn}_{number}",
            "type": "function",
            "function": {
                "name": offered[call.action.name],
                "arguments": json.dumps(call.values, ensure_ascii=False),
            },
        }
        for number, call in enumerate(found)
    ]
    return message | {"content": said[: found[0].start].strip(), "tool_calls": calls}
