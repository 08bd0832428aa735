"""Numbers in what an agent wrote and what came back: results, sums that do not hold, numbers that
come from nowhere.
"""

from __future__ import annotations

import re
from fractions import Fraction

from negfail_nb.numeric import parse_number
from negfail_nb.toolcalls import Action

CALCULATORS = frozenset({"calculate", "calculator", "calc"})
# Numbers that nobody has to be told: counts, shares, and of days, hours, minutes, weeks.
COMMON = frozenset(
    map(Fraction, (*range(13), 24, 30, 31, 52, 60, 100, 365, 1000, "0.5", "0.25", "0.75", "0.1"))
)
DIGITS = 4  # behind the point to which results are the same
MOST = 20  # operands of a sum that is checked, and digits of each

_NUMERAL = r"\d{1,20}(?:,\d{3})*(?:\.\d{1,20})?"
_SUM = re.compile(
    rf"(?<![\w.,:)(*/^%+\-])\$?"
    rf"({_NUMERAL}(?:[ \t]*[-+*/\u00d7\u00f7][ \t]*\$?{_NUMERAL}){{1,{MOST}}})"
    rf"[ \t]*=(?!=)[ \t]*\$?(-?{_NUMERAL})(?![\d.,]*\d)(?!\s*[-+*/\u00d7\u00f7%:^(\u00b0])"
)
# What a number may stand behind, so that the sum begins with it: no operator, no bracket, no "x".
_BEFORE = re.compile(r"(?:[-+*/\u00d7\u00f7^%()]|\b[xX])[ \t]*\$?\Z")
_OPERAND = re.compile(rf"([-+*/\u00d7\u00f7]?)\s*\$?({_NUMERAL})")
_ALONE = re.compile(
    rf"^[ \t]*(?:Out\[\d+\]:)?[ \t]*\$?"
    rf"(-?{_NUMERAL}(?:[eE][-+]?\d{{1,3}})?(?: ?/ ?\d{{1,20}})?)[ \t]*$",
    re.MULTILINE,
)
_WORKED = re.compile(rf"<<[^<>]*=\s*(-?{_NUMERAL})\s*>>|=\s*\$?(-?{_NUMERAL})")
_ANY = re.compile(_NUMERAL)


def rounded(number: Fraction) -> Fraction:
    """Return a number to so many decimals that results of floats compare."""
    return round(number, DIGITS)


def shortest(number: Fraction) -> str:
    """Return a number as it is written: ``24``, ``33.3333``."""
    return f"{float(number):.10g}"


def results(observation: str) -> list[Fraction]:
    """Return the numbers that stand alone on a line of an observation, in order."""
    found = (parse_number(match[1]) for match in _ALONE.finditer(observation))
    return [rounded(number) for number in found if number is not None]


def worked(solution: str) -> frozenset[Fraction]:
    """Return the results in a worked solution, as GSM8K writes them: ``<<48/2=24>>``, ``= 24``.

    Nothing for a bare answer.
    """
    if "####" not in solution and "<<" not in solution:
        return frozenset()
    numbers = (match[1] or match[2] for match in _WORKED.finditer(solution))
    return frozenset(rounded(Fraction(number.replace(",", ""))) for number in numbers)


def slip(written: str) -> tuple[str, str] | None:
    """Return the first sum of a text that does not hold, and what it is; ``None`` if all hold.

    Only chains of numbers with ``+ - * /`` between them are checked. Results may be rounded, or
    cut, at the last digit that they show.

    Examples
    --------
    >>> slip("so 3 * 8 = 25"), slip("10 / 3 = 3.33, and (2 + 3) * 4 = 20")
    (('3 * 8 = 25', '24'), None)
    """
    for match in _SUM.finditer(written):
        if _BEFORE.search(written[max(0, match.start() - 8) : match.start()]):
            continue
        value = _evaluate(match[1])
        stated = match[2].replace(",", "")
        unit = Fraction(1, 10 ** len(stated.partition(".")[2]))
        if value is not None and abs(value - Fraction(stated)) >= unit and _counts(stated, value):
            return match[0].strip(), shortest(rounded(value))
    return None


def invented_number(action: Action, before: str, lead: str) -> str:
    """Return the first number of a calculation that came from nowhere; ``""`` without one.

    Parameters
    ----------
    action
        Only calls of a calculator count.
    before
        The question and what was said before the turn.
    lead
        What the turn itself says before the calculation.
    """
    if action.name not in CALCULATORS:
        return ""
    known = _known(f"{before}\n{lead}")
    for numeral in _ANY.findall(action.argument):
        number = Fraction(numeral.replace(",", ""))
        forms = (number, number / 100, number * 100, abs(1 - number), 100 - number, number - 100)
        if not any(form in known for form in forms):
            return numeral
    return ""


def _known(said: str) -> frozenset[Fraction]:
    numbers = (Fraction(numeral.replace(",", "")) for numeral in _ANY.findall(said))
    return COMMON | frozenset(numbers)


def _counts(stated: str, value: Fraction) -> bool:
    """Whether it is a slip, not another unit: dollars of cents, a share of per cent."""
    return value not in {Fraction(stated) * factor for factor in (100, Fraction(1, 100))}


def _evaluate(expression: str) -> Fraction | None:
    total, product = Fraction(0), Fraction(0)
    for sign, numeral in _OPERAND.findall(expression):
        number = Fraction(numeral.replace(",", ""))
        if sign in ("", "+", "-"):
            total += product
            product = -number if sign == "-" else number
        elif sign in ("*", "\u00d7"):
            product *= number
        elif not number:
            return None
        else:
            product /= number
    return total + product
