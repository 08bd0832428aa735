"""What the model is shown, and what its reply says: an answer, cited passages, or the next query.

A passage is one line, ``{title} [{number}]: {text}``, so that it can be cited by its number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from negfail_nb.benchmarking.records import Passage, Question
from negfail_nb.content import fingerprint
from negfail_nb.grading import plain_answer, unwrapped
from negfail_nb.said import split_thought

# The prompt of every arm that shows passages once: oracle, long_context, retrieve_1,
# retrieve_3_no_model, dos_rag, and self_route when it reads everything.
READ = """\
Answer the question from the passages below.
Question: {question}

{passages}Question: {question}
End your reply with these two lines:
Answer: the answer in as few words as possible; yes or no where the question asks for that
Sources: the numbers of all passages that the answer rests on, such as [3], [17]"""

# The prompt of the three-step pipeline (retrieve_3): READ with STEP behind its passages. A reply
# that searches is answered by more passages and STEP again. In the last step READ's own last lines
# are in its place, so the model must answer.
STEP = """\
Question: {question}
If the passages do not answer the question yet, reply with one line only, to see more passages:
Search: a short query for what is missing
Otherwise answer. End your reply with these two lines:
Answer: the answer in as few words as possible; yes or no where the question asks for that
Sources: the numbers of all passages that the answer rests on, such as [3], [17]"""
# The first prompt of self_route: READ with ROUTE behind its passages. A reply that declines is
# followed by READ with everything, in a conversation of its own.
ROUTE = """\
Question: {question}
If the passages do not answer the question, reply with one line only:
Answer: unanswerable
Otherwise answer. End your reply with these two lines:
Answer: the answer in as few words as possible; yes or no where the question asks for that
Sources: the numbers of all passages that the answer rests on, such as [3], [17]"""
NOTHING_FOUND = "No further passages were found.\n"  # before STEP, if a search found nothing new

CLOSED_BOOK = """\
Answer the question.
Question: {question}
End your reply with this line:
Answer: the answer in as few words as possible; yes or no where the question asks for that"""

# For small base models: exactly what pocket-llama learned to read.
BARE_READ = "Question: {question}\n{passages}Question: {question}"
BARE = "Question: {question}"

_ANSWER = re.compile(r"\banswer\**[ \t]*[:\uff1a][ \t]*", re.IGNORECASE)
# Only if numbers follow, or nothing: "Open Sources: a book" may be an answer.
_SOURCES = re.compile(
    r"\bsources?\**[ \t]*:\**[ \t]*(?=[\[(#\d]|passages?\b|none\b|\n|\Z)", re.IGNORECASE
)
_SOURCES_LINE = re.compile(rf"{_SOURCES.pattern}\s*[^\n]*", re.IGNORECASE)
_SEARCH = re.compile(
    r"^[ \t>*]*search\**[ \t]*[:\uff1a]\**[ \t]*(\S[^\n]*)", re.IGNORECASE | re.MULTILINE
)
_DECLINED = re.compile(  # "not unanswerable" declines nothing
    r"(?<!\bnot )(?<!n['\u2019]t )\bun-?answerable\b|\bnot answerable\b"
    r"|\b(?:can ?not|can['\u2019]t) be answered\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d{1,9}")
_CITED = re.compile(r"\[(\d{1,9})]")
_MARKUP = " \t\r*`"


@dataclass(frozen=True, slots=True)
class Said:
    """What a reply says.

    Attributes
    ----------
    answer
        ``None`` if the reply has none.
    sources
        Numbers of the cited passages, each once, in the order of the reply; ``None`` if there is no
        line of sources, and nothing is cited beside a plain answer.
    query
        What to search for next; empty: nothing.
    plain
        Whether the answer was read from a reply without the form that was asked for.
    reason
        Why nothing could be read, if that is known.
    """

    answer: str | None = None
    sources: tuple[int, ...] | None = None
    query: str = ""
    plain: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """How a question and passages become messages.

    The first message is ``before``, passages, ``after`` (or ``step`` or ``route``).

    Attributes
    ----------
    style
        Its name in `ReadingSettings.prompt`.
    reading, stepping, routing, closed
        Texts as ``READ``, ``STEP``, ``ROUTE`` and ``CLOSED_BOOK``.
    nothing
        As ``NOTHING_FOUND``.
    parse
        From a reply, and whether the model may search, to what it says in the form asked for.
    write
        The other way round: from an answer and the titles of the passages that it rests on, by
        their numbers, to a reply in that form.
    """

    style: str
    reading: str
    stepping: str
    routing: str
    closed: str
    nothing: str
    parse: Callable[[str, bool], Said]
    write: Callable[[str, Mapping[int, str]], str]

    def before(self, question: Question) -> str:
        """Return the text before the passages; it ends in a newline."""
        return _filled(self.reading.partition("{passages}")[0], question)

    def after(self, question: Question) -> str:
        """Return the text behind the passages if the model must answer now."""
        return _filled(self.reading.partition("{passages}")[2], question)

    def step(self, question: Question, found: bool = True) -> str:
        """Return the text behind the passages if the model may search; ``found``: whether there are
        any passages.
        """
        return ("" if found else self.nothing) + _filled(self.stepping, question)

    def route(self, question: Question) -> str:
        """Return the text behind the passages if the model may say that they do not answer."""
        return _filled(self.routing, question)

    def closed_book(self, question: Question) -> str:
        """Return the message that asks without passages."""
        return _filled(self.closed, question)

    def passage(self, number: int, passage: Passage) -> str:
        """Return the line of a passage with its number, from 1; it ends in the only newline."""
        return f"{_line(passage.title)} [{number}]: {_line(passage.text)}\n"

    def passages(self, passages: Sequence[Passage], first: int = 1) -> str:
        """Return the lines of passages, numbered from ``first``."""
        return "".join(self.passage(number, p) for number, p in enumerate(passages, first))

    def once(self, question: Question, passages: Sequence[Passage]) -> str:
        """Return the message that shows passages once, and asks for the answer."""
        return self.before(question) + self.passages(passages) + self.after(question)

    def reply(self, answer: str, sources: Mapping[int, str]) -> str:
        """Return an answer in the form that was asked for, with the numbers and titles of the
        passages that it rests on; `read` reads it.
        """
        return self.write(_line(answer), {n: _line(title) for n, title in sources.items()})

    def read(self, reply: str, searching: bool = False, strict: bool = False) -> Said:
        """Return what a reply says; its thoughts say nothing.

        ``searching``: the model may ask for more passages. ``strict``: an answer counts only in the
        form that was asked for; else a reply without it is read as
        `negfail_nb.grading.plain_answer` does, with the passages that it cites.
        """
        _, said, closed = split_thought(reply)
        if not closed:
            return Said(reason="the reply ends within its thought")
        found = self.parse(said, searching)
        if found.answer is not None:
            found = replace(found, answer=unwrapped(found.answer))
        if strict or found.answer is not None or found.query:
            return found
        answer = plain_answer(_SEARCH.sub("", _SOURCES_LINE.sub("", said)))
        sources = found.sources if found.sources is not None else _cited(said)
        return replace(found, answer=answer, sources=sources, plain=answer is not None)

    def declines(self, reply: str, strict: bool = False) -> bool:
        r"""Return whether a reply says that the passages do not answer the question.

        The last ``Answer:`` decides; thoughts, and what stands before it, do not. Without one, the
        word may stand anywhere, unless ``strict``.

        Examples
        --------
        >>> prompt = open_prompt("instructed")
        >>> prompt.declines("**Answer:** UNANSWERABLE."), prompt.declines("Answer: Oslo")
        (True, False)
        """
        _, said, closed = split_thought(reply)
        answer = read_answer(said) if closed else ""
        if answer is None:
            answer = "" if strict else said
        return _DECLINED.search(answer) is not None

    @property
    def fingerprint(self) -> str:
        """Changes when a word of the prompt changes."""
        shown = self.passage(1, Passage("title", ("text",)))
        question = Question(id="", question="question", answer="")
        asking = self.before, self.after, self.step, self.route, self.closed_book
        return fingerprint([self.style, shown, *(ask(question) for ask in asking)])[:16]


def _parse_instructed(said: str, searching: bool) -> Said:
    """Return the last answer, or the query if that comes before any answer."""
    search = _SEARCH.search(said) if searching else None
    answer = _ANSWER.search(said)
    if search and not (answer and answer.start() < search.start()):
        return Said(query=search[1].strip(_MARKUP))
    return Said(read_answer(said), read_sources(said))


def _parse_bare(said: str, searching: bool) -> Said:
    """Return the answer, what is cited before it, and what is stated as the next query.

    A reply cites what it states: ``The capital of Norra [3] is Oslu.`` In more than one step, what
    it states is the next query, as in IRCoT (arXiv 2212.10509).
    """
    query = " ".join(_ANSWER.sub(" ", _CITED.sub(" ", said)).split()) if searching else ""
    return Said(read_answer(said), _cited(_ANSWER.split(said)[0]), query)


def _write_instructed(answer: str, sources: Mapping[int, str]) -> str:
    return f"Answer: {answer}\nSources: {', '.join(f'[{number}]' for number in sources)}"


def _write_bare(answer: str, sources: Mapping[int, str]) -> str:
    """As pocket-llama does: ``Norra [3] is Oslu.``, and the answer again."""
    cited = ", ".join(f"{title} [{number}]" for number, title in sources.items())
    return f"{cited} is {answer}.\nAnswer: {answer}"


_INSTRUCTED = (_parse_instructed, _write_instructed)
_BARE = (_parse_bare, _write_bare)
PROMPTS = {
    prompt.style: prompt
    for prompt in (
        Prompt("instructed", READ, STEP, ROUTE, CLOSED_BOOK, NOTHING_FOUND, *_INSTRUCTED),
        # It asks for no such word: pocket-llama was not taught one.
        Prompt("bare", BARE_READ, BARE, BARE, BARE, "", *_BARE),
    )
}


def open_prompt(style: str) -> Prompt:
    """Return a prompt by name; ``ValueError`` for an unknown one."""
    if style not in PROMPTS:
        raise ValueError(f"prompt is {style!r}; use one of {', '.join(map(repr, PROMPTS))}")
    return PROMPTS[style]


def read_answer(reply: str) -> str | None:
    r"""Return the text behind the last ``Answer:`` of a reply, up to the end of its line or to its
    sources.

    Examples
    --------
    >>> read_answer("Both are. \n**Answer:** yes\nSources: [1]"), read_answer("It is Paris.")
    ('yes', None)
    """
    if not (found := list(_ANSWER.finditer(reply))):
        return None
    rest = reply[found[-1].end() :]
    sources = _SOURCES.search(rest)
    rest = rest[: sources.start()] if sources else rest
    lines = (line.strip(_MARKUP) for line in rest.splitlines())
    return next((line for line in lines if line), None)


def read_sources(reply: str) -> tuple[int, ...] | None:
    r"""Return the numbers behind the last ``Sources:`` of a reply, on its line or else on the next.

    Examples
    --------
    >>> read_sources("Answer: 3\nSources: [3], [17] and [3]"), read_sources("[3]")
    ((3, 17), None)
    """
    if not (found := list(_SOURCES.finditer(reply))):
        return None
    here = reply[found[-1].end() :].lstrip().partition("\n")[0]
    return tuple(dict.fromkeys(map(int, _NUMBER.findall(here))))


def without_citations(reply: str) -> str:
    r"""Return a reply without the numbers of the passages that it cites.

    Examples
    --------
    >>> without_citations("It is Oslo [3].\nAnswer: Oslo\nSources: 3, [17]")
    'It is Oslo  .\nAnswer: Oslo\n'
    """
    return _CITED.sub(" ", _SOURCES_LINE.sub("", reply))


def _cited(text: str) -> tuple[int, ...] | None:
    """Return the numbers in brackets, each once; ``None`` if there are none."""
    return tuple(dict.fromkeys(map(int, _CITED.findall(text)))) or None


def _filled(template: str, question: Question) -> str:
    return template.format(question=_line(question.question))


def _line(text: str) -> str:
    """Return a text as one line: a passage that breaks it could pass for two, or for a question."""
    return " ".join(text.splitlines())
