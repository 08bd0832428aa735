"""Numbers in the text of answers: digits, fractions, amounts, and what LaTeX writes around them."""

from __future__ import annotations

import re
import string
from fractions import Fraction

_NUMBER = re.compile(
    r"(?=[-+]?\.?\d)[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?![\w.]))?"
)
# Bounded, and begun at the start of a run of digits only: degenerate output is long.
_MIXED = re.compile(r"(?<!\d)(?:(\d{1,60})\s+)?(?<!\d)(\d{1,60})\s*/\s*(\d{1,60})(?!\d)")
_SIGNED_AMOUNT = re.compile(r"([-+])\s?[$€£¥]\s?(?=[\d.])")
_MINUS = re.compile(r"(?:^|[\s(])-\s?[$\u20ac\u00a3\u00a5]?\Z")
_MAX_DIGITS = 60
# What LaTeX writes around numbers, and what stands for it; the first that fits, in order.
_LATEX = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\\[dtc]?frac\s*(\d)\s*(\d)(?!\d)", r" \1/\2"),
        (r"\\[dtc]?frac\s*\{\s*([-+]?\d{1,60})\s*\}\s*\{\s*(\d{1,60})\s*\}", r" \1/\2"),
        (r"\\(?:text|textbf|mathrm|mathbf|mbox|textrm|operatorname)\s*\{([^{}]*)\}", r" \1"),
        (r"(?:\\times|\\cdot|\u00d7)\s*10\s*\^\s*\{?\s*(-?\d{1,3})\}?", r"e\1"),
        (r"(?<=\d)\s+e(?=-?\d)", "e"),
        (r"\b([kcm]?m|ft|in|yd|mi|inches|feet|met(?:er|re)s|units?)\s*\^\s*\{?[23]\}?", r"\1"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\(?:left|right|displaystyle)\b|\\[!,;: ]", ""),
        (r"(?<=\d)\{,\}(?=\d{3})", ","),
        (r"\\([$%])", r"\1"),
    )
)
_BOXES = ("\\boxed", "\\fbox")
_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()


def parse_number(answer: str) -> Fraction | None:
    r"""Return the one number that a text states, exactly, or ``None`` if it states none or several.

    Understands ``18.0``, ``$18``, ``-$18``, ``1,000``, ``3/4``, ``1 1/2``, ``50%`` (as 50), ``-2``,
    ``70,000 dollars``, ``2e3``, and LaTeX: ``\boxed{\frac{1}{2}}``. The last ``\boxed`` counts
    alone; what stands before ``####`` in a GSM8K solution is ignored, and so is what stands before
    the last ``=``.

    Examples
    --------
    >>> parse_number("so she pays $1,000.50"), parse_number("2 or 3")
    (Fraction(2001, 2), None)
    """
    answer = boxed(answer) or answer
    answer = plain_number(answer.rsplit("####", 1)[-1].rsplit("=", 1)[-1]).replace("\u2212", "-")
    answer = _SIGNED_AMOUNT.sub(r"\1", answer)
    if fraction := _MIXED.search(answer):
        rest = answer[: fraction.start()] + answer[fraction.end() :]
        return None if any(c.isdecimal() for c in rest) else _mixed(answer, fraction)
    found = [m[0] for m in _NUMBER.finditer(answer)]
    if len(found) != 1 or len(found[0]) > _MAX_DIGITS:
        return None
    return Fraction(found[0].replace(",", ""))


def boxed(answer: str) -> str | None:
    r"""Return the content of the last ``\boxed{}`` of a text, braces nested, or ``None``.

    Examples
    --------
    >>> boxed(r"So $\boxed{\frac{1}{2}}$."), boxed("2")
    ('\\frac{1}{2}', None)
    """
    parts = (answer.rpartition(name) for name in _BOXES)
    _, name, rest = max(parts, key=lambda part: (bool(part[1]), len(part[0])))
    if not name:
        return None
    rest = rest.lstrip()
    if not rest.startswith("{"):
        return rest[:1] or None
    depth = 0
    for match in re.finditer(r"[{}]", rest):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return rest[1 : match.start()].strip()
    return None


def number_text(answer: str) -> str:
    """Return the last number of a text, as it is written."""
    plain = plain_number(answer.rsplit("=", 1)[-1]).replace("\u2212", "-")
    found = list(_MIXED.finditer(plain)) or list(_NUMBER.finditer(plain))
    if not found:
        return ""
    negative = _MINUS.search(plain[: found[-1].start()])
    return ("-" if negative else "") + found[-1][0]


def mentions_number(text: str, number: Fraction) -> bool:
    """Whether a text states a number anywhere, in digits or, up to twelve, as a word."""
    plain = plain_number(text)
    written = (m[0] for pattern in (_MIXED, _NUMBER) for m in pattern.finditer(plain))
    if number in map(parse_number, written):
        return True
    words = [word.strip(string.punctuation) for word in text.lower().split()]
    word = _WORDS[int(number)] if number.denominator == 1 and 0 <= number < len(_WORDS) else ""
    return word in words


def plain_number(answer: str) -> str:
    """Return a text with what LaTeX writes around numbers taken off."""
    if "\\" in answer or "^" in answer or "{" in answer or "\u00d7" in answer:
        for pattern, plain in _LATEX:
            answer = pattern.sub(plain, answer)
    return answer


def _mixed(answer: str, match: re.Match) -> Fraction | None:
    whole, over, under = (int(g) if g else 0 for g in match.groups())
    if under == 0 or len(match[0]) > _MAX_DIGITS:
        return None
    value = whole + Fraction(over, under)
    return -value if answer[: match.start()].rstrip(" $").endswith("-") else value
