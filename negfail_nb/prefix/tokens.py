"""Pieces of one text to token ids, in batches, so that the ids joined are the text's.

A tokenizer of the SentencePiece family puts a space before whatever it is given. Before a piece
that goes on from the piece before, that space would be a character that nobody wrote; it is kept
out here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

SPACES = ("▁", "Ġ", " ")


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
    """Tokenises pieces with a tokenizer of transformers, fast or slow, without adding special
    tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None

    def encode(self, pieces: Sequence[Piece]) -> list[list[int]]:
        """Return the ids of each piece."""
        if not any(piece.after for piece in pieces) or not self.adds_space:
            return self._plain([piece.text for piece in pieces])
        if self.backend is None:
            return [
                self._slow_after(piece.text) if piece.after else self._plain([piece.text])[0]
                for piece in pieces
            ]
        anchored = [bool(piece.anchor) and not piece.text[:1].isspace() for piece in pieces]
        inner = [
            piece.after and not has_anchor
            for piece, has_anchor in zip(pieces, anchored, strict=True)
        ]
        first = iter(
            self._plain(
                [
                    p.anchor * a + p.text
                    for p, a, i in zip(pieces, anchored, inner, strict=True)
                    if not i
                ]
            )
        )
        later = iter(_ids(self._inner, [p.text for p, i in zip(pieces, inner, strict=True) if i]))
        ids = [next(later) if i else next(first) for i in inner]
        return [
            self._drop_anchor(piece, row) if has_anchor else row
            for piece, row, has_anchor in zip(pieces, ids, anchored, strict=True)
        ]

    @cached_property
    def adds_space(self) -> bool:
        """Whether the tokenizer puts a space before what it is given."""
        if self.backend is None:
            return True  # cannot be told from outside; `_slow_after` is right in both cases
        text = self.backend.normalizer.normalize_str("a") if self.backend.normalizer else "a"
        words = (
            self.backend.pre_tokenizer.pre_tokenize_str(text)
            if self.backend.pre_tokenizer
            else [(text, None)]
        )
        return words[0][0].startswith(SPACES)

    @cached_property
    def control_tail(self) -> re.Pattern[str]:
        """Match a control token, and white space behind it, at the end of a text."""
        return re.compile(f"(?:{alternatives(self.tokenizer.added_tokens_encoder)})\\s*\\Z")

    def anchor(self, text: str, end: int) -> str:
        """Return the control token that ``text[:end]`` ends with, where the tokenizer needs to
        know.
        """
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

    @cached_property
    def _anchors(self) -> dict[str, list[int]]:
        return {}

    def _plain(self, texts: Sequence[str]) -> list[list[int]]:
        if self.backend is None:
            return [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        # What a call of the tokenizer leaves behind in its backend; each call of it sets all three
        # anew.
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = False
        return _ids(self.backend, texts)

    def _drop_anchor(self, piece: Piece, ids: list[int]) -> list[int]:
        if piece.anchor not in self._anchors:
            self._anchors[piece.anchor] = self._plain([piece.anchor])[0]
        anchor = self._anchors[piece.anchor]
        return (
            ids[len(anchor) :]
            if ids[: len(anchor)] == anchor
            else _ids(self._inner, [piece.text])[0]
        )

    def _slow_after(self, text: str) -> list[int]:
        """Tokenise behind a line break, then take that away again (as transformers' own chat code
        does).
        """
        if not text:
            return []
        line, ids = self._plain(["\n", f"\n{text}"])
        return ids[len(line) :] if ids[: len(line)] == line else self._plain([text])[0]


def alternatives(words: Sequence[str]) -> str:
    """Return a regular expression for any of the words, longer ones first; it matches nothing where
    there is none.
    """
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True))) or "(?!)"


def vocabulary_hash(tokenizer: Any) -> str:
    """Return the SHA-256 of a tokenizer's tokens and their ids."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(vocabulary.encode()).hexdigest()


def _ids(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    return [
        encoding.ids
        for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)
    ]


def _without_space(part: Any) -> Any:
    """Return a tokenizer's settings without the parts that put a space first."""
    if isinstance(part, list):
        return [
            _without_space(item)
            for item in part
            if not (isinstance(item, dict) and item.get("type") == "Prepend")
        ]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Prepend":
        return None
    changed = {
        key: value if key in ("vocab", "merges") else _without_space(value)
        for key, value in part.items()
    }
    if part.get("type") == "Metaspace":
        changed["prepend_scheme"] = "never"
    if part.get("type") == "ByteLevel":
        changed["add_prefix_space"] = False
    return changed
