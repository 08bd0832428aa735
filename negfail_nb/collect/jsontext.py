"""JSON records out of files that may be damaged: one bad record must not cost the others.

A file is JSON lines, or one JSON text: an array, an object that holds arrays of records under some keys, an object of
records by key, or one record. One text is walked value by value, so that a truncated file still gives
everything before the cut.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

# An object with one of these keys is one record ..
TURNS = frozenset({"messages", "conversations", "conversation", "traj", "trajectory", "history", "turns", "steps"})
# .. and lists of objects under these are parts of a record, not records.
PARTS = TURNS | {"tools", "functions", "tool_calls", "prompt", "completion", "choices", "content", "scores", "events"}
_SPACE = re.compile(r"[ \t\n\r]*")
_RECORDS = re.compile(r"\[[ \t\n\r]*\{")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_UNDECODED = re.compile("[\udc80-\udcff]")


class Record(NamedTuple):
    """One JSON value and where it stands; ``problem`` says why there is no value."""

    where: str
    value: Any
    problem: str = ""


def parse(text: str, where: str) -> Record:
    """Parse one JSON text, mostly a line; never raises."""
    constants: list[str] = []
    try:
        value = json.loads(text, parse_constant=constants.append)
    except (ValueError, RecursionError) as error:
        return Record(where, None, explain(error))
    return _record(where, value, text, 0, len(text), constants)


def parse_whole(text: str, limit: int, *, one: bool = False) -> list[Record]:
    """Read the records of one JSON text.

    Parameters
    ----------
    text
        The file, bytes that are not UTF-8 escaped as lone surrogates (``surrogateescape``).
    limit
        Largest record, in characters.
    one
        Take an object for one record, although it holds arrays of objects.

    Returns
    -------
    list of Record
        The records of all arrays, a last one with a problem where the text breaks off. What stands beside arrays of
        records that are wrapped under keys, and has no turns of its own, is left out.
    """
    walk = _Walk(text, limit)
    single = one or any(m.where in TURNS for m in walk.members)
    if walk.lists and not single:
        beside = [m for m in walk.members if isinstance(m.value, dict) and TURNS & m.value.keys()]
        return [item for items in walk.lists.values() for item in items] + beside + walk.broken
    keyed = walk.members and all(isinstance(m.value, dict) or m.problem for m in walk.members)
    if keyed and not single:
        return walk.members + walk.broken
    if walk.broken:
        return walk.broken
    return [_single(walk, len(text))]


def _single(walk: _Walk, size: int) -> Record:
    """Return the one record that the outer object is."""
    parts = [*walk.members, *(item for items in walk.lists.values() for item in items)]
    bad = next((part.problem for part in parts if part.problem), "")
    if size > walk.limit:
        return Record("1", None, too_large(size, walk.limit))
    value = {member.where: member.value for member in walk.members}
    value |= {key: [item.value for item in items] for key, items in walk.lists.items()}
    return Record("1", None if bad else value, bad)


def too_large(size: int, limit: int) -> str:
    """Word the reason why a record of ``size`` bytes was not read."""
    return f"the record is {size / 1e6:.3g} MB; raise max_record_mb (now {limit / 1e6:g}) to read it"


def explain(error: Exception) -> str:
    """Word an error of a record for a reader who has the file open."""
    if isinstance(error, json.JSONDecodeError):
        # json's own "line 1" is the line inside of the record, which misleads.
        return f"not valid JSON: {error.msg} at character {error.pos + 1} (is the record truncated?)"
    if isinstance(error, RecursionError):
        return "nested too deeply to be a log"
    if isinstance(error, KeyError):
        return f"the field {error.args[0]!r} is missing"
    return str(error) or type(error).__name__


def mend(value: Any) -> Any:
    """Return a JSON value whose lone surrogates, which no file can hold, are replaced by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [mend(item) for item in value]
    if isinstance(value, dict):
        return {mend(key): mend(item) for key, item in value.items()}
    return value


def _record(where: str, value: Any, text: str, start: int, end: int, constants: list[str]) -> Record:
    if constants:
        return Record(where, None, f"holds {constants[0]}, which is not JSON")
    if undecoded := _UNDECODED.search(text, start, end):
        return Record(where, None, f"not UTF-8: byte 0x{ord(undecoded[0]) - 0xDC00:02x}")
    return Record(where, mend(value) if _ESCAPED_SURROGATE.search(text, start, end) else value)


class _Walk:
    """One pass over a JSON text: ``lists`` of records by key, other ``members`` of the outer object.

    An outer array is the list under ``""``. What was read before an error stays; ``broken`` then holds the error.
    """

    def __init__(self, text: str, limit: int) -> None:
        self.text, self.limit = text, limit
        self.lists: dict[str, list[Record]] = {}
        self.members: list[Record] = []
        self.broken: list[Record] = []
        self.constants: list[str] = []
        self.decoder = json.JSONDecoder(parse_constant=self.constants.append)
        try:
            end = self._outer(self._skip(0))
            if self._skip(end) < len(text):
                raise json.JSONDecodeError("Extra data", text, end)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, getattr(error, "pos", 0)) + 1
            self.broken.append(Record(f"line {line}", None, f"{explain(error)}; nothing after it was read"))

    def _outer(self, at: int) -> int:
        if self.text.startswith("[", at):
            return self._array(at, "")
        if self.text.startswith("{", at):
            return self._object(at)
        raise json.JSONDecodeError("Expecting an object or an array", self.text, at)

    def _array(self, at: int, key: str) -> int:
        items, at = self.lists.setdefault(key, []), self._skip(at + 1)
        more = not self.text.startswith("]", at)
        while more:
            value, end = self.decoder.raw_decode(self.text, at)
            items.append(self._found(f"{key or 'item'} {len(items) + 1}", value, at, end))
            at, more = self._next(end, "]")
        return at if items else at + 1

    def _object(self, at: int) -> int:
        at = self._skip(at + 1)
        more = not self.text.startswith("}", at)
        end = at
        while more:
            key, end = self.decoder.raw_decode(self.text, at)
            value_at = self._skip(self._skip(end) + 1)
            if not isinstance(key, str) or self.text[end:value_at].strip() != ":":
                raise json.JSONDecodeError("Expecting a key and ':'", self.text, at)
            if key not in PARTS and _RECORDS.match(self.text, value_at):
                end = self._array(value_at, key)
            else:
                value, end = self.decoder.raw_decode(self.text, value_at)
                self.members.append(self._found(key, value, value_at, end))
            at, more = self._next(end, "}")
        return at if self.members or self.lists else at + 1

    def _next(self, at: int, closing: str) -> tuple[int, bool]:
        """Return where the next member starts, or where the text goes on after the closing bracket."""
        at = self._skip(at)
        if self.text.startswith(closing, at):
            return at + 1, False
        if not self.text.startswith(",", at):
            raise json.JSONDecodeError(f"Expecting ',' or '{closing}'", self.text, at)
        return self._skip(at + 1), True

    def _found(self, where: str, value: Any, start: int, end: int) -> Record:
        constants, self.constants[:] = list(self.constants), []
        if end - start > self.limit:
            return Record(where, None, too_large(end - start, self.limit))
        return _record(where, value, self.text, start, end, constants)

    def _skip(self, at: int) -> int:
        return _SPACE.match(self.text, at).end()
