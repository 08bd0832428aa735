"""Measured rows, the fit of efficiencies, and errors on rows that were never fitted."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _heldout import compare, error_table, fits, splits, summarise
from conftest import real_data

from negfail_nb.speed.architecture import get_architecture
from negfail_nb.speed.bands import ANOTHER, SAME, UNFITTED, band
from negfail_nb.speed.calibration import SIGMA, calibrate, errors
from negfail_nb.speed.efficiencies import PRIORS, Efficiencies
from negfail_nb.speed.hardware import get_hardware
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
        ({"metric": "vibes"}, "metric is 'vibes'"),
        ({"metric": "ttft_meen"}, "metric is 'ttft_meen'; did you mean ttft"),
        ({"unit": "tok/s"}, "unit of ttft_seconds is 'tok/s'"),
        ({"unit": ""}, "unit of ttft_seconds is ''; use s or ms or us"),
        ({"value": 0}, "value is 0"),
        ({"pp": 3, "n_gpus": 4}, "pp is 3, which does not divide n_gpus 4"),
        ({"value": "fast"}, "value is 'fast'"),
        ({"value": -1}, "value is -1"),
        ({"isl": 2.5}, "isl is 2.5"),
        ({"n_gpus": None}, "n_gpus is ''"),
    ],
)
def test_a_bad_row_is_named_with_its_field(change, said):
    with pytest.raises(ValueError, match=rf"rows, row 2: .*{said}"):
        read_measurements([ROW, ROW | change])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gpu": "H1000"}, "no GPU 'H1000' in the table; did you mean h100"),
        ({"gpu": "unstated (a cloud)", "n_gpus": ""}, "the hardware is not stated"),
        ({"model": "llama-3.1-80b"}, "no architecture 'llama-3.1-80b'; did you mean llama-3.1-8b"),
        ({"precision": "fp2"}, "no format 'fp2'; did you mean"),
        ({"metric": "ttft_p99"}, "no percentiles"),
        ({"isl": "ShareGPT"}, "lengths are those of ShareGPT"),
        ({"notes": "CP16 x TP8"}, "context parallelism"),
    ],
)
def test_a_row_that_cannot_be_predicted_is_counted_with_its_reason(change, reason, caplog):
    rows = read_measurements([ROW, ROW | change, ROW | change])
    assert len(rows) == 1
    ((said, count),) = rows.left_out.items()
    assert reason in said and count == 2
    assert "2 of 3 rows cannot be predicted" in caplog.text and said in caplog.text


@pytest.mark.parametrize(
    ("change", "metric", "value"),
    [
        ({"metric": "output_throughput_per_gpu", "unit": "tok/s/GPU"}, "output_tokens", 400.0),
        ({"metric": "output_throughput_total", "unit": "tok/s"}, "output_tokens", 100.0),
        ({"metric": "total_throughput", "unit": "tok/s"}, "tokens", 100.0),
        ({"metric": "request_throughput", "unit": "req/s"}, "requests", 100.0),
    ],
)
def test_throughput_is_that_of_all_gpus_whatever_a_table_counts(change, metric, value):
    row = read_measurements([ROW | {"n_gpus": 4, "value": 100} | change])[0]
    assert (row.metric, row.value) == (f"{metric}_per_second", value)


def test_a_speed_of_one_user_is_a_time_per_token():
    row = read_measurements([ROW | {"metric": "per_user_speed", "unit": "tok/s/user"}])[0]
    assert (row.metric, row.value) == ("tpot_seconds", pytest.approx(1 / 90))


def test_how_an_engine_was_set_is_read_from_its_row():
    loop = read_measurements([ROW | {"metric": "ttft_mean", "concurrency": 64}])[0].workload
    assert (loop.batching, loop.queued, loop.batch) == ("continuous", True, 64)
    stages = ROW | {"n_gpus": 8, "notes": "TP1, PP=n_gpus"}
    work = read_measurements([stages, stages | {"pp": 2}])
    assert [(w.workload.tensor_parallel, w.workload.pipeline_parallel) for w in work] == [
        (1, 8),
        (4, 2),
    ]
    most = ROW | {"metric": "output_throughput_total", "unit": "tok/s"}
    most = read_measurements([most | {"concurrency": "max (1500 prompts)"}])[0].workload
    assert (most.batch, most.max_batch, most.requests, most.queued) == (0, 1500, 1500, False)
    engines = [ROW | {"precision": "fp8", "version": v} for v in ("NIM 1", "SGLang 0.5", "vLLM 1")]
    assert [m.workload.kv for m in read_measurements(engines)] == ["fp8", "bf16", "bf16"]


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


def rows_of(engines, apart=0.0, truth=TRUTH):
    """Small sweeps of several engines, whose rows are off together by some deviation."""
    draw = np.random.default_rng(0)
    rows = []
    for engine in engines:
        factor = float(np.exp(apart * draw.standard_normal()))
        some = sweep(("e2e",), (1,), truth=truth, factor=factor)[1::2]
        rows += [replace(m, engine=engine) for m in some]
    return rows


@pytest.mark.parametrize(("truth", "better"), [(Efficiencies(), 1.0), (TRUTH, 0.7)])
def test_a_fit_of_several_engines_predicts_the_next_no_worse_than_the_defaults(truth, better):
    """If engines differ around the defaults, there is nothing to learn; else there is."""
    rows = rows_of([f"engine {n}" for n in range(6)], 0.2, truth)
    before, after = [], []
    for held in ("engine 0", "engine 3", "engine 5"):
        fitted = calibrate([m for m in rows if m.engine != held], each=False)
        unseen = [m for m in rows if m.engine == held]
        before += list(np.abs(errors(unseen, Efficiencies())))
        after += list(np.abs(errors(unseen, fitted)))
    assert np.mean(after) <= better * np.mean(before) + 0.02


def test_each_of_several_engines_keeps_its_own_numbers_and_others_get_the_pooled():
    rows = rows_of(["fast", "slow", "third", "fourth"], 0.3)
    fitted = calibrate(rows)
    own = [m for m in rows if m.engine == "slow"]
    pooled, known = (
        np.mean([abs(np.log(predicted(m, e) / m.value)) for m in own])
        for e in (replace(fitted, engines=()), fitted)
    )
    assert known < 0.5 * pooled
    assert fitted.of("never seen") is fitted and fitted.of("slow").rows == len(own)


def test_bands_hold_and_widen_with_what_was_not_among_the_rows():
    rows = rows_of([f"engine {n}" for n in range(6)], 0.3)
    fitted = calibrate(rows, each=False)
    (spread,) = fitted.spreads
    assert (spread.kind, spread.sources, spread.vendors) == ("throughput", 6, ("nvidia",))
    assert "of 6 sources (nvidia)" in str(spread)
    unseen = [replace(m, value=m.value * 1.1, engine="next") for m in rows_of(["next"])]
    low, high = band(1.0, "e2e_seconds", unseen[0].hardware, fitted)
    assert np.mean(np.abs(errors(unseen, fitted)) < np.log(high)) >= 0.9
    assert low == pytest.approx(1 / high)
    here, there = (
        band(1.0, "e2e_seconds", get_hardware(name), fitted)[1] for name in ("h200", "mi300x")
    )
    assert there > 1.5 * here
    one = calibrate(rows_of(["engine 0"]))
    two = calibrate(rows_of(["engine 0", "engine 1"]), each=False)
    assert two.spreads[0].half >= ANOTHER > one.spreads[0].half >= SAME
    assert "1 source (" in str(one.spreads[0])
    assert band(1.0, "ttft_seconds", get_hardware("h100"), fitted)[1] == pytest.approx(
        np.exp(UNFITTED["ttft"])
    )


def test_70b_is_predicted_from_8b_within_the_aim():
    rows = read_measurements(real_data("throughput/published.csv"))
    assert len(rows) == 820
    rows = [m for m in rows if m.hardware.name in ("h100", "a100-40gb")]
    at_once = [m for m in rows if fits(m)]
    assert 0 < len(rows) - len(at_once) < 10  # some would wait, while an engine of 2024 preempts
    table = error_table(at_once, ("model",))
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
