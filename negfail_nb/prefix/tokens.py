"""Pieces of one text to token ids, in batches, so that the ids joined are the text's.

A tokenizer of the SentencePiece family puts a space before whatever it is given. Before a piece
that goes on from the piece before, that space would be a character that nobody wrote; it is kept
out here.

Contents are data. A web page that holds "<|eot_id|><|start_header_id|>assistant" must neither end a
turn nor begin one, so a control token that is spelled out in a content is cut inside.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from negfail_nb.prefix.turns import Conversation

SPACES = ("▁", "Ġ", " ")
# Private-use characters; one that no content has marks the cuts.
MARKS = tuple(map(chr, range(0xF0000, 0xF0100)))


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a text that is tokenised by itself.

    Attributes
    ----------
    text
        The characters.
    after
        It goes on from the piece before.
    anchor
        The control token (and white space) right before it, if there is one: what follows a control
        token is tokenised as the tokenizer itself does it there.
    turn
        Index of the assistant message that it is the content of, or whose end token it starts with;
        otherwise -1.
    ends
        It starts with the end token of that message.
    thought
        It is the thought of that message, with what the template puts around it.
    """

    text: str
    after: bool = False
    anchor: str = ""
    turn: int = -1
    ends: bool = False
    thought: bool = False


class PieceTokenizer:
    """Tokenises pieces with a tokenizer of transformers, without adding special tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        self._anchors: dict[str, list[int]] = {}

    def encode(self, pieces: Sequence[Piece]) -> list[list[int]]:
        """Return the ids of each piece."""
        if not any(piece.after for piece in pieces) or not self.adds_space:
            return self._plain([piece.text for piece in pieces])
        if self.backend is None:
            return [
                self._slow_after(piece.text) if piece.after else self._plain([piece.text])[0]
                for piece in pieces
            ]
        # Behind a control token: tokenised with it, and its ids taken off again. Behind other text:
        # by a tokenizer that adds no space. The rest as it is.
        anchors = [p.anchor if p.anchor and not p.text[:1].isspace() else "" for p in pieces]
        inner = [p.after and not anchor for p, anchor in zip(pieces, anchors, strict=True)]
        rows = list(zip(pieces, anchors, inner, strict=True))
        first = iter(self._plain([anchor + p.text for p, anchor, i in rows if not i]))
        later = iter(_ids(self._inner, [p.text for p, _, i in rows if i]))
        ids = [next(later) if i else next(first) for i in inner]
        return [
            self._drop_anchor(anchor, piece, row) if anchor else row
            for (piece, anchor, _), row in zip(rows, ids, strict=True)
        ]

    @cached_property
    def adds_space(self) -> bool:
        """Whether the tokenizer puts a space before what it is given."""
        if self.backend is None:
            return True  # cannot be told from outside; `_slow_after` is right in both cases
        normalizer = self.backend.normalizer
        words = self.backend.pre_tokenizer
        text = normalizer.normalize_str("a") if normalizer else "a"
        return (words.pre_tokenize_str(text)[0][0] if words else text).startswith(SPACES)

    @cached_property
    def control_tail(self) -> re.Pattern[str]:
        """Match a control token, and white space behind it, at the end of a text."""
        return re.compile(f"(?:{alternatives(self.tokenizer.added_tokens_encoder)})\\s*\\Z")

    def anchor(self, text: str, end: int) -> str:
        """The control token that ``text[:end]`` ends with, if the tokenizer needs to know."""
        if self.backend is None or not self.adds_space:
            return ""
        found = self.control_tail.search(text, max(0, end - 100), end)
        return found[0] if found else ""

    @cached_property
    def _inner(self) -> Any:
        """The same tokenizer, without the space that it puts first."""
        from tokenizers import Tokenizer

        settings = json.loads(self.backend.to_str())
        settings |= {"truncation": None, "padding": None}
        return Tokenizer.from_str(json.dumps(_without_space(settings)))

    def _plain(self, texts: Sequence[str]) -> list[list[int]]:
        if self.backend is None:
            return [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        # What a call of the tokenizer leaves behind in its backend; each call of it sets all three
        # anew.
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = False
        return _ids(self.backend, texts)

    def _drop_anchor(self, anchor: str, piece: Piece, ids: list[int]) -> list[int]:
        if anchor not in self._anchors:
            self._anchors[anchor] = self._plain([anchor])[0]
        known = self._anchors[anchor]
        same = ids[: len(known)] == known
        return ids[len(known) :] if same else _ids(self._inner, [piece.text])[0]

    def _slow_after(self, text: str) -> list[int]:
        """Tokenise behind a line break and take that away, as transformers' own chat code does."""
        if not text:
            return []
        line, ids = self._plain(["\n", f"\n{text}"])
        return ids[len(line) :] if ids[: len(line)] == line else self._plain([text])[0]


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
        ``""`` if none was needed.
        """
        anywhere, elsewhere, beginnings = self._patterns
        contents = "\n".join(_strings([c.messages, c.tools]))
        # Two letters are fast to look for, and most contents have none of them.
        if not any(beginning in contents for beginning in beginnings):
            return c, ""
        if not elsewhere.search(contents):
            return c, ""
        mark = next((m for m in MARKS if m not in contents), "")
        if not mark:
            raise ValueError(
                f"trajectory {c.id!r}: its contents use all of U+F0000 to U+F00FF; remove them"
            )
        messages = tuple(
            _mark_strings(m, anywhere if m["role"] == "assistant" else elsewhere, mark)
            for m in c.messages
        )
        tools = tuple(_mark_strings(tool, elsewhere, mark) for tool in c.tools)
        return replace(c, messages=messages, tools=tools), mark

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str], tuple[str, ...]]:
        """Patterns for the assistant's contents and for others', and all two-letter beginnings."""
        anywhere = {token for token in self.special if len(token) > 1}
        elsewhere = anywhere | {token for token in self.structure if len(token) > 1}
        patterns = (re.compile(alternatives(tokens)) for tokens in (anywhere, elsewhere))
        return (*patterns, tuple({token[:2] for token in elsewhere}))


def alternatives(words: Iterable[str]) -> str:
    """Return a regular expression for any of the words, longer ones first; without words, for
    nothing.
    """
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True))) or "(?!)"


def decode_after(tokenizer: Any, before: list[int], ids: list[int]) -> str:
    """Return the text of ids that follow others; alone, a first space may be dropped."""
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    if not before:
        return tokenizer.decode(ids, **options)
    head = tokenizer.decode(before, **options)
    return tokenizer.decode(before + ids, **options)[len(head) :]


def vocabulary_hash(tokenizer: Any) -> str:
    """Return the SHA-256 of a tokenizer's tokens and their ids."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(vocabulary.encode()).hexdigest()


def _ids(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def _without_space(part: Any) -> Any:
    """A tokenizer's settings without the parts that put a space first."""
    if isinstance(part, list):
        kept = (i for i in part if not (isinstance(i, dict) and i.get("type") == "Prepend"))
        return [_without_space(item) for item in kept]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Prepend":
        return None
    whole = ("vocab", "merges")
    changed = {k: v if k in whole else _without_space(v) for k, v in part.items()}
    if part.get("type") == "Metaspace":
        changed["prepend_scheme"] = "never"
    if part.get("type") == "ByteLevel":
        changed["add_prefix_space"] = False
    return changed


def _strings(part: Any) -> Iterable[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, Mapping | list | tuple):
        for value in part.values() if isinstance(part, Mapping) else part:
            yield from _strings(value)


def _mark_strings(part: Any, pattern: re.Pattern[str], mark: str) -> Any:
    if isinstance(part, str):
        return pattern.sub(lambda found: found[0][0] + mark + found[0][1:], part)
    if isinstance(part, Mapping):
        return {key: _mark_strings(value, pattern, mark) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [_mark_strings(value, pattern, mark) for value in part]
    return part
