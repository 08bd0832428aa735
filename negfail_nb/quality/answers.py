"""Answers that say the same in another form, and labels that their own answers contradict."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from fractions import Fraction

from negfail_nb.grading import answer_overlap, exact_match, normalize_answer, parse_yes_no
from negfail_nb.numeric import parse_number
from negfail_nb.trajectory import Trajectory

_SCALE = re.compile(r"\b(?:hundred|thousand|million|billion|trillion)\b")
_QUANTITY = re.compile(rf"[$\u20ac\u00a3]? ?[\d.,/]+ ?%?(?: {_SCALE.pattern})?")
# A number and nothing else: no %, no scale ("million"), no unit ("120 minutes" for 2), no name
# ("Edward 7"), no sum.
_NUMBER = re.compile(r"-?(?:(?:\d[\d,]*)?\.?\d+(?:[eE][-+]?\d+)?|(?:\d+ )?\d+ ?/ ?\d+)")
_LONGEST_NUMBER = 60
_CURRENCY = "$\u20ac\u00a3 "
_DASHES = re.compile("[\u2010-\u2015\u2212]")
QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'"})
_HEDGES = frozenset({"and", "or", "not", "either", "neither", "nor"})
_SHORT = 6  # words beside the reference with which an answer still counts as the reference


def answer_key(trajectory: Trajectory) -> str:
    """Return the normalised reference answer; ``""`` without one.

    Examples
    --------
    >>> about = {"id": "a", "question_id": "q", "question": "How many?", "task": "math"}
    >>> [answer_key(Trajectory(answer=answer, **about)) for answer in ("1,000", "$1000.0")]
    ['1000', '1000']
    """
    answer = trajectory.answer
    parse = {"math": parse_number, "yes_no": parse_yes_no}.get(trajectory.task)
    value = parse(answer) if parse else None
    return str(value) if value is not None else normalize_answer(answer) or answer.strip()


def same_answer(prediction: str, reference: str) -> bool:
    """Whether an answer says what the reference says, in another form.

    Covered: accents and dashes folded; the same words in another order; a yes/no reference and an
    answer that begins or ends with it; one quantity, with or without its unit in lower case; the
    reference whole in an answer of at most six more words without "and", "or", "not". Not covered:
    aliases and paraphrases.

    Examples
    --------
    >>> same_answer("3,677 seated", "3,677"), same_answer("Delhi or Goa", "Goa")
    (True, False)
    """
    prediction = fold(prediction)
    reference = fold(reference)
    if exact_match(prediction, reference) or answer_overlap(prediction, reference).f1 == 1:
        return True
    if normalize_answer(reference) in ("yes", "no"):
        return _verdict(prediction) == parse_yes_no(reference)
    return _same_quantity(prediction, reference) or _contains(prediction, reference)


def fold(answer: str) -> str:
    """Return a text without accents, with plain dashes and quotes.

    Examples
    --------
    >>> fold("Beyonc\u00e9, 1981\u20132001")
    'Beyonce, 1981-2001'
    """
    plain = unicodedata.normalize("NFKD", _DASHES.sub("-", answer).translate(QUOTES))
    return "".join(c for c in plain if not unicodedata.combining(c))


def contradiction(t: Trajectory) -> str:
    """Return how a label contradicts the answer; ``""`` if it does not, or form may be the reason.

    An answer that equals the reference failed; or it succeeded, and both are bare numbers that
    differ by more than rounding. A currency sign is ignored on the prediction's side.
    """
    if t.success is None or t.prediction is None or not t.answer:
        return ""
    if t.success is False:
        same = t.scores.get("em") == 1
        return "labelled a failure, yet the answer is the reference" if same else ""
    ours = _bare_number(t.prediction.lstrip(_CURRENCY))
    theirs = _bare_number(t.answer)
    wrong = ours and theirs and t.scores.get("em") == 0 and not _same_number(ours, theirs)
    return f"labelled a success, yet {ours} is not {theirs}" if wrong else ""


def _verdict(answer: str) -> bool | None:
    """The truth value that an answer begins with, or ends with: "They are the same, so yes"."""
    first = parse_yes_no(answer)
    words = normalize_answer(answer).split()
    if first is not None or not words or _HEDGES & set(words[-2:]):
        return first
    return parse_yes_no(words[-1])


def _same_quantity(prediction: str, reference: str) -> bool:
    # "3,677" and "3,677 seated" are one quantity; "3" and "3 Idiots", "1987" and "May 1987" are
    # not: a name changes it. Nor are "150" and "150 million", or "12th century" and "late 12th
    # century": one side must be the bare number.
    sides = (prediction.strip(), reference.strip())
    if any(len(side) > 100 or any(c.isupper() for c in side) for side in sides):
        return False
    if not any(map(_QUANTITY.fullmatch, sides)):
        return False
    ours, theirs = map(parse_number, sides)
    same_scale = _SCALE.findall(sides[0]) == _SCALE.findall(sides[1])
    return ours is not None and ours == theirs and same_scale


def _contains(prediction: str, reference: str) -> bool:
    ours = normalize_answer(prediction).split()
    theirs = normalize_answer(reference).split()
    if not theirs or len(ours) > len(theirs) + _SHORT or _HEDGES & set(ours) - set(theirs):
        return False
    return any(ours[i : i + len(theirs)] == theirs for i in range(len(ours) - len(theirs) + 1))


def _bare_number(answer: str) -> str:
    """The text of a bare number, without commas; ``""`` for anything else."""
    text = answer.replace("\u2212", "-").strip().removesuffix(".")
    bare = len(text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(text)
    return text.replace(",", "") if bare and parse_number(text) is not None else ""


def _same_number(ours: str, theirs: str) -> bool:
    # "18.67" is 56/3 rounded to its digits; so may a reference be that shows decimals. A whole
    # reference is exact.
    left = parse_number(ours)
    right = parse_number(theirs)
    rounding = max(_half_unit(ours), _half_unit(theirs) if "." in theirs else Fraction(0))
    return left is not None and right is not None and abs(left - right) <= rounding


def _half_unit(text: str) -> Fraction:
    """Half of the last digit that a number shows: 0.005 for ``18.67``; a fraction is exact."""
    if "/" in text:
        return Fraction(0)
    return Fraction(10) ** int(Decimal(text).as_tuple().exponent) / 2
