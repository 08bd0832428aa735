"""The type of numbers is what the machine is fast in."""

import pytest

from negfail_nb.settings import TrainSettings
from negfail_nb.training import arithmetic


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({"float32": 60.0, "bfloat16": 150.0}, "bfloat16"),
        ({"float32": 60.0, "bfloat16": 65.0}, "float32"),  # not worth three digits
        ({"float32": 60.0, "bfloat16": 2.0}, "float32"),  # a processor that emulates it
    ],
)
def test_auto_is_bfloat16_only_where_that_is_clearly_faster(monkeypatch, rates, chosen):
    monkeypatch.setattr(arithmetic, "multiply_rates", lambda: rates)
    arithmetic._fastest.cache_clear()
    try:
        assert arithmetic.resolve_dtype(TrainSettings(dtype="auto").dtype) == chosen
        assert arithmetic.resolve_dtype("float32") == "float32"
    finally:
        arithmetic._fastest.cache_clear()


def test_both_types_are_measured():
    rates = arithmetic.multiply_rates()
    assert set(rates) == {"float32", "bfloat16"} and min(rates.values()) > 0
