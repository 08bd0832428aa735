"""What records say beside their turns: label, reference answer, ids of question and attempt, model,
tools.

Names are tried in the order in which they stand here; objects below a record are looked into where
it lacks the field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from negfail_nb.logs.fields import deciding_score, shown, truth, unit_scores
from negfail_nb.logs.reading import LogFile
from negfail_nb.steps import final_answer, parse_actions, text
from negfail_nb.trajectory import Message, Source, Trajectory

LABELS = (
    "success",
    "resolved",
    "solved",
    "correct",
    "is_correct",
    "passed",
    "label",
    "reward",
    "score",
    "acc",
)
ANSWERS = (
    *("answer", "reference", "reference_answer", "target", "gt", "gold", "expected"),
    *(
        "golden_answers",
        "gold_answer",
        "correct_answer",
        "expected_answer",
        "ground_truth",
        "answers",
    ),
)
PREDICTIONS = ("prediction", "pred", "predicted_answer")
QUESTIONS = ("problem", "problem_statement", "query")
BESIDE = (
    *(
        "info",
        "reward_info",
        "reward_model",
        "metadata",
        "meta",
        "extra",
        "result",
        "evaluation",
        "state",
        "task",
    ),
    "output",
)
# Ids that say which task an attempt is at, and which attempt at it.
TASK_IDS = (
    *(
        "question_id",
        "task_id",
        "problem_id",
        "instance_id",
        "item_id",
        "question_idx",
        "qid",
        "prompt_id",
        "_id",
    ),
)
ATTEMPTS = (
    "trial",
    "attempt",
    "rollout",
    "epoch",
    "sample_id",
    "trial_id",
    "attempt_id",
    "rollout_id",
    "sample_idx",
)
DATA_SETS = (
    "dataset",
    "data_source",
    "benchmark",
    "task_name",
    "env_name",
    "environment",
    "domain",
    "split_name",
)
_GLOBAL = 8  # characters from which an id with a letter in it is no mere number within its file
_DIGITS = re.compile(r"\d{1,9}\Z")


def labelled(
    log: LogFile, record: Mapping[str, Any], where: str, turns: tuple[Message, ...], **given: Any
) -> Trajectory:
    """Return a trajectory of turns and of what stands beside them in their record.

    Parameters
    ----------
    log, where
        The file, and the place of the record in it.
    record, turns
        The record, and the messages that were read from it.
    given
        Fields of the trajectory that the caller knows better.

    Raises
    ------
    ValueError
        Where a field holds what it must not; the text names it.
    """
    fields = beside(record)
    answers, task = reference(fields)
    success, scores = label(fields, log.settings.score)
    prediction = next(
        (fields[n] for n in PREDICTIONS if isinstance(fields.get(n), str | int | float)), None
    )
    own = record.get("id") or record.get("trajectory_id")
    found = {
        "id": f"{log.format}:{log.name}:{own}" if isinstance(own, str | int) else "",
        "question_id": question_id(log, fields),
        "question": question(fields),
        "answer": answers,
        "task": task,
        "prediction": None if prediction is None else str(prediction),
        "said": closing_words(turns),
        "success": success,
        "scores": scores,
        "tools": _tools(fields.get("tools")),
        "source": Source(model=_model(fields), attempt=attempt(fields)),
    }
    return log.trajectory(where, messages=turns, **(found | given))


def beside(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's fields, and those of the objects beside its messages where it lacks them
    itself.
    """
    nested = [record[name] for name in BESIDE if isinstance(record.get(name), dict)]
    return {k: v for part in [*reversed(nested), record] for k, v in part.items()}


def question(fields: Mapping[str, Any]) -> str:
    """Return the question that a record names, ``""`` where it names none.

    Raises
    ------
    ValueError
        Where the field "question" holds no text.
    """
    asked = fields.get("question") or ""
    if not isinstance(asked, str):
        raise ValueError(f"the field 'question' is {shown(asked)}, not text")
    return asked or next(
        (fields[n] for n in QUESTIONS if isinstance(fields.get(n), str) and fields[n].strip()), ""
    )


def question_id(log: LogFile, fields: Mapping[str, Any]) -> str:
    """Return the id of the task that a record names, ``""`` where it names none.

    A mere number, or a short id, counts within its data set, or else within its file: two files may
    each have a task 7.
    """
    found = next((fields[n] for n in TASK_IDS if _is_id(fields.get(n))), None)
    if found is None:
        return ""
    scope = next((fields[n] for n in DATA_SETS if isinstance(fields.get(n), str) and fields[n]), "")
    if not scope and len(str(found)) >= _GLOBAL and not str(found).isdigit():
        return str(found)
    return f"{scope or log.name}:{found}"


def attempt(fields: Mapping[str, Any]) -> int:
    """Return the number of the attempt, 0 where the record has none."""
    found = next((fields[n] for n in ATTEMPTS if _is_id(fields.get(n))), 0)
    return int(found) if _DIGITS.match(str(found)) else 0


def label(fields: Mapping[str, Any], wanted: str = "") -> tuple[bool | None, dict[str, float]]:
    """Return whether the run succeeded, ``None`` where the record does not say; and its scores from
    0 to 1.

    Parameters
    ----------
    fields
        What `beside` returned.
    wanted
        Name of the score that decides; ``""``: the first verdict under the names of `LABELS`.

    Raises
    ------
    ValueError
        Where a label holds no verdict, or several scores are given and none is wanted.
    """
    several = fields.get("scores") or fields.get("score") or fields.get("metric_score")
    if isinstance(several, dict) and several:
        decides = wanted or (
            "em" if several is fields.get("metric_score") and "em" in several else ""
        )
        return _verdict(decides or "scores", deciding_score(several, decides)), unit_scores(several)
    if wanted:
        return _verdict(wanted, deciding_score(fields, wanted)), unit_scores(
            {wanted: fields[wanted]}
        )
    given = [n for n in LABELS if fields.get(n) is not None]
    # A class under "label" must not hide the reward; only where there is no verdict at all its lack
    # is damage.
    name = next(
        (n for n in given if truth(fields[n]) is not None),
        next((n for n in given if n != "label"), None),
    )
    verdict = None if name is None else _verdict(name, fields[name])
    return verdict, unit_scores({n: fields[n] for n in ("reward", "score") if n in fields})


def reference(fields: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """Return the reference answers, of which each counts, and the task that the form of the first
    speaks for.
    """
    value = next((fields[n] for n in ANSWERS if fields.get(n) is not None), "")
    value = value.get("target", value) if isinstance(value, dict) else value
    found = [_answer(item) for item in (value if isinstance(value, list) else [value])]
    return tuple(answer for answer, _ in found), found[0][1] if found else "qa"


def closing_words(turns: Sequence[Message]) -> str | None:
    """Return a closing turn of the agent without an action, which is its answer also where it acted
    before.

    ``None`` where there is none: what it said last is then worked out from all turns.
    """
    last = turns[-1] if turns else {}
    said = (
        last.get("role") == "assistant" and not last.get("tool_calls") and not parse_actions(last)
    )
    return text(last).strip() or None if said and final_answer(turns) is None else None


def _verdict(name: str, value: Any) -> bool | None:
    said = truth(value)
    # Many data sets keep a class under "label"; only there is a foreign word no damage.
    if said is None and value is not None and name != "label":
        raise ValueError(
            f"the field {name!r} is {shown(value)}; a verdict is true, false, a number between 0 and 1 or a word "
            "such as 'correct'. If another field is the label, name it: score='..'"
        )
    return said


def _answer(value: Any) -> tuple[str, str]:
    if isinstance(value, bool):
        return ("yes" if value else "no"), "yes_no"
    if isinstance(value, int | float):
        return str(value), "math"
    if not isinstance(value, str):
        raise ValueError(f"the reference answer is {shown(value)}, not text")
    return (
        (value.rsplit("####", 1)[1].strip(), "math") if "####" in value else (value.strip(), "qa")
    )


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _model(fields: Mapping[str, Any]) -> str:
    found = next((fields[n] for n in ("model", "model_name", "model_id") if fields.get(n)), "")
    return found if isinstance(found, str) else ""


def _tools(value: Any) -> tuple[dict[str, Any], ...]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return ()
    return tuple(t for t in value if isinstance(t, dict)) if isinstance(value, Iterable) else ()
