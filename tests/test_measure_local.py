"""Traces of a model in this process, from the times of transformers' own engine."""

import time
from types import SimpleNamespace

import pytest

from negfail_nb.settings import ModelSettings
from negfail_nb.speed.server import ClockError, request_table
from negfail_nb.speed.server.local import engine_traces
from negfail_nb.training import load_model, make_tokenizer

TEXTS = ["one two three four five six seven eight", "who wrote the book of words"] * 4


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(TEXTS, 300)


def output(**changes) -> SimpleNamespace:
    values = {
        "request_id": "r0",
        "prompt_ids": [1, 2, 3],
        "generated_tokens": [5, 6],
        "error": None,
    }
    return SimpleNamespace(
        **{**values, "created_time": 10.5, "timestamps": [11.0, 11.25], **changes}
    )


def test_times_count_from_the_begin_and_each_token_is_a_chunk(tokenizer):
    row = request_table(engine_traces([output()], tokenizer, start=10.0)).iloc[0].copy()
    # The engine's traces are measured ones: 0.5 s to the first token, 0.25 s for the second.
    assert (row["scheduled"], row["ttft"], row["tpot"], row["e2e"]) == (0.5, 0.5, 0.25, 0.75)
    assert (row["prompt_tokens"], row["completion_tokens"], row["told"], row["ok"]) == (
        3,
        2,
        True,
        True,
    )


def test_what_the_engine_failed_at_is_a_failure(tokenizer):
    wrong = [output(error="out of memory"), output(generated_tokens=[], timestamps=[])]
    assert [trace.error for trace in engine_traces(wrong, tokenizer, 10.0)] == [
        "out of memory",
        "no token was generated",
    ]


def test_without_times_or_with_times_that_go_back_it_is_refused(tokenizer):
    with pytest.raises(ValueError, match="record_timestamps=True"):
        engine_traces([output(timestamps=None)], tokenizer, 10.0)
    with pytest.raises(ClockError):
        engine_traces([output(timestamps=[11.0, 10.9])], tokenizer, 10.0)


def test_a_real_model_in_this_process(tokenizer):
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.generation import ContinuousBatchingConfig, GenerationConfig

    made = load_model(
        ModelSettings(layers=1, width=32, heads=2, vocabulary=300, positions=512), tokenizer
    )
    model = AutoModelForCausalLM.from_config(made.config, attn_implementation="sdpa").eval()
    prompts = [tokenizer(text).input_ids for text in TEXTS[:3]]
    config = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=-1, pad_token_id=0)
    batching = ContinuousBatchingConfig(page_size=32, num_blocks=64, max_batch_tokens=128)
    start = time.perf_counter()
    with torch.no_grad():
        made = model.generate_batch(
            prompts,
            generation_config=config,
            continuous_batching_config=batching,
            record_timestamps=True,
        )
    ended = time.perf_counter() - start
    traces = engine_traces(made.values(), tokenizer, start)
    assert [len(trace.spoken) for trace in traces] == [6] * 3
    assert sorted(trace.prompt_tokens for trace in traces) == sorted(map(len, prompts))
    assert all(0 <= trace.sent < trace.ended <= ended for trace in traces)
