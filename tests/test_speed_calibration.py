"""Measured rows, the fit of efficiencies, and errors on rows that were never fitted."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _heldout import compare, error_table, splits, summarise
from conftest import real_data

from negfail_nb.speed.architecture import get_architecture
from negfail_nb.speed.calibration import SIGMA, calibrate
from negfail_nb.speed.efficiencies import PRIORS, Efficiencies
from negfail_nb.speed.measurements import predicted, read_measurements

ROOT = Path(__file__).parents[1]
ROW = {
    "version": "mine 1",
    "model": "llama-3.1-8b",
    "gpu": "h100",
    "n_gpus": 1,
    "isl": 1024,
    "osl": 128,
    "concurrency": 4,
    "metric": "ttft",
    "value": 90.0,
    "unit": "ms",
}
TRUTH = Efficiencies(
    compute=0.5, weights=0.9, kv=0.5, allreduce_us=40.0, step_ms=2.5, sequence_us=60.0
)


def sweep(metrics=("ttft", "e2e"), gpus=(1, 2, 4), model="llama-3.1-8b", truth=TRUTH, factor=1.0):
    """Rows as an engine of known efficiencies would give them."""
    asked = [
        ROW
        | {
            "n_gpus": n,
            "concurrency": batch,
            "isl": tokens,
            "osl": tokens,
            "metric": metric,
            "unit": "s",
            "value": 1,
            "model": model,
        }
        for metric in metrics
        for n in gpus
        for batch in (1, 16, 64)
        for tokens in (128, 512, 2048)
    ]
    rows = read_measurements(asked)
    return [replace(row, value=predicted(row, truth) * factor) for row in rows]


def test_a_fit_finds_the_numbers_that_made_the_rows():
    fitted = calibrate(sweep())
    for name in ("compute", "weights", "kv", "sequence_us"):
        assert getattr(fitted, name) == pytest.approx(getattr(TRUTH, name), rel=0.12), name
    for estimate in fitted.estimates:
        assert estimate.low <= getattr(TRUTH, estimate.name) <= estimate.high, estimate.name
    large = sweep(model="llama-3.1-70b", gpus=(4, 8))
    unfitted, held_out = (summarise(compare(large, e))["median"] for e in (Efficiencies(), fitted))
    assert held_out < min(0.06, unfitted / 2)
    assert fitted.rows == len(sweep())


def test_noise_is_in_the_interval_and_more_rows_narrow_it():
    rows, draw = sweep(("ttft",), gpus=(1,)), np.random.default_rng(0)
    rows = [row for row in rows if row.workload.batch > 1] * 6
    noisy = [
        replace(row, value=row.value * float(np.exp(SIGMA * draw.standard_normal())))
        for row in rows
    ]
    wide, narrow = calibrate(noisy[:6]).estimates[0], calibrate(noisy).estimates[0]
    assert narrow.low < TRUTH.compute < narrow.high
    assert np.log(narrow.high / narrow.low) < np.log(wide.high / wide.low)


def test_decode_rows_do_not_touch_the_prefill():
    first, rest = sweep(("ttft",)), sweep(("e2e",))
    slow = [replace(row, value=row.value * 1.6) for row in rest]
    assert (
        calibrate(first + rest).compute
        == calibrate(first + slow).compute
        == calibrate(first).compute
    )
    assert calibrate(first).sequence_us == Efficiencies().sequence_us


def test_without_ttft_rows_the_prefill_is_fitted_with_the_rest():
    assert calibrate(sweep(("e2e",))).compute == pytest.approx(TRUTH.compute, rel=0.2)


def test_what_rows_cannot_tell_stays_at_its_prior_and_says_so():
    table = calibrate(sweep(gpus=(1,))).table()
    for name in ("allreduce_us", "link"):
        assert table.loc[name, "value"] == pytest.approx(getattr(Efficiencies(), name))
        assert table.loc[name, "from_rows"] < 0.01
        assert "mostly the prior" in table.loc[name, "identified"]
    assert table.loc["compute", "identified"] == "TTFT rows"
    assert Efficiencies().table()["identified"].str.startswith("not fitted").all()
    assert set(table.index) == set(PRIORS)


def test_no_share_exceeds_the_peak_however_fast_the_rows_are():
    table = calibrate(sweep(factor=0.2)).table()
    assert (table.loc[["compute", "weights", "kv"], ["value", "high"]] <= 1).all(axis=None)
    assert "at its upper bound" in table.loc["compute", "identified"]


def test_rows_that_do_not_fit_memory_are_left_out_and_named(caplog):
    too_large = read_measurements([ROW | {"model": "llama-3.1-70b", "unit": "s", "value": 1}])
    fitted = calibrate(sweep() + too_large)
    assert fitted.rows == len(sweep())
    assert len(fitted.left_out) == 1
    assert "llama-3.1-70b on 1 x h100" in fitted.left_out[0]
    assert "left out" in caplog.text
    with pytest.raises(ValueError, match="none of 1 rows can be fitted.*weights take"):
        calibrate(too_large)
    with pytest.raises(ValueError, match="none of 0 rows"):
        calibrate([])
    line = compare(too_large, fitted).iloc[0]
    assert np.isnan(line["error"]) and "weights take" in line["note"]


def test_a_users_own_rows_are_read_from_tables_and_files(tmp_path):
    import pandas as pd

    pd.DataFrame([ROW]).to_csv(tmp_path / "mine.csv", index=False)
    from_file, from_rows = read_measurements(tmp_path / "mine.csv"), read_measurements([ROW])
    assert from_file == from_rows == read_measurements(pd.DataFrame([ROW]))
    row = from_rows[0]
    assert (row.metric, row.value, row.workload.batch) == ("ttft_seconds", 0.09, 4)
    assert row.workload.kv == "bf16"
    assert read_measurements([ROW | {"precision": "fp8"}])[0].workload.kv == "fp8"
    most = read_measurements([ROW | {"concurrency": "max", "usable": 0.8, "max_batch": 7}])[0]
    assert (most.saturated, most.hardware.usable, most.workload.max_batch) == (True, 0.8, 7)
    assert read_measurements([]) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpu": "TPU"}, "no GPU 'TPU'"),
        ({"model": "Mixtral"}, "no architecture 'Mixtral'"),
        ({"metric": "vibes"}, "metric is 'vibes'"),
        ({"unit": "tok/s"}, "unit of ttft_seconds is 'tok/s'"),
        ({"value": "fast"}, "value is 'fast'"),
        ({"value": -1}, "value is -1"),
        ({"isl": 2.5}, "isl is 2.5"),
        ({"n_gpus": None}, "n_gpus is ''"),
        ({"precision": "fp2"}, "weights is 'fp2'"),
    ],
)
def test_a_bad_row_is_named_with_its_field(change, said):
    with pytest.raises(ValueError, match=rf"rows, row 2: .*{said}"):
        read_measurements([ROW, ROW | change])


def test_a_bad_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.csv"):
        read_measurements(tmp_path / "none.csv")
    (tmp_path / "half.csv").write_text("version,model\nvllm,llama-3-8b\n")
    with pytest.raises(ValueError, match=r"half\.csv has no column gpu"):
        read_measurements(tmp_path / "half.csv")


def test_splits_never_fit_what_they_hold_out():
    rows = sweep() + sweep(("e2e",), (4, 8), "llama-3.1-70b")
    rows += [replace(row, engine="mine 2") for row in rows]
    found = {split.kind: split for split in splits(rows) if split.fitted and split.held_out}
    assert set(found) == {"model", "engine"}
    assert {m.architecture.name for m in found["model"].fitted} == {"llama-3.1-8b"}
    assert {m.architecture.name for m in found["model"].held_out} == {"llama-3.1-70b"}
    assert {m.engine for m in found["engine"].fitted}.isdisjoint(
        m.engine for m in found["engine"].held_out
    )


def test_70b_is_predicted_from_8b_within_the_aim():
    rows = read_measurements(real_data("throughput/published.csv"))
    assert len(rows) == 820
    table = error_table([m for m in rows if m.hardware.name in ("h100", "a100-40gb")], ("model",))
    assert len(table) == 3
    assert (table["median"] <= 0.10).all() and (table["p90"] <= 0.20).all()
    assert (table["ideal_median"] > 3 * table["median"]).all()


def test_prefill_fitted_to_10k_tokens_predicts_128k():
    rows = [
        m
        for m in read_measurements(real_data("throughput/published.csv"))
        if m.engine.startswith("vLLM (2024)")
    ]
    line = error_table(rows, ("context",)).iloc[0]
    assert (line["fitted"], line["rows"]) == (2, 3)
    assert line["p90"] < 0.1


def test_priors_are_what_profiled_layers_of_8b_give():
    """Weights and layers: least squares on Vidur's layer times, up to 64 tokens, at four
    tensor-parallel degrees.
    """
    import pandas as pd

    table = pd.read_csv(real_data("throughput/vidur_layer_ms.csv"))
    table = table[(table["model"] == "Llama-3-8B") & (table["num_tokens"] <= 64)]
    assert set(table["tp"]) == {1, 2, 4, 8}
    ideal = get_architecture("llama-3-8b").layer_parameters * 2 / table["tp"] / 2039e9
    seconds = table["ms_per_layer"] * 1e-3
    design = np.column_stack([ideal, np.ones(len(table))]) / seconds.to_numpy()[:, None]
    slope, layer = np.linalg.lstsq(design, np.ones(len(table)), rcond=None)[0]
    assert abs(np.log(1 / slope / Efficiencies().weights)) < PRIORS["weights"].spread
    assert abs(np.log(layer * 1e6 / Efficiencies().layer_us)) < PRIORS["layer_us"].spread


def test_the_benchmark_skips_a_peer_that_is_absent(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location(
        "roofline_heldout", ROOT / "benchmarks" / "roofline_heldout.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.delenv(script.VARIABLE, raising=False)
    assert script.VARIABLE in script.llm_analysis([])["skipped"]
    monkeypatch.setenv(script.VARIABLE, str(tmp_path))
    assert "bin/python" in script.llm_analysis([])["skipped"]
