"""SmolLM2 is tuned for a few steps, whole and by an adapter: what was trained is what is opened."""

import asyncio
import shutil
from types import SimpleNamespace

import pytest
import torch
from smollm_runs import THOUGHT, sums, tuned

from negfail_nb.agents import LocalModel, Sampling
from negfail_nb.agents.local import weights_hash
from negfail_nb.training import TrainedRun, fit

KINDS = [("bfloat16", 0), ("float32", 8)]


def logits(model, tokenizer):
    """Return the logits of one prompt, shape (tokens, vocabulary)."""
    asked = [{"role": "user", "content": sums(1)[0].question}]
    ids = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_dict=False, return_tensors="pt"
    )
    with torch.no_grad():
        return model.eval()(ids, use_cache=False).logits[0]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}, rank {kind[1]}")
def made(request, smollm, tmp_path_factory):
    """A run, and the weights and logits of its model just after it was saved."""
    dtype, rank = request.param
    folder = tmp_path_factory.mktemp("smollm")
    seen = []

    def write(place, trainer, tokenizer, *given):
        result = written(place, trainer, tokenizer, *given)
        network = trainer.accelerator.unwrap_model(trainer.model)
        seen.append((weights_hash(network), logits(network, tokenizer)))
        return result

    written = fit.write_result
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "write_result", write)
        run = tuned(smollm, folder, dtype, rank)
    model = run.load()
    yield SimpleNamespace(run=run, model=model, dtype=dtype, rank=rank, saved=seen[0])
    shutil.rmtree(folder)  # up to half a gigabyte


def test_loss_falls(made):
    loss = made.run.history["loss"]
    assert made.run.steps == len(loss) == 5
    assert 2.5 < loss[0] < 3.5 and loss.iloc[-1] < 0.5 * loss[0]
    assert list(loss) == sorted(loss, reverse=True)
    assert not made.run.notes, "its own template has only tokens that it knows"


def test_what_is_opened_has_the_weights_and_logits_that_were_trained(made):
    again = TrainedRun.open(made.run.folder).load()
    weights, expected = made.saved
    assert weights_hash(again) == weights
    found = logits(again, made.run.tokenizer())
    assert torch.equal(found, logits(made.model, made.run.tokenizer()))
    if made.dtype == "float32":  # in bfloat16 the trainer also adds up in float32
        torch.testing.assert_close(found, expected)
    kind = getattr(torch, made.dtype)
    adapters = {p.dtype for name, p in again.named_parameters() if "lora_" in name}
    others = {p.dtype for name, p in again.named_parameters() if "lora_" not in name}
    assert others == {kind} and adapters == ({torch.float32} if made.rank else set())


def test_an_agent_of_the_run_replies_by_what_was_trained(made):
    local = LocalModel.open(made.run)
    assert local.window == 8192
    assert "model" not in vars(local)
    local.__dict__["model"] = made.model  # loaded already
    asked = [{"role": "user", "content": sums(1)[0].question}]

    async def play():
        async with local:
            return await local.reply(asked, Sampling(temperature=0.0, max_tokens=8))

    reply = asyncio.run(play())
    prompt = torch.tensor([local.prompt_ids(asked)])
    whole = made.model.generate(prompt, max_new_tokens=8, do_sample=False)
    tokenizer = made.run.tokenizer()
    written = tokenizer.decode(whole[0, prompt.shape[1] :], skip_special_tokens=True)
    assert reply.message["content"] == written
    if not made.rank:  # five steps of an adapter are too few
        assert written.startswith(THOUGHT)


def test_a_merged_adapter_equals_the_one_that_is_applied(made, tmp_path):
    if not made.rank:
        pytest.skip("all weights were trained: there is no adapter")
    tokenizer = made.run.tokenizer()
    applied = logits(made.model, tokenizer)
    with made.model.disable_adapter():
        assert not torch.allclose(applied, logits(made.model, tokenizer), atol=0.1)
    made.run.load().merge_and_unload().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    merged = LocalModel.open(tmp_path)
    torch.testing.assert_close(
        logits(merged.model, merged.tokenizer), applied, atol=1e-3, rtol=1e-3
    )
    shutil.rmtree(tmp_path)
