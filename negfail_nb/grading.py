"""Grading answers: the official HotpotQA rules to the last digit, numbers, yes/no, and free text.

`grade` is what the stages use; `judge_free_text` is for a run that ends in words. The HotpotQA part
follows ``hotpot_evaluate_v1.py`` of hotpotqa/hotpot, quirks included: an answer that normalises to
nothing has EM 1 and F1 0, and accents and dashes are not folded.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from negfail_nb.numeric import boxed, mentions_number, number_text, parse_number, plain_number
from negfail_nb.said import split_thought, strip_end_tokens
from negfail_nb.toolcalls import ANSWER_KEYS, parsed

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_YES_NO = frozenset({"yes", "no", "noanswer"})
_FORMULA = frozenset("+-*/^=\\<>{}()[]|_")
_LEAD_IN = re.compile(
    r"\b(?:answer|response)\b[*_]*(?:[ \t]+to[ \t]+(?:the|this|that|your|my)\b"
    r"(?:[ \t]+question)?(?:[ \t]*[\"\u201c][^\"\u201d\n]{0,300}[\"\u201d]|[^\n]{0,200}?))?"
    r"(?:[*_]*[ \t]*[:\uff1a=]|[ \t]+(?:is|was|are|would[ ]be|should[ ]be|must[ ]be)\b)"
    r"[ \t]*[:\uff1a]?[*_]*[ \t]*(?:that[ \t]+)?",
    re.IGNORECASE,
)
_CITATION = re.compile(
    r"(?<!\s)\s*(?:\(\s*(?:sources?|passages?)?:?\s*)?\[\d{1,9}(?:\s*[,;-]\s*\d{1,9})*\]"
    r"(?:\s*(?:,|;|and)?\s*\[\d{1,9}\])*(?:\s*\))?",
    re.IGNORECASE,
)
# A full stop before a capital ends a sentence, unless it belongs to an abbreviation or an initial.
_SENTENCE_END = re.compile(
    r"(?<![ .(][A-Za-z])(?<!^[A-Za-z])(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bJr)"
    r"(?<!\bSr)(?<!\bMt)(?<!\bFt)(?<!\bNo)(?<!\bvs)(?<!\bInc)(?<!\bLtd)(?<!\bCorp)"
    r"(?<!\bCo)(?<!\bProf)(?<!\bGen)(?<!\bVol)[.!?](?=\s+[A-Z\"'(*])"
)
# What reasoning models put around their answer.
_TAGGED = re.compile(r"<(answer|final_answer)>(.*?)(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_OBJECT = re.compile(r"\s*(?:```\w*\s*)?(\{.*\})\s*(?:```)?\s*", re.DOTALL)
_FONT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\{([^{}]*)\}")
_LONG_LINE = 400
_MARKUP = ' \t\r\n*_`"\u201c\u201d'
_YES_OR_NO = re.compile(r"(yes|no)\s*[,.;:!\u2013\u2014-]", re.IGNORECASE)
_QUANTITY = re.compile(
    r"[-+]?[$\u20ac\u00a3\u00a5]?\s?[-+]?[\d.,/]+(?:\s\d+/\d+)?\s?%?(?:\s?[a-z]{1,20}){0,2}"
)


@dataclass(frozen=True, slots=True)
class Overlap:
    """F1, precision and recall of one answer or one set of supporting facts."""

    f1: float
    precision: float
    recall: float


NOTHING = Overlap(0.0, 0.0, 0.0)


def normalize_answer(answer: str) -> str:
    """Lower-case, delete ASCII punctuation, articles and surplus white space (HotpotQA's rule)."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> bool:
    """Whether two answers are equal once normalised."""
    return normalize_answer(prediction) == normalize_answer(reference)


def answer_overlap(prediction: str, reference: str) -> Overlap:
    """Return token F1, precision and recall (official HotpotQA rule).

    If either side is exactly yes, no or noanswer and the sides differ, all three are 0.
    """
    ours = normalize_answer(prediction)
    theirs = normalize_answer(reference)
    if ours != theirs and (ours in _YES_NO or theirs in _YES_NO):
        return NOTHING
    ours_tokens = ours.split()
    theirs_tokens = theirs.split()
    same = sum((Counter(ours_tokens) & Counter(theirs_tokens)).values())
    return _overlap(same, len(ours_tokens), len(theirs_tokens))


def hotpot_scores(
    prediction: str | None,
    reference: str,
    predicted_facts: Iterable[Sequence] | None = None,
    gold_facts: Iterable[Sequence] | None = None,
) -> dict[str, float]:
    """Return the official answer, supporting-fact and joint metrics of one question.

    Parameters
    ----------
    prediction, reference
        Answers. A missing prediction scores 0 and blocks the joint metrics.
    predicted_facts, gold_facts
        ``(title, sentence index)`` pairs. Titles match byte for byte; a repeated pair counts once.
        Without ``gold_facts`` only the answer is scored; missing ``predicted_facts`` score 0 and
        block the joint metrics.

    Returns
    -------
    dict
        ``em, f1, prec, recall`` and, with gold facts, ``sp_em .. sp_recall`` and ``joint_em ..
        joint_recall``.
    """
    em = float(prediction is not None and exact_match(prediction, reference))
    overlap = NOTHING if prediction is None else answer_overlap(prediction, reference)
    scores = _named("", em, overlap)
    if gold_facts is None:
        return scores
    theirs = {tuple(fact) for fact in gold_facts}
    ours = {tuple(fact) for fact in predicted_facts or ()}
    sp_em = float(predicted_facts is not None and ours == theirs)
    facts = (
        NOTHING if predicted_facts is None else _overlap(len(ours & theirs), len(ours), len(theirs))
    )
    blocked = prediction is None or predicted_facts is None
    precision = 0.0 if blocked else overlap.precision * facts.precision
    recall = 0.0 if blocked else overlap.recall * facts.recall
    joint = Overlap(_f1(precision, recall), precision, recall)
    joint_em = 0.0 if blocked else em * sp_em
    return scores | _named("sp_", sp_em, facts) | _named("joint_", joint_em, joint)


def _named(prefix: str, em: float, overlap: Overlap) -> dict[str, float]:
    names = (f"{prefix}{name}" for name in ("em", "f1", "prec", "recall"))
    return dict(zip(names, (em, overlap.f1, overlap.precision, overlap.recall), strict=True))


def _overlap(same: int, ours: int, theirs: int) -> Overlap:
    """Return the overlap of two bags of so many items, of which so many are in both."""
    precision = same / ours if ours else 0.0
    recall = same / theirs if theirs else 0.0
    return Overlap(_f1(precision, recall), precision, recall)


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def parse_yes_no(answer: str) -> bool | None:
    """Return the truth value of an answer that begins with yes/no or true/false, else ``None``."""
    first = normalize_answer(answer).partition(" ")[0]
    return {"yes": True, "true": True, "no": False, "false": False}.get(first)


def grade(
    prediction: str | None, reference: str, task: str = "qa", strict: bool = False
) -> dict[str, float]:
    """Grade one answer.

    Parameters
    ----------
    prediction, reference
        The answers; ``None`` is no answer and scores 0.
    task
        ``"qa"``: official EM and F1. ``"math"``: equal numbers. ``"yes_no"``: equal truth values.
    strict
        The paper's string rules (arXiv 2402.11651, code): for ``"math"`` the strings must be equal
        after commas are removed from the reference only, so ``18.0``, ``$18`` and ``1,000`` are
        wrong; for ``"yes_no"`` the answer must be the bare word.

    Returns
    -------
    dict
        ``em`` and ``f1``, between 0 and 1; equal for ``"math"`` and ``"yes_no"``.

    Raises
    ------
    ValueError
        For an unknown task.
    """
    if task == "qa":
        scores = hotpot_scores(prediction, reference)
        return {"em": scores["em"], "f1": scores["f1"]}
    if task not in ("math", "yes_no"):
        raise ValueError(f"task is {task!r}; use 'qa', 'math' or 'yes_no'")
    same = _same_number if task == "math" else _same_truth
    right = prediction is not None and same(prediction, reference, strict)
    return {"em": float(right), "f1": float(right)}


@dataclass(frozen=True, slots=True)
class Judged:
    """What a run that ended in free text is judged to be.

    Attributes
    ----------
    prediction
        The answer that was read; the whole text if none stands out; ``None`` if nothing was said.
    success
        ``None`` if nobody can tell.
    scores
        ``em`` and ``f1``; empty if nobody can tell.
    """

    prediction: str | None
    success: bool | None
    scores: Mapping[str, float]


def judge_free_text(said: str, reference: str, task: str = "qa") -> Judged:
    r"""Judge the last words of a run that ended without a finishing action.

    What stands in ``<answer>`` tags, or under "answer" of a JSON object, is read alone. A
    ``\boxed{}`` is the answer, right or wrong. A numeric reference, or the task ``"math"``, is
    compared with the number behind ``####`` or "the answer is"; else with the last number of the
    last sentence that has one, which is unknown, not wrong, if the text states the reference
    elsewhere. A yes or no counts at the beginning or behind "the answer is". Other text is right if
    the whole of it, or what follows "the answer is", equals the reference by the official rule. All
    else is unknown, not wrong.

    Parameters
    ----------
    said
        The text; a thought in it is left out.
    reference, task
        As for `grade`.

    Examples
    --------
    >>> judge_free_text(r"Adding gives $\boxed{2}$.", "2").success
    True
    """
    said = split_thought(said)[1].strip()
    if not said:
        return Judged(None, None, {})
    box = boxed(said)
    said = unwrapped(said)
    lead = after_lead_in(said)
    if box is not None:
        return _judged(plain_number(box).strip(), reference, "math" if task == "qa" else task)
    if task == "math" or (task == "qa" and _QUANTITY.fullmatch(reference.strip())):
        return _judge_number(said, lead, reference)
    for answer in (lead, said):
        if answer and (
            grade(answer, reference, task)["em"]
            or (task == "yes_no" and parse_yes_no(answer) is not None)
        ):
            return _judged(answer, reference, task)
    return Judged(lead or said, None, {})


def after_lead_in(text: str) -> str | None:
    """Return what follows the last "the answer is" ("Answer:" ..) of a text, to its sentence's end.

    Citations such as ``[3]``, markup and the final full stop are left out.

    Examples
    --------
    >>> after_lead_in("**Final answer:** St. Louis [3]. It lies there.")
    'St. Louis'
    """
    end = len(text.rstrip(_MARKUP + ".:"))
    found = None
    for match in _LEAD_IN.finditer(text):
        found = match if match.end() < end else found
    if found is None:
        return None
    line = next(line for line in text[found.end() :].splitlines() if line.strip(_MARKUP + ".:"))
    return _bare(_SENTENCE_END.split(_CITATION.sub("", line), maxsplit=1)[0])


def unwrapped(reply: str) -> str:
    r"""Return what a reply sets apart as its answer, else the reply; without the tokens at its end.

    Set apart is what stands in the last ``<answer>`` tags, in a ``\boxed{}``, or under "answer" (or
    the like) if the reply is one JSON object.

    Examples
    --------
    >>> unwrapped("So: <answer> Oslo </answer>"), unwrapped('{"answer": "Oslo"}')
    ('Oslo', 'Oslo')
    """
    reply = strip_end_tokens(reply)
    tagged = [tag[2].strip() for tag in _TAGGED.finditer(reply)]
    reply = tagged[-1] if tagged and tagged[-1] else reply
    whole = _OBJECT.fullmatch(reply)
    value = parsed(whole[1]) if whole else None
    fields = {k.lower(): v for k, v in value.items()} if isinstance(value, dict) else {}
    given = (fields[key] for key in ANSWER_KEYS if isinstance(fields.get(key), str | int | float))
    reply = str(next(given, reply))
    box = boxed(reply)
    return (reply if box is None else _FONT.sub(r"\1", box)).strip()


def plain_answer(reply: str) -> str | None:
    r"""Return the answer of a free reply: of what it sets apart (see `unwrapped`) what follows the
    last lead-in, else the first line.

    Citations are left out. A line that begins with "yes" or "no" and a comma or full stop answers
    that.

    Examples
    --------
    >>> plain_answer("Name Surname [3]\nwas born"), plain_answer("Yes, both are.")
    ('Name Surname', 'Yes')
    """
    reply = unwrapped(reply)
    answer = after_lead_in(reply)
    if answer is None:
        spoken = (line for line in reply.splitlines() if not _ends_in_lead_in(line))
        lines = (_bare(_CITATION.sub("", line)) for line in spoken)
        answer = next((line for line in lines if line), None)
    verdict = _YES_OR_NO.match(f"{answer or ''}.")
    return verdict[1] if verdict else answer or None  # what is but a citation is no answer


def _ends_in_lead_in(line: str) -> bool:
    end = line[-_LONG_LINE:]
    return any(not end[m.end() :].strip(_MARKUP + ".:") for m in _LEAD_IN.finditer(end))


def _bare(line: str) -> str:
    line = " ".join(line.split()).strip(_MARKUP + ">#")
    stops = line.endswith((".", ":")) and not line.endswith("..")
    return line[:-1].strip(_MARKUP) if stops else line


def _judged(answer: str, reference: str, task: str) -> Judged:
    scores = grade(answer, reference, task)
    return Judged(answer, scores["em"] == 1.0, scores)


def _judge_number(said: str, lead: str | None, reference: str) -> Judged:
    explicit = said.rsplit("####", 1)[-1].strip() if "####" in said else lead
    if explicit and parse_number(explicit) is not None:
        return _judged(number_text(explicit), reference, "math")
    sentences = [part for line in said.splitlines() for part in _SENTENCE_END.split(line)]
    counting = (part for part in reversed(sentences) if any(c.isdecimal() for c in part))
    last = number_text(next(counting, ""))
    wanted = parse_number(reference)
    given = parse_number(last)
    if wanted is None or given is None or (given != wanted and mentions_number(said, wanted)):
        return Judged(said, None, {})
    return _judged(last, reference, "math")


def _same_number(prediction: str, reference: str, strict: bool) -> bool:
    if strict:
        return prediction == reference.rsplit("####", 1)[-1].strip().replace(",", "")
    ours = parse_number(prediction)
    theirs = parse_number(reference)
    if theirs is None:  # the reference is no number: compare as text
        return _same_text(boxed(prediction) or prediction, boxed(reference) or reference)
    return ours == theirs


def _same_text(ours: str, theirs: str) -> bool:
    """Compare what is no number. In a formula each sign counts, and spaces do not."""
    if not _FORMULA & set(ours + theirs):
        return exact_match(ours, theirs)
    sides = ("".join(plain_number(side).split()).strip("$.").lower() for side in (ours, theirs))
    return next(sides) == next(sides)


def _same_truth(prediction: str, reference: str, strict: bool) -> bool:
    theirs = parse_yes_no(str(reference))
    if strict:
        bare = {"yes": True, "no": False}.get(prediction.strip().lower())
        return bare is not None and bare == theirs
    ours = parse_yes_no(prediction)
    return ours is not None and ours == theirs
