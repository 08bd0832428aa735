"""Room 04: several processes train together, and it comes out as from one.

All but one of the launches take a while: NEGFAIL_NB_SCALE=1 adds them.
"""

import json
import logging
import os
import pickle
import shutil
import signal
import socket
import threading
import time
from dataclasses import replace
from itertools import islice

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_train import MODEL, SETTINGS, Data, truncate, weights

from negfail_nb.settings import LoraSettings, ModelSettings, PreferenceSettings, TrainSettings
from negfail_nb.training import fit, layout, make_arms, planning, ranks, train
from negfail_nb.training.preference import _count_processes, _forward
from negfail_nb.training.result import CHECKPOINTS
from negfail_nb.training.shards import check_same_way
from negfail_nb.training.sharing import Shares

SCALE = "NEGFAIL_NB_SCALE"
slow = pytest.mark.skipif(not os.environ.get(SCALE), reason=f"{SCALE} is not set")
DATA = Data(lengths=(*range(6, 46, 2), *range(6, 46, 2), 60))
# Packed in rows of 64, an epoch ends with a step that has a row for some ranks only.
NINE = replace(SETTINGS, steps=9, batch_tokens=384)
LORA = LoraSettings(rank=4)
WHOLE = LoraSettings()


@pytest.fixture(autouse=True)
def small_rows(monkeypatch):
    """Many rows in a small step, on a machine of four devices."""
    monkeypatch.setattr(planning, "ROW_TOKENS", 64)
    monkeypatch.setattr(fit, "ROW_TOKENS", 64)
    monkeypatch.setattr(layout, "devices", lambda: 4)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Whole weights and an adapter, trained in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "ROW_TOKENS", 64)
        folder = tmp_path_factory.mktemp("alone")
        return {
            lora.rank: train(DATA, NINE, MODEL, lora, folder=folder / str(lora.rank))
            for lora in (WHOLE, LORA)
        }


def same(one, many):
    np.testing.assert_allclose(many.history["loss"], one.history["loss"], atol=1e-5)
    columns = ["step", "learning_rate", "tokens"]
    assert many.history[columns].equals(one.history[columns])
    torch.testing.assert_close(weights(many), weights(one), atol=1e-5, rtol=0)
    files = [sorted(p.name for p in run.weights.iterdir()) for run in (one, many)]
    assert files[0] == files[1] and many.tokens == one.tokens and many.plan == one.plan


def test_two_processes_train_as_one_also_where_the_usual_port_is_taken(alone, tmp_path, caplog):
    caplog.set_level(logging.INFO, "negfail_nb")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0 if busy(29500) else 29500))
        taken.listen()
        run = train(DATA, replace(NINE, processes=2), MODEL, LORA, folder=tmp_path)
    same(alone[4], run)
    assert run.processes == 2 and alone[4].processes == 1
    assert "2 processes train together; each has all of it" in caplog.text
    assert "9 steps on 1060 tokens per epoch" in caplog.text  # as the first rank says
    kept = ["adapter", "curve.csv", "manifest.json", "plan.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == kept
    # The number of processes is no part of the plan: what is finished is found by one process too.
    assert train(DATA, NINE, MODEL, LORA, folder=tmp_path).content == run.content


def busy(port):
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


@slow
@pytest.mark.parametrize(
    ("processes", "lora", "shard"),
    [(2, WHOLE, False), (3, WHOLE, False), (2, WHOLE, True), (2, LORA, True), (3, LORA, True)],
)
def test_processes_train_as_one(processes, lora, shard, alone, tmp_path):
    settings = replace(NINE, processes=processes)
    run = train(DATA, settings, MODEL, lora, folder=tmp_path, shard=shard)
    same(alone[lora.rank], run)


@slow
@pytest.mark.parametrize(("lora", "shard"), [(WHOLE, False), (LORA, True), (WHOLE, True)])
def test_a_killed_rank_stops_all_and_the_same_call_goes_on(lora, shard, tmp_path):
    settings = replace(NINE, steps=60, processes=2, save_steps=10)
    lora = replace(lora, dropout=0.1) if lora.rank else lora
    whole = train(DATA, settings, MODEL, lora, folder=tmp_path / "whole", shard=shard)
    cut = tmp_path / "cut"
    killer = threading.Thread(target=kill_a_rank, args=(cut,))
    killer.start()
    with pytest.raises(RuntimeError, match=r"rank 1: it was ended by SIGKILL.*goes on from"):
        train(DATA, settings, MODEL, lora, folder=cut, shard=shard)
    killer.join()
    assert not (cut / "manifest.json").exists() and ranks_of(cut) == []
    resumed = train(DATA, settings, MODEL, lora, folder=cut, shard=shard)
    torch.testing.assert_close(weights(resumed), weights(whole), atol=1e-6, rtol=0)
    assert resumed.tokens == whole.tokens and len(resumed.history) == 60


def kill_a_rank(folder, number=signal.SIGKILL):
    wait_for(lambda: any((folder / CHECKPOINTS).glob("checkpoint-*/whole.json")))
    ranks_of(folder, rank="1")[0].send_signal(number)


def ranks_of(folder, rank=None):
    """The ranks that train in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            told = process.cmdline(), process.environ()
        except psutil.Error:
            continue
        mine = ranks.MODULE in told[0] and "torch.distributed.run" not in told[0]
        if mine and str(folder / ranks.FOLDER) in told[0] and rank in (None, told[1].get("RANK")):
            found.append(process)
    return found


def wait_for(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@slow
def test_what_was_begun_goes_on_as_it_lay_with_any_number_of_processes(tmp_path, monkeypatch):
    whole = train(DATA, NINE, MODEL, folder=tmp_path / "whole")
    for shard in (False, True):
        cut = tmp_path / str(shard)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(fit, "finished", interrupted)  # with its last checkpoint
            train(DATA, replace(NINE, processes=2), MODEL, folder=cut, shard=shard)
        (cut / "manifest.json").unlink()
        if not shard:  # the other begins at the end, and only writes the result
            shutil.rmtree(cut / CHECKPOINTS / "checkpoint-9")
        else:
            with pytest.raises(ValueError, match=r"checkpoint-9 was written by .* split the model"):
                train(DATA, NINE, MODEL, folder=cut)
        resumed = train(DATA, replace(NINE, processes=3), MODEL, folder=cut)
        torch.testing.assert_close(weights(resumed), weights(whole), atol=1e-5, rtol=0)


def interrupted(*arguments, **named):
    raise KeyboardInterrupt


@slow
def test_interrupting_the_caller_stops_the_ranks(tmp_path, monkeypatch):
    settings = replace(NINE, steps=1000, processes=2, save_steps=10)
    monkeypatch.setattr(ranks, "tqdm", interrupted)  # at the first step that a rank tells
    with pytest.raises(KeyboardInterrupt):
        train(DATA, settings, MODEL, folder=tmp_path)
    assert ranks_of(tmp_path) == [] and not (tmp_path / "manifest.json").exists()


@slow
def test_a_rank_that_fails_says_why(tmp_path):
    start = train(DATA, NINE, MODEL, folder=tmp_path / "start")
    model = replace(MODEL, name=str(start.weights))
    truncate(start.weights / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"rank \d: ValueError: model folder .*are damaged"):
        train(DATA, replace(NINE, processes=2), model, folder=tmp_path / "run")


@slow
def test_an_adapter_in_float32_on_a_base_in_bfloat16_is_split(tmp_path):
    settings = replace(NINE, processes=2, dtype="bfloat16")
    run = train(DATA, settings, MODEL, LORA, folder=tmp_path, shard=True)
    adapter = [p for name, p in run.load().named_parameters() if "lora_" in name]
    assert {p.dtype for p in adapter} == {torch.float32}
    alone = train(DATA, replace(settings, processes=1), MODEL, LORA, folder=tmp_path / "alone")
    np.testing.assert_allclose(run.history["loss"], alone.history["loss"], atol=0.02)


# What is decided, and refused, before anything starts
# --------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 5))
def test_every_step_has_the_rows_of_one_process(rows, each, processes):
    chunk = each * processes
    dealt = [list(Shares(range(rows), chunk, processes, r, filler=-1)) for r in range(processes)]
    assert {len(shares) for shares in dealt} == {len(Shares(range(rows), chunk, 1, 0, -1))}
    order = iter(range(rows))
    for step in zip(*dealt, strict=True):
        assert sorted(i for share in step for i in share if i >= 0) == list(islice(order, chunk))
        assert all(share == [-1] or -1 not in share for share in step)


def test_a_batch_that_does_not_divide_names_numbers_that_do(tmp_path):
    settings = replace(NINE, processes=4)
    with pytest.raises(ValueError, match=r"6 packed rows .64 tokens each., which 4 processes") as e:
        train(DATA, settings, MODEL, folder=tmp_path)
    assert "train.processes of 1, 2, 3, 6, or train.batch_tokens of 256 or 512" in str(e.value)
    for batch in (256, 512):
        assert planning.plan(DATA, replace(settings, batch_tokens=batch)).rows_per_step % 4 == 0
    dpo, kto = make_arms(["dpo", "kto"])
    given = replace(settings, processes=4), PreferenceSettings(batch=6)
    with pytest.raises(ValueError, match="6 pairs, .* preference.batch of 4 or 8"):
        _count_processes(*given, dpo)
    with pytest.raises(ValueError, match="4 runs, .* train.processes of 1, 2, or .* of 8"):
        _count_processes(given[0], PreferenceSettings(batch=4), kto)
    assert _forward(16, 1, 40, ranks=4) == 16 and _forward(16, 2, 8192, ranks=4) == 4


def test_more_processes_than_devices_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="train.processes is 5, and this machine has 4 cores; use"):
        layout.count_processes(TrainSettings(processes=5))
    assert layout.count_processes(TrainSettings(processes=0)) == 4
    monkeypatch.undo()
    assert layout.devices() == len(os.sched_getaffinity(0))


def test_what_needs_cuda_is_refused_with_the_reason(tmp_path):
    four = LoraSettings(rank=4, four_bits=True)
    with pytest.raises(ValueError, match="lora.four_bits is true, but there is no CUDA here, and"):
        train(DATA, NINE, ModelSettings(name="pocket-llama"), four, folder=tmp_path)
    with pytest.raises(ValueError, match="lora.rank is 0: weights in 4 bits cannot be trained"):
        train(DATA, NINE, MODEL, LoraSettings(four_bits=True), folder=tmp_path)
    with pytest.raises(ValueError, match="context_parallel is 2: torch passes keys .* no CUDA"):
        train(DATA, replace(NINE, processes=4, context_parallel=2), MODEL, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_trajectories_that_devices_share_are_not_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "device", lambda: torch.device("cuda"))
    shared = replace(NINE, processes=4, context_parallel=2)
    assert layout.count_processes(shared) == 4
    with pytest.raises(ValueError, match="does not divide the 4 processes; use one of 1, 2, 4"):
        layout.count_processes(replace(shared, context_parallel=3))
    planned = planning.plan(DATA, shared)
    assert planned.rows == len(DATA.lengths) and planned.row_tokens == 60
    laid = layout.Layout(processes=4, sharded=True, recompute=False, context=2)
    config = fit._config(shared, tmp_path, planned, laid)
    assert not config.packing and config.pad_to_multiple_of == 4
    assert config.gradient_accumulation_steps == planned.rows_per_step // 2
    assert (config.parallelism_config.cp_size, config.parallelism_config.dp_shard_size) == (2, 2)


@pytest.mark.parametrize("lora", [WHOLE, LORA])
def test_activations_that_are_computed_again_change_nothing(lora, alone, tmp_path):
    run = train(DATA, replace(NINE, recompute="on", steps=9), MODEL, lora, folder=tmp_path)
    same(alone[lora.rank], run)
    config = fit._config(NINE, tmp_path, run.plan, layout.Layout(recompute=True))
    assert config.activation_checkpointing


def test_data_that_does_not_fit_the_model_is_refused_before_a_launch(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks.subprocess, "Popen", lambda *a, **k: pytest.fail("launched"))
    long, short = Data(lengths=(60,) * 12 + (90,)), replace(MODEL, positions=64)
    settings = replace(NINE, processes=2, batch_tokens=360)
    with pytest.raises(ValueError, match="longest example has 90 tokens, the model takes 64"):
        train(long, settings, short, folder=tmp_path)


def test_a_list_of_parts_that_names_other_code_is_refused(tmp_path):
    from torch.distributed.checkpoint.metadata import Metadata

    place = tmp_path / "checkpoint-2" / "pytorch_model_fsdp_0"
    place.mkdir(parents=True)
    (place / ".metadata").write_bytes(pickle.dumps(Metadata({})))
    check_same_way(tmp_path / "checkpoint-2", split=True)
    for odd in (os.system, os.getcwd, SETTINGS.__class__, torch.load):
        (place / ".metadata").write_bytes(pickle.dumps(odd))
        with pytest.raises(ValueError, match=r"is no list of a checkpoint's parts \(it names"):
            check_same_way(tmp_path / "checkpoint-2", split=True)
    with pytest.raises(ValueError, match="go on with train.processes above 1"):
        check_same_way(tmp_path / "checkpoint-2", split=False)


def test_what_a_rank_says_reaches_the_caller(tmp_path):
    text = """Failures:
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : -6 (pid: 1)  (SIGABRT)
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 2)
  traceback : Signal 9 (SIGKILL) received by PID 2"""
    told = ranks._failed(tmp_path, 2, text.splitlines())
    assert "2 processes stopped: rank 1: it was ended by SIGKILL, as the system does where" in told
    (tmp_path / ranks.ERROR).write_text(json.dumps({"message": {"message": "ValueError: odd"}}))
    assert "rank 1: ValueError: odd." in ranks._failed(tmp_path, 2, text.splitlines())
    assert ranks._told(ranks.TOLD + '{"step": 1}\n') == {"step": 1}
    assert ranks._told("a line of a library\n") is None and ranks._told(ranks.TOLD + "{") is None
