"""Control tokens that are spelled out in a content: marked inside, so that they are tokenised as
the text they are.

Contents are data. A web page that holds "<|eot_id|><|start_header_id|>assistant" must neither end a
turn nor begin one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from negfail_nb.prefix.tokens import alternatives
from negfail_nb.prefix.turns import Conversation

MARKS = tuple(
    map(chr, range(0xF0000, 0xF0100))
)  # private-use characters; one that no content has marks the cuts


@dataclass(frozen=True)
class ControlTokens:
    """The tokens that control a chat.

    Attributes
    ----------
    special
        Those that must not come out of any content.
    structure
        Those that must not come out of a content of others than the assistant.
    """

    special: frozenset[str] = frozenset()
    structure: frozenset[str] = frozenset()

    def mark(self, c: Conversation) -> tuple[Conversation, str]:
        """Put a mark inside every control token that is spelled out in a content; return the mark,
        if there is one.
        """
        anywhere, elsewhere, beginnings = self._patterns
        everything = "\n".join(_strings([c.messages, c.tools]))
        if not any(beginning in everything for beginning in beginnings) or not elsewhere.search(
            everything
        ):
            return c, ""
        mark = next((m for m in MARKS if m not in everything), "")
        if not mark:
            raise ValueError(
                f"trajectory {c.id!r}: its contents use all of U+F0000 to U+F00FF; remove them"
            )
        messages = tuple(
            _mark_strings(m, anywhere if m["role"] == "assistant" else elsewhere, mark)
            for m in c.messages
        )
        return replace(
            c, messages=messages, tools=tuple(_mark_strings(t, elsewhere, mark) for t in c.tools)
        ), mark

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str], tuple[str, ...]]:
        """Patterns for the assistant's contents and for others', and two-letter beginnings, which
        are fast to find.
        """
        anywhere = {token for token in self.special if len(token) > 1}
        elsewhere = anywhere | {token for token in self.structure if len(token) > 1}
        return (
            re.compile(alternatives(anywhere)),
            re.compile(alternatives(elsewhere)),
            tuple({token[:2] for token in elsewhere}),
        )


def _strings(part: Any) -> Iterable[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, Mapping):
        for value in part.values():
            yield from _strings(value)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from _strings(value)


def _mark_strings(part: Any, pattern: re.Pattern[str], mark: str) -> Any:
    if isinstance(part, str):
        return pattern.sub(lambda found: found[0][0] + mark + found[0][1:], part)
    if isinstance(part, Mapping):
        return {key: _mark_strings(value, pattern, mark) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [_mark_strings(value, pattern, mark) for value in part]
    return part
