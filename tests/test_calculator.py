"""The calculator: exact on what it takes, a short refusal of everything else, and never slow or
unsafe.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from negfail_nb.agents.calculator import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_LENGTH,
    CalculatorError,
    calculate,
)

NUMBERS = st.one_of(st.integers(0, 10**6).map(str), st.decimals(0, 1000, places=3).map(str))
SIGNS = st.sampled_from(["+", "-", "*", "/", "//", "%"])
TREES = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, SIGNS, inner).map(" ".join),
        st.tuples(inner, SIGNS, inner).map(lambda t: f"({' '.join(t)})"),
        inner.map("(-{})".format),
        st.tuples(inner, st.integers(-3, 3)).map(lambda t: f"(({t[0]}) ** ({t[1]}))"),
    ),
    max_leaves=8,
)
ALPHABET = st.sampled_from(
    [*"0123456789.,+-*/%^()=$xe× \n", "**", "//", "abs(", "round(", "min(", "sqrt(", "1,000"]
)


def oracle(expression):
    """What Python's operators say, with every number as a fraction."""
    return eval(
        re.sub(r"\d+(\.\d+)?", lambda m: f"Fraction('{m[0]}')", expression), {"Fraction": Fraction}
    )


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("48/2", "24"),
        ("7/3", "7/3"),
        ("-7/3", "-7/3"),
        ("(1 + 1/3) * 4", "16/3"),
        ("10 - 4 - 3", "3"),
        ("2 + 3 * 4", "14"),
        ("2^3^2", "512"),
        ("-2**2", "-4"),
        ("2**-2", "1/4"),
        ("17 // 5", "3"),
        ("-7 // 2", "-4"),
        ("17 % 5", "2"),
        ("007 + 1", "8"),
        ("0.1 + 0.2", "0.3"),
        ("5.0 / 2", "2.5"),
        ("2.50 * 2", "5"),
        ("10.0 / 3", "3.333333"),
        ("1234567.891 / 3", "411522.630333"),
        ("2.0 / 3000", "0.000666667"),
        ("1.0 / 10**12", "1e-12"),
        ("1e3 * 1.5", "1500"),
        (".5 + 1.", "1.5"),
        ("123456789012345678901234567890 + 1", "123456789012345678901234567891"),
        ("abs(-3) + max(1, 2, 3) - min(4, 5)", "2"),
        ("round(7/3, 2)", "2.33"),
        ("round(2.6)", "3"),
        ("sqrt(16)", "4"),
        ("sqrt(4/9) * 3", "2"),
        ("sqrt(2)", "1.414214"),
        ("sqrt(2) ** 2", "2"),
        ("16 ** 0.5", "4"),
        ("1 ** 10 ** 50", "1"),
    ],
)
def test_results(expression, result):
    assert calculate(expression) == result


@pytest.mark.parametrize(
    ("expression", "plain"),
    [
        ("6 × 7", "6 * 7"),
        ("6 x 7", "6 * 7"),
        ("6 ÷ 4", "6 / 4"),
        ("6 − 4", "6 - 4"),
        ("1,234 * 2", "1234 * 2"),
        ("$1,234,567.50 + $2", "1234567.50 + 2"),
        ("x = 3 + 4", "3 + 4"),
        ("total = 3 + 4 =", "3 + 4"),
        ("3 + 4 = ?", "3 + 4"),
        ("20% * 50", "0.2 * 50"),
        ("50 - 20%", "50 - 0.2"),
        ("3\n+ 4", "3 + 4"),
        ("max(1,234)", "234"),  # two arguments, as in every language ..
        ("max((1,234), 2)", "1234"),  # .. but not inside of brackets of their own
        ("20 % 3", "2"),
    ],
)
def test_the_signs_that_people_write(expression, plain):
    assert calculate(expression) == calculate(plain)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "nothing to calculate"),
        (" = ", "nothing to calculate"),
        ("1/0", "division by zero"),
        ("1 % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("__import__('os')", "not arithmetic: name '__import__'"),
        ("os.system(1)", "not arithmetic: name 'os'"),
        ("lambda: 1", "not arithmetic: name 'lambda'"),
        ("1 if 2 else 3", "not arithmetic: name 'if'"),
        ("0x10", "not arithmetic: name 'x10'"),
        ("1_000", "not arithmetic: name '_000'"),
        ("20% of 50", "not arithmetic: name 'of'"),
        ("[1]", "not arithmetic: '['"),
        ("5!", "not arithmetic: '!'"),
        ("٣ + ٤", "not arithmetic: '٣'"),
        ("3 +", "not arithmetic: cannot read '3 +'"),
        ("3 4", "not arithmetic: cannot read '3 4'"),
        ("(3", "not arithmetic: cannot read '(3'"),
        ("1,2345", "not arithmetic: a comma"),
        ("2(3 + 4)", "a sign is missing before a bracket"),
        ("max", "a function without brackets"),
        ("max(*1)", "a sign too many"),
        ("abs()", "abs cannot take 0 numbers"),
        ("round(1, 0.5)", "round takes a whole number of digits"),
        ("3 + 4 = 8", "this is an equation"),
        ("sqrt(-1)", "square root of a negative number"),
        ("8 ** (1/3)", "an exponent must be a whole number or a half, not 1/3"),
        ("9**9**9", f"more than {MAX_DIGITS} digits"),
        ("9**-(9**99)", f"more than {MAX_DIGITS} digits"),
        ("1e999999999", f"more than {MAX_DIGITS} digits"),
        ("1e-999999999", f"more than {MAX_DIGITS} digits"),
        ("1" * (MAX_DIGITS + 2), f"more than {MAX_DIGITS} digits"),
        ("(10**150) * (10**150)", f"more than {MAX_DIGITS} digits"),
        ("round(1, 10**9)", "round takes a whole number"),
        ("1" + "+1" * MAX_LENGTH, f"characters; {MAX_LENGTH} at most"),
        ("-" * (MAX_DEPTH + 1) + "1", f"nested more than {MAX_DEPTH} deep"),
        ("2**" * (MAX_DEPTH + 1) + "1", f"nested more than {MAX_DEPTH} deep"),
    ],
)
def test_refusals(expression, reason):
    with pytest.raises(CalculatorError, match=re.escape(reason)) as refusal:
        calculate(expression)
    assert len(str(refusal.value)) < 120


def test_a_long_sum_is_not_a_deep_one():
    assert calculate("+".join(["1"] * (MAX_LENGTH // 2))) == str(MAX_LENGTH // 2)


@settings(deadline=None)
@given(TREES)
def test_arithmetic_is_that_of_fractions(expression):
    try:
        expected = oracle(expression)
    except ZeroDivisionError:
        with pytest.raises(CalculatorError, match="division by zero"):
            calculate(expression)
        return
    try:
        result = calculate(expression)
    except CalculatorError as error:
        assert "digits" in str(error)
        return
    if "." not in expression:
        assert result == str(expected)
    else:
        assert abs(Fraction(result) - expected) <= Fraction(1, 2 * 10**6)


@settings(deadline=None)
@given(st.one_of(st.text(max_size=80), st.lists(ALPHABET, max_size=40).map("".join)))
@example("(" * MAX_LENGTH)
@example("(" * 240 + "1" + ")" * 240)
@example("-" * MAX_LENGTH)
@example("\ud800")
@example("1\x00+1")
def test_any_text_gives_a_result_or_a_refusal_and_a_result_is_its_own_result(text):
    try:
        result = calculate(text)
    except CalculatorError as error:
        assert str(error)
    else:
        assert re.fullmatch(r"-?\d+(/\d+|(\.\d+)?(e-\d+)?)", result)
        assert calculate(result) == result


def test_threads_do_not_disturb_each_other():
    expressions = [f"sqrt({n}) * 3 + {n}/7.0" for n in range(300)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(calculate, expressions)) == [
            calculate(expression) for expression in expressions
        ]
