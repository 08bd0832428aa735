"""A GPU measured with a truncated model: the cells within memory and time, what the model computes,
and one JSON that survives being stopped.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from negfail_nb.speed import read_gpu
from negfail_nb.speed.gpu import GpuSettings, clock, measure, measure_gpu, measure_once
from negfail_nb.speed.gpu.__main__ import main, summary_lines, truncation_errors
from negfail_nb.speed.gpu.cells import DECODE, PREFILL, cell_bytes, plan_cells
from negfail_nb.speed.gpu.model import (
    LIMITS,
    KeptLayer,
    WrongResult,
    build_model,
    check_model,
    find_shape,
    kept_cache,
    only_layers,
    truncated,
)

CPU = torch.device("cpu")
DEFAULT, H100 = GpuSettings(), 80e9
TINY = replace(GpuSettings.small(), layers=1, lengths=(32, 64), batches=(1, 3), cell_seconds=0.0)
SHAPE = replace(find_shape("pocket-llama"), layers=2, vocabulary=256)
# CPUs are very slow with 8 bits.
NARROW = replace(SHAPE, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn=96, vocabulary=64)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A whole run, and its file."""
    file = tmp_path_factory.mktemp("gpu") / "gpu.json"
    return measure_gpu(TINY, file), file


# The plan


def test_all_that_is_asked_of_a_70b_fits_on_80_gb_and_into_the_time():
    shape = find_shape(DEFAULT.model)
    part = truncated(shape, DEFAULT.layers)
    assert (part.layers, part.hidden, part.kv_heads) == (4, 8192, 8)
    worst = 0.0
    for precision, tflops in (("bf16", 600), ("fp8", 1100)):
        cells = plan_cells(DEFAULT, part, 0.9 * H100, precision)
        assert [cell.tokens for cell in cells if cell.phase == PREFILL] == list(DEFAULT.lengths)
        assert all(cell.batch for cell in cells)
        for cell in cells:
            once = cell.sure_seconds(part, tflops * 1e12, 2500e9, precision)
            worst += once * (2 + min(clock.MOST, max(3, DEFAULT.cell_seconds / once)))
    assert worst < 0.6 * DEFAULT.seconds


def test_batches_are_cut_to_what_fits_and_say_so():
    part = truncated(find_shape(DEFAULT.model), DEFAULT.layers)
    cells = {
        (c.tokens, c.asked): c for c in plan_cells(DEFAULT, part, 0.9 * H100) if c.phase == DECODE
    }
    cut = cells[131072, 64]
    assert cells[4096, 64].batch == 64 and 16 < cut.batch < 64 and "64 need" in cut.note
    free = 0.9 * H100 - part.weight_bytes(2)
    each = cell_bytes(DECODE, part, 131072, "bf16")
    assert cut.batch * each <= free < (cut.batch + 1) * each
    # 128K tokens of keys and values in 4 of 80 layers.
    assert each >= 131072 * 327_680 * 4 / 80


def test_what_does_not_fit_at_all_is_left_out_with_its_reason():
    part = truncated(find_shape(DEFAULT.model), DEFAULT.layers)
    cells = plan_cells(DEFAULT, part, 24e9)
    long = next(c for c in cells if c.phase == PREFILL and c.tokens == 131072)
    assert long.batch == 0 and "GiB beside the weights" in long.note
    batches = [c.batch for c in cells if c.phase == DECODE and c.tokens == 131072]
    assert batches[0] == 1 and batches.count(0) >= 1, "the same batch is not measured twice"
    assert not any(c.batch for c in plan_cells(DEFAULT, part, 5e9)), "weights alone are larger"


# What a truncated model computes


def test_a_truncated_model_computes_what_the_cpu_does_in_32_bits():
    errors = check_model(SHAPE, "bf16", CPU)
    assert set(errors) == {
        f"{p}_{w}" for p in ("prefill", "decode") for w in ("attention", "logits")
    }
    assert all(0 < error < 0.02 for error in errors.values())


@pytest.mark.skipif(bool(clock.why_no_fp8(CPU)), reason=clock.why_no_fp8(CPU))
@pytest.mark.skipif(not os.environ.get("NEGFAIL_NB_SCALE"), reason="slow: make test-scale")
def test_8_bits_are_further_off_but_within_their_rounding():
    eight, sixteen = (check_model(NARROW, precision, CPU) for precision in ("fp8", "bf16"))
    assert all(sixteen[name] < eight[name] < LIMITS["fp8"] for name in eight)


def test_attention_that_reads_wrong_places_is_refused(monkeypatch):
    def forgets(self, keys, values, *args, **kwargs):
        self.keys[:, :, : keys.shape[-2]], self.values[:, :, : keys.shape[-2]] = keys, values
        return self.keys[:, :, : self.used + keys.shape[-2]], self.values[
            :, :, : self.used + keys.shape[-2]
        ]

    monkeypatch.setattr(KeptLayer, "update", forgets)
    with pytest.raises(WrongResult, match="decode_attention.*nothing is measured"):
        check_model(SHAPE, "bf16", CPU)


def test_no_mask_keeps_fast_kernels_away_and_nothing_is_copied():
    model, cache, seen = build_model(SHAPE, "bf16", CPU), kept_cache(SHAPE, 3, 15, 16, CPU), []
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda m, a, k: seen.append(k["attention_mask"]), with_kwargs=True
        )
    place = cache.layers[0].keys.data_ptr()
    model(torch.zeros(3, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
    model(
        torch.zeros(1, 9, dtype=torch.long),
        past_key_values=kept_cache(SHAPE, 1, 0, 9, CPU),
        use_cache=True,
    )
    assert seen == [None] * 4 and cache.layers[0].keys.data_ptr() == place
    assert cache.layers[0].keys.shape[2] == 16


def test_layers_can_be_left_out_and_come_back():
    model, ids = build_model(SHAPE, "bf16", CPU), torch.arange(5)[None]
    whole = model(ids).logits
    with only_layers(model, 0):
        none = model(ids).logits
    assert torch.equal(model(ids).logits, whole) and not torch.allclose(none, whole)
    assert torch.equal(none, model.lm_head(model.model.norm(model.model.embed_tokens(ids))))


# The run


def test_one_json_holds_every_cell_and_what_it_came_from(found):
    result, file = found
    assert json.loads(file.read_text()) == json.loads(json.dumps(result))
    assert result["finished"] and result["schema"] == "negfail_nb.gpu/1"
    assert result["rates"]["fp32_tflops"] > 0 and result["rates"]["copy_gbs"] > 0
    assert result["shapes"]["pocket-llama"]["hidden"] == find_shape("pocket-llama").hidden
    assert (
        result["checks"]["fp32"]["decode_logits"] < 0.001
        and result["settings"]["model"] == "pocket-llama"
    )
    rows = result["rows"]
    assert [(r["phase"], r["tokens"], r["batch"]) for r in rows[:6]] == [
        ("prefill", 32, 1),
        ("prefill", 64, 1),
        ("decode", 32, 1),
        ("decode", 32, 3),
        ("decode", 64, 1),
        ("decode", 64, 3),
    ]
    for row in rows:
        assert 0 < row["low"] <= row["seconds"] <= row["high"] and row["repeats"] >= 3
        layer = (row["seconds"] - row["rest_seconds"]) / row["layers"]
        assert row["layer_seconds"] == pytest.approx(layer)
        assert row["whole_seconds"] == pytest.approx(row["rest_seconds"] + row["of_layers"] * layer)
        assert row["matrix_share"] > 0 and row["copy_share"] > 0 and row["graph"] is False


def test_the_whole_model_is_held_against_its_first_layers(found):
    errors = truncation_errors(found[0])
    assert len(errors) == 3 and all(name.startswith("pocket-llama, ") for name in errors)
    words = "\n".join(summary_lines(found[0]))
    assert "a truncated model is off by" in words and "TFLOP/s" in words and "decode" in words


def test_no_time_leaves_cells_out_and_says_so():
    result = measure_gpu(replace(TINY, seconds=1.0, whole="", lengths=(32, 65536), batches=(1,)))
    left = [row for row in result["rows"] if "no time" in row["note"]]
    assert left and all("seconds" not in row and row["batch"] == 0 for row in left)
    assert any("no time" in line for line in summary_lines(result))


def test_what_was_measured_before_it_was_stopped_is_kept(tmp_path, monkeypatch):
    real, calls = measure._Session._times, []

    def stopped(self, *given):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(given)
        return real(self, *given)

    monkeypatch.setattr(measure._Session, "_times", stopped)
    file = tmp_path / "gpu.json"
    monkeypatch.setattr(GpuSettings, "small", lambda model="": TINY)
    assert main(["--small", "--out", str(file)]) == 130
    kept = json.loads(file.read_text())
    assert len(kept["rows"]) == 2 and kept["finished"] is False and kept["rates"]


def test_a_machine_is_measured_once_and_says_when(tmp_path, monkeypatch):
    first = measure_once(tmp_path, TINY)
    assert read_gpu(first).date == first["date"] and first["date"].startswith("20")
    monkeypatch.setattr(measure, "measure_gpu", lambda *given: pytest.fail("measured again"))
    assert measure_once(tmp_path, TINY) == json.loads(json.dumps(first))
    monkeypatch.undo()
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps(first | {"finished": False}))
    assert measure_once(tmp_path, TINY)["finished"], "what was stopped is measured again"
    measure_once(tmp_path, replace(TINY, lengths=(32,)))
    assert len(list(tmp_path.iterdir())) == 2


def test_8_bits_that_a_gpu_lacks_are_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(clock, "why_no_fp8", lambda device: "torch has none here")
    result = measure_gpu(
        replace(TINY, precisions=("bf16", "fp8"), whole="", lengths=(32,), batches=(1,))
    )
    assert result["skipped"] == {"fp8": "torch has none here"} and len(result["rows"]) == 2


@pytest.mark.skipif(bool(clock.why_no_fp8(CPU)), reason=clock.why_no_fp8(CPU))
@pytest.mark.skipif(not os.environ.get("NEGFAIL_NB_SCALE"), reason="slow: make test-scale")
def test_8_bits_are_measured_where_there_are_any(tmp_path):
    from transformers import LlamaConfig

    LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=64,
    ).save_pretrained(tmp_path)
    few = {"whole": "", "lengths": (32,), "batches": (1,)}
    result = measure_gpu(replace(TINY, model=str(tmp_path), precisions=("fp8",), **few))
    assert [row["precision"] for row in result["rows"]] == ["fp8"] * 2 and result["rates"][
        "fp8_tflops"
    ] > 0


class Event:
    """One of CUDA's events, by the CPU's clock."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.time = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return 1e3 * (other.time - self.time)


@pytest.fixture
def cuda(monkeypatch):
    """A CPU that passes for CUDA, with what was called."""
    called, graph = [], SimpleNamespace(replay=lambda: called.append("replay"))
    found = SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=80 * 2**30)
    stream = SimpleNamespace(wait_stream=lambda other: None)
    instead = {
        "Event": Event,
        "Stream": lambda device: stream,
        "current_stream": lambda device: stream,
        "stream": lambda stream: nullcontext(),
        "CUDAGraph": lambda: graph,
        "graph": lambda graph: nullcontext(),
        "mem_get_info": lambda device: (2 * 2**30, 80 * 2**30),
        "get_device_properties": lambda device: found,
        "synchronize": lambda device: called.append("synchronize"),
        "empty_cache": lambda: called.append("empty_cache"),
    }
    for name, value in instead.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(clock, "on_cuda", lambda device: True)
    return called


FEW = {"whole": "", "lengths": (32,), "batches": (1,)}


def test_on_cuda_decode_is_a_graph_timed_by_events_and_memory_is_given_back(cuda):
    result = measure_gpu(replace(TINY, **FEW))
    assert (result["gpu"]["name"], result["gpu"]["memory_gib"]) == ("NVIDIA H100 80GB HBM3", 80.0)
    assert [(row["phase"], row["graph"]) for row in result["rows"]] == [
        ("prefill", False),
        ("decode", True),
    ]
    assert {"replay", "synchronize", "empty_cache"} == set(cuda)
    assert read_gpu(result).hardware.name == "h100"


def test_what_cannot_be_captured_is_timed_as_it_is(cuda, monkeypatch):
    def refuses(graph):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refuses)
    row = measure_gpu(replace(TINY, **FEW))["rows"][1]
    assert not row["graph"] and row["graph_note"].startswith("not captured: operation not")


def test_memory_that_others_took_meanwhile_leaves_the_cell_out(monkeypatch):
    def full(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(measure._Session, "_times", full)
    notes = {row["note"] for row in measure_gpu(replace(TINY, **FEW))["rows"]}
    assert notes == {"out of memory, against the count"}


def test_layers_that_do_not_fit_into_memory_are_skipped(monkeypatch):
    monkeypatch.setattr(clock, "free_bytes", lambda device: 1e5)
    result = measure_gpu(TINY)
    assert set(result["skipped"]) == {"pocket-llama, fp32", "pocket-llama, whole"}
    assert result["rows"] == [] and result["finished"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "gpt-2"], "no architecture 'gpt-2'"),
        (["--device", "abacus"], "GpuSettings.device is 'abacus'"),
        (["--lengths", "0"], "GpuSettings.lengths is"),
        (["--precisions", "int3"], "GpuSettings.precisions is"),
        (["--out", __file__], "is there already"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(words, said, capsys, tmp_path):
    assert main(["--small", "--out", str(tmp_path / "c.json"), *words]) == 1
    assert said in capsys.readouterr().err


def test_a_model_of_another_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(ValueError, match="Llama family only"):
        measure_gpu(replace(TINY, model=str(tmp_path)))


def test_it_needs_torch_and_transformers_and_no_more(tmp_path):
    """In a process where the other requirements of the package cannot be imported."""
    absent = "pandas bm25s datasets scipy openai trl peft accelerate sklearn pyarrow matplotlib "
    absent += "seaborn psutil ipywidgets"
    code = (
        f"import sys\nfor name in {absent.split()}: sys.modules[name] = None\n"
        "from negfail_nb.speed.gpu.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["--small", "--lengths", "32", "--batches", "1", "--cell-seconds", "0"]
    command = [sys.executable, "-c", code, *words, "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert (
        "written to" in done.stdout and json.loads((tmp_path / "gpu.json").read_text())["finished"]
    )
