"""Records of data sets and corpora as questions and passages.

Questions: the layouts of HotpotQA, 2WikiMultiHopQA (their own and the hub's), MuSiQue and FlashRAG.
Corpora: a title with a text or with sentences, such as BEIR's ``corpus.jsonl``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from negfail_nb.benchmarking.records import Passage, Question
from negfail_nb.logs.fields import field, shown
from negfail_nb.logs.jsontext import explain
from negfail_nb.logs.questions import question_key
from negfail_nb.logs.reading import UNREADABLE, LogFile
from negfail_nb.settings import CollectSettings
from negfail_nb.trajectory import Problem

_LARGEST_MB = 64.0  # of one JSON record
_BATCH = 1024  # rows of a parquet file
_LISTS = ("sentences", "content")  # columns of sentences in the hub's layouts
_Read = tuple[tuple[Passage, ...], tuple[tuple[str, int], ...], tuple[Passage | None, ...], str]


def open_records(path: Path) -> tuple[Iterator[tuple[str, Any]], list[Problem]]:
    """Open a file of records: JSON lines or one JSON text in UTF-8, or parquet by its name.

    Returns an iterator over each record's place and value, and a list of what is not JSON, which
    grows while the records are read.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    if path.suffix == ".parquet":
        return _parquet_rows(path), []
    log = LogFile(path, settings=CollectSettings(max_record_mb=_LARGEST_MB))
    if log.is_object and _is_record(whole := log.joined()):
        return ((f"record {where}", value) for where, value in whole.records()), whole.problems
    return log.records(), log.problems


def _is_record(log: LogFile) -> bool:
    """Whether a JSON object is one record; if not, it holds lists of them."""
    return any(
        isinstance(value, Mapping) and {"question", "title"} & value.keys()
        for _, value in log.records()
    )


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (OSError, ValueError) as error:  # the library's own errors are one of these too
        raise ValueError(f"{path}: cannot be read after row {number}: {error}") from error


def read_passages(path: str | Path) -> Iterator[Passage]:
    """Yield the passages of a corpus.

    Parameters
    ----------
    path
        A file of JSON lines, one JSON list, or parquet. A record has ``title`` and ``text`` (or
        ``sentences``); from questions (HotpotQA, 2WikiMultiHopQA, MuSiQue) their passages are read,
        each once. Or a folder: BEIR's, with a ``corpus.jsonl``, or one of parquet files.

    Raises
    ------
    ValueError
        If a file or a record cannot be read; the text names file, record and field.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        beir = path / "corpus.jsonl"
        if not (files := [beir] if beir.is_file() else sorted(path.glob("*.parquet"))):
            raise ValueError(f"{path}: the folder has neither a corpus.jsonl nor parquet files")
    for file in files:
        yield from _read_file(file)


def _read_file(path: Path) -> Iterator[Passage]:
    def refuse() -> None:
        if problems:
            raise ValueError(f"{path}: {problems[0].record}: {problems[0].reason}")

    records, problems = open_records(path)
    # Questions share passages; those of a corpus of millions are not kept in memory.
    shared: set[tuple[str, str]] = set()
    for where, record in records:
        refuse()
        try:
            found = read_passage_record(record)
        except UNREADABLE as error:
            raise ValueError(f"{path}: {where}: {explain(error)}") from error
        yield from distinct(found, shared) if "title" not in record else found
    refuse()


def read_question(record: Any) -> tuple[Question, tuple[Passage, ...]]:
    """Read one record of a data set.

    Parameters
    ----------
    record
        JSON values. FlashRAG: ``question``, ``golden_answers``, ``metadata``. HotpotQA and
        2WikiMultiHopQA: ``question``, ``answer``, ``_id`` or ``id``, and if known ``type``,
        ``level``, ``supporting_facts``, ``context``. MuSiQue: ``paragraphs`` in place of the last
        two. Of both, ``aliases`` or ``answer_aliases``.

    Returns
    -------
    tuple
        The question, and the passages of the record, in its order.

    Raises
    ------
    ValueError
        If the record is none of these, has no question or no answer, or is marked as not
        answerable; the text names the field.
    """
    record = _object(record)
    if "golden_answers" in record:  # FlashRAG; what the data set says besides is its metadata
        metadata = record.get("metadata")
        more = metadata if isinstance(metadata, Mapping) else {}
        record = {**more, **record, **_golden(record)}
    if record.get("answerable") is False:
        raise ValueError("the question is marked as not answerable by its paragraphs")
    passages, facts, evidence, kind = _read(record)
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
    """Read one record of a corpus, or the passages of a question's record.

    A passage has ``title`` and ``text`` (one sentence) or ``sentences`` (a list, also under
    ``text``). ``ValueError`` names the field that is missing.
    """
    record = _object(record)
    if "context" in record or "paragraphs" in record:
        return _read(record)[0]
    key = next((key for key in ("sentences", "text") if record.get(key) is not None), "text")
    text = field(record, key, (str, list))
    sentences = _sentences([text] if isinstance(text, str) else text)
    passage = Passage(field(record, "title", str), sentences)
    if not passage.title.strip() and not passage.text.strip():
        raise ValueError(f"title and {key} are both empty; a passage needs at least one of them")
    return (passage,)


def distinct(
    passages: Iterable[Passage], seen: set[tuple[str, str]] | None = None
) -> Iterator[Passage]:
    """Yield passages, equal ones once; ``seen`` holds titles and texts before them, and grows."""
    seen = set() if seen is None else seen
    for passage in passages:
        if (key := (passage.title, passage.text)) not in seen:
            seen.add(key)
            yield passage


def _read(record: Mapping[str, Any]) -> _Read:
    """Return passages, supporting facts, their passages, and the type of a question's record."""
    return (_read_musique if "paragraphs" in record else _read_hotpot)(record)


def _read_hotpot(record: Mapping[str, Any]) -> _Read:
    context = record.get("context")
    first = context[0] if isinstance(context, list) and context else context
    columns = first if isinstance(first, Mapping) else ()
    sentences = next((key for key in _LISTS if key in columns), _LISTS[0])
    rows = _pairs(record, "context", ("title", sentences))
    pairs = _pairs(record, "supporting_facts", ("title", "sent_id"))
    facts = tuple((_title(title), _number(number)) for title, number in pairs)
    passages = _with_spaces([Passage(_title(title), _sentences(texts)) for title, texts in rows])
    return passages, facts, _evidence(passages, facts), str(record.get("type") or "")


def _evidence(
    passages: Sequence[Passage], facts: Sequence[tuple[str, int]]
) -> tuple[Passage | None, ...]:
    """Return the passage of each fact: of several with its title, the one with enough sentences."""
    last: dict[str, int] = {}
    for title, number in facts:
        last[title] = max(number, last.get(title, 0))
    titled = {title: {p.text: p for p in passages if p.title == title} for title in last}
    for title, named in titled.items():
        if len(named) > 1:
            named = {t: p for t, p in named.items() if len(p.sentences) > last[title]}
            titled[title] = named
            if len(named) != 1:
                raise ValueError(
                    f"of several passages titled {title!r} {len(named)} have a sentence "
                    f"{last[title]}, so which of them supports the answer is not known"
                )
    return tuple(next(iter(titled[title].values()), None) for title, _ in facts)


def _read_musique(record: Mapping[str, Any]) -> _Read:
    """A paragraph is one sentence; the type is the number of hops; facts are in their order."""
    rows = _rows(record["paragraphs"], "paragraphs")
    passages = tuple(Passage(_text(row, "title"), (_text(row, "paragraph_text"),)) for row in rows)
    hops = _rows(record.get("question_decomposition") or [], "question_decomposition")
    order = {hop.get("paragraph_support_idx"): place for place, hop in enumerate(hops)}
    gold = [number for number, row in enumerate(rows) if row.get("is_supporting")]
    gold.sort(key=lambda number: order.get(rows[number].get("idx", number), len(hops)))
    evidence = tuple(passages[number] for number in gold)
    facts = tuple((passage.title, 0) for passage in evidence)
    return passages, facts, evidence, f"{len(hops) or len(gold)}hop"


def _with_spaces(passages: Sequence[Passage]) -> tuple[Passage, ...]:
    """Put a space before each sentence but the first if a record has none, as 2WikiMultiHopQA's.

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
    """Return a list of pairs, written as pairs, as two columns, or as objects."""
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
    """Return a list of objects, also if it is written as an object of columns."""
    if isinstance(value, Mapping):
        return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    if not isinstance(value, list) or not all(isinstance(row, Mapping) for row in value):
        raise ValueError(f"the field {name!r} is {shown(value)}, not a list of objects")
    return value


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
    first, *others = (found or [None]) if isinstance(found, list) else [found]
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
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"the sentences of a passage are {shown(value)}, not a list of texts")
    return tuple(value)
