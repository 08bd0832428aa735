"""The user's own measurements, of a GPU and of a server, as rows that are fitted and predicted."""

import json
import logging
from dataclasses import asdict, replace

import pandas as pd
import pytest
from stream_server import StreamServer

from negfail_nb.settings import EndpointSettings, LoadSettings
from negfail_nb.speed import (
    Chunk,
    Efficiencies,
    RequestsFailed,
    ServerFacts,
    Trace,
    calibrate,
    get_architecture,
    get_hardware,
    gpu_table,
    measure_load,
    predict,
    read_gpu,
    read_measurements,
    request_table,
    server_rows,
    speed_table,
)
from negfail_nb.speed.measurements import GPU_SCHEMA, OLD_SCHEMA, predicted
from negfail_nb.speed.roofline import Workload

LARGE, H200 = get_architecture("llama-3.1-70b"), get_hardware("h200")
TRUTH = Efficiencies(compute=0.5, weights=0.9, kv=0.6, layer_us=40.0, step_ms=0.05, sequence_us=2.0)
PART = replace(LARGE, layers=4, window=2**31 - 1)
CELLS = [("prefill", n, 1) for n in (4096, 32768, 131072)] + [
    ("decode", n, b) for n in (4096, 131072) for b in (1, 16)
]


def row(phase, tokens, batch, precision="bf16", layers=4):
    """A cell as a GPU of known efficiencies would take it."""
    shape = replace(PART, layers=layers)
    free = replace(H200, usable=1.0, reserve_gib=0.0)
    new = tokens if phase == "prefill" else tokens - 1
    work = Workload(
        input_tokens=new,
        output_tokens=1 if phase == "prefill" else 2,
        batch=batch,
        weights=precision,
    )
    found = predict(shape, free, work, TRUTH)
    seconds = found.ttft_seconds if phase == "prefill" else found.tpot_seconds
    times = {
        "seconds": seconds,
        "low": seconds,
        "high": seconds,
        "rest_seconds": 0.0,
        "layer_seconds": seconds / 4,
    }
    about = {
        "model": LARGE.name,
        "precision": precision,
        "phase": phase,
        "tokens": tokens,
        "batch": batch,
    }
    return (
        about
        | times
        | {
            "asked": batch,
            "layers": layers,
            "of_layers": 80,
            "whole_seconds": seconds * 20,
            "note": "",
        }
    )


def measured(name="NVIDIA H200", **change):
    left = {
        "model": LARGE.name,
        "precision": "bf16",
        "phase": "decode",
        "tokens": 131072,
        "batch": 0,
        "asked": 64,
    }
    return {
        "schema": GPU_SCHEMA,
        "finished": True,
        "gpu": {"name": name, "memory_gib": 139.8, "torch": "2.13", "transformers": "5.23"},
        "rates": {"bf16_tflops": 700.0, "fp8_tflops": 1300.0, "fp8_note": "", "copy_gbs": 4300.0},
        "shapes": {LARGE.name: asdict(LARGE)},
        "rows": [*(row(*cell) for cell in CELLS), left | {"note": "64 need 128 GiB"}],
    } | change


# A GPU


def test_a_gpu_becomes_rows_of_truncated_models_that_are_predicted_as_they_stand():
    gpu = read_gpu(measured())
    assert (gpu.hardware.name, gpu.hardware.memory_gbs) == ("h200", 4800)
    assert repr(gpu) == "MeasuredGpu(h200, 7 cells measured, 1 left out)"
    assert [predicted(m, TRUTH) for m in gpu.measurements] == pytest.approx(
        [m.value for m in gpu.measurements]
    )
    assert {(m.architecture.layers, m.architecture.name) for m in gpu.measurements} == {
        (4, "llama-3.1-70b, 4 layers")
    }
    assert [m.value for m in gpu.whole] == pytest.approx([20 * m.value for m in gpu.measurements])
    assert {m.architecture.name for m in gpu.whole} == {"llama-3.1-70b"}


def test_a_file_of_an_earlier_version_is_read():
    new, old = measured(), measured(schema=OLD_SCHEMA)
    old["card"] = old.pop("gpu")
    assert read_gpu(old) == read_gpu(new)


def test_what_is_fitted_on_truncated_models_tells_of_the_whole(tmp_path):
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps(measured()))
    fitted = calibrate(read_measurements(file))
    work = Workload(input_tokens=60_000, output_tokens=200, tensor_parallel=8)
    true, before, after = (
        predict(LARGE, "h200", work, e).e2e_seconds for e in (TRUTH, Efficiencies(), fitted)
    )
    assert abs(after / true - 1) < 0.05 < abs(before / true - 1)


def test_8_bit_rows_keep_keys_and_values_in_16():
    gpu = read_gpu(measured(rows=[row("decode", 4096, 16, "fp8")]))
    work = gpu.measurements[0].workload
    assert (work.weights, work.kv) == ("fp8", "bf16")


def test_an_unknown_gpu_has_the_rates_that_it_was_measured_to_reach():
    hardware = read_gpu(measured(name="abacus")).hardware
    assert (hardware.name, hardware.bf16_tflops, hardware.memory_gbs) == ("abacus", 700.0, 4300.0)


def test_the_table_holds_measured_beside_predicted():
    gpu = read_gpu(measured())
    table = gpu_table(gpu, {"before": Efficiencies(), "truth": TRUTH})
    assert table.groupby("source").size().to_dict() == {"before": 7, "measured": 7, "truth": 7}
    assert table.loc[table.source == "truth", "error"].abs().max() < 1e-9
    assert table.loc[table.source == "before", "error"].abs().max() > 0.05
    assert table.loc[table.source == "measured", "error"].isna().all()


def test_whole_figures_of_a_gpu_are_points_beside_the_line():
    gpu = read_gpu(measured())
    pipeline = Workload(
        input_tokens=900, output_tokens=128, calls=3, added_tokens=700, weights="bf16"
    )
    table = speed_table(LARGE, H200, (4096,), pipeline, measured=gpu.whole)
    points = table[table.source == "measured"]
    assert len(points) == 3 and points.ttft_seconds.tolist() == [
        20 * row(*cell)["seconds"] for cell in CELLS[:3]
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "negfail_nb.gpu/9"}, "schema is 'negfail_nb.gpu/9'"),
        ({"rows": [{"seconds": 1}]}, "lacks what"),
        ({"gpu": {}}, "lacks what a measured GPU has"),
        ({"shapes": {}}, "llama-3.1-70b"),
    ],
)
def test_a_file_of_another_schema_is_refused(change, said, tmp_path):
    (tmp_path / "gpu.json").write_text(json.dumps(measured(**change)))
    with pytest.raises(ValueError, match=said):
        read_measurements(tmp_path / "gpu.json")


@pytest.mark.parametrize("text", ["{", "[]", None])
def test_a_file_that_is_no_measured_gpu_is_named(text, tmp_path):
    path = tmp_path / "gpu.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"gpu\.json"):
        read_gpu(path)


# A server


def trace(number, at_once=1, cache="cold", **change):
    start = number * 2.0
    chunks = tuple(Chunk(start + 0.5 + 0.1 * n, f"t{n}") for n in range(11))
    usage = {"prompt_tokens": 800 + number, "completion_tokens": 11}
    given = {
        "cell": f"closed@{at_once}/{cache}",
        "number": number,
        "scheduled": start,
        "sent": start,
        "usage": usage,
    }
    return Trace(**given | {"ended": start + 1.5, "chunks": chunks} | change)


def test_one_request_at_a_time_gives_times_and_several_give_throughput(caplog):
    traces = [
        trace(n, at_once, cache)
        for at_once in (1, 8)
        for cache in ("cold", "warm")
        for n in range(3)
    ]
    with caplog.at_level(logging.INFO, "negfail_nb"):
        rows = server_rows(traces, "llama-3.1-70b", "h100", 8, "vLLM 0.33", precision="fp8")
    assert "2 cells are no closed loops with a cold cache" in caplog.text
    assert rows.metric.tolist() == ["ttft", "tpot", "output_throughput_total"]
    assert rows.value.tolist()[:2] == pytest.approx([0.5, 0.1]) and rows.isl.tolist() == [801] * 3
    first, _, rate = read_measurements(rows)
    assert (first.workload.tensor_parallel, first.workload.weights, first.engine) == (
        8,
        "fp8",
        "vLLM 0.33",
    )
    assert (rate.workload.batch, rate.workload.batching) == (8, "continuous")


def test_a_servers_rows_go_through_a_file_into_the_fit(tmp_path):
    server_rows([trace(n) for n in range(3)], "llama-3.1-8b", "h100").to_csv(
        tmp_path / "mine.csv", index=False
    )
    fitted = calibrate(read_measurements(tmp_path / "mine.csv"))
    assert fitted.rows == 2 and fitted.compute < Efficiencies().compute


def test_a_measured_server_is_a_row():
    endpoint = EndpointSettings(model="mock", timeout=5.0)
    load = LoadSettings(concurrency=(1,), caches=("cold",), requests=4, warmup=1, output_tokens=4)
    with StreamServer(ttft=0.05, itl=0.02) as server:
        found = measure_load(
            replace(endpoint, base_url=server.url),
            ["who is it " * 30],
            load,
            facts=ServerFacts(stream_options=True),
        )
    rows = server_rows(found.traces, "llama-3-8b", "h100").set_index("metric")
    middle = request_table(found.traces)[["ttft", "tpot"]].median()
    assert (
        rows.value.to_dict() == middle.to_dict()
        and rows.osl["ttft"] == 4
        and middle["ttft"] >= 0.05
    )


@pytest.mark.parametrize(
    ("traces", "names", "error", "said"),
    [
        ([trace(0, cache="warm")], {}, ValueError, "no closed loop with a cold cache"),
        ([], {}, ValueError, "no closed loop"),
        (
            [trace(0), trace(1, error="500", chunks=())],
            {},
            RequestsFailed,
            "1 of 2 requests failed",
        ),
        ([trace(0, usage={})], {}, ValueError, "does not count tokens"),
        ([trace(0)], {"gpu": "abacus"}, ValueError, "no GPU 'abacus'"),
        ([trace(0)], {"model": "gpt-2"}, ValueError, "no architecture 'gpt-2'"),
    ],
)
def test_what_gives_no_rows_is_refused(traces, names, error, said):
    with pytest.raises(error, match=said):
        server_rows(traces, **{"model": "llama-3-8b", "gpu": "h100"} | names)


def test_how_requests_joined_is_a_column():
    asked = {
        "version": "x",
        "model": "llama-3-8b",
        "gpu": "h100",
        "n_gpus": 1,
        "isl": 100,
        "osl": 10,
    }
    asked |= {"concurrency": 4, "metric": "e2e", "value": 1, "unit": "s"}
    assert read_measurements([asked])[0].workload.batching == "static"
    assert (
        read_measurements(pd.DataFrame([asked | {"batching": "continuous"}]))[0].workload.batching
        == "continuous"
    )
    with pytest.raises(ValueError, match="batching is 'sometimes'"):
        read_measurements([asked | {"batching": "sometimes"}])
