"""A calculator for agents: exact arithmetic, bounded in size and therefore in time.

An expression is text that a model wrote. Of its syntax tree only what is named here is understood,
and nothing of it is executed. There is no state, so any number of threads may calculate.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Context, Decimal, Inexact
from fractions import Fraction

MAX_LENGTH = 500  # characters of an expression
MAX_DEPTH = 40  # brackets, signs and powers inside of each other
MAX_DIGITS = 200  # of a numerator or a denominator, at any step
_MAX_BITS = int(MAX_DIGITS * math.log2(10))
_EXACT_DIGITS = 12
_ROUNDED_DIGITS = 6
_ROOT_DIGITS = 20

_SIGNS = str.maketrans(
    {"×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "∕": "/", "−": "-", "–": "-", "^": "**"}
)
_ASSIGNED = re.compile(r"\s*[A-Za-z]\w*\s*=(?!=)")
_ASKED = re.compile(r"=\s*\??\s*\Z")
_CURRENCY = re.compile(r"\$(?=\s*[\d.])")
# Only between spaces: "0x10" may be a number in another base.
_TIMES = re.compile(r"(?<=[\d)])\s+[xX]\s+(?=[\d(.$])")
_PLAIN = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
# A percent sign is one if no operand follows: "20% * 5", but "20 % 5" is a remainder.
_REST = (
    r"\s*(?:(?P<number>{number})(?P<percent>\s*%(?!\s*[\w(.]))?"
    r"|(?P<name>[^\W\d]\w*)|(?P<sign>\*\*|//|[-+*/%(),]))"
)
_ARGUMENT_TOKEN = re.compile(_REST.format(number=_PLAIN), re.ASCII)
_TOKEN = re.compile(
    _REST.format(number=rf"\d{{1,3}}(?:,\d{{3}})+(?![\d,])(?:\.\d+)?|{_PLAIN}"), re.ASCII
)


class CalculatorError(ValueError):
    """Not arithmetic, no result, or too large; the text is meant for the agent."""


def calculate(expression: str) -> str:
    """Calculate an expression exactly.

    Understood are numbers, ``+ - * / // % **``, brackets, ``abs``, ``round``, ``min``, ``max`` and
    ``sqrt``; also ``×``, ``÷``, ``^``, ``3 x 4``, ``1,234``, ``$5``, ``20%``, ``x = ..`` and
    ``.. =``.

    Parameters
    ----------
    expression
        At most ``MAX_LENGTH`` characters.

    Returns
    -------
    str
        A whole number or a fraction in lowest terms; but if the expression has a decimal point, a
        percent sign, a root or ``round``, a decimal number: exact up to 12 digits, else with 6
        decimals.

    Raises
    ------
    CalculatorError
        For anything else, division by zero, and numbers of more than ``MAX_DIGITS`` digits.

    Examples
    --------
    >>> calculate("(1 + 1/3) * 4"), calculate("$1,250 × 8%"), calculate("10.0 / 3 =")
    ('16/3', '100', '3.333333')
    """
    if len(expression) > MAX_LENGTH:
        raise CalculatorError(
            f"the expression has {len(expression)} characters; {MAX_LENGTH} at most"
        )
    text, numbers, decimal = _transcribe(_tokens(_plain(expression)))
    if not text:
        raise CalculatorError("there is nothing to calculate")
    try:
        return _show(_evaluate(_parse(text, expression), numbers), decimal)
    except ZeroDivisionError:
        raise CalculatorError("division by zero") from None


def _plain(expression: str) -> str:
    text = _ASKED.sub("", _ASSIGNED.sub("", expression.translate(_SIGNS), count=1))
    if "=" in text:
        raise CalculatorError("this is an equation; give one side of it")
    return _TIMES.sub("*", _CURRENCY.sub(" ", text)).rstrip()


def _tokens(text: str) -> Iterator[re.Match[str]]:
    calls: list[bool] = []
    before = None
    at = 0
    while at < len(text):
        # Inside the brackets of a function a comma separates arguments, elsewhere thousands.
        match = (_ARGUMENT_TOKEN if calls and calls[-1] else _TOKEN).match(text, at)
        if match is None:
            raise CalculatorError(f"not arithmetic: {text[at:].lstrip()[0]!r}")
        if match["sign"] == "(":
            calls.append(before in _FUNCTIONS)
        elif match["sign"] == ")" and calls:
            calls.pop()
        before = match["name"]
        at = match.end()
        yield match


def _transcribe(tokens: Iterable[re.Match[str]]) -> tuple[str, list[Fraction], bool]:
    """Return the expression as Python writes it, its numbers, and whether the result is decimal.

    In the text a number is its index in the list: Python would read decimals as binary fractions.
    """
    parts: list[str] = []
    numbers: list[Fraction] = []
    decimal = False
    for token in tokens:
        number, percent, name, sign = token.group("number", "percent", "name", "sign")
        if name and name not in _FUNCTIONS:
            raise CalculatorError(f"not arithmetic: name {name[:40]!r}; use numbers, not words")
        parts.append(name or sign or str(len(numbers)))
        if number:
            numbers.append(_number(number) / (100 if percent else 1))
            decimal |= bool(percent) or not number.replace(",", "").isdigit()
        decimal |= name in ("round", "sqrt")
    return " ".join(parts), numbers, decimal


def _number(text: str) -> Fraction:
    exponent = re.split("[eE]", text)[1:]
    if exponent and len(exponent[0].lstrip("+-0")) > 3:  # the number itself would fill the memory
        raise _too_large()
    return _bounded(Fraction(text.replace(",", "")))


def _parse(text: str, expression: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        shown = expression.strip() if len(expression) < 60 else f"{expression.strip()[:56]} ..."
        raise CalculatorError(f"not arithmetic: cannot read {shown!r}") from None


def _evaluate(node: ast.expr, numbers: Sequence[Fraction], depth: int = 0) -> Fraction:
    if depth > MAX_DEPTH:
        raise CalculatorError(f"nested more than {MAX_DEPTH} deep")
    chain = []
    while isinstance(node, ast.BinOp):  # a long sum is nested to the left: long, not deep
        chain.append(node)
        node = node.left
    value = _operand(node, numbers, depth + 1)
    for link in reversed(chain):
        value = _bounded(_BINARY[type(link.op)](value, _evaluate(link.right, numbers, depth + 1)))
    return value


def _operand(node: ast.expr, numbers: Sequence[Fraction], depth: int) -> Fraction:
    if isinstance(node, ast.Constant):
        return numbers[node.value]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_evaluate(node.operand, numbers, depth))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        arguments = [_evaluate(argument, numbers, depth) for argument in node.args]
        return _bounded(_call(node.func.id, arguments))
    if isinstance(node, ast.Call):
        raise CalculatorError("not arithmetic: a sign is missing before a bracket")
    raise CalculatorError(f"not arithmetic: {_WORDS.get(type(node), type(node).__name__.lower())}")


def _call(name: str, arguments: list[Fraction]) -> Fraction:
    function, fewest, most = _FUNCTIONS[name]
    if not fewest <= len(arguments) <= most:
        raise CalculatorError(f"{name} cannot take {len(arguments)} numbers")
    return function(*arguments)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator == 2:
        base = _root(base)
        exponent = exponent * 2
    if exponent.denominator != 1:
        raise CalculatorError(f"an exponent must be a whole number or a half, not {exponent}")
    bits = max(abs(base.numerator), base.denominator).bit_length()
    if abs(exponent) * (bits - 1) > _MAX_BITS:  # refused before it is calculated
        raise _too_large()
    return base ** int(exponent)


def _root(value: Fraction) -> Fraction:
    """Return the square root: exactly if it is rational, else to 20 digits."""
    if value < 0:
        raise CalculatorError("square root of a negative number")
    over = math.isqrt(value.numerator)
    under = math.isqrt(value.denominator)
    if Fraction(over, under) ** 2 == value:
        return Fraction(over, under)
    scale = 10**_ROOT_DIGITS
    return Fraction(
        math.isqrt(value.numerator * value.denominator * scale**2), value.denominator * scale
    )


def _round(value: Fraction, digits: Fraction = Fraction(0)) -> Fraction:
    if digits.denominator != 1 or abs(digits) > MAX_DIGITS:
        raise CalculatorError(f"round takes a whole number of digits, {MAX_DIGITS} at most")
    return Fraction(round(value, int(digits)))


def _bounded(value: Fraction | int) -> Fraction:
    if max(abs(value.numerator), value.denominator).bit_length() > _MAX_BITS:
        raise _too_large()
    return Fraction(value)


def _too_large() -> CalculatorError:
    return CalculatorError(f"a number has more than {MAX_DIGITS} digits")


def _show(value: Fraction, decimal: bool) -> str:
    over = Decimal(value.numerator)
    under = Decimal(value.denominator)
    if not decimal or under == 1:
        return str(value)
    context = Context(prec=_EXACT_DIGITS)
    shown = context.divide(over, under)
    if context.flags[Inexact]:
        digits = _ROUNDED_DIGITS + max(0, shown.adjusted() + 1)
        shown = Context(prec=digits).divide(over, under).normalize(Context(prec=digits))
    return f"{shown:f}" if shown.adjusted() > -7 else f"{shown:g}"


_BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction | int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_UNARY: dict[type[ast.unaryop], Callable[[Fraction], Fraction]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_FUNCTIONS: dict[str, tuple[Callable[..., Fraction], int, int]] = {
    "abs": (abs, 1, 1),
    "round": (_round, 1, 2),
    "min": (lambda *values: min(values), 1, MAX_LENGTH),
    "max": (lambda *values: max(values), 1, MAX_LENGTH),
    "sqrt": (_root, 1, 1),
}
_WORDS = {
    ast.Tuple: "a comma",
    ast.Name: "a function without brackets",
    ast.Starred: "a sign too many",
}
