"""SmolLM2 reads a context of 8,000 tokens, nearly all of its window, and no more than that."""

import asyncio
import os

import pytest

from negfail_nb.agents import EpisodeTooLong, LocalModel, Sampling
from negfail_nb.benchmarking import benchmark
from negfail_nb.benchmarking.contexts import make_contexts
from negfail_nb.benchmarking.pools import MemoryPool
from negfail_nb.benchmarking.prompts import open_prompt
from negfail_nb.benchmarking.records import Passage, Question
from negfail_nb.pocket.passages import write_passage
from negfail_nb.pocket.world import make_world
from negfail_nb.settings import ContextSettings, ReadingSettings

LENGTH, WINDOW, ANSWER = 8000, 8192, 16
QUESTION = Question(
    id="tarn",
    question="In which town was Mira Kolb born?",
    answer="Tarn",
    facts=(("Mira Kolb", 0),),
)


@pytest.fixture(scope="module")
def local(smollm):
    return LocalModel.open(smollm, dtype="bfloat16")


@pytest.fixture(scope="module")
def pool():
    """The passage with the answer, and those of a generated world."""
    world = make_world(240, 1, "heldout")
    filler = [write_passage(world, index) for index in range(240)]
    gold = Passage("Mira Kolb", ("Mira Kolb was born in the town of Tarn.",))
    return MemoryPool([gold, *(Passage(p.title, p.sentences) for p in filler)])


def contexts(*lengths):
    """Return how contexts are filled, the gold passage last, where such a model finds it."""
    return ContextSettings(lengths=lengths, fill="random", depth=1.0)


@pytest.mark.skipif(
    os.environ.get("NEGFAIL_NB_SERVERS") != "1",
    reason="reads for a minute; set NEGFAIL_NB_SERVERS=1",
)
def test_a_context_of_8000_tokens_is_filled_to_the_token_and_answered(local, pool):
    asked = ReadingSettings(prompt="bare", answer_tokens=ANSWER)
    made = benchmark(
        local, [QUESTION], ["long_context"], asked, pool=pool, contexts=contexts(LENGTH)
    )
    (answer,) = made.answers
    assert answer.termination == "answered" and not answer.error
    assert answer.target == LENGTH and 0.99 <= answer.fill <= 1
    (call,) = answer.calls
    assert call.prompt_tokens + ANSWER == round(answer.fill * LENGTH)
    assert "Tarn" in call.reply


@pytest.mark.parametrize("prompt", ["bare", "instructed"])
def test_contexts_up_to_the_window_have_the_tokens_of_the_prompt(local, pool, prompt):
    given = {"prompt": open_prompt(prompt), "answer_tokens": ANSWER, "window": local.window}
    made = make_contexts([QUESTION], pool, local.tokenizer, contexts(LENGTH, WINDOW), **given)
    for context, length in zip(made, (LENGTH, WINDOW), strict=True):
        assert 0.99 * length <= context.tokens <= length
        ids = local.prompt_ids(context.messages)
        assert context.ids.tolist() == ids and context.tokens == len(ids) + ANSWER
        written = local.tokenizer.apply_chat_template(
            list(context.messages), add_generation_prompt=True, return_dict=False
        )
        assert ids == written


def test_a_context_above_the_window_is_refused_before_anything_is_asked(local, pool):
    with pytest.raises(ValueError, match=f"lengths holds {WINDOW + 1}, but the model takes 8192"):
        benchmark(local, [QUESTION], ["long_context"], pool=pool, contexts=contexts(WINDOW + 1))


def test_a_prompt_that_fills_the_window_is_refused(local):
    def prompt(words):
        return [{"role": "user", "content": "book" + " book" * words}]

    frame = len(local.prompt_ids(prompt(0)))
    full = prompt(WINDOW - frame)
    assert len(local.prompt_ids(full)) == WINDOW

    async def ask():
        async with local:
            return await local.reply(full, Sampling(temperature=0.0, max_tokens=1))

    with pytest.raises(EpisodeTooLong, match="8192 tokens, and the window of .* 8192"):
        asyncio.run(ask())
