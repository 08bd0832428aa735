"""Exports, each read back by what it is for: datasets, and TRL's trainers on a tiny Llama."""

import copy
import json

import pytest
from chat_tokenizers import tokenizer

from negfail_nb.prefix import export, find_template
from negfail_nb.prefix.exports import dpo_rows
from negfail_nb.settings import PrefixSettings
from negfail_nb.trajectory import Trajectory

BARE, INSTRUCTED = PrefixSettings(), PrefixSettings(instruction=True)
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "c",
            "type": "function",
            "function": {"name": "search", "arguments": '{"query": "Ed"}'},
        }
    ],
}
TOOL = {
    "type": "function",
    "function": {"name": "search", "description": "d", "parameters": {"type": "object"}},
}


def run(id, success, question="Who?", answer="finish[Ed]", **fields):
    messages = (
        {"role": "user", "content": question},
        {"role": "assistant", "content": "Action: look[x]"},
        {"role": "user", "content": "Observation: Invalid Action. Error: none"},
        {"role": "assistant", "content": f"Action: {answer}"},
        {"role": "user", "content": "Observation: Episode finished"},
    )
    fields = {"messages": messages, "question_id": question, **fields}
    return Trajectory(id=id, question=question, success=success, **fields)


LOGS = (
    *(run(f"right {i}", True, answer=f"finish[Ed {i}]") for i in range(3)),
    *(run(f"wrong {i}", False, answer=f"finish[Al {i}]") for i in range(4)),
    run("only right", True, "When?"),
    run("only wrong", False, "Where?"),
    run("unknown", None, "Why?"),
    run("silent", True, "How?", messages=({"role": "user", "content": "How?"},)),
)


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def made():
    tok = tokenizer("byte-level", "llama3_1")
    tok.pad_token = "</s>"
    return tok


@pytest.fixture()
def model(made):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=len(made), max_position_embeddings=1024, **shape)
    )


def arguments(tmp_path):
    common = {
        "output_dir": str(tmp_path / "out"),
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "use_cpu": True,
    }
    return {**common, "bf16": False, "report_to": [], "save_strategy": "no", "disable_tqdm": True}


def loaded(path):
    import datasets

    return datasets.load_dataset(
        "json", data_files=str(path), cache_dir=str(path.parent / "cache"), split="train"
    )


def test_sft_messages_train_in_trl(tmp_path, made, model):
    from trl import SFTConfig, SFTTrainer

    done = export(LOGS, "sft", tmp_path / "sft.jsonl", "prefix-good", INSTRUCTED)
    assert done.written == 9 and sorted(p.record for p in done.skipped) == ["silent", "unknown"]
    rows = read(done.path)
    assert rows[0]["messages"][2]["content"] == "[Good] Question: Who?."
    assert rows[0]["messages"][-1] == {"role": "assistant", "content": "Action: finish[Ed 0]"}
    data = loaded(done.path)
    trainer = SFTTrainer(
        model, args=SFTConfig(**arguments(tmp_path)), train_dataset=data, processing_class=made
    )
    assert "[Bad] Question: Who?." in made.decode(trainer.train_dataset[3]["input_ids"])
    assert trainer.train().training_loss > 0


def test_ids_and_labels_train_in_trl_as_they_are(tmp_path, made, model):
    from trl import SFTConfig, SFTTrainer

    done = export(LOGS, "tokens", tmp_path / "tokens.jsonl", "none", BARE, tokenizer=made)
    data = loaded(done.path)
    assert len(data) == done.written == 10 and [p.record for p in done.skipped] == ["silent"]
    trainer = SFTTrainer(
        model, args=SFTConfig(**arguments(tmp_path)), train_dataset=data, processing_class=made
    )
    row = trainer.train_dataset[0]
    kept = made.decode([i for i in row["labels"] if i != -100])
    assert kept == "Action: look[x]<|eot_id|>Action: finish[Ed 0]<|eot_id|>"
    assert trainer.train().training_loss > 0


def test_pairs_train_in_trls_dpo(tmp_path, made, model):
    from trl import DPOConfig, DPOTrainer

    done = export(LOGS, "dpo", tmp_path / "dpo.jsonl", "prefix-good", pairs=5)
    rows = read(done.path)
    assert done.written == len(rows) == 5
    reasons = {p.record: p.reason for p in done.skipped}
    assert "no failed run" in reasons["When?"] and "no solved run" in reasons["Where?"]
    assert (
        "neither preferred nor rejected" in reasons["unknown"]
        and reasons["silent"] == "no assistant message"
    )
    for row in rows:
        assert row["prompt"][-1] == {"role": "user", "content": "[Good] Question: Who?."}, (
            "the label decides nothing"
        )
        assert "Ed" in row["chosen"][-1]["content"] and "Al" in row["rejected"][-1]["content"]
        assert row["chosen"][0]["role"] == row["rejected"][0]["role"] == "assistant"
    assert len({json.dumps(row) for row in rows}) == 5
    args = DPOConfig(**arguments(tmp_path), max_length=None)
    reference = copy.deepcopy(model)
    trainer = DPOTrainer(
        model, reference, args=args, train_dataset=loaded(done.path), processing_class=made
    )
    first = trainer.train_dataset[0]
    assert made.decode(first["prompt_ids"]).endswith("assistant<|end_header_id|>\n\n")
    assert made.decode(first["chosen_ids"]).startswith("Action: look[x]<|eot_id|>")
    assert trainer.train().training_loss > 0


def test_unpaired_rows_train_in_trls_kto(tmp_path, made, model):
    from trl import KTOConfig, KTOTrainer

    done = export(LOGS, "kto", tmp_path / "kto.jsonl", "none")
    rows = read(done.path)
    assert done.written == 9 and sum(row["label"] for row in rows) == 4
    assert set(rows[0]) == {"prompt", "completion", "label"}
    assert all(("Al" in row["completion"][-1]["content"]) <= (not row["label"]) for row in rows)
    args, reference = KTOConfig(**arguments(tmp_path)), copy.deepcopy(model)
    trainer = KTOTrainer(
        model, reference, args=args, train_dataset=loaded(done.path), processing_class=made
    )
    assert trainer.train().training_loss > 0


def test_pairs_are_drawn_by_seed_and_capped():
    template = find_template("none")
    first = dpo_rows(LOGS, template, BARE, pairs=3, seed=1).rows
    assert first == dpo_rows(tuple(reversed(LOGS)), template, BARE, pairs=3, seed=1).rows
    assert any(
        first != dpo_rows(LOGS, template, BARE, pairs=3, seed=seed).rows for seed in (2, 3, 4)
    )
    assert len(dpo_rows(LOGS, template, BARE, pairs=100).rows) == 3 * 4
    system = ({"role": "system", "content": "Be brief."}, *run("x", False).messages)
    other = (run("a", True), run("b", False, messages=system))
    assert dpo_rows(other, template, BARE).rows == (), "two prompts make no pair"


@pytest.mark.parametrize("logs", [LOGS[:3], LOGS[3:7], LOGS[7:8], ()])
def test_without_both_outcomes_there_is_no_pair_and_a_reason(tmp_path, logs):
    done = export(logs, "dpo", tmp_path / "dpo.jsonl", "none")
    assert done.written == 0 and read(done.path) == [] and len(done.skipped) == bool(logs)


def test_sharegpt_turns(tmp_path):
    tools = run(
        "t",
        True,
        messages=(
            {"role": "user", "content": "Who?"},
            CALL,
            {"role": "tool", "content": "Ed"},
            {"role": "assistant", "content": "Ed"},
        ),
        tools=(TOOL,),
    )
    done = export((tools, LOGS[3]), "sharegpt", tmp_path / "s.jsonl", "prefix-good", BARE)
    called, failed = loaded(done.path)
    assert [t["from"] for t in called["conversations"]] == [
        "human",
        "function_call",
        "observation",
        "gpt",
    ]
    assert json.loads(called["conversations"][1]["value"]) == {
        "name": "search",
        "arguments": {"query": "Ed"},
    }
    assert json.loads(called["tools"]) == [TOOL]
    assert failed["conversations"][0] == {"from": "human", "value": "[Bad] Question: Who?."}
    assert [t["from"] for t in failed["conversations"]] == ["human", "gpt", "human", "gpt"]


def test_openai_lines_weigh_what_carries_loss(tmp_path):
    strict = PrefixSettings(train_on_errors=False, instruction=True)
    done = export(LOGS[:1], "openai", tmp_path / "o.jsonl", "none", strict)
    weights = [
        (m["content"][:12], m["weight"])
        for m in read(done.path)[0]["messages"]
        if m["role"] == "assistant"
    ]
    assert weights == [("I've underst", 0), ("Action: look", 0), ("Action: fini", 1)]
    assert all(
        "weight" not in m for m in read(done.path)[0]["messages"] if m["role"] != "assistant"
    )
    assert loaded(done.path)[0]["messages"][0]["role"] == "user"
    tools = run("t", True, messages=({"role": "user", "content": "Who?"}, CALL), tools=(TOOL,))
    line = read(export((tools,), "openai", tmp_path / "t.jsonl", "none", BARE).path)[0]
    assert line["tools"] == [TOOL]
    assert json.loads(line["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {
        "query": "Ed"
    }


def test_tool_calls_with_other_arguments_survive_the_way_through_datasets(tmp_path, made):
    def called(id, arguments):
        function = {"name": "search", "arguments": json.dumps(arguments)}
        call = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
        }
        return run(id, True, messages=({"role": "user", "content": "Who?"}, call), tools=(TOOL,))

    done = export(
        [called("a", {"query": "Ed"}), called("b", {"page": 2})],
        "sft",
        tmp_path / "s.jsonl",
        "none",
        BARE,
    )
    texts = [
        made.apply_chat_template(row["messages"], tools=row["tools"], tokenize=False)
        for row in loaded(done.path)
    ]
    assert '"parameters": {"query": "Ed"}' in texts[0] and '"parameters": {"page": 2}' in texts[1]


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "sft.jsonl"
    with pytest.raises(
        ValueError, match="no export 'nope'; there are sft, tokens, dpo, kto, sharegpt, openai"
    ):
        export(LOGS, "nope", path, "none")
    bad = run(
        "bad",
        True,
        messages=(
            {"role": "user", "content": "Who?", "extra": {1}},
            {"role": "assistant", "content": "x"},
        ),
    )
    export(LOGS, "sft", path, "none")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        export((*LOGS, bad), "sft", path, "none")
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
