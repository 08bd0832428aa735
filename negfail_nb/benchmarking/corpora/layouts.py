"""Records of multi-hop data sets and of corpora, in the layouts they come in, as questions and
passages.

Questions: HotpotQA's own layout and the hub's (2WikiMultiHopQA has the same two), and MuSiQue's.
Corpora: a title with a text or with sentences, BEIR's ``corpus.jsonl`` among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from negfail_nb.benchmarking.corpora.records import Passage, Question
from negfail_nb.logs.fields import field, shown
from negfail_nb.logs.questions import question_key

_LISTS = ("sentences", "content")  # columns of sentences in the hub's layouts


def read_question(record: Any) -> tuple[Question, tuple[Passage, ...]]:
    """Read one record of a data set.

    Parameters
    ----------
    record
        JSON values. FlashRAG: ``question``, ``golden_answers``, ``metadata``. HotpotQA and
        2WikiMultiHopQA: ``question``, ``answer``, ``_id`` or ``id``, and where they are known
        ``type``, ``level``, ``supporting_facts``, ``context``. MuSiQue: ``paragraphs`` in the place
        of the last two. Of both, ``aliases`` or ``answer_aliases``.

    Returns
    -------
    tuple
        The question, and the passages that the record holds, in its order.

    Raises
    ------
    ValueError
        Where the record is none of these, has no question or no answer, or is marked as not
        answerable; the text names the field.
    """
    record = _object(record)
    if (
        "golden_answers" in record
    ):  # FlashRAG's own layout; what the data set says besides is its metadata
        metadata = record.get("metadata")
        record = {
            **(metadata if isinstance(metadata, Mapping) else {}),
            **record,
            **_golden(record),
        }
    if record.get("answerable") is False:
        raise ValueError("the question is marked as not answerable by its paragraphs")
    read = _read_musique if "paragraphs" in record else _read_hotpot
    passages, facts, evidence, kind = read(record)
    question = _text(record, "question")
    name = next((record[key] for key in ("_id", "id") if record.get(key) not in (None, "")), None)
    found = Question(
        id=question_key(question) if name is None else str(name),
        question=question,
        answer=_answer(record),
        aliases=tuple(map(str, record.get("answer_aliases") or record.get("aliases") or ())),
        type=kind,
        level=str(record.get("level") or ""),
        facts=facts,
        evidence=evidence,
        own=tuple(passage.title for passage in passages),
    )
    return found, passages


def read_passage_record(record: Any) -> tuple[Passage, ...]:
    """Read one record of a corpus, or the passages of a question.

    Sentences stay as they are, for they join with ``''``; a text that comes whole is one sentence.

    Parameters
    ----------
    record
        JSON values: ``title`` and ``text`` (or ``sentences``, or a list under ``text``), or a
        question's record.

    Raises
    ------
    ValueError
        Where there is no such field, or neither a title nor a text; the text names the field.
    """
    record = _object(record)
    if "context" in record or "paragraphs" in record:
        return (_read_musique if "paragraphs" in record else _read_hotpot)(record)[0]
    key = next((key for key in ("sentences", "text") if record.get(key) is not None), "text")
    text = field(record, key, (str, list))
    passage = Passage(
        field(record, "title", str), _sentences([text] if isinstance(text, str) else text)
    )
    if not passage.title.strip() and not passage.text.strip():
        raise ValueError(f"title and {key} are both empty; a passage needs at least one of them")
    return (passage,)


def distinct(
    passages: Iterable[Passage], seen: set[tuple[str, str]] | None = None
) -> Iterator[Passage]:
    """Yield passages without those that came before with the same title and text.

    Parameters
    ----------
    passages
        Any.
    seen
        Titles and texts that came before; it grows.
    """
    seen = set() if seen is None else seen
    for passage in passages:
        if (key := (passage.title, passage.text)) not in seen:
            seen.add(key)
            yield passage


Read = tuple[tuple[Passage, ...], tuple[tuple[str, int], ...], tuple[Passage | None, ...], str]


def _read_hotpot(record: Mapping[str, Any]) -> Read:
    sentences = next((key for key in _LISTS if key in _keys(record.get("context"))), _LISTS[0])
    rows = _pairs(record, "context", ("title", sentences))
    pairs = _pairs(record, "supporting_facts", ("title", "sent_id"))
    facts = tuple((_title(title), _number(number)) for title, number in pairs)
    passages = _with_spaces([Passage(_title(title), _sentences(texts)) for title, texts in rows])
    return passages, facts, _evidence(passages, facts), str(record.get("type") or "")


def _evidence(
    passages: Sequence[Passage], facts: Sequence[tuple[str, int]]
) -> tuple[Passage | None, ...]:
    """Return the passage of each fact. Of several with its title it is the one that has so many
    sentences.
    """
    last: dict[str, int] = {}
    for title, number in facts:
        last[title] = max(number, last.get(title, 0))
    titled = {title: {p.text: p for p in passages if p.title == title} for title in last}
    for title, named in titled.items():
        if len(named) > 1:
            named = titled[title] = {
                t: p for t, p in named.items() if len(p.sentences) > last[title]
            }
            if len(named) != 1:
                raise ValueError(
                    f"of several passages titled {title!r} {len(named)} have a sentence {last[title]}, so which of "
                    "them supports the answer is not known"
                )
    return tuple(next(iter(titled[title].values()), None) for title, _ in facts)


def _read_musique(record: Mapping[str, Any]) -> Read:
    """A paragraph is one sentence; its type is the number of hops. Facts follow the hops of the
    decomposition.
    """
    rows = _rows(record["paragraphs"], "paragraphs")
    passages = tuple(Passage(_text(row, "title"), (_text(row, "paragraph_text"),)) for row in rows)
    hops = _rows(record.get("question_decomposition") or [], "question_decomposition")
    order = {hop.get("paragraph_support_idx"): place for place, hop in enumerate(hops)}
    gold = [number for number, row in enumerate(rows) if row.get("is_supporting")]
    gold.sort(key=lambda number: order.get(rows[number].get("idx", number), len(hops)))
    evidence = tuple(passages[number] for number in gold)
    return (
        passages,
        tuple((passage.title, 0) for passage in evidence),
        evidence,
        f"{len(hops) or len(gold)}hop",
    )


def _with_spaces(passages: Sequence[Passage]) -> tuple[Passage, ...]:
    """Put a space before each sentence but the first, where a record has none at all:
    2WikiMultiHopQA's layout.

    HotpotQA has them, with exceptions that are kept, so one sentence alone tells nothing.
    """
    later = [sentence for passage in passages for sentence in passage.sentences[1:] if sentence]
    if any(sentence[0].isspace() for sentence in later):
        return tuple(passages)
    return tuple(
        Passage(p.title, (*p.sentences[:1], *(f" {sentence}" for sentence in p.sentences[1:])))
        for p in passages
    )


def _pairs(record: Mapping[str, Any], name: str, columns: tuple[str, str]) -> list[tuple[Any, Any]]:
    """Return a list of pairs that is written as one, as two columns, or as objects."""
    value = record.get(name)
    try:
        if isinstance(value, Mapping):
            return list(zip(value[columns[0]], value[columns[1]], strict=True))
        return [
            tuple(row[c] for c in columns) if isinstance(row, Mapping) else _pair(row)
            for row in value or ()
        ]
    except (KeyError, TypeError, ValueError) as error:
        wanted = " and ".join(columns)
        raise ValueError(
            f"the field {name!r} is {shown(value)}; it must hold pairs of {wanted}"
        ) from error


def _pair(row: Any) -> tuple[Any, Any]:
    if isinstance(row, str):  # two letters would pass for a pair
        raise TypeError(row)
    first, second = row
    return first, second


def _rows(value: Any, name: str) -> list[Mapping[str, Any]]:
    """Return a list of objects, also where it is written as an object of columns."""
    if isinstance(value, Mapping):
        return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    if not isinstance(value, list) or not all(isinstance(row, Mapping) for row in value):
        raise ValueError(f"the field {name!r} is {shown(value)}, not a list of objects")
    return value


def _keys(value: Any) -> Iterable[str]:
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, Mapping) else ()


def _object(record: Any) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise ValueError(f"the record is {shown(record)}, not an object")
    return record


def _text(record: Mapping[str, Any], name: str) -> str:
    if not (text := field(record, name, str)).strip():
        raise ValueError(f"the field {name!r} is empty")
    return text


def _answer(record: Mapping[str, Any]) -> str:
    value = record.get("answer")
    if value is None or value == "":
        raise ValueError(
            "there is no answer to judge by; test splits have none, so take another split"
        )
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, int | float) else _text(record, "answer")


def _golden(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answers of FlashRAG's layout: the first, and others that count."""
    found = field(record, "golden_answers", (list, str, int, float, bool))
    first, *others = (
        found if isinstance(found, list) and found else [None if isinstance(found, list) else found]
    )
    return {"answer": first, "answer_aliases": [str(answer) for answer in others]}


def _title(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a title is {shown(value)}, not text")
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(
            f"the number of a supporting sentence is {shown(value)}, not a number from 0"
        )
    return value


def _sentences(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(
        isinstance(sentence, str) for sentence in value
    ):
        raise ValueError(f"the sentences of a passage are {shown(value)}, not a list of texts")
    return tuple(value)
