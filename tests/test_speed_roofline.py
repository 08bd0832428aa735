"""07 trade-off: shapes, GPUs, and what the analytic model predicts from them."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from negfail_nb.speed.architecture import architecture_from_config, architectures, get_architecture
from negfail_nb.speed.efficiencies import Efficiencies
from negfail_nb.speed.hardware import FORMATS, Unknown, get_hardware, hardware_table
from negfail_nb.speed.ladder import break_even_tokens
from negfail_nb.speed.roofline import DoesNotFit, Workload, predict

SMALL, LARGE = get_architecture("llama-3.1-8b"), get_architecture("llama-3.1-70b")
TOKENS = st.integers(1, 60_000)
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}


def seconds(**workload):
    return predict(LARGE, "h100", Workload(tensor_parallel=8, **workload)).e2e_seconds


@pytest.mark.parametrize(
    ("name", "parameters", "kv"),
    [
        ("llama-3-8b", 8.030e9, 131_072),
        ("llama-3-70b", 70.554e9, 327_680),
        ("llama-3.2-1b", 1.236e9, 32_768),
        ("llama-3.1-405b", 405.85e9, 516_096),
    ],
)
def test_known_models_have_their_published_size(name, parameters, kv):
    architecture = get_architecture(name)
    assert architecture.parameters == pytest.approx(parameters, rel=1e-3)
    assert architecture.kv_bytes(2) == kv


@pytest.mark.parametrize("tied", [False, True])
def test_a_transformers_config_gives_the_parameters_that_transformers_makes(tied):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **{k: v for k, v in LLAMA.items() if k != "model_type"}, tie_word_embeddings=tied
    )
    with torch.device("meta"):
        real = LlamaForCausalLM(config)
    architecture = architecture_from_config(config)
    assert architecture.parameters == real.num_parameters()
    assert (architecture.head_dim, architecture.window) == (16, 512)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b"),
        ("Llama-3.3-70B", "llama-3.3-70b"),
        ("meta-llama/Llama-3.1-70B-Instruct", "llama-3.1-70b"),
        ("Llama-3-8B (long-ctx variant)", "llama-3-8b-1048k"),
    ],
)
def test_models_are_known_as_hubs_write_them(written, name):
    assert get_architecture(written).name == name


def test_llama_3_reads_8k_and_3_1_reads_128k():
    assert get_architecture("llama-3-70b").window == 8192
    assert get_architecture("llama-3.1-70b").window == 131_072


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "qwen2"}, "'qwen2'"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"model_type": None}, "Llama family only"),
    ],
)
def test_a_config_of_another_family_is_refused(change, said, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert architecture_from_config(tmp_path).layers == 2
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | change))
    with pytest.raises(ValueError, match=said):
        architecture_from_config(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", None])
def test_a_config_that_cannot_be_read_is_named(text, tmp_path):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        architecture_from_config(path)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(
        ValueError, match=r"no architecture 'gpt-2'.*llama-3\.1-70b.*architecture_from_config"
    ):
        predict("gpt-2", "h100", Workload())
    with pytest.raises(ValueError, match=r"no GPU 'v100'.*h100.*mi300x"):
        predict("llama-3-8b", "v100", Workload())


def test_each_gpu_has_a_source_and_dense_rates():
    table = hardware_table()
    assert (table["source"].str.len() > 10).all()
    assert ((table["fp8_tflops"] == 0) | (table["fp8_tflops"] > 1.9 * table["bf16_tflops"])).all()


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H200", "h200"),
        ("A100 SXM (40GB per paper)", "a100-40gb"),
        ("GH200 480GB(96GB HBM3)", "gh200"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_gpus_are_known_as_drivers_and_tables_write_them(written, name):
    assert get_hardware(written).name == name


@given(TOKENS, TOKENS)
def test_prefill_is_the_sum_of_its_parts_and_of_its_tokens(first, second):
    whole = SMALL.attention_flops(first + second)
    assert whole == SMALL.attention_flops(first) + SMALL.attention_flops(first + second, first)
    # One token at context c reads c keys and c values: 4 FLOPs for each layer, head and width.
    one = SMALL.attention_flops(first, first - 1)
    assert one == pytest.approx(4 * 32 * 32 * 128 * first, abs=2 * 32 * 32 * 128)


def test_the_ideal_roofline_is_what_a_hand_counts():
    work = Workload(input_tokens=1000, output_tokens=2, batch=1)
    said = predict("llama-3-8b", "h100", work, Efficiencies.ideal())
    matrices, head = 32 * (4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 14336), 128256 * 4096
    assert said.decode_seconds == pytest.approx(((matrices + head) * 2 + 1001 * 131_072) / 3350e9)
    flops = 2 * (matrices * 1000 + head) + 4 * 32 * 4096 * 1000**2 / 2
    assert said.prefill_seconds == pytest.approx(flops / 989e12)
    prefill, decode = said.calls[0].prefill_terms, said.calls[0].decode_terms
    assert max(prefill, key=prefill.get) == "compute" and max(decode, key=decode.get) == "weights"


def test_two_gpus_halve_the_ideal_time_but_for_the_all_reduce():
    work = Workload(input_tokens=4096, output_tokens=2)
    one, two = (
        predict(SMALL, "h100", replace(work, tensor_parallel=n), Efficiencies.ideal())
        for n in (1, 2)
    )
    moved = 2 * 32 * 2 * 1 / 2 * 4096 * 4096 * 2 / 450e9  # ring, per layer two, 16 bit
    assert two.prefill_seconds == pytest.approx(one.prefill_seconds / 2 + moved)


NIM = {
    "input_tokens": 5000,
    "output_tokens": 500,
    "tensor_parallel": 2,
    "weights": "fp8",
    "kv": "fp8",
}
CI = {"input_tokens": 32, "output_tokens": 128, "batch": 8}


# Figures that none of the defaults was found on: NVIDIA NIM 1.8 (2 x H100, fp8) and vLLM's own CI
# (H200).
@pytest.mark.parametrize(
    ("model", "gpu", "metric", "measured", "workload"),
    [
        ("llama-3.3-70b", "h100", "ttft_seconds", 0.407, NIM),
        ("llama-3.3-70b", "h100", "tpot_seconds", 0.01858, NIM),
        ("llama-3-70b", "h200", "e2e_seconds", 2.078, CI | {"tensor_parallel": 4}),
        ("llama-3-8b", "h200", "e2e_seconds", 0.833, CI),
    ],
)
def test_unfitted_defaults_come_near_published_figures(model, gpu, metric, measured, workload):
    assert getattr(predict(model, gpu, Workload(**workload)), metric) == pytest.approx(
        measured, rel=0.2
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 100_000), st.integers(1, 20_000), st.integers(1, 200), st.integers(1, 6))
def test_more_work_takes_longer(tokens, more, output, batch):
    base = {"input_tokens": tokens, "output_tokens": output, "batch": batch}
    assert seconds(**base | {"input_tokens": tokens + more}) > seconds(**base)
    assert seconds(**base | {"output_tokens": output + 1}) > seconds(**base)
    assert seconds(**base | {"batch": batch + 1}) > seconds(**base)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 100_000), st.data())
def test_cache_chunks_and_precision_work_in_their_direction(tokens, data):
    base = {"input_tokens": tokens, "output_tokens": 8}
    cached = data.draw(st.integers(1, tokens - 1))
    assert seconds(**base, cached_tokens=cached) < seconds(**base)
    assert seconds(**base, chunk_tokens=2048) >= seconds(**base)
    assert seconds(**base, chunk_tokens=tokens) == seconds(**base)
    assert seconds(**base, weights="fp8", kv="fp8") < seconds(**base)


def test_chunks_read_earlier_keys_and_values_again():
    work = Workload(input_tokens=8192, output_tokens=2, chunk_tokens=2048)
    terms = predict(SMALL, "h100", work, Efficiencies.ideal()).calls[0].prefill_terms
    assert terms["kv"] == pytest.approx((2048 + 4096 + 6144) * 131_072 / 3350e9)
    assert terms["weights"] == pytest.approx(4 * SMALL.read_bytes(2) / 3350e9)


def test_a_context_over_the_window_says_what_to_do():
    with pytest.raises(
        DoesNotFit, match=r"8193 tokens of context, but llama-3-70b reads 8192.*llama-3\.1"
    ):
        predict(
            "llama-3-70b", "h200", Workload(input_tokens=8000, output_tokens=193, tensor_parallel=8)
        )
    # Of a pipeline the last call counts.
    with pytest.raises(DoesNotFit, match="9128 tokens"):
        predict("llama-3-8b", "h200", Workload(input_tokens=3000, added_tokens=3000, calls=3))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "not one sequence fits"),
        ({"batch": 100}, "not one sequence fits.*fp8"),
        ({"batch": 0}, "more GPUs"),
    ],
)
def test_what_does_not_fit_memory_is_refused(change, said):
    with pytest.raises(DoesNotFit, match=said):
        predict(LARGE, "h100", Workload(input_tokens=16_000, **change))


def test_values_out_of_bounds_are_named():
    with pytest.raises(ValueError, match=r"tensor_parallel is 3, but llama-3\.1-8b has 32 heads"):
        predict(SMALL, "h100", Workload(tensor_parallel=3))
    with pytest.raises(ValueError, match=r"Workload\.cached_tokens is 10 of 10"):
        Workload(input_tokens=10, cached_tokens=10)
    with pytest.raises(ValueError, match=r"Workload\.weights is 'int3'"):
        Workload(weights="int3")


def test_saturation_takes_what_fits():
    work = Workload(input_tokens=32_000, output_tokens=768, tensor_parallel=8, batch=0)
    said = predict(LARGE, "h100", work)
    free = 8 * (80 * 0.9 - 1.5) * 2**30 - LARGE.parameters * 2
    assert said.batch == said.capacity == int(free / (32_768 * 327_680))
    assert said.kv_bytes == 32_768 * 327_680
    assert (
        said.output_tokens_per_second
        > 5 * predict(LARGE, "h100", replace(work, batch=1)).output_tokens_per_second
    )
    assert predict(LARGE, "h100", replace(work, max_batch=4)).batch == 4
    # More GPUs than heads of keys and values hold copies: twice the GPUs have less than twice the
    # room.
    wide = predict(LARGE, "h100", replace(work, tensor_parallel=16))
    assert wide.kv_bytes == 2 * said.kv_bytes
    one, two = (
        predict(LARGE, "h100", replace(work, batch=1, tensor_parallel=n)).calls[0] for n in (8, 16)
    )
    assert two.decode_terms["kv"] == one.decode_terms["kv"]
    assert two.decode_terms["weights"] == one.decode_terms["weights"] / 2


def test_continuous_batching_gives_first_tokens_sooner_and_later_ones_slower():
    work = Workload(input_tokens=2000, output_tokens=500, batch=32, tensor_parallel=8)
    static, continuous = (
        predict(LARGE, "h100", replace(work, batching=b)) for b in ("static", "continuous")
    )
    assert continuous.ttft_seconds < static.ttft_seconds / 5
    assert continuous.tpot_seconds > static.tpot_seconds
    assert continuous.output_tokens_per_second == pytest.approx(
        static.output_tokens_per_second, rel=0.1
    )
    assert continuous.e2e_seconds == pytest.approx(
        continuous.ttft_seconds + 499 * continuous.tpot_seconds
    )


@pytest.mark.parametrize("reuse", [True, False])
def test_dependent_calls_add_up(reuse):
    shared = Workload(output_tokens=50, tensor_parallel=8)
    calls = replace(shared, input_tokens=1000, calls=3, added_tokens=900, reuse_prefix=reuse)
    said = predict(LARGE, "h100", calls)
    alone = [
        predict(
            LARGE, "h100", replace(shared, input_tokens=n, cached_tokens=cached if reuse else 0)
        )
        for n, cached in ((1000, 0), (1900, 1000), (2800, 1900))
    ]
    assert said.e2e_seconds == pytest.approx(sum(one.e2e_seconds for one in alone))
    assert said.ttft_seconds == pytest.approx(said.e2e_seconds - 49 * alone[-1].tpot_seconds)
    assert said.output_tokens_per_second == pytest.approx(150 / said.e2e_seconds)
    assert len(said.calls) == 3


def test_cached_prompt_of_an_unchanged_pipeline_is_nearly_free():
    said = predict(LARGE, "h100", Workload(input_tokens=20_000, calls=2, tensor_parallel=8))
    assert said.calls[1].cached_tokens == 19_999
    assert said.calls[1].prefill_seconds < said.calls[0].prefill_seconds / 20


def test_break_even_is_where_the_costs_cross():
    pipeline = Workload(
        input_tokens=1200, output_tokens=64, calls=3, added_tokens=1000, tensor_parallel=8
    )
    length = break_even_tokens(LARGE, "h100", pipeline)
    budget = predict(LARGE, "h100", pipeline).e2e_seconds
    once = replace(pipeline, calls=1, added_tokens=0)
    before, at = (
        predict(LARGE, "h100", replace(once, input_tokens=n)).e2e_seconds
        for n in (length - 1, length)
    )
    assert before < budget <= at
    assert break_even_tokens(LARGE, "h100", pipeline, tool_seconds=1.0) > length
    assert break_even_tokens(LARGE, "h100", pipeline, tool_seconds=1e6) is None


def test_every_known_model_runs_somewhere():
    for architecture in architectures().values():
        gpus = 8 if architecture.parameters > 1e11 else 1
        work = Workload(input_tokens=2048, output_tokens=128, tensor_parallel=gpus, weights="fp8")
        assert predict(architecture, "b200", work).e2e_seconds > 0


def test_every_gpu_serves_a_small_model_in_every_format():
    for name, row in hardware_table().iterrows():
        times = {
            weights: predict("llama-3.2-1b", name, Workload(weights=weights)).ttft_seconds
            for weights in FORMATS
        }
        assert times["fp8"] < times["bf16"] * 1.001
        assert (times["fp4"] < times["fp8"] * 0.9) == (row["fp4_tflops"] > 0), name


def test_the_nearest_names_are_offered():
    for call, said in (
        (lambda: get_hardware("H10"), "no GPU 'H10'.*did you mean h100"),
        (lambda: get_hardware("mi300"), "did you mean mi300x"),
        (lambda: get_architecture("llama-3-70"), "did you mean llama-3-70b"),
        (lambda: Workload(weights="nvfp"), r"Workload\.weights is 'nvfp'; did you mean nvfp4"),
    ):
        with pytest.raises(Unknown, match=said):
            call()
