"""The type of numbers is what the machine is fast in, and stays what it was."""

import pytest

from negfail_nb.settings import TrainSettings
from negfail_nb.training import arithmetic

FAST = {"float32": 60.0, "bfloat16": 150.0}
BUSY = {"float32": 60.0, "bfloat16": 50.0}


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Say what a measurement finds; each is a new process on the same machine."""
    monkeypatch.setattr(arithmetic, "cache_folder", lambda: tmp_path / "cache")

    def measured(rates):
        monkeypatch.setattr(arithmetic, "multiply_rates", lambda: rates)
        arithmetic._chosen.cache_clear()
        return arithmetic.resolve_dtype(TrainSettings(dtype="auto").dtype)

    yield measured
    arithmetic._chosen.cache_clear()


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        (FAST, "bfloat16"),
        ({"float32": 60.0, "bfloat16": 65.0}, "float32"),  # not worth three digits
        ({"float32": 60.0, "bfloat16": 2.0}, "float32"),  # a processor that emulates it
    ],
)
def test_auto_is_bfloat16_only_where_that_is_clearly_faster(measured, rates, chosen):
    assert measured(rates) == chosen
    assert arithmetic.resolve_dtype("float32") == "float32"


def test_a_busy_moment_does_not_change_what_was_chosen(measured, tmp_path):
    assert measured(FAST) == measured(BUSY) == "bfloat16"
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_text("{")  # damaged: measured again
    assert measured(BUSY) == measured(FAST) == "float32"


def test_where_nothing_can_be_kept_it_is_measured_each_time(measured, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    assert (measured(FAST), measured(BUSY)) == ("bfloat16", "float32")
    assert "the type is measured again each time" in caplog.text


def test_both_types_are_measured():
    rates = arithmetic.multiply_rates()
    assert set(rates) == {"float32", "bfloat16"} and min(rates.values()) > 0
