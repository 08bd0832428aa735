"""A model is asked as it was trained: its chat template, end token and tokenizer go with it, and
others are refused.
"""

import json
from dataclasses import replace

import pytest
import torch

from negfail_nb.agents.local import LocalModel
from negfail_nb.evaluation import perplexity
from negfail_nb.prefix import render
from negfail_nb.runs import SettingsChanged
from negfail_nb.settings import (
    LoraSettings,
    ModelSettings,
    PreferenceSettings,
    PrefixSettings,
    TrainSettings,
)
from negfail_nb.training import (
    TrainedRun,
    load_model,
    load_tokenizer,
    make_arms,
    make_tokenizer,
    train,
    train_preference,
)
from negfail_nb.training.fit import untrained_tokens
from negfail_nb.trajectory import Trajectory

TOKENIZER = make_tokenizer(
    ["Thought: I look it up.\nAction: search[it]\nQuestion: What?\n"] * 20, 320
)
MODEL = ModelSettings(layers=1, width=32, heads=2, vocabulary=320, positions=256)
SETTINGS = TrainSettings(
    budget="steps", steps=2, batch_tokens=256, save_steps=1, learning_rate=1e-2
)
LORA = LoraSettings(rank=2)
PLAIN, LLAMA = PrefixSettings(chat_template="react-plain"), PrefixSettings(chat_template="llama-3")
ASKED = [{"role": "user", "content": "Question: What?"}]


def logs():
    turns = (
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "Thought: I look it up."},
    )
    wrong = (turns[0], {"role": "assistant", "content": "Action: search[it]"})
    return [
        Trajectory(
            id=f"{i}{ok}",
            question_id=f"q{i}",
            question="What?",
            messages=turns if ok else wrong,
            success=ok,
        )
        for i in range(4)
        for ok in (True, False)
    ]


def data(prefix=PLAIN, tokenizer=TOKENIZER):
    return render(logs(), "none", tokenizer, prefix)


@pytest.fixture(scope="module", params=["whole", "adapter"])
def run(request, tmp_path_factory):
    lora = LORA if request.param == "adapter" else LoraSettings()
    return train(data(), SETTINGS, MODEL, lora, tmp_path_factory.mktemp(request.param) / "run")


def test_a_trained_model_asks_as_it_was_trained(run):
    model, tokenizer = run.load(), run.tokenizer()
    prompt = tokenizer.decode(LocalModel(model, tokenizer).prompt_ids(ASKED))
    assert prompt == "<|begin_of_text|>User: Question: What?\n\nAssistant:"
    assert (
        tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True) == prompt
    )
    ids = LocalModel(model, tokenizer).prompt_ids(ASKED)
    assert data()[0].input_ids.tolist()[: len(ids)] == ids
    LocalModel(model, tokenizer, chat_template="react-plain").prompt_ids(ASKED)
    with pytest.raises(
        ValueError,
        match="trained under the chat template 'react-plain', and asking it uses 'llama-3'",
    ):
        LocalModel(model, tokenizer, chat_template="llama-3").prompt_ids(ASKED)
    with pytest.raises(
        ValueError, match="'react-plain', and asking it uses \"the tokenizer's own\""
    ):
        LocalModel(model, TOKENIZER).prompt_ids(ASKED)


def test_a_run_is_opened_as_an_agent_before_its_weights_are_loaded(run):
    agent = LocalModel.open(run)
    ids = LocalModel(run.load(), run.tokenizer()).prompt_ids(ASKED)
    assert agent.prompt_ids(ASKED) == ids and agent.window == MODEL.positions
    assert agent.name == run.folder.name and agent.content == LocalModel.open(run).content
    with pytest.raises(ValueError, match="'react-plain', and asking it uses 'llama-3'"):
        LocalModel.open(run, chat_template="llama-3").prompt_ids(ASKED)
    # An adapter of a model that was made from nothing has no config on disk.
    assert ("model" in vars(agent)) == (run.weights.name == "adapter")


def test_a_model_without_a_mark_takes_any_template():
    model = load_model(MODEL, TOKENIZER)
    for name in ("react-plain", "llama-3", ""):
        assert LocalModel(model, TOKENIZER, chat_template=name).prompt_ids(ASKED)


@pytest.mark.parametrize("lora", [LoraSettings(), LORA])
def test_the_end_token_is_saved_where_loaders_look_for_it(lora, tmp_path):
    base = make_tokenizer(["Thought: I look it up.\n"] * 20, 320)
    base.eos_token, base.chat_template = "<|end_of_text|>", None
    load_model(MODEL, base).save_pretrained(tmp_path / "base")
    run = train(
        data(LLAMA, base),
        SETTINGS,
        ModelSettings(name=str(tmp_path / "base")),
        lora,
        tmp_path / "run",
    )
    end, old = base.convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>"])
    assert (
        run.tokenizer().eos_token == "<|eot_id|>"
        and base.eos_token == "<|end_of_text|>"
        and not base.chat_template
    )
    assert json.loads((run.weights / "generation_config.json").read_text())["eos_token_id"] == [
        end,
        old,
    ]
    model = run.load()
    assert model.generation_config.eos_token_id == [end, old]
    assert "<|start_header_id|>assistant" in run.tokenizer().decode(
        LocalModel(model, run.tokenizer()).prompt_ids(ASKED)
    )


def test_training_goes_on_under_the_same_template_only(run, tmp_path):
    if run.weights.name == "model":
        start = ModelSettings(name=str(run.weights))
        with pytest.raises(ValueError, match="'react-plain', and this training uses 'llama-3'"):
            train(data(LLAMA), SETTINGS, start, folder=tmp_path / "other")
        assert train(data(), SETTINGS, start, folder=tmp_path / "same").steps == 2
    (arm,) = make_arms(["kto"])
    given = (logs(), arm, run, PreferenceSettings(epochs=0.01, batch=4), SETTINGS)
    with pytest.raises(ValueError, match="'react-plain', and this training uses 'llama-3'"):
        train_preference(*given, LLAMA, tmp_path / "kto")
    preferred = train_preference(*given, PLAIN, tmp_path / "kto")
    prompt = LocalModel(preferred.load(), preferred.tokenizer()).prompt_ids(ASKED)
    assert preferred.tokenizer().decode(prompt).endswith("Assistant:")
    with pytest.raises(ValueError, match="asking it uses 'llama-3'"):
        LocalModel(preferred.load(), preferred.tokenizer(), chat_template="llama-3").prompt_ids(
            ASKED
        )


def test_evaluation_is_under_the_same_template_and_tokenizer(run):
    model = run.load()
    assert perplexity(model, data()).loss > 0
    with pytest.raises(ValueError, match="'react-plain', and this evaluation uses 'llama-3'"):
        perplexity(model, data(LLAMA))
    other = make_tokenizer(["Quite another text, of other words. "] * 20, 320)
    with pytest.raises(ValueError, match="trained with other tokens than those of the tokenizer"):
        perplexity(model, data(PLAIN, other))
    with pytest.raises(ValueError, match="trained with other tokens"):
        LocalModel(model, other, chat_template="react-plain").prompt_ids(ASKED)


def test_a_folder_of_another_template_is_not_resumed(run):
    own = render(logs(), "none", run.tokenizer(), PrefixSettings())
    assert (
        own.chat_template == data().chat_template
        and own[0].input_ids.tolist() == data()[0].input_ids.tolist()
    )
    lora = LORA if run.weights.name == "adapter" else LoraSettings()
    with pytest.raises(SettingsChanged, match="chat"):
        train(data(LLAMA), SETTINGS, MODEL, lora, run.folder)


# Tokens that an adapter cannot learn
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def blank(tmp_path):
    """A base model whose rows for the chat's tokens are zero, or near it."""
    model = load_model(MODEL, TOKENIZER)
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        rows[TOKENIZER.convert_tokens_to_ids("<|eot_id|>")] = 0
        rows[TOKENIZER.convert_tokens_to_ids("<|start_header_id|>")] *= 1e-3
    model.save_pretrained(tmp_path / "base")
    TOKENIZER.save_pretrained(tmp_path / "base")
    return ModelSettings(name=str(tmp_path / "base"))


def test_an_adapter_over_untrained_rows_says_so(blank, tmp_path, caplog):
    run = train(data(LLAMA), SETTINGS, blank, LORA, tmp_path / "a")
    first, second = run.notes
    assert "input embeddings of '<|start_header_id|>', '<|eot_id|>' are zero or near it" in first
    assert (
        "output embeddings of '<|eot_id|>' are" in second
        and 'lora.modules_to_save="embed_tokens,lm_head"' in second
    )
    assert (
        first in caplog.text
        and "trainable_token_indices" in first
        and "note: the input" in repr(run)
    )
    assert TrainedRun.open(run.folder).notes == run.notes


def test_what_helps_silences_it(blank, tmp_path):
    assert train(data(LLAMA), SETTINGS, blank, LoraSettings(), tmp_path / "all").notes == ()
    saved = replace(LORA, modules_to_save="embed_tokens,lm_head")
    run = train(data(LLAMA), SETTINGS, blank, saved, tmp_path / "saved")
    assert run.notes == ()
    end = TOKENIZER.convert_tokens_to_ids("<|eot_id|>")
    assert run.load().get_output_embeddings().weight[end].norm() > 0
    assert train(data(LLAMA), SETTINGS, MODEL, LORA, tmp_path / "known").notes == ()


def test_rows_are_compared_with_the_usual_one():
    model, rendered = load_model(MODEL, TOKENIZER), data(LLAMA)
    model.requires_grad_(False)
    for scale, count in ((1e-30, 2), (0.05, 2), (0.5, 0), (30.0, 0)):
        copy = load_model(MODEL, TOKENIZER).requires_grad_(False)
        with torch.no_grad():
            copy.get_input_embeddings().weight[TOKENIZER.convert_tokens_to_ids("<|eot_id|>")] *= (
                scale
            )
        assert len(untrained_tokens(copy, rendered.dataset(), TOKENIZER)) == count


# Flipped bytes
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["safetensors", "tokenizer.json", "generation_config.json", "trained_under.json"]
)
def test_a_flipped_byte_in_trained_weights_is_found(run, name, tmp_path, caplog):
    import shutil

    folder = shutil.copytree(run.folder, tmp_path / "copy")
    copied = TrainedRun.open(folder)
    (path,) = [p for p in copied.weights.iterdir() if p.name.endswith(name)]
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileNotFoundError, match="holds no finished training run"):
        TrainedRun.open(folder)
    assert f"{path.name} changed since it was written" in caplog.text
    path.unlink()
    (copied.weights / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="holds no finished training run"):
        TrainedRun.open(folder)
    assert f"{path.name} is missing" in caplog.text
    assert "adapter_model.bin was added" in caplog.text


def test_load_tokenizer_of_the_run_is_the_trained_one(run):
    assert (
        load_tokenizer(ModelSettings(name=str(run.weights))).chat_template == data().chat_template
    )
