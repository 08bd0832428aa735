"""Logs of inspect-ai: ``.eval`` archives, and the same as one ``.json``; samples of lm-eval."""

from __future__ import annotations

import importlib.util
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from negfail_nb.logs.fields import (
    QUESTIONS,
    deciding_score,
    field,
    reference,
    shown,
    truth,
    unit_scores,
)
from negfail_nb.logs.importers.chat import joined
from negfail_nb.logs.jsontext import Record, parse, too_large
from negfail_nb.logs.messages import as_messages
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.logs.stretches import MAX_RATIO
from negfail_nb.trajectory import Message, Problem, Source, Trajectory, Usage

ZSTANDARD = 93
_MEMBERS = re.compile(rb"samples/|_journal/|header\.json")
_MARKS = (rb'"version"\s*:', rb'"status"\s*:', rb'"eval"\s*:\s*\{')
_PACKED = (".eval", ".zip", ".gz", ".tar", ".tgz", ".zst", ".7z")
_ATTACHMENT = "attachment://"
_KEPT = (
    *("role", "content", "tool_calls", "tool_call_id"),
    *("function", "reasoning_content", "error"),
)
_METRICS = ("exact_match", "acc", "pass@1", "pass_at_1", "em")
_VALUES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}


@importer(
    "inspect",
    looks_like=lambda log: (
        _is_archive(log) or (log.is_object and all(re.search(mark, log.head) for mark in _MARKS))
    ),
    fields="of each sample `id`, `input`, `messages`; `scores` label it",
)
def inspect(log: LogFile) -> Iterator[Trajectory | Problem]:
    """The samples of a ``.eval`` archive, or of a log as JSON; a score of "C", 1 or true is a
    success.

    Anything less is a failure, no score (or NaN) no label. If a sample has several scores,
    ``settings.score`` names the one that decides. A member that unpacks to more than
    ``max_record_mb`` is not read, nor an archive that unpacks to 200 times its size; of two members
    of one name the last is read, as by any archiver.
    """
    if _is_archive(log):
        yield from _archived(log)
        return
    header = next((m.record.value for m in log.members(lenient=True) if m.key == "eval"), None)
    header = header if isinstance(header, dict) else {}
    for key, listed, record in log.members(lenient=True):
        if record.problem and key in ("samples", None):
            log.report(record.where, record.problem)
        elif key == "samples" and listed:
            yield from log.attempt(record.where, lambda record=record: _sample(log, record, header))


def _is_archive(log: LogFile) -> bool:
    return log.head.startswith(b"PK\x03\x04") and bool(_MEMBERS.search(log.head))


def _archived(log: LogFile) -> Iterator[Trajectory]:
    try:
        archive = zipfile.ZipFile(log.path)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        log.report("", f"the archive cannot be opened: {error}")
        return
    with archive:
        members = {info.filename: info for info in archive.infolist()}
        packed = log.path.stat().st_size
        unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > max(MAX_RATIO * packed, log.limit):
            size = f"from {packed} to {unpacked} bytes, more than {MAX_RATIO} times"
            log.report("", f"the archive unpacks {size}; not read")
            return
        _report_members(log, archive)
        header = _header(archive, members, log)
        for name, info in sorted(members.items()):
            if name.startswith("samples/") and name.endswith(".json"):
                yield from log.attempt(
                    name,
                    lambda n=name, i=info: _sample(
                        log, Record(n, _member(archive, i, log)), header
                    ),
                )


def _report_members(log: LogFile, archive: zipfile.ZipFile) -> None:
    """Report members that are passed over: all but the last of a name, archives, no samples."""
    for name, count in Counter(archive.namelist()).items():
        if count > 1:
            log.report(name, f"the archive has {count} members of this name; the last is read")
        elif name.lower().endswith(_PACKED):
            log.report(name, "an archive in the archive; unpack it first")
        elif name.startswith("samples/") and not name.endswith(("/", ".json")):
            log.report(name, "no sample: its name does not end with .json")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, log: LogFile) -> dict[str, Any]:
    if info.file_size > log.limit:
        raise ValueError(too_large(info.file_size, log.limit))
    if info.compress_type == ZSTANDARD and not _reads_zstandard():
        hint = "pip install 'negfail_nb[zstd]'"
        raise ValueError(f"packed with zstd, which this Python cannot read: {hint}")
    try:
        with archive.open(info) as stream:
            raw = stream.read(log.limit + 1)
    except Exception as error:  # noqa: BLE001 - each codec raises its own
        raise ValueError(f"the member cannot be unpacked: {error}") from error
    record = parse(raw.decode("utf-8", "surrogateescape"), info.filename, lenient=True)
    if record.problem or not isinstance(record.value, dict):
        raise ValueError(record.problem or f"the member is {shown(record.value)}, not an object")
    return record.value


def _reads_zstandard() -> bool:
    if hasattr(zipfile, "ZIP_ZSTANDARD"):
        return True
    if importlib.util.find_spec("zipfile_zstd") is None:
        return False
    importlib.import_module("zipfile_zstd")  # adds the method to zipfile
    return True


def _header(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], log: LogFile
) -> dict[str, Any]:
    """Return ``eval`` of the header; of an evaluation that was killed, of its journal."""
    for name in ("header.json", "_journal/start.json"):
        if name in members:
            try:
                found = _member(archive, members[name], log).get("eval")
            except ValueError:
                continue  # model and task stay unknown; a damaged sample is reported by itself
            if isinstance(found, dict):
                return found
    return {}


def _sample(log: LogFile, record: Record, header: Mapping[str, Any]) -> Trajectory:
    sample = record.value
    if not isinstance(sample, dict):
        raise ValueError(f"the sample is {shown(sample)}, not an object")
    turns = _turns(sample)
    target = sample.get("target", "")
    scores = _scores(sample)
    error = sample.get("error")
    limit = sample.get("limit")
    epoch = sample.get("epoch", 1)
    deciding = deciding_score(scores, log.settings.score) if scores or not error else False
    task = str(header.get("task", log.path.stem))
    model = str(header.get("model", ""))
    last = turns[-1] if turns else {}
    closes = last.get("role") == "assistant" and not last.get("tool_calls")
    closing = last["content"] if closes else None
    ending = "max_steps" if limit else "finished" if closing else ""
    name = str(field(sample, "id", (str, int)))
    numbers = {k: _VALUES.get(v, v) if isinstance(v, str) else v for k, v in scores.items()}
    return log.trajectory(
        record.where,
        id=":".join(["inspect", task, model, name, str(epoch)]),
        question_id=f"{task}:{name}",
        question=_question(sample, turns),
        answer=[str(one) for one in (target if isinstance(target, list) else [target])],
        messages=turns,
        said=closing if isinstance(closing, str) and closing else None,
        success=False if error and not scores else _success(deciding),
        termination="crashed" if error else ending,
        scores=unit_scores(numbers),
        error=str(error.get("message", error) if isinstance(error, dict) else error or ""),
        source=Source(model=model, attempt=epoch if isinstance(epoch, int) else 0),
        usage=_usage(sample),
    )


def _question(sample: Mapping[str, Any], turns: tuple[Message, ...]) -> str:
    """Return the input with its choices, which targets name by letter, or the first user turn."""
    asked = _attached(sample.get("input"), _attachments(sample))
    if not isinstance(asked, str):
        texts = (m["content"] for m in turns if m["role"] == "user")
        return next((text for text in texts if isinstance(text, str)), "")
    choices = sample["choices"] if isinstance(sample.get("choices"), list) else []
    return "\n".join([asked, *(f"{chr(65 + n)}) {choice}" for n, choice in enumerate(choices))])


def _success(value: Any) -> bool | None:
    said = truth(value)
    # A word may be a class or a free grade, and stays unlabelled; a number was meant for a score.
    if said is None and isinstance(value, int | float):
        known = "a verdict is 'C', 'I', true, false or a number between 0 and 1"
        raise ValueError(f"the score is {shown(value)}; {known}")
    return said


def _scores(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by scorer, or by "scorer/key" if one scorer gives several."""
    found: dict[str, Any] = {}
    for scorer, score in (sample.get("scores") or {}).items():
        value = score.get("value") if isinstance(score, dict) else score
        if isinstance(value, dict):
            found |= {f"{scorer}/{key}": part for key, part in value.items() if part is not None}
        elif value is not None:  # null or NaN: not scored
            found[scorer] = value
    return found


def _attachments(sample: Mapping[str, Any]) -> Mapping[str, str]:
    return sample["attachments"] if isinstance(sample.get("attachments"), dict) else {}


def _turns(sample: Mapping[str, Any]) -> tuple[Message, ...]:
    turns = []
    for turn in field(sample, "messages", list):
        if isinstance(turn, dict):
            attachments = _attachments(sample)
            turn = {k: _attached(turn[k], attachments) for k in _KEPT if turn.get(k) is not None}
            failed = turn.pop("error", None)
            turn |= _without_reasoning(turn.get("content"))
            # What the agent was shown of a tool that failed.
            if isinstance(failed, dict) and not turn.get("content"):
                turn["content"] = str(failed.get("message", ""))
            if "function" in turn:
                turn["name"] = turn.pop("function")
        turns.append(turn)
    return as_messages(turns)


def _attached(value: Any, attachments: Mapping[str, str]) -> Any:
    """Return a value with the long texts that inspect keeps beside the messages."""
    if isinstance(value, str) and value.startswith(_ATTACHMENT):
        return attachments.get(value.removeprefix(_ATTACHMENT), value)
    if isinstance(value, list):
        return [_attached(item, attachments) for item in value]
    if isinstance(value, dict):
        return {key: _attached(item, attachments) for key, item in value.items()}
    return value


def _without_reasoning(content: Any) -> dict[str, Any]:
    """Return content without its reasoning parts, and these by themselves."""
    if not isinstance(content, list):
        return {}
    thought = [p for p in content if isinstance(p, dict) and p.get("type") == "reasoning"]
    said = {"content": [p for p in content if p not in thought]}
    if not thought:
        return said
    return {**said, "reasoning_content": "".join(str(p.get("reasoning", "")) for p in thought)}


def _usage(sample: Mapping[str, Any]) -> Usage:
    models = [u for u in (sample.get("model_usage") or {}).values() if isinstance(u, dict)]
    seconds = sample.get("working_time")
    return Usage(
        prompt_tokens=sum(int(u.get("input_tokens") or 0) for u in models) if models else None,
        completion_tokens=sum(int(u.get("output_tokens") or 0) for u in models) if models else None,
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
    )


@importer(
    "lm-eval",
    looks_like=lambda log: log.has("doc", "target", "resps", "arguments"),
    fields="`doc`, `target`, `arguments`, `resps`: `[[text]]`; a metric of the record labels it",
)
def lm_eval(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Samples of lm-evaluation-harness (``--log_samples``) that generate text.

    The first of its ``metrics`` decides: 1 is a success. A document stands there once for each
    filter; each is a record.
    """

    def read(record: dict[str, Any], where: str) -> Trajectory:
        doc = record["doc"] if isinstance(record["doc"], dict) else {}
        reply = _first(record["resps"])
        if not isinstance(reply, str):
            raise ValueError("a task that ranks choices by likelihood: no text was generated")
        turns = as_messages(joined(_first(record["arguments"]), reply))
        asked = (doc[name] for name in ("question", *QUESTIONS) if isinstance(doc.get(name), str))
        names = record.get("metrics") or [name for name in _METRICS if name in record]
        scores = {name: record[name] for name in names if name in record}
        answer, task = reference({"target": record["target"]})
        found = _first(record.get("filtered_resps"))
        number = record.get("doc_id", where)
        return log.trajectory(
            where,
            id=f"lm-eval:{log.name}:{number}:{record.get('filter', '')}",
            question_id=str(record.get("doc_hash") or ""),
            question=next(asked, ""),
            answer=answer,
            task=task,
            messages=turns,
            prediction=found if isinstance(found, str) else None,
            success=truth(next(iter(scores.values()), None)),
            scores=unit_scores(scores),
        )

    return log.convert(read)


def _first(value: Any) -> Any:
    """Return the first thing within lists and objects of lists."""
    while isinstance(value, list | dict) and value:
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value
