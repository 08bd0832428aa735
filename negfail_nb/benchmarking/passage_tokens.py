"""Prompts made of numbered passages as token ids: each passage is tokenised once, however many
prompts hold it.

Ids are joined where the tokenizer never merges: at the line break behind a passage, and around the
passage's number. This is checked, not assumed: a passage is tokenised with a number and the line
behind it, as in a prompt. If a token reaches over a border, the passage is *loose*, and prompts
that hold it are tokenised as a whole.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from negfail_nb.benchmarking.prompts import Prompt
from negfail_nb.benchmarking.records import Passage, PassagePool, Question
from negfail_nb.prefix.chat import FIXED, open_chat
from negfail_nb.prefix.tokens import Piece, alternatives

log = logging.getLogger("negfail_nb")

_PROBE = Passage("Title", ("One sentence.", " Another one."))
_OTHER = Passage("Another", ("Some text",))
_CONTENT = "the content of the user"


@dataclass(frozen=True, slots=True)
class Ids:
    """Token ids of a part of a prompt.

    Attributes
    ----------
    ids
        int32, one-dimensional; of a passage without its number.
    loose
        Whether they may change with their neighbours.
    split
        Of a passage: number of ids before its number.
    """

    ids: np.ndarray
    loose: bool = False
    split: int = 0

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Frame:
    """The ids around the passages of one question, chat template included."""

    head: Ids
    tail: Ids

    @property
    def loose(self) -> bool:
        """Whether either part is."""
        return self.head.loose or self.tail.loose

    def __len__(self) -> int:
        return len(self.head) + len(self.tail)


class PromptTokens:
    """Token ids of prompts over one pool; ``ValueError`` without a usable chat template."""

    def __init__(
        self, tokenizer: Any, prompt: Prompt, pool: PassagePool, chat_template: str = ""
    ) -> None:
        chat = open_chat(tokenizer, chat_template)
        self.prompt = prompt
        self.pool = pool
        self._pieces = chat.pieces_tokenizer
        control = chat.control.special | chat.control.structure
        self._control = re.compile(alternatives([token for token in control if len(token) > 1]))
        self._template = lambda content: tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=chat.template or None,
            add_generation_prompt=True,
            tokenize=False,
            **FIXED,
        )
        self._opening, self._closing = self._template(_CONTENT).split(_CONTENT)
        self._trims = f" {_CONTENT}" not in self._template(f" {_CONTENT}")
        self._sign = self._find_sign()
        self._begin, self._end = self._parted(_PROBE)
        self._beginning = self._encode([self._begin])[0]
        self._first = self._encode([self._begin + self.label(1)])[0]
        self._one = _without(self._first, start=self._beginning).ids
        self._lines: dict[int, Ids] = {}
        self._loose: set[int] = set()
        self._labels: list[Ids] = [Ids(np.empty(0, np.int32))]
        self._label_sums = np.zeros(1, np.int64)
        self._probe = self.lines_of([_PROBE])[0]
        self.exact = not self._probe.loose
        if not self.exact:
            log.warning(
                "contexts: tokens reach over the borders of passages; every context is tokenised "
                "as a whole"
            )

    def label(self, number: int) -> str:
        """Return a number with the characters around it in all lines: `` [3]:``."""
        before, behind = self._sign
        return f"{before}{number}{behind}"

    def message(self, question: Question, passages: Iterable[Passage]) -> str:
        """Return the user's message."""
        lines = (self.prompt.passage(number, passage) for number, passage in enumerate(passages, 1))
        return "".join([self.prompt.before(question), *lines, self.prompt.after(question)])

    def whole(self, message: str) -> np.ndarray:
        """Return the ids (int32) of a prompt with this user's message, tokenised in one go."""
        message = message.strip() if self._trims else message
        return self._encode([message], self._opening, self._closing)[0]

    def frames(self, questions: Sequence[Question]) -> list[Frame]:
        """Return the ids around the passages of each question."""
        heads = [self.prompt.before(question) for question in questions]
        tails = [self.prompt.after(question) for question in questions]
        if self._trims:
            heads = [head.lstrip() for head in heads]
            tails = [tail.rstrip() for tail in tails]
        first = self._begin + self.label(1)
        probe = self.prompt.passage(1, _PROBE)
        split = self._probe.split
        known = np.concatenate([self._probe.ids[:split], self._one, self._probe.ids[split:]])
        heads_ids = self._encode([head + first for head in heads], opening=self._opening)
        tails_ids = self._encode([probe + tail for tail in tails], closing=self._closing)
        return [
            # A line break may be joined with white space behind it.
            Frame(
                _without(head_ids, end=self._first),
                _without(tail_ids, start=known, loose=not tail[:1].strip()),
            )
            for head_ids, tail_ids, tail in zip(heads_ids, tails_ids, tails, strict=True)
        ]

    def labels(self, count: int) -> list[Ids]:
        """Return the ids of the numbers 1 to ``count``, at their own index; more may follow."""
        missing = range(len(self._labels), count + 1)
        found = self._encode([self._begin + self.label(number) + self._end for number in missing])
        behind = self._probe.ids[self._probe.split :]
        self._labels += [_without(ids, self._beginning, behind) for ids in found]
        self.exact = self.exact and not any(label.loose for label in self._labels[missing.start :])
        return self._labels

    def label_sums(self, count: int) -> np.ndarray:
        """Return how many tokens the first 0, 1, .. ``count`` numbers have together."""
        if count >= len(self._label_sums):
            self._label_sums = np.cumsum([len(ids) for ids in self.labels(2 * count)])
        return self._label_sums[: count + 1]

    def is_loose(self, frame: Frame, numbers: Sequence[int]) -> bool:
        """Whether a prompt has to be tokenised as a whole."""
        return not self.exact or frame.loose or not self._loose.isdisjoint(numbers)

    def lines(self, numbers: Sequence[int]) -> list[Ids]:
        """Return passages of the pool without their prompt numbers; each is tokenised once."""
        missing = [number for number in dict.fromkeys(numbers) if number not in self._lines]
        if missing:
            found = dict(zip(missing, self.lines_of([self.pool[n] for n in missing]), strict=True))
            self._lines |= found
            self._loose |= {number for number, line in found.items() if line.loose}
        return [self._lines[number] for number in numbers]

    def lines_of(self, passages: Sequence[Passage]) -> list[Ids]:
        """Return passages without their prompt numbers."""
        parted = [self._parted(passage) for passage in passages]
        lines = self._encode(
            [begin + self.label(1) + end + self._begin + self.label(1) for begin, end in parted]
        )
        heads = self._encode([begin + self.label(1) for begin, _ in parted])
        return [
            self._line(line, head, loose=not end.endswith("\n"))
            for line, head, (_, end) in zip(lines, heads, parted, strict=True)
        ]

    def _line(self, line: np.ndarray, head: np.ndarray, loose: bool) -> Ids:
        """Take the number, and the beginning of the next line, out of a line."""
        begin = _without(head, end=self._one)
        rest = _without(line, start=head, end=self._first)
        return Ids(
            np.concatenate([begin.ids, rest.ids]), loose or begin.loose or rest.loose, len(begin)
        )

    def join(self, frame: Frame, lines: Sequence[Ids]) -> np.ndarray:
        """Return the ids of a prompt of these lines, numbered from 1, if it is not loose."""
        labels = self.labels(len(lines))
        parts: list[np.ndarray] = []
        for label, line in zip(labels[1:], lines, strict=False):
            parts += [line.ids[: line.split], label.ids, line.ids[line.split :]]
        return np.concatenate([frame.head.ids, *parts, frame.tail.ids])

    def check(self, message: str, joined: np.ndarray | None) -> None:
        """Compare joined ids with those of the whole prompt; if they differ, none are joined again.

        ``ValueError``: the chat template changes the message, so its tokens cannot be counted.
        """
        content = message.strip() if self._trims else message
        if self._template(message) != self._opening + content + self._closing:
            raise ValueError(
                "the chat template changes the user's message; use one that writes it as it is"
            )
        if joined is not None and not np.array_equal(self.whole(message), joined):
            log.warning(
                "contexts: this tokenizer's ids cannot be joined; every context is tokenised as a "
                "whole"
            )
            self.exact = False

    def _find_sign(self) -> tuple[str, str]:
        """Return the characters right before and behind the number, the same in every line."""
        (begin, end), (other_begin, other_end) = map(self._numbered, (_PROBE, _OTHER))
        before = os.path.commonprefix([begin[::-1], other_begin[::-1]])[::-1]
        return before, os.path.commonprefix([end, other_end]).rstrip()

    def _parted(self, passage: Passage) -> tuple[str, str]:
        """Return the text before and behind a line's label; without a label, no line break at the
        end.
        """
        begin, end = self._numbered(passage)
        before, behind = self._sign
        if begin.endswith(before) and end.startswith(behind):
            return begin.removesuffix(before), end.removeprefix(behind)
        return begin, end.rstrip("\n")

    def _numbered(self, passage: Passage) -> tuple[str, str]:
        """Return the text before and behind a line's number."""
        one = self.prompt.passage(1, passage)
        two = self.prompt.passage(2, passage)
        begin = os.path.commonprefix([one, two])
        end = one[len(begin) + 1 :]
        return (begin, end) if (one, two) == (f"{begin}1{end}", f"{begin}2{end}") else (one, "")

    def _encode(
        self, contents: Sequence[str], opening: str = "", closing: str = ""
    ) -> list[np.ndarray]:
        """Return the ids of contents between parts of the chat template."""
        rows = [self._cut(content, opening, closing) for content in contents]
        found = iter(self._pieces.encode([piece for row in rows for piece in row]))
        joined = [
            [token for _ in row for token in next(found)] if len(row) > 1 else next(found)
            for row in rows
        ]
        return [np.array(ids, dtype=np.int32) for ids in joined]

    def _cut(self, content: str, opening: str, closing: str) -> list[Piece]:
        """Cut inside each control token that a content spells out, so that it stays plain text."""
        cuts = [found.start() + 1 for found in self._control.finditer(content)]
        parts = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
        parts[0] = opening + parts[0]
        # Some tokenizers put a space behind each control token, but only at the start of a text.
        apart = closing if self._control.match(closing) else ""
        parts[-1] += "" if apart else closing
        pieces = [
            Piece(part, after=bool(number) or not opening) for number, part in enumerate(parts)
        ]
        return [*pieces, Piece(apart)] if apart else pieces


def _without(
    ids: np.ndarray,
    start: Sequence[int] | np.ndarray = (),
    end: Sequence[int] | np.ndarray = (),
    loose: bool = False,
) -> Ids:
    """Take known ids off both ends; if they are not there, the rest is loose, a guess."""
    last = len(ids) - len(end)
    inner = ids[len(start) : max(last, len(start))]
    same = np.array_equal(ids[: len(start)], start) and np.array_equal(ids[max(last, 0) :], end)
    return Ids(inner, loose or not same)
