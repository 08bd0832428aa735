"""Fields of foreign records: checked ones, and what stands beside the turns: label, reference
answer, ids of question and attempt, model, tools.

Names are tried in the order in which they are listed here; objects in a record are searched for
fields that the record lacks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from negfail_nb.logs.reading import LogFile
from negfail_nb.said import as_said
from negfail_nb.steps import final_answer, parse_actions, text
from negfail_nb.toolcalls import parsed
from negfail_nb.trajectory import Message, Source, Trajectory, Usage, printable

LABELS = tuple("success resolved solved correct is_correct passed label reward score acc".split())
# Names that can only be the reference come first: beside them "answer" may be what was answered.
ANSWERS = tuple(
    "golden_answers gold_answer gold_answers correct_answer expected_answer reference_answer"
    " ground_truth true_answer gold gt gts answer reference target expected answers".split()
)
MODELS = ("model", "model_name", "model_id")
PREDICTIONS = ("prediction", "pred", "predicted_answer")
QUESTIONS = ("problem", "problem_statement", "query")
BESIDE = tuple(
    "info reward_info reward_model metadata meta extra result evaluation state task output".split()
)
# Ids that say which task an attempt is at, and which attempt at it.
TASK_IDS = tuple(
    "question_id task_id problem_id instance_id item_id question_idx qid prompt_id _id".split()
)
ATTEMPTS = tuple(
    "trial attempt rollout epoch sample_id trial_id attempt_id rollout_id sample_idx".split()
)
DATA_SETS = tuple(
    "dataset data_source benchmark task_name env_name environment domain split_name".split()
)
_GLOBAL = 8  # characters from which an id with a letter in it is unique beyond its file
_DIGITS = re.compile(r"\d{1,9}\Z")
_VERDICTS = {
    **dict.fromkeys("c true yes success succeeded correct pass passed".split(), True),
    **dict.fromkeys("solved resolved positive".split(), True),
    **dict.fromkeys("i n p false no failure failed fail incorrect wrong".split(), False),
    **dict.fromkeys("unsolved unresolved negative".split(), False),
}
_KINDS = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def field(record: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    """Return a field that must exist and be of a type.

    Raises
    ------
    ValueError
        Otherwise; the text names the field and what it holds.
    """
    if name not in record:
        known = ", ".join(map(str, record)) or "no fields"
        raise ValueError(f"the field {name!r} is missing; the record has {known}")
    value = record[name]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(dict.fromkeys(_KINDS[k] for k in kinds))
        raise ValueError(f"the field {name!r} is {shown(value)}, not {wanted}")
    return value


def shown(value: Any) -> str:
    """Return a value in words, shortened, for an error."""
    if value is None:
        return "null"
    text = printable(str(value))
    kind = _KINDS.get(type(value), type(value).__name__)
    return f"{kind} ({text[:40]}{'..' if len(text) > 40 else ''})"


def truth(value: Any) -> bool | None:
    """Return what a label or a score says: 1 is a success, anything from 0 to below 1 a failure.

    ``None`` if the value is no verdict, such as 45. -1 is a failure, for logs that reward with 1
    and -1. Letters follow inspect-ai: C is right, I, P and N are not.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _VERDICTS:
            return _VERDICTS[word]
        try:
            value = float(word)
        except ValueError:
            return None
    if isinstance(value, int | float) and (0 <= value <= 1 or value == -1):
        return value == 1
    return None


def verdict(name: str, value: Any) -> bool | None:
    """Return what a label says; ``None`` if it is null, or a class under "label".

    Raises
    ------
    ValueError
        If it is no verdict; the text names the field.
    """
    found = truth(value)
    # Many data sets keep a class under "label"; only there a foreign word is no error.
    if found is None and value is not None and name != "label":
        known = "true, false, a number between 0 and 1 or a word such as 'correct'"
        hint = "If another field is the label, name it: score='..'"
        raise ValueError(f"the field {name!r} is {shown(value)}; a verdict is {known}. {hint}")
    return found


def unit_scores(values: Mapping[str, Any]) -> dict[str, float]:
    """Return those values that are numbers between 0 and 1."""
    numbers = {str(k): v for k, v in values.items() if isinstance(v, bool | int | float)}
    return {name: float(value) for name, value in numbers.items() if 0 <= value <= 1}


def deciding_score(scores: Mapping[str, Any], wanted: str) -> Any:
    """Return the score that decides success: the one asked for, or the only one, or ``None``.

    Raises
    ------
    ValueError
        If the one asked for is missing, or none is asked for and there are several.
    """
    if wanted:
        if wanted not in scores:
            known = ", ".join(scores) or "none"
            raise ValueError(f"there is no score {wanted!r}; the record has {known}")
        return scores[wanted]
    if len(scores) > 1:
        hint = f"say which one decides: score='{next(iter(scores))}'"
        raise ValueError(f"there are several scores ({', '.join(scores)}); {hint}")
    return next(iter(scores.values()), None)


def usage(values: Any, **names: str) -> Usage:
    """Return what an attempt cost: for each field of `Usage` the whole number under a name."""
    values = values if isinstance(values, dict) else {}
    return Usage(
        **{ours: values[name] for ours, name in names.items() if isinstance(values.get(name), int)}
    )


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
        If a field holds what it must not; the text names it.
    """
    fields = beside(record)
    answers, task = reference(fields)
    success, scores = label(fields, log.settings.score)
    predictions = (fields[n] for n in PREDICTIONS if isinstance(fields.get(n), str | int | float))
    prediction = next(predictions, None)
    own = record.get("id") or record.get("trajectory_id")
    tools = fields.get("tools")
    tools = parsed(tools) if isinstance(tools, str) else tools
    tools = tools if isinstance(tools, Iterable) else ()
    model = next((fields[n] for n in MODELS if fields.get(n)), "")
    attempt = str(next((fields[n] for n in ATTEMPTS if _is_id(fields.get(n))), 0))
    source = Source(
        model=model if isinstance(model, str) else "",
        attempt=int(attempt) if _DIGITS.match(attempt) else 0,
    )
    found = {
        "id": f"{log.format}:{log.name}:{own}" if isinstance(own, str | int) else "",
        "question_id": _question_id(log.name, fields),
        "question": _question(fields),
        "answer": answers,
        "task": task,
        "prediction": None if prediction is None else str(prediction),
        "said": _closing_words(turns),
        "success": success,
        "scores": scores,
        "tools": tuple(tool for tool in tools if isinstance(tool, dict)),
        "source": source,
    }
    return log.trajectory(where, messages=turns, **(found | given))


def beside(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's fields, and those that it lacks from the objects of `BESIDE` in it."""
    nested = [record[name] for name in BESIDE if isinstance(record.get(name), dict)]
    return {k: v for part in [*reversed(nested), record] for k, v in part.items()}


def label(fields: Mapping[str, Any], wanted: str = "") -> tuple[bool | None, dict[str, float]]:
    """Return whether the run succeeded, ``None`` if the record does not say; and its scores.

    Parameters
    ----------
    fields
        What `beside` returned.
    wanted
        Name of the score that decides; ``""``: the first verdict under the names of `LABELS`.

    Raises
    ------
    ValueError
        If a label holds no verdict, or several scores are given and none is wanted.
    """
    several = fields.get("scores") or fields.get("score") or fields.get("metric_score")
    if isinstance(several, dict) and several:
        by_em = several is fields.get("metric_score") and "em" in several
        decides = wanted or ("em" if by_em else "")
        said = verdict(decides or "scores", deciding_score(several, decides))
        return said, unit_scores(several)
    if wanted:
        said = verdict(wanted, deciding_score(fields, wanted))
        return said, unit_scores({wanted: fields[wanted]})
    name = label_name(fields)
    said = verdict(name, fields[name]) if name else None
    return said, unit_scores({n: fields[n] for n in ("reward", "score") if n in fields})


def label_name(fields: Mapping[str, Any]) -> str:
    """Return the first of `LABELS` that holds a verdict, or should; ``""`` if there is none."""
    given = [n for n in LABELS if fields.get(n) is not None]
    others = (n for n in given if n != "label")  # that may be a class, and must not hide a reward
    return next((n for n in given if truth(fields[n]) is not None), next(others, ""))


def reference(fields: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """Return the reference answers, of which each counts, and the task that the first suggests."""
    value = next((fields[n] for n in ANSWERS if fields.get(n) is not None), "")
    value = value.get("target", value) if isinstance(value, dict) else value
    found = [_answer(item) for item in (value if isinstance(value, list) else [value])]
    return tuple(answer for answer, _ in found), found[0][1] if found else "qa"


def _answer(value: Any) -> tuple[str, str]:
    if isinstance(value, bool):
        return ("yes" if value else "no"), "yes_no"
    if isinstance(value, int | float):
        return str(value), "math"
    if not isinstance(value, str):
        raise ValueError(f"the reference answer is {shown(value)}, not text")
    if "####" in value:
        return value.rsplit("####", 1)[1].strip(), "math"
    return value.strip(), "qa"


def _question(fields: Mapping[str, Any]) -> str:
    asked = fields.get("question") or ""
    if not isinstance(asked, str):
        raise ValueError(f"the field 'question' is {shown(asked)}, not text")
    others = (fields[n] for n in QUESTIONS if isinstance(fields.get(n), str) and fields[n].strip())
    return asked or next(others, "")


def _question_id(file: str, fields: Mapping[str, Any]) -> str:
    """Return the id of the task; a number, or a short id, counts within its data set or file."""
    found = next((fields[n] for n in TASK_IDS if _is_id(fields.get(n))), None)
    if found is None:
        return ""
    scope = next((fields[n] for n in DATA_SETS if isinstance(fields.get(n), str) and fields[n]), "")
    if not scope and len(str(found)) >= _GLOBAL and not str(found).isdigit():
        return str(found)
    return f"{scope or file}:{found}"


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _closing_words(turns: tuple[Message, ...]) -> str | None:
    """Return a last turn of the agent without an action: its answer, also if it acted before."""
    last = as_said(turns[-1]) if turns else {}
    if last.get("role") != "assistant" or last.get("tool_calls") or parse_actions(last):
        return None
    return text(last).strip() or None if final_answer(turns) is None else None
