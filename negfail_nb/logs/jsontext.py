"""JSON records out of files that may be damaged: one bad record must not cost the others.

A file is JSON lines, or one JSON text: an array, an object that holds arrays of records under some
keys, an object of records by key, or one record. One text is walked value by value in a window of
it, so that a file may be far larger than memory, and a truncated one still gives everything before
the cut.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from negfail_nb.trajectory import find_endless

# An object with one of these keys is one record ..
TURNS = frozenset(
    {"messages", "conversations", "conversation", "traj", "trajectory", "history", "turns", "steps"}
)
# .. and lists of objects under these are parts of a record, not records.
PARTS = TURNS | {
    "tools",
    "functions",
    "tool_calls",
    "prompt",
    "completion",
    "choices",
    "content",
    "scores",
    "events",
}
CHUNK = 1 << 16
MAX_DEPTH = 100  # of lists and objects in each other; what is deeper cannot be written again
_SPACE = re.compile(r"[ \t\n\r]*")
_OUTSIDE = re.compile(r'["\[\]{},]')
_INSIDE = re.compile(r'["\\]')
_NUMBER_CUT = re.compile(r"(\.|[eE][+-]?)?")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_UNDECODED = re.compile("[\udc80-\udcff]")
_LONGEST_PIECE = (
    16  # characters of a literal or an escape, generously: an error so near the end may be a cut
)


class Record(NamedTuple):
    """One JSON value and where it stands; ``problem`` says why there is no value."""

    where: str
    value: Any
    problem: str = ""


class Member(NamedTuple):
    """A record of a JSON text, and the ``key`` of the list that it is ``listed`` in, or of the
    record itself.
    """

    key: str | None
    listed: bool
    record: Record


def parse(text: str, where: str, *, lenient: bool = False) -> Record:
    """Parse one JSON text, mostly a line; never raises. ``lenient`` takes NaN and Infinity for
    null.
    """
    decoder = _Decoder(lenient)
    try:
        value = decoder.decode(text)
    except (ValueError, RecursionError) as error:
        return Record(where, None, explain(error))
    return _record(where, value, text, decoder.flaws())


def read_whole(
    open_text: Callable[[], BinaryIO], limit: int, *, one: bool = False
) -> Iterator[Record]:
    """Yield the records of one JSON text.

    Parameters
    ----------
    open_text
        Opens the text from its beginning; an object is read twice, as its keys say which values are
        records.
    limit
        Largest record in bytes. No more than a few times as much is held in memory.
    one
        Take an object for one record, although it holds arrays of objects.

    Yields
    ------
    Record
        The records of all arrays, a last one with a problem where the text breaks off. What stands
        beside arrays of records that are wrapped under keys, and has no turns of its own, is left
        out.
    """
    with open_text() as stream:
        walk = Walk(stream, limit)
        if walk.peek() != "{":
            yield from (member.record for member in walk)
            return
        shape = _Shape.of(walk)
        size = walk.read
    if one or not shape.several:
        yield shape.broken or _single(open_text, size, limit)
        return
    with open_text() as stream:
        for key, listed, record in Walk(stream, limit):
            beside = shape.listed and not listed and key is not None
            if not beside or _has_turns(record.value):
                yield record
            elif isinstance(record.value, list) and any(map(_has_turns, record.value)):
                yield record._replace(
                    value=None, problem="a list of runs whose first item is no object; not read"
                )


def _has_turns(value: Any) -> bool:
    return isinstance(value, dict) and bool(TURNS & value.keys())


class _Shape(NamedTuple):
    """What an outer object is: whether it holds lists of records, records by key, and where it
    breaks off.
    """

    listed: bool
    several: bool
    broken: Record | None

    @classmethod
    def of(cls, walk: Walk) -> _Shape:
        listed, single, members, others, broken = False, False, 0, 0, None
        for key, in_list, record in walk:
            if key is None:
                broken = record
            elif in_list:
                listed = True
            else:
                members += 1
                single = single or key in TURNS
                others += not (isinstance(record.value, dict) or record.problem)
        return cls(listed, not single and (listed or (members > 0 and not others)), broken)


def _single(open_text: Callable[[], BinaryIO], size: int, limit: int) -> Record:
    """Return the one record that the outer object is."""
    if size > limit:
        return Record("1", None, too_large(size, limit))
    with open_text() as stream:
        text = stream.read().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    return parse(text, "1")


def too_large(size: int, limit: int) -> str:
    """Word the reason why a record of ``size`` bytes was not read."""
    return (
        f"the record is {size / 1e6:.3g} MB; raise max_record_mb (now {limit / 1e6:g}) to read it"
    )


def explain(error: BaseException) -> str:
    """Word an error of a record for a reader who has the file open."""
    if isinstance(error, json.JSONDecodeError):
        return _not_json(error, 0)
    if isinstance(error, RecursionError):
        return "nested too deeply to be a log"
    if isinstance(error, MemoryError):
        return "there is too little memory to read it"
    if isinstance(error, KeyError) and error.args:
        return f"the field {error.args[0]!r} is missing"
    if isinstance(error, OSError) and error.strerror:
        return f"it cannot be read: {error.strerror}"
    return str(error) or type(error).__name__


def mend(value: Any) -> Any:
    """Return a JSON value whose lone surrogates, which no file can hold, are replaced by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list | tuple):
        return type(value)(mend(item) for item in value)
    if isinstance(value, dict):
        return {mend(key): mend(item) for key, item in value.items()}
    return value


def _not_json(error: json.JSONDecodeError, before: int) -> str:
    # json's own "line 1" is the line inside of the record, which misleads.
    return f"not valid JSON: {error.msg} at character {before + error.pos + 1} (is the record truncated?)"


def _record(where: str, value: Any, text: str, flaws: list[str]) -> Record:
    if _deeper(value):
        return Record(where, None, explain(RecursionError()))
    if flaws:
        name = find_endless(value)
        return Record(where, None, flaws[0] + (f", in the field {name!r}" if name else ""))
    if undecoded := _UNDECODED.search(text):
        return Record(where, None, f"not UTF-8: byte 0x{ord(undecoded[0]) - 0xDC00:02x}")
    return Record(where, mend(value) if _ESCAPED_SURROGATE.search(text) else value)


def _deeper(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for outer in level
            for item in (
                outer.values()
                if isinstance(outer, dict)
                else outer
                if isinstance(outer, list)
                else ()
            )
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True


class _Decoder(json.JSONDecoder):
    """The decoder of the standard library, that also notes what it would pass: `flaws`."""

    def __init__(self, lenient: bool = False) -> None:
        self._found: list[str] = []
        self._lenient = lenient
        super().__init__(
            parse_constant=self._constant, parse_float=self._number, object_pairs_hook=self._pairs
        )

    def flaws(self) -> list[str]:
        """Return what was wrong since the last call."""
        found, self._found[:] = list(self._found), []
        return found

    def _constant(self, name: str) -> float | None:
        if self._lenient:
            return None
        self._found.append(f"holds {name}, which is not JSON")
        return math.nan

    def _number(self, digits: str) -> float | None:
        number = float(digits)
        if math.isfinite(number):
            return number
        if self._lenient:
            return None
        self._found.append(f"holds {digits[:40]}, which is too large for a number")
        return number

    def _pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            self._compare(pairs)
        return value

    def _compare(self, pairs: list[tuple[str, Any]]) -> None:
        first: dict[str, Any] = {}
        for key, item in pairs:
            given = first.setdefault(key, item)
            # 1, 1.0 and true are equal in Python.
            if given != item or type(given) is not type(item):
                both = f"{_short(given)} and {_short(item)}"
                self._found.append(f"the key {key!r} stands twice, with {both}; which one counts?")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}.."


class Walk:
    """One pass over a JSON text, of which only a window is in memory.

    Iterating gives the members of the outer array or object; an outer array is the list under
    ``""``. What breaks the text off is a last one whose key is ``None``.

    Parameters
    ----------
    stream
        The text, as bytes. What is not UTF-8 costs its record.
    limit
        Largest record in bytes; a larger one is passed over unparsed.
    chunk
        Bytes to read at once, at least.
    lenient
        Take NaN and Infinity for null.
    """

    def __init__(
        self, stream: BinaryIO, limit: int, chunk: int = CHUNK, *, lenient: bool = False
    ) -> None:
        self.limit = limit
        self.read = 0  # bytes so far
        self.passed = 0  # characters before the window
        self.at = 0  # where the walk is in the window
        self._stream = stream
        self._chunk = chunk
        self._text = ""
        self._lines = 1  # number of the line at which the window begins
        self._ended = False
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._decoder = _Decoder(lenient)
        self._more()
        self._text = self._text.removeprefix("\ufeff")

    def __iter__(self) -> Iterator[Member]:
        """Yield the members."""
        try:
            opening = self.peek()
            if opening == "[":
                yield from self._array("")
            elif opening == "{":
                yield from self._object()
            else:
                raise self._error("Expecting an object or an array")
            if self.peek():
                raise self._error("Extra data")
        except json.JSONDecodeError as error:
            line = self._lines + self._text.count("\n", 0, error.pos)
            reason = f"{_not_json(error, self.passed)}; nothing after it was read"
            yield Member(None, False, Record(f"line {line}", None, reason))

    def peek(self) -> str:
        """Return the next character that is no space, ``""`` at the end."""
        while True:
            self.at = _SPACE.match(self._text, self.at).end()
            if self.at < len(self._text):
                return self._text[self.at]
            if not self._more():
                return ""

    def _array(self, key: str) -> Iterator[Member]:
        number = 0
        self.at += 1
        more = self.peek() != "]"
        self.at += not more
        while more:
            number += 1
            yield Member(key, True, self._value(f"{key or 'item'} {number}"))
            more = self._goes_on("]")

    def _object(self) -> Iterator[Member]:
        self.at += 1
        more = self.peek() != "}"
        self.at += not more
        while more:
            key = self._key()
            if key not in PARTS and self._lists_objects():
                yield from self._array(key)
            else:
                yield Member(key, False, self._value(key))
            more = self._goes_on("}")

    def _key(self) -> str:
        if self.peek() != '"':
            raise self._error("Expecting property name enclosed in double quotes")
        key = self._value("").value
        if self.peek() != ":":
            raise self._error("Expecting ':' delimiter")
        self.at += 1
        self.peek()
        return key if isinstance(key, str) else "?"

    def _lists_objects(self) -> bool:
        """Whether an array of objects is next; the walk stays where it is."""
        at = self.at
        if self.peek() != "[":
            return False
        self.at += 1
        found = self.peek() == "{"
        self.at = at
        return found

    def _goes_on(self, closing: str) -> bool:
        following = self.peek()
        if following not in (",", closing) or not following:
            raise self._error(f"Expecting ',' delimiter or '{closing}'")
        self.at += 1
        self._forget()
        self.peek()
        return following == ","

    def _value(self, where: str) -> Record:
        """Return the value that is next, and go behind it."""
        while True:
            self._decoder.flaws()
            try:
                value, end = self._decoder.raw_decode(self._text, self.at)
                # A number may go on behind the window: of "1.5e-3" it may hold "1.5e-".
                if not _NUMBER_CUT.fullmatch(self._text, end) or not self._more():
                    return self._found(where, value, end)
            except json.JSONDecodeError as error:
                cut = (
                    error.msg.startswith("Unterminated")
                    or error.pos > len(self._text) - _LONGEST_PIECE
                )
                if not cut:
                    raise
                if len(self._text) - self.at > self.limit:
                    return Record(where, None, too_large(self._pass_over(), self.limit))
                if not self._more():
                    raise
            except (ValueError, RecursionError) as error:  # too many digits, too deep
                self._pass_over()
                return Record(where, None, explain(error))

    def _found(self, where: str, value: Any, end: int) -> Record:
        text = self._text[self.at : end]
        self.at = end
        size = len(text)
        if size <= self.limit < 4 * size:
            size = len(text.encode("utf-8", "surrogateescape"))
        if size > self.limit:
            return Record(where, None, too_large(size, self.limit))
        return _record(where, value, text, self._decoder.flaws())

    def _pass_over(self) -> int:
        """Go behind a value without parsing it; return its length."""
        start, depth, quoted = self.passed + self.at, 0, False
        while True:
            mark = (_INSIDE if quoted else _OUTSIDE).search(self._text, self.at)
            if not mark:
                self.at = len(self._text)
                self._forget()
                if not self._more():
                    raise self._error("Unterminated value")
                continue
            sign = mark[0]
            if not quoted and depth == 0 and sign in ",]}":  # what ends a number
                self.at = mark.start()
                return self.passed + self.at - start
            self.at = mark.end()
            if sign == "\\":
                self._step()
            elif sign == '"':
                quoted = not quoted
            elif not quoted:
                depth += (sign in "[{") - (sign in "]}")
            if not quoted and depth == 0:
                return self.passed + self.at - start

    def _step(self) -> None:
        """Go over one character, whatever it is."""
        if self.at < len(self._text) or self._more():
            self.at += 1

    def _more(self) -> bool:
        """Read on; the window at least doubles, so that parsing it again costs no more than twice."""
        if self._ended:
            return False
        raw = self._stream.read(max(self._chunk, len(self._text) - self.at))
        self.read += len(raw)
        self._ended = not raw
        self._text += self._utf8.decode(raw, final=self._ended)
        return True

    def _forget(self) -> None:
        """Leave behind what was walked, once it is a chunk."""
        if self.at >= self._chunk:
            self._lines += self._text.count("\n", 0, self.at)
            self.passed += self.at
            self._text, self.at = self._text[self.at :], 0

    def _error(self, message: str) -> json.JSONDecodeError:
        return json.JSONDecodeError(message, self._text, self.at)
