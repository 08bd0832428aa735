"""Results of other load generators, read as ours; each is written by hand, true to its tool."""

import copy
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from negfail_nb import views
from negfail_nb.settings import EvaluateSettings
from negfail_nb.speed import RequestsFailed, read_load, read_traces, request_table
from negfail_nb.trajectory import UnreadableLog

# Two requests at once: 0.5 s to the first token, 0.7 s to the answer's, 1.5 s to the last of 11.
FIRST, ANSWER, LAST, TOKENS, PROMPT = 0.5, 0.7, 1.5, 11, 40
GAPS = [0.2, 0.3, 0.5]
SENT = (1000.0, 1000.25)
NAMES = ["ttft", "ttfa", "tpot", "e2e", "prompt_tokens", "completion_tokens"]
TRUTH = [FIRST, ANSWER, 0.1, LAST, PROMPT, TOKENS]
NO_THOUGHTS = [FIRST, FIRST, 0.1, LAST, PROMPT, TOKENS]


def guidellm(strategy=None, requests=None, **totals):
    """A report of guidellm 0.8: ``time_per_output_token_ms`` includes the time to the first."""

    def request(sent, error=None):
        timings = {"targeted_start": sent - 0.1, "first_token_iteration": sent + FIRST}
        timings |= {"first_output_token_iteration": sent + ANSWER, "token_iterations": 6}
        timings |= {"last_token_iteration": sent + LAST, "request_start": sent}
        counts = {"prompt_tokens": PROMPT, "output_tokens": TOKENS, "cached_tokens": 0}
        times = {"request_start_time": sent, "request_end_time": sent + 1.6}
        return (
            {"info": {"timings": timings, "error": error}, "response_metrics": None}
            | counts
            | times
        )

    def spread(value):
        return {"successful": {"mean": value, "percentiles": {"p50": value, "p95": 2 * value}}}

    kept = requests or {"successful": [request(s) for s in SENT], "errored": [], "incomplete": []}
    if requests:
        kept = {
            k: [request(s, "500" if k == "errored" else None) for s in v] for k, v in kept.items()
        }
    counted = {k: len(v) for k, v in kept.items()}
    metrics = {"request_totals": {**counted, "total": sum(counted.values()), **totals}}
    metrics |= {"time_to_first_token_ms": spread(500.0), "inter_token_latency_ms": spread(100.0)}
    metrics |= {"time_to_first_output_token_ms": spread(700.0), "request_latency": spread(1.6)}
    metrics |= {"time_per_output_token_ms": spread(136.4)}
    metrics |= {"requests_per_second": spread(1.2), "output_tokens_per_second": spread(13.2)}
    strategy = strategy or {"type_": "concurrent", "streams": 2, "max_concurrency": 2}
    benchmark = {"config": {"strategy": strategy}, "requests": kept, "metrics": metrics}
    about = {"version": 2, "guidellm_version": "0.8.1"}
    return {"metadata": about, "benchmarks": [benchmark | {"duration": 1.85}], "conclusions": []}


def vllm(**changes):
    """A result of ``vllm bench serve --save-detailed``; it knows no thoughts."""
    about = {"date": "20261130-120000", "backend": "openai-chat", "num_prompts": 2, "completed": 2}
    about |= {"request_rate": "inf", "burstiness": 1.0, "max_concurrency": 2, "duration": 1.85}
    about |= {"failed": 0, "total_input_tokens": 2 * PROMPT, "total_output_tokens": 2 * TOKENS}
    about |= {"request_throughput": 1.08, "output_throughput": 11.9, "mean_ttft_ms": 500.0}
    about |= {"median_ttft_ms": 500.0, "p99_ttft_ms": 510.0, "median_tpot_ms": 100.0}
    lists = {"input_lens": [PROMPT] * 2, "output_lens": [TOKENS] * 2, "ttfts": [FIRST] * 2}
    lists |= {"itls": [GAPS] * 2, "start_times": list(SENT), "errors": ["", ""]}
    return about | lists | changes


def short(**changes):
    """The same without ``--save-detailed``."""
    lists = ("input_lens", "output_lens", "ttfts", "itls", "start_times", "errors")
    return {k: v for k, v in vllm(**changes).items() if k not in lists}


def aiperf_line(sent, phase="profiling", error=None, **about):
    """A line of AIPerf's ``profile_export.jsonl``."""
    values = {"time_to_first_token": (1e3 * FIRST, "ms"), "request_latency": (1e3 * LAST, "ms")}
    values |= {"time_to_first_output_token": (1e3 * ANSWER, "ms")}
    values |= {"inter_chunk_latency": ([1e3 * gap for gap in GAPS], "ms")}
    values |= {
        "output_sequence_length": (TOKENS, "tokens"),
        "usage_prompt_tokens": (PROMPT, "tokens"),
    }
    about |= {"request_start_ns": int(1e9 * sent), "request_end_ns": int(1e9 * (sent + LAST))}
    about |= {"credit_issued_ns": int(1e9 * (sent - 0.1)), "benchmark_phase": phase}
    metrics = {name: {"value": v, "unit": unit} for name, (v, unit) in values.items()}
    if error:
        return {"metadata": about, "metrics": {}, "error": error}
    return {"metadata": about, "metrics": metrics}


def aiperf_summary(schema="1.4", phase=None, counted=True):
    """AIPerf's ``profile_export_aiperf.json``."""
    phase = phase or {"kind": "profiling", "type": "concurrency", "concurrency": 2}
    config = {"phases": [{"kind": "warmup", "type": "concurrency", "concurrency": 9}, phase]}
    config["endpoint"] = {"use_server_token_count": counted}
    values = {"request_count": 2.0, "request_throughput": 1.08, "output_token_throughput": 11.9}
    values |= {"benchmark_duration": 1.85}
    found = {name: {"unit": "-", "avg": value} for name, value in values.items()}
    found["time_to_first_token"] = {"unit": "ms", "avg": 500.0, "p50": 500.0, "p95": 505.0}
    return found | {"schema_version": schema, "aiperf_version": "0.13.0", "input_config": config}


def lifecycle(count=2, **load):
    """A stage of inference-perf, in seconds."""
    latency = {"time_to_first_token": {"mean": FIRST, "median": FIRST}, "request_latency": None}
    latency |= {"time_per_output_token": {"mean": 0.1, "median": 0.1}}
    latency |= {"inter_token_latency": {"mean": 0.001, "median": 0.0}}
    rates = {"input_tokens_per_sec": 43.2, "output_tokens_per_sec": 11.9, "requests_per_sec": 1.08}
    good = {"count": count, "latency": latency, "throughput": rates}
    summed = {"count": count, **load}
    return {"load_summary": summed, "successes": good, "failures": {"count": 0}}


def lifecycle_request(sent, chunks=False, error=None):
    """A request of inference-perf, with its stream or only the times of its tokens."""
    times = [sent + FIRST, sent + ANSWER, sent + 1.0, sent + LAST]
    response = {"output_tokens": TOKENS, "output_token_times": sorted(times + times[2:])}
    if chunks:
        kinds = ["reasoning_content", "content", "content", "content"]
        told = [{"choices": [{"index": 0, "delta": {kind: "a"}}]} for kind in kinds]
        response |= {"response_chunks": [*map(json.dumps, told)], "chunk_times": times}
        response["server_usage"] = {"prompt_tokens": PROMPT, "completion_tokens": TOKENS}
    info = {"input_tokens": PROMPT, "response_metrics": response}
    return {"start_time": sent, "end_time": sent + 1.6, "info": info, "error": error}


def write(path, *records):
    """Write JSON, or a line for each of several records, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


SUMMARIES = {
    "vllm bench": ("vllm.json", short(), "closed@2"),
    "AIPerf": ("profile_export_aiperf.json", aiperf_summary(), "closed@2"),
    "inference-perf": ("stage_0_lifecycle_metrics.json", lifecycle(requested_rate=2.0), "rate@2"),
    "guidellm": ("guidellm.json", guidellm(successful=9, total=9), "closed@2"),
}
FILES = {
    "guidellm": ("benchmarks.json", [guidellm()], TRUTH),
    "vllm bench": ("vllm.json", [vllm()], NO_THOUGHTS),
    "AIPerf": ("profile_export.jsonl", [aiperf_line(s) for s in SENT], TRUTH),
    "inference-perf": (
        "per_request_lifecycle_metrics.json",
        [[lifecycle_request(s, chunks=True) for s in SENT]],
        TRUTH,
    ),
}


@pytest.mark.parametrize("tool", FILES)
def test_the_requests_of_other_tools_have_our_times_under_our_names(tool, tmp_path):
    name, records, wanted = FILES[tool]
    file = write(tmp_path / name, *records)
    traces = list(read_traces(file))
    assert {trace.cell for trace in traces} == {f"closed@2/{tool}"} and len(traces) == 2
    for row in request_table(traces)[NAMES].itertuples(index=False):
        assert list(row) == pytest.approx(wanted)
    row = read_load(file).table.iloc[0]
    assert (row["requests"], row["failures"], row["peak"]) == (2, 0, 2)
    assert row["tokens_out_per_s"] == pytest.approx(22 / row["seconds"])


def stated(path):
    """The single row of what a tool only states, and its medians."""
    found = read_load(path)
    medians = found.latencies[found.latencies["statistic"] == "p50"].set_index("metric")["value"]
    return found, found.table.iloc[0], medians


@pytest.mark.parametrize("tool", SUMMARIES)
def test_a_summary_gives_a_row_without_intervals(tool, tmp_path):
    name, record, load = SUMMARIES[tool]
    found, row, medians = stated(write(tmp_path / name, record))
    assert row["cell"] == f"{load}/{tool}" and row["tokens_out_per_s"] == pytest.approx(11.9, abs=2)
    assert medians["ttft"] == pytest.approx(FIRST) and found.latencies["low"].isna().all()
    assert found.notes
    with pytest.raises(UnreadableLog, match="only a summary; use read_load"):
        list(read_traces(tmp_path / name))


def test_time_per_token_of_guidellm_leaves_out_the_first(tmp_path):
    _, _, medians = stated(write(tmp_path / "g.json", guidellm(successful=9, total=9)))
    assert medians["tpot"] == pytest.approx(0.1) and medians["ttfa"] == pytest.approx(ANSWER)


def test_gaps_that_a_tool_did_not_keep_are_not_made_up(tmp_path):
    itl = read_load(write(tmp_path / "g.json", guidellm())).latencies.query("metric == 'itl'")
    assert itl["value"].isna().all()
    _, _, medians = stated(
        write(tmp_path / "stage_0_lifecycle_metrics.json", lifecycle(concurrency=2))
    )
    assert math.isnan(medians["itl"])  # it counts the tokens of one chunk as 0 apart


def test_tokens_a_step_are_known_where_a_tool_counts_chunks(tmp_path):
    row = read_load(write(tmp_path / "g.json", guidellm())).table.iloc[0]
    assert row["tokens_per_step"] == pytest.approx(10 / 5)


@pytest.mark.parametrize(
    ("strategy", "load"),
    [
        ({"type_": "poisson", "rate": 2.5}, "poisson@2.5"),
        ({"type_": "constant", "rate": 4.0}, "constant@4"),
        ({"type_": "synchronous"}, "closed@1"),
        ({"type_": "throughput", "max_concurrency": None}, "closed@2"),
    ],
)
def test_open_loops_count_from_when_a_request_was_due(strategy, load, tmp_path):
    traces = list(read_traces(write(tmp_path / "g.json", guidellm(strategy))))
    late = 0.1 if "rate" in strategy else 0.0
    assert {trace.cell for trace in traces} == {f"{load}/guidellm"}
    assert request_table(traces)["ttft"].tolist() == pytest.approx([FIRST + late] * 2)


def test_failures_stay_in_and_what_was_cut_off_is_counted(tmp_path):
    parts = {"successful": [1000.0], "errored": [1001.0], "incomplete": [1002.0]}
    found = read_load(write(tmp_path / "g.json", guidellm(requests=parts)))
    assert found.table.iloc[0]["failures"] == 1 and "1 of 2 requests failed" in found.warning
    assert any("1 requests were cut off" in note for note in found.notes)
    lines = [aiperf_line(1000.0), aiperf_line(1001.0, error={"code": 500, "message": "died"})]
    lines.append(aiperf_line(1002.0, was_cancelled=True))
    found = read_load(write(tmp_path / "profile_export.jsonl", *lines))
    assert found.table.iloc[0]["failures"] == 1 and "(died)" in found.warning
    assert any("1 cancelled requests are left out" in note for note in found.notes)
    broken = vllm(errors=["", "Traceback\nTimeoutError"], completed=1, failed=1)
    assert "(TimeoutError)" in read_load(write(tmp_path / "v.json", broken)).warning
    assert (
        "1 of 2 requests failed"
        in read_load(write(tmp_path / "s.json", short(failed=1, completed=1))).warning
    )


def test_the_load_of_aiperf_lies_beside_its_lines_and_warm_ups_do_not_count(tmp_path):
    lines = [aiperf_line(990.0, phase="warmup"), *(aiperf_line(s) for s in SENT)]
    file = write(tmp_path / "profile_export.jsonl", *lines)
    phase = {"kind": "profiling", "type": "poisson", "rate": 4.0}
    write(tmp_path / "profile_export_aiperf.json", aiperf_summary(phase=phase, counted=False))
    found = read_load(tmp_path)  # the folder: its summary is not a second run
    assert found.table["cell"].tolist() == ["poisson@4/AIPerf"] and found.table["requests"][0] == 2
    assert any("AIPerf's tokenizer" in note for note in found.notes)
    assert request_table(read_traces(file))["ttft"].tolist() == pytest.approx([FIRST + 0.1] * 2)


def test_results_that_were_appended_to_a_file_are_cells_of_their_own(tmp_path):
    runs = vllm(), short(max_concurrency=8), vllm(), short(request_rate=3.0)
    cells = read_load(write(tmp_path / "v.json", *runs)).table["cell"].tolist()
    names = ["closed@2", "closed@8", "closed@2", "poisson@3"]
    assert cells == [f"{n}/vllm bench" + " 2" * (i == 2) for i, n in enumerate(names)]


def test_stages_of_inference_perf_are_told_apart_by_the_files_beside(tmp_path):
    requests = [lifecycle_request(s) for s in (30.0, 10.0, 10.25)]
    file = write(tmp_path / "per_request_lifecycle_metrics.json", requests)
    write(tmp_path / "stage_0_lifecycle_metrics.json", lifecycle(2, requested_rate=2.0))
    write(tmp_path / "stage_1_lifecycle_metrics.json", lifecycle(1, requested_rate=4.0))
    write(tmp_path / "stage_0_prometheus_metrics.json", {"count": 1})
    table = read_load(tmp_path).table
    assert table["cell"].tolist() == ["rate@2/inference-perf", "rate@4/inference-perf"]
    assert table["requests"].tolist() == [2, 1]
    write(tmp_path / "stage_1_lifecycle_metrics.json", lifecycle(7, requested_rate=4.0))
    found = read_load(file)
    assert len(found.table) == 1 and any("9 requests" in note for note in found.notes)


BAD = {
    "an older guidellm": (
        {"metadata": {"version": 1, "guidellm_version": "0.3.0"}, "benchmarks": []},
        "guidellm 0.3.0 wrote schema 1; known is 2",
    ),
    "a guidellm before versions": ({"benchmarks": [{"metrics": {}}]}, "schema None; known is 2"),
    "a newer AIPerf": (aiperf_summary("2.0"), "AIPerf 0.13.0 wrote schema 2.0; known is 1.x"),
    "embeddings": ({k: v for k, v in short().items() if k != "output_throughput"}, "embeddings"),
    "no stream": ([lifecycle_request(1.0) | {"info": {"input_tokens": 3}}], "was it streamed"),
    "several stages": (lifecycle(), "give the stage_N files"),
    "a field gone": (
        {k: v for k, v in short().items() if k != "total_input_tokens"},
        "'total_input_tokens' is missing",
    ),
    "times that go back": (vllm(ttfts=[-FIRST] * 2), "the clock goes backwards"),
    "another tool": ({"results": []}, "not the results of a known tool"),
    "a number": (7, "not the results of a known tool"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read_names_the_file_the_version_and_what_is_known(kind, tmp_path):
    record, said = BAD[kind]
    file = write(tmp_path / "results.json", record)
    with pytest.raises(UnreadableLog, match="results.json") as error:
        read_load(file)
    assert said in str(error.value)
    if "known tool" in said:
        assert all(
            name in str(error.value) for name in ("guidellm", "AIPerf", "vllm", "inference-perf")
        )


def places(value, path=()):
    """Yield the path of every value in a record."""
    if not isinstance(value, dict | list):
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        yield from places(inner, (*path, key))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_a_record_that_was_damaged_anywhere_is_read_or_refused(tmp_path_factory, tool, data):
    name, records, _ = FILES[tool]
    if data.draw(st.booleans()):
        name, *records = SUMMARIES[tool][:2]
    damaged = copy.deepcopy(records)
    *path, last = data.draw(st.sampled_from(sorted(places(damaged), key=repr)))
    inside = damaged
    for key in path:
        inside = inside[key]
    inside[last] = data.draw(st.sampled_from([None, "x", -1, 1e300, [], {}, [{}], {"a": 1}]))
    file = write(tmp_path_factory.mktemp("damaged") / name, *damaged)
    try:
        read_load(file, settings=EvaluateSettings(resamples=100))
    except RequestsFailed:
        pass  # a damaged error is an error
    except UnreadableLog as error:
        assert name in str(error)


def test_a_file_without_a_run_says_so(tmp_path):
    name, *records = SUMMARIES["guidellm"][:2]
    file = write(tmp_path / name, *[record | {"benchmarks": []} for record in records])
    for read in (read_load, lambda path: list(read_traces(path))):
        with pytest.raises(UnreadableLog, match="holds no run"):
            read(file)


def test_a_file_that_is_no_json_and_an_empty_folder_say_so(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}\n{"b"')
    with pytest.raises(UnreadableLog, match="no JSON"):
        read_load(tmp_path / "a.json")
    (tmp_path / "none").mkdir()
    with pytest.raises(UnreadableLog, match="no results in the folder"):
        read_load(tmp_path / "none")


def test_a_figure_shows_other_tools_and_the_first_token_of_the_answer(tmp_path):
    write(tmp_path / "a" / "profile_export.jsonl", *(aiperf_line(s) for s in SENT))
    write(tmp_path / "v.json", vllm(), short(max_concurrency=8))
    found = read_load(tmp_path)
    figure = views.draw_load(views.load_table(found))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["AIPerf", "vllm bench"]
    dotted = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert any(y == pytest.approx(ANSWER) for line in dotted for y in line.get_ydata())
    said = views.page(found).html
    assert "first token of the answer" in said and "may only name the role" in said
