"""Labels of a log that its own answers contradict, where form cannot be the reason."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from negfail_nb.grading import parse_number
from negfail_nb.trajectory import Trajectory

# A number and nothing else: no %, no scale ("million"), no unit ("120 minutes" for 2), no name
# ("Edward 7"), no sum.
_BARE = re.compile(r"-?(?:(?:\d[\d,]*)?\.?\d+(?:[eE][-+]?\d+)?|(?:\d+ )?\d+ ?/ ?\d+)")
_LONGEST = 60
_CURRENCY = "$\u20ac\u00a3 "


def contradiction(t: Trajectory) -> str:
    """Return how a label contradicts the answer, ``""`` where it does not or where form may be the
    reason.

    An answer that equals the reference failed; or it succeeded, and both are bare numbers that
    differ by more than rounding. A currency sign is ignored on the prediction's side.
    """
    if t.success is None or t.prediction is None or not t.answer:
        return ""
    if t.success is False:
        return (
            "labelled a failure, yet the answer is the reference" if t.scores.get("em") == 1 else ""
        )
    ours, theirs = _bare(t.prediction.lstrip(_CURRENCY)), _bare(t.answer)
    wrong = ours and theirs and t.scores.get("em") == 0 and not _same(ours, theirs)
    return f"labelled a success, yet {ours} is not {theirs}" if wrong else ""


def _bare(answer: str) -> str:
    """Return the text of a bare number, without commas; ``""`` for anything else."""
    text = answer.replace("\u2212", "-").strip().removesuffix(".")
    bare = len(text) <= _LONGEST and _BARE.fullmatch(text) and parse_number(text) is not None
    return text.replace(",", "") if bare else ""


def _same(ours: str, theirs: str) -> bool:
    # "18.67" is 56/3 rounded to its digits; so may a reference be that shows decimals. A whole
    # reference is exact.
    left, right = parse_number(ours), parse_number(theirs)
    rounding = max(_half_unit(ours), _half_unit(theirs) if "." in theirs else Fraction(0))
    return left is not None and right is not None and abs(left - right) <= rounding


def _half_unit(text: str) -> Fraction:
    """Return half of the last digit that a number shows: 0.005 for ``18.67``; a fraction is exact."""
    return (
        Fraction(0) if "/" in text else Fraction(10) ** int(Decimal(text).as_tuple().exponent) / 2
    )
