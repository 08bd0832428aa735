"""JSON records from files that may be damaged: one bad record must not cost the others.

A file is JSON lines or one JSON text: an array, an object with arrays of records under some keys,
an object of records by key, or a single record. One text is walked value by value through a window,
so the file may be far larger than memory, and a truncated file still yields everything before the
cut.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from negfail_nb.trajectory import find_endless, replace_surrogates

# An object with one of these keys is one record ..
TURNS = frozenset("messages conversations conversation traj trajectory history turns steps".split())
# .. and lists of objects under these are parts of a record, not records.
PARTS = TURNS.union(
    "tools functions tool_calls prompt completion choices content scores events".split()
)
BOM = b"\xef\xbb\xbf"
CHUNK = 1 << 16
MAX_DEPTH = 100  # nested lists and objects; deeper values cannot be written again
_LINE_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\n\r]*")
_OUTSIDE = re.compile(r'["\[\]{},]')
_INSIDE = re.compile(r'["\\]')
_NUMBER_CUT = re.compile(r"(\.|[eE][+-]?)?")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_UNDECODED = re.compile("[\udc80-\udcff]")
# Characters of a literal or an escape, generously: an error this close to the end may be a cut.
_LONGEST_PIECE = 16


class Line(NamedTuple):
    """A line of a text file, without its end; ``problem`` says why its text cannot be used."""

    number: int
    text: str
    problem: str = ""


class Record(NamedTuple):
    """One JSON value and where it stands; ``problem`` says why there is no value."""

    where: str
    value: Any
    problem: str = ""


class Member(NamedTuple):
    """A record of a JSON text, under its ``key`` or ``listed`` in the array under that key."""

    key: str | None
    listed: bool
    record: Record


def read_lines(
    stream: BinaryIO, limit: int, number: int = 0, most: float = math.inf
) -> Iterator[Line]:
    """Yield the lines of a file; one over ``limit`` bytes, or not UTF-8, has a problem.

    ``number`` lines were read before; reading ends with the line that reaches ``most`` bytes.
    """
    with stream:
        while most > 0 and (raw := stream.readline(limit + 2)):
            number += 1
            most -= len(raw)
            size = len(raw.rstrip(b"\r\n"))
            if size <= limit:
                yield _decoded(number, raw.removeprefix(BOM) if number == 1 else raw)
                continue
            while raw and not raw.endswith(b"\n"):
                raw = stream.readline(_LINE_CHUNK)
                most -= len(raw)
                size += len(raw.rstrip(b"\r\n"))
            yield Line(number, "", too_large(size, limit))


def _decoded(number: int, raw: bytes) -> Line:
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    try:
        return Line(number, raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line"
        return Line(number, raw.decode("utf-8", "replace"), reason)


def parse(text: str, where: str, *, lenient: bool = False) -> Record:
    """Parse one JSON text; never raises. ``lenient`` reads NaN and Infinity as null."""
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
        Opens the text from its beginning. An object is read twice: its keys tell which values are
        records.
    limit
        Largest record in bytes. No more than a few times as much is held in memory.
    one
        Read an object as one record although it holds arrays of objects.

    Yields
    ------
    Record
        The records of all arrays, a last one with a problem if the text breaks off. Values beside
        arrays of records are left out unless they hold turns.
    """
    with open_text() as stream:
        walk = Walk(stream, limit)
        if walk.peek() != "{":
            yield from (member.record for member in walk)
            return
        listed, several, broken = _shape(walk)
        size = walk.read
    if one or not several:
        yield broken or _single(open_text, size, limit)
        return
    with open_text() as stream:
        for key, in_list, record in Walk(stream, limit):
            if not listed or in_list or key is None or _has_turns(record.value):
                yield record
            elif isinstance(record.value, list) and any(map(_has_turns, record.value)):
                problem = "a list of runs whose first item is no object; not read"
                yield record._replace(value=None, problem=problem)


def _has_turns(value: Any) -> bool:
    return isinstance(value, dict) and bool(TURNS & value.keys())


def _shape(walk: Walk) -> tuple[bool, bool, Record | None]:
    """Return if an object has lists of records, holds several records, and where it breaks off."""
    listed = False
    single = False
    members = 0
    others = 0
    broken = None
    for key, in_list, record in walk:
        if key is None:
            broken = record
        elif in_list:
            listed = True
        else:
            members += 1
            single = single or key in TURNS
            others += not (isinstance(record.value, dict) or record.problem)
    return listed, not single and (listed or (members > 0 and not others)), broken


def _single(open_text: Callable[[], BinaryIO], size: int, limit: int) -> Record:
    if size > limit:
        return Record("1", None, too_large(size, limit))
    with open_text() as stream:
        text = stream.read().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    return parse(text, "1")


def too_large(size: int, limit: int) -> str:
    """Return the reason why a record of ``size`` bytes was not read."""
    return (
        f"the record is {size / 1e6:.3g} MB; raise max_record_mb (now {limit / 1e6:g}) to read it"
    )


def explain(error: BaseException) -> str:
    """Return what is wrong with a record, for a reader who has the file open."""
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


def _not_json(error: json.JSONDecodeError, before: int) -> str:
    # json's own "line 1" is the line inside the record, which misleads.
    place = before + error.pos + 1
    return f"not valid JSON: {error.msg} at character {place} (is the record truncated?)"


def _record(where: str, value: Any, text: str, flaws: list[str]) -> Record:
    if _is_too_deep(value):
        return Record(where, None, explain(RecursionError()))
    if flaws:
        name = find_endless(value)
        return Record(where, None, flaws[0] + (f", in the field {name!r}" if name else ""))
    if undecoded := _UNDECODED.search(text):
        return Record(where, None, f"not UTF-8: byte 0x{ord(undecoded[0]) - 0xDC00:02x}")
    return Record(where, replace_surrogates(value) if _ESCAPED_SURROGATE.search(text) else value)


def _is_too_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for outer in level:
            inner += outer.values() if isinstance(outer, dict) else outer
        level = [item for item in inner if isinstance(item, dict | list)]
        if not level:
            return False
    return True


class _Decoder(json.JSONDecoder):
    """The standard decoder, which also notes what it would silently accept: `flaws`."""

    def __init__(self, lenient: bool = False) -> None:
        self._found: list[str] = []
        self._lenient = lenient
        super().__init__(
            parse_constant=self._constant, parse_float=self._number, object_pairs_hook=self._pairs
        )

    def flaws(self) -> list[str]:
        """Return what was wrong since the last call."""
        found = list(self._found)
        self._found[:] = []
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

    Iterating yields the members of the outer array or object; an outer array is the list under
    ``""``. If the text breaks off, a last member with key ``None`` says where.

    Parameters
    ----------
    stream
        The text, as bytes. What is not UTF-8 costs its record.
    limit
        Largest record in bytes; a larger one is passed over unparsed.
    chunk
        Least number of bytes to read at once.
    lenient
        Read NaN and Infinity as null.
    """

    def __init__(
        self, stream: BinaryIO, limit: int, chunk: int = CHUNK, *, lenient: bool = False
    ) -> None:
        self.limit = limit
        self.read = 0  # bytes so far
        self.passed = 0  # characters before the window
        self.at = 0  # position in the window
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
        """Whether an array of objects is next; the position does not change."""
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
        """Return the next value and move behind it."""
        while True:
            self._decoder.flaws()
            try:
                value, end = self._decoder.raw_decode(self._text, self.at)
                # A number may go on behind the window: of "1.5e-3" it may hold "1.5e-".
                if not _NUMBER_CUT.fullmatch(self._text, end) or not self._more():
                    return self._found(where, value, end)
            except json.JSONDecodeError as error:
                near_end = error.pos > len(self._text) - _LONGEST_PIECE
                if not (near_end or error.msg.startswith("Unterminated")):
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
        """Move behind a value without parsing it; return its length."""
        start = self.passed + self.at
        depth = 0
        quoted = False
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
                if self.at < len(self._text) or self._more():
                    self.at += 1  # the escaped character
            elif sign == '"':
                quoted = not quoted
            elif not quoted:
                depth += (sign in "[{") - (sign in "]}")
            if not quoted and depth == 0:
                return self.passed + self.at - start

    def _more(self) -> bool:
        """Read on; the window at least doubles, so parsing it again costs no more than twice."""
        if self._ended:
            return False
        raw = self._stream.read(max(self._chunk, len(self._text) - self.at))
        self.read += len(raw)
        self._ended = not raw
        self._text += self._utf8.decode(raw, final=self._ended)
        return True

    def _forget(self) -> None:
        """Drop what was walked, once it is a chunk."""
        if self.at >= self._chunk:
            self._lines += self._text.count("\n", 0, self.at)
            self.passed += self.at
            self._text = self._text[self.at :]
            self.at = 0

    def _error(self, message: str) -> json.JSONDecodeError:
        return json.JSONDecodeError(message, self._text, self.at)
