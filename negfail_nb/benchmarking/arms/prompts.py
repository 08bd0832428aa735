"""How a model is asked to read passages, and what its reply says: answer, cited passages, next
query.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from negfail_nb.benchmarking.corpora.records import Passage, Question
from negfail_nb.grading import plain_answer
from negfail_nb.runs import fingerprint
from negfail_nb.said import split_thought

_ANSWER = re.compile(r"\banswer\**[ \t]*[:\uff1a][ \t]*", re.IGNORECASE)
# Only where numbers follow, or nothing: "Open Sources: a book" may be an answer.
_SOURCES = re.compile(
    r"\bsources?\**[ \t]*:\**[ \t]*(?=[\[(#\d]|passages?\b|none\b|\n|\Z)", re.IGNORECASE
)
_SOURCES_LINE = re.compile(rf"{_SOURCES.pattern}\s*[^\n]*", re.IGNORECASE)
_SEARCH = re.compile(
    r"^[ \t>*]*search\**[ \t]*[:\uff1a]\**[ \t]*(\S[^\n]*)", re.IGNORECASE | re.MULTILINE
)
_NUMBER = re.compile(r"\d{1,9}")
_CITED = re.compile(r"\[(\d{1,9})]")
_MARKUP = " \t\r*`"

_TASK = "Answer the question from the passages below."
_FORM = "Answer: the answer in as few words as possible; yes or no where the question asks for that"
_ANSWERING = f"End your reply with this line:\n{_FORM}"
_ENDING = (
    f"End your reply with these two lines:\n{_FORM}\n"
    "Sources: the numbers of all passages that the answer rests on, such as [3], [17]"
)
_SEARCHING = (
    "If the passages do not answer the question yet, reply with one line only, to see more passages:\n"
    "Search: a short query for what is missing\n"
    "Otherwise answer. "
)


@dataclass(frozen=True, slots=True)
class Said:
    """What a reply says.

    Attributes
    ----------
    answer
        ``None`` where the reply has none.
    sources
        Numbers of the cited passages, each once, in the order of the reply; ``None`` where there is
        no line of sources, and nothing is cited beside a plain answer.
    query
        What to search for next; empty: nothing.
    plain
        Whether the answer was read from a reply without the form that was asked for.
    reason
        Why nothing could be read, where that is known.
    """

    answer: str | None = None
    sources: tuple[int, ...] | None = None
    query: str = ""
    plain: bool = False
    reason: str = ""


class Prompt:
    """How a question and passages become messages. The first message is ``before``, passages,
    ``after`` (or ``step``).

    A passage is one line, ``{title} [{number}]: {text}``, so that it can be cited by its number.

    Attributes
    ----------
    style
        Name of the prompt in `ReadingSettings.prompt`.
    cites
        Whether replies are asked to cite passages.
    """

    style = ""
    cites = False

    def before(self, question: Question) -> str:
        """Return what stands before the passages; ends in a newline."""
        raise NotImplementedError

    def after(self, question: Question) -> str:
        """Return what stands behind the passages where the model must answer now; begins with no
        white space.
        """
        raise NotImplementedError

    def step(self, question: Question, found: bool = True) -> str:
        """Return what stands behind the passages where the model may ask for more; ``found``:
        whether there are any.
        """
        raise NotImplementedError

    def closed_book(self, question: Question) -> str:
        """Return the message that asks without any passage."""
        raise NotImplementedError

    def read(self, reply: str, searching: bool = False, strict: bool = False) -> Said:
        """Return what a reply says; a thought in it says nothing.

        Parameters
        ----------
        reply
            As the model wrote it.
        searching
            Whether the model may ask for more passages.
        strict
            Read an answer only in the form that was asked for. Otherwise a reply without it is read
            as `negfail_nb.grading.plain_answer` does, with the passages that it cites.
        """
        _, said, closed = split_thought(reply)
        if not closed:
            return Said(reason="the reply ends within its thought")
        found = self._read(said, searching)
        if strict or found.answer is not None or found.query:
            return found
        answer = plain_answer(_SEARCH.sub("", without_sources(said)))
        cited = tuple(dict.fromkeys(int(number) for number in _CITED.findall(said))) or None
        sources = found.sources if found.sources is not None else cited
        return replace(found, answer=answer, sources=sources, plain=answer is not None)

    def _read(self, said: str, searching: bool) -> Said:
        """Return what is said in the form that was asked for."""
        raise NotImplementedError

    def passage(self, number: int, passage: Passage) -> str:
        """Return the line of a passage with its number, from 1; ends in a newline, the only one."""
        return f"{_line(passage.title)} [{number}]: {_line(passage.text)}\n"

    def passages(self, passages: Sequence[Passage], first: int = 1) -> str:
        """Return the lines of passages, numbered from ``first``."""
        return "".join(
            self.passage(number, passage) for number, passage in enumerate(passages, first)
        )

    @property
    def fingerprint(self) -> str:
        """Changes when a word of the prompt changes."""
        shown = self.passage(1, Passage("title", ("text",)))
        question = Question(id="", question="question", answer="")
        asked = [ask(question) for ask in (self.before, self.after, self.step, self.closed_book)]
        return fingerprint([self.style, shown, *asked])[:16]


class Instructed(Prompt):
    """For models that follow instructions: the form of the answer is told, and passages are cited."""

    style = "instructed"
    cites = True

    def before(self, question: Question) -> str:
        """Return the task and the question: a model that knows it beforehand reads better."""
        return f"{_TASK}\nQuestion: {_line(question.question)}\n\n"

    def after(self, question: Question) -> str:
        """Return the question and the form of the answer."""
        return f"Question: {_line(question.question)}\n{_ENDING}"

    def step(self, question: Question, found: bool = True) -> str:
        """Return the question, how to search, and the form of the answer."""
        nothing = "" if found else "No further passages were found.\n"
        return f"{nothing}Question: {_line(question.question)}\n{_SEARCHING}{_ENDING}"

    def closed_book(self, question: Question) -> str:
        """Return the question and the form of the answer, without sources."""
        return f"Answer the question.\nQuestion: {_line(question.question)}\n{_ANSWERING}"

    def _read(self, said: str, searching: bool) -> Said:
        """Return the last answer, or the query where that stands before any answer."""
        search = _SEARCH.search(said) if searching else None
        answer = _ANSWER.search(said)
        if search and not (answer and answer.start() < search.start()):
            return Said(query=search[1].strip(_MARKUP))
        return Said(read_answer(said), read_sources(said))


class Bare(Prompt):
    """For small base models: exactly `recipes.pocket_llama.lessons.reading_prompt`, which pocket-llama
    learned.

    A reply cites where it states: ``The capital of Norra [3] is Oslu.`` In more than one step, what
    the reply states is the next query, as in IRCoT (arXiv 2212.10509).
    """

    style = "bare"
    cites = True

    def before(self, question: Question) -> str:
        """Return the question."""
        return f"Question: {_line(question.question)}\n"

    def after(self, question: Question) -> str:
        """Return the question again."""
        return f"Question: {_line(question.question)}"

    def step(self, question: Question, found: bool = True) -> str:
        """Return the question again."""
        return self.after(question)

    def closed_book(self, question: Question) -> str:
        """Return the question."""
        return self.after(question)

    def _read(self, said: str, searching: bool) -> Said:
        """Return the answer, what is cited before it, and what is stated as the next query."""
        stated = _ANSWER.split(said)[0]
        cited = tuple(dict.fromkeys(int(number) for number in _CITED.findall(stated))) or None
        query = " ".join(_ANSWER.sub(" ", _CITED.sub(" ", said)).split()) if searching else ""
        return Said(read_answer(said), cited, query)


PROMPTS: dict[str, type[Prompt]] = {prompt.style: prompt for prompt in (Instructed, Bare)}


def open_prompt(style: str) -> Prompt:
    """Return a prompt by name.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if style not in PROMPTS:
        raise ValueError(f"prompt is {style!r}; use one of {', '.join(map(repr, PROMPTS))}")
    return PROMPTS[style]()


def read_answer(reply: str) -> str | None:
    r"""Return what stands behind the last ``Answer:`` of a reply, up to the end of its line or to
    its sources.

    Examples
    --------
    >>> read_answer("Both are. \n**Answer:** yes\nSources: [1]"), read_answer("It is Paris.")
    ('yes', None)
    """
    found = None
    for found in _ANSWER.finditer(reply):  # noqa: B007 - the last one counts
        pass
    if found is None:
        return None
    rest = reply[found.end() :]
    sources = _SOURCES.search(rest)
    rest = rest[: sources.start()] if sources else rest
    lines = (line.strip(_MARKUP) for line in rest.splitlines())
    return next((line for line in lines if line), None)


def read_sources(reply: str) -> tuple[int, ...] | None:
    r"""Return the numbers behind the last ``Sources:`` of a reply, on its line or else on the next.

    Examples
    --------
    >>> read_sources("Answer: 3\nSources: [3], [17] and [3]"), read_sources("Sources: none"), read_sources("[3]")
    ((3, 17), (), None)
    """
    found = None
    for found in _SOURCES.finditer(reply):  # noqa: B007 - the last one counts
        pass
    if found is None:
        return None
    here = reply[found.end() :].lstrip().partition("\n")[0]
    return tuple(dict.fromkeys(map(int, _NUMBER.findall(here))))


def without_citations(reply: str) -> str:
    r"""Return a reply without the numbers of the passages that it cites.

    Examples
    --------
    >>> without_citations("It is Oslo [3].\nAnswer: Oslo\nSources: 3, [17]")
    'It is Oslo  .\nAnswer: Oslo\n'
    """
    return _CITED.sub(" ", without_sources(reply))


def without_sources(reply: str) -> str:
    """Return a reply without its line of sources."""
    return _SOURCES_LINE.sub("", reply)


def _line(text: str) -> str:
    """Return a text as one line: a passage that breaks it could pass for two, or for a question."""
    return " ".join(text.splitlines())
