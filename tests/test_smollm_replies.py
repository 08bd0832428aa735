"""SmolLM2 in this process: replies equal to `generate`, and whole episodes, with each tool and
without.
"""

import asyncio

import pytest
import torch
from smollm_runs import sums

from negfail_nb.agents import CalculatorTool, LocalModel, Sampling, SearchTool, Task, collect
from negfail_nb.prefix import LabelClass, Template, check_mask, render
from negfail_nb.settings import LiveSettings

GREEDY = Sampling(temperature=0.0, max_tokens=12)
PEOPLE = (("Mira Kolb", "Mira Kolb was born in 1952."), ("Jan Dahl", "Jan Dahl was a painter."))
# What an untuned model of this size needs to see before it writes actions.
CALCULATED = """Question: Ann has 3 books and buys 2 more. How many has she?
Thought: I add them.
Action: calculate[3 + 2]
Observation: 5
Thought: I know the answer.
Action: finish[5]

Question: A box has 6 eggs. How many are in 7 boxes?
Thought: I multiply.
Action: calculate[6 * 7]
Observation: 42
Thought: I know the answer.
Action: finish[42]

"""
SEARCHED = """Begin with a thought and a search, as here.

Question: When was Orla Venn born?
Thought: I search for Orla Venn.
Action: search[Orla Venn]
Observation: Orla Venn [1]: Orla Venn was born in 1931.
Thought: I know the answer.
Action: finish[1931]

Question: In which country is Tarn?
Thought: I search for Tarn.
Action: search[Tarn]
Observation: Tarn [1]: Tarn is a village in Norway.
Thought: I know the answer.
Action: finish[Norway]

"""
ANSWERED = "".join(
    f"Question: {question}\nThought: I know the answer.\nAction: finish[{answer}]\n\n"
    for question, answer in (("Is ice hot?", "no"), ("Is fire hot?", "yes"), ("Is mud dry?", "no"))
)
AS_SHOWN = Template(
    name="as shown", classes=(LabelClass(name="unlabelled", text={"default": "{question}"}),)
)
SUM = "Tom has 14 apples and gets 5 more. How many has he?"


@pytest.fixture(scope="module")
def local(smollm):
    return LocalModel.open(smollm)


def reply_to(local, conversations):
    """Return the replies to conversations that are asked at once."""

    async def ask():
        async with local:
            return await asyncio.gather(*(local.reply(asked, GREEDY) for asked in conversations))

    return asyncio.run(ask())


def generated(local, ids):
    """Return what plain `generate` replies to a prompt alone."""
    prompt = torch.tensor([ids])
    whole = local.model.generate(prompt, max_new_tokens=GREEDY.max_tokens, do_sample=False)
    return local.tokenizer.decode(whole[0, len(ids) :], skip_special_tokens=True)


def test_replies_equal_generate_of_each_prompt_alone(local):
    run = sums(1)[0].messages
    system = {"role": "system", "content": "Answer in few words. " * 8}
    capital = ({"role": "user", "content": "What is the capital of France?"},)
    hello = ({"role": "user", "content": "Hi"},)
    asked = [hello, run[:1], run[:3], capital, (system, *capital), run[:1]]
    replies = reply_to(local, asked)
    prompts = [local.prompt_ids(messages) for messages in asked]
    assert prompts[2][: len(prompts[1])] == prompts[1], "one is the beginning of another"
    assert len(set(map(len, prompts))) == 5 and prompts[1] == prompts[5]
    expected = {tuple(ids): generated(local, ids) for ids in prompts}
    assert [r.message["content"] for r in replies] == [expected[tuple(ids)] for ids in prompts]
    assert [r.prompt_tokens for r in replies] == [len(ids) for ids in prompts]
    assert replies[3].message["content"].startswith("The capital of France is Paris")


def played(local, task, tools):
    """Play an episode of two calls at most; return its record and the prompts of the model."""
    prompts = []
    how = LiveSettings(attempts=1, temperatures=(0.0,), max_calls=2, max_tokens=40)

    def noted(messages, tools=()):
        prompts.append(rendered(messages, tools))
        return prompts[-1]

    rendered = local.prompt_ids
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "prompt_ids", noted)
        logs = collect(local, [task], tools, how)
    assert not logs.problems
    return logs.trajectories[0], prompts


def check_whole(local, episode, task, prompts):
    """What every record has, and that training would see the prompts that the model saw."""
    assert (episode.id, episode.question_id, episode.error) == (f"{task.id}/0", task.id, "")
    given = (task.question, task.answer, task.task)
    assert (episode.question, episode.answer, episode.task) == given
    assert episode.source.model == local.name and episode.source.temperature == 0
    assert episode.usage.calls == len(prompts)
    assert episode.usage.prompt_tokens == sum(map(len, prompts))
    assert 0 < episode.usage.completion_tokens <= 40 * len(prompts)
    shown = task.prompt or task.question
    rendered = render([episode.replace(question=shown)], AS_SHOWN, local.tokenizer)
    assert not rendered.skipped and not check_mask(rendered, 0)
    ids, mask = rendered[0].input_ids.tolist(), rendered[0].trained
    starts = [i for i in range(1, len(ids)) if mask[i] and not mask[i - 1]]
    assert [ids[:start] for start in starts] == prompts


def test_an_episode_with_the_calculator(local):
    prompt = f"{CALCULATED}Question: {SUM}"
    task = Task(id="sum", question=SUM, answer="19", task="math", prompt=prompt)
    episode, prompts = played(local, task, (CalculatorTool(),))
    check_whole(local, episode, task, prompts)
    assert [m["role"] for m in episode.messages[2:]] == ["assistant", "user", "assistant"]
    assert "calculate[14 + 5]" in episode.messages[2]["content"]
    assert episode.messages[3]["content"] == "Observation: 19"
    assert (episode.termination, episode.prediction, episode.success) == ("finished", "19", True)


def test_an_episode_with_search(local):
    question = "When was Mira Kolb born?"
    prompt = f"{SEARCHED}Question: {question}"
    task = Task(id="born", question=question, answer="1952", prompt=prompt)
    search = SearchTool(PEOPLE, results=1)
    episode, prompts = played(local, task, (search,))
    check_whole(local, episode, task, prompts)
    assert "search[Mira Kolb]" in episode.messages[2]["content"]
    assert episode.messages[3]["content"] == f"Observation: {search('Mira Kolb')}"
    assert "born in 1952" in episode.messages[3]["content"]
    assert episode.termination in ("finished", "max_steps") and len(prompts) == 2


def test_an_episode_of_yes_or_no_without_tools(local):
    question = "Is coal white?"
    prompt = f"{ANSWERED}Question: {question}"
    task = Task(id="coal", question=question, answer="no", task="yes_no", prompt=prompt)
    episode, prompts = played(local, task, ())
    check_whole(local, episode, task, prompts)
    assert "finish[answer]" in episode.messages[0]["content"]
    assert (episode.termination, episode.prediction) == ("finished", "no")
    assert episode.success is True and len(prompts) == 1
