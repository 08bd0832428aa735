"""The recipe of pocket-llama: lessons that can be answered, a curriculum and an optimizer that
survive a stop.
"""

import copy
import json
import random
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from negfail_nb.settings import ModelSettings
from negfail_nb.steps import parse_actions
from negfail_nb.training import load_model, load_tokenizer, make_tokenizer
from recipes.pocket_llama.curriculum import (
    Curriculum,
    Lessons,
    PretrainSettings,
    encode,
    teacher_episodes,
)
from recipes.pocket_llama.exam import Mark, reading_marks
from recipes.pocket_llama.lessons import (
    LADDER,
    Level,
    as_tool_calls,
    copying_row,
    draw_reading,
    episodes,
    lesson_world,
    reading_lesson,
)
from recipes.pocket_llama.muon import MuonWithAdamW
from recipes.pocket_llama.pretrain import WORDS, first_model, pretrain, share_right
from recipes.pocket_llama.start import hold_heads, set_heads

TINY = ModelSettings(layers=3, width=192, heads=6, vocabulary=400, positions=4096)
SHORT = PretrainSettings(steps=6, batch_tokens=512, save_steps=3)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(["Question: Who founded it? Thought: Action: search[query]"] * 3, 400)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), level=st.sampled_from(LADDER[:8]), alike=st.booleans())
def test_every_reading_lesson_holds_its_answers_once_the_entity_is_known(seed, level, alike):
    messages = reading_lesson(lesson_world(seed % 3, "train"), level, random.Random(seed), alike)
    lines = messages[0]["content"].split("\n")
    assert lines[0] == lines[-1]
    assert 2 <= len(messages) <= 2 * level.questions
    shown = []
    for question, answer in zip(messages[::2], messages[1::2], strict=True):
        shown += [line for line in question["content"].split("\n") if re.search(r" \[\d+]: ", line)]
        value = answer["content"].rpartition("Answer: ")[2]
        cited = re.search(r"\[\d+]", answer["content"]).group()
        [passage] = [line for line in shown if f" {cited}: " in line]
        assert value in passage, question["content"]
        assert f"of {passage.partition(':')[0]} is {value}.\n" in answer["content"]
    assert len(shown) == level.passages


def test_in_some_lessons_passages_come_later_as_when_one_searches_again():
    late = 0
    for number in range(60):
        users = [m["content"] for m in draw_reading(LADDER[2], 0, number)[::2]]
        later = [text for text in users[1:] if "\n" in text]
        assert len(later) <= 1 and all(
            text.split("\n")[-1].startswith("Question: ") for text in users
        )
        late += len(later)
    assert 5 <= late <= 25


def test_held_out_lessons_share_no_name_with_those_that_were_trained_on():
    worlds = [
        {e.name for seed in range(5) for e in lesson_world(seed, split).entities}
        for split in ("train", "heldout")
    ]
    assert not worlds[0] & worlds[1]


def test_what_is_asked_of_repeated_tokens_stands_before_behind_the_same_token():
    for seed in range(20):
        ids, known = copying_row(range(6, 5000), random.Random(seed))
        assert 0.3 < sum(known) / len(ids) < 0.8
        for place in (i for i, k in enumerate(known) if k):
            assert any(ids[i : i + 2] == ids[place - 1 : place + 1] for i in range(place - 1))


def test_a_model_begins_with_the_weights_of_its_seed(tokenizer):
    made = []
    for seed in (1, 1, 2):
        torch.rand(3)  # whatever else drew random numbers
        made.append(first_model(TINY, tokenizer, seed).state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert not any(torch.equal(made[0][name], made[2][name]) for name in made[0] if "proj" in name)


def test_episodes_are_single_searches_and_single_calculations():
    made = episodes(40, 3)
    kinds = [
        [parse_actions(m)[0].name for m in t.messages if m["role"] == "assistant"] for t in made
    ]
    assert all(t.success for t in made) and all(names[-1] == "finish" for names in kinds)
    assert {"search", "calculate"} == {
        names[0] for names in kinds if names[0] in ("search", "calculate")
    }
    assert max(names.count("calculate") for names in kinds) == 1


def test_tool_calls_say_what_the_actions_said():
    for trajectory in episodes(24, 5):
        turned = as_tool_calls(trajectory.messages)
        assert [parse_actions(m) for m in turned if m["role"] == "assistant"] == [
            parse_actions(m) for m in trajectory.messages if m["role"] == "assistant"
        ]
        assert [m["role"] for m in turned[1:]].count("tool") == sum(
            m["role"] == "user" for m in trajectory.messages[1:]
        )


def test_lessons_are_encoded_as_the_chat_template_renders_them(tokenizer):
    messages = list(reading_lesson(lesson_world(0, "train"), Level(2, 1, 2), random.Random(0)))
    ids, ours = encode(tokenizer, messages)
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(messages, tokenize=False)
    written = tokenizer.decode([i for i, our in zip(ids, ours, strict=True) if our])
    assert written == "".join(
        m["content"] + "<|eot_id|>" for m in messages if m["role"] == "assistant"
    )


def test_a_lesson_depends_on_its_step_only_so_that_a_resumed_run_goes_on_alike(tokenizer):
    curriculum = Curriculum(SHORT)
    curriculum.restore({"level": 2, "em": 0.5, "entered": 10})
    whole, later = iter(Lessons(curriculum, tokenizer)), iter(Lessons(curriculum, tokenizer, 3))
    for _ in range(3):
        next(whole)
    first, second = next(whole), next(later)
    assert first["level"] == second["level"] and torch.equal(
        first["input_ids"], second["input_ids"]
    )


def test_the_curriculum_moves_up_when_the_mark_is_reached_and_only_by_its_own_level():
    curriculum = Curriculum(SHORT)
    for step in range(200):
        curriculum.learn(3, 1.0, step)
    assert curriculum.level == -1
    step = 0
    while curriculum.level < 1:
        curriculum.learn(curriculum.level, 1.0, step := step + 1)
    assert curriculum.entered == step
    for _ in range(200):
        curriculum.learn(1, 0.5, step)
    assert curriculum.level == 1


def test_whole_passages_are_read_better_before_there_are_more_of_them():
    curriculum = Curriculum(PretrainSettings(pass_mark=0.5, whole_mark=0.7))
    for level, share, moves in ((3, 0.6, True), (4, 0.6, False), (4, 0.8, True)):
        curriculum.restore({"level": level, "em": 0.0, "entered": 0})
        for step in range(200):
            curriculum.learn(level, share, step)
        assert (curriculum.level > level) == moves


def test_an_answer_is_right_only_if_every_token_is():
    answers = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 1]]).bool()
    targets = torch.arange(6)
    logits = torch.nn.functional.one_hot(
        torch.tensor([0, 1, 2, 3, 0, 5]), 6
    ).float()  # the fifth token is wrong
    assert share_right(logits, targets, answers, answers) == pytest.approx(3 / 4)


def test_the_optimizer_goes_on_from_its_saved_state():
    def model():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 4, bias=False)
        )

    def step(model, optimizer):
        model(torch.ones(3, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    one, other = model(), model()
    first = MuonWithAdamW(one, 0.01)
    for _ in range(4):
        step(one, first)
    second = MuonWithAdamW(other, 0.01)
    for _ in range(2):
        step(other, second)
    third = MuonWithAdamW(other, 0.5)
    third.load_state_dict(second.state_dict())
    for _ in range(2):
        step(other, third)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.fixture
def few_texts(monkeypatch):
    """A tokenizer from a few texts, and few episodes: what the recipe does stays, only smaller."""
    monkeypatch.setattr("recipes.pocket_llama.pretrain.TOKENIZER_WORLDS", 1)
    monkeypatch.setattr("recipes.pocket_llama.curriculum.EPISODES_A_BATCH", 24)
    teacher_episodes.cache_clear()
    yield
    teacher_episodes.cache_clear()


def test_a_stopped_recipe_goes_on_and_leaves_a_model_that_loads(tmp_path, few_texts):
    folder = pretrain(tmp_path / "run", SHORT, TINY)
    again = pretrain(
        tmp_path / "run", PretrainSettings(steps=9, batch_tokens=512, save_steps=3), TINY
    )
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "run" / "progress.jsonl").read_text().splitlines()
    ]
    assert folder == again and sorted(p.suffix for p in folder.iterdir() if "model" in p.name) == [
        ".safetensors"
    ]
    assert steps == sorted(steps)
    named = ModelSettings(name=str(folder))
    tokenizer = load_tokenizer(named)
    model = load_model(named, tokenizer)
    marks = reading_marks(model, tokenizer, 3, lengths=(512,))
    assert [mark.questions for mark in marks] == [3] * 3
    assert all(0 < mark.guess <= 1 for mark in marks)


def test_another_learning_rate_is_no_resumption(tmp_path, few_texts):
    pretrain(tmp_path, PretrainSettings(steps=1, batch_tokens=256), TINY)
    with pytest.raises(ValueError, match="learning_rate"):
        pretrain(tmp_path, PretrainSettings(steps=1, batch_tokens=256, learning_rate=0.5), TINY)


def test_a_mark_has_an_exact_interval():
    row = Mark("reading", 19, 20, 0.1).row()
    assert (
        row["em"] == 95
        and row["low"] == pytest.approx(75.1, abs=0.1)
        and row["high"] == pytest.approx(99.9, abs=0.1)
    )


@pytest.fixture(scope="module")
def begun():
    """A model as it begins, and a tokenizer to which a bracket and a number are a token each."""
    words = ["Title [1]: word [2]: other [3]: more [4]: Question: of is"] * 30
    tokenizer = make_tokenizer(words, 400, WORDS)
    return first_model(TINY, tokenizer, 0).eval(), tokenizer


def test_the_start_already_copies_what_followed_a_token_before(begun):
    model, tokenizer = begun
    ids, known = copying_row(range(6, len(tokenizer)), random.Random(3))
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0]
    asked = [i for i, k in enumerate(known) if k]
    ranks = [int((logits[i - 1] > logits[i - 1, ids[i]]).sum()) for i in asked]
    assert (
        sorted(ranks)[len(ranks) // 2] < 10
    )  # of some 200; the token itself is the likeliest still


def test_each_token_knows_its_passage_from_the_start_and_a_citation_finds_it(begun):
    model, tokenizer = begun
    numbers = [tokenizer.encode(f" [{n}", add_special_tokens=False) for n in (1, 2, 3, 4)]
    filler = random.Random(0).choices(
        [i for i in range(6, len(tokenizer)) if i != numbers[0][0]], k=60
    )
    ids = [token for head in numbers for token in (*head, *filler)] + numbers[1]
    with torch.inference_mode():
        attentions = _attentions(model, ids)
    starts = [i * 62 + 1 for i in range(4)]
    own = attentions[1][-1]  # the last head of the second layer looks for the number
    assert all(own[start + 30, start] > 0.5 for start in starts)
    cited = attentions[2][0][-1]  # from the citation at the end
    shares = [float(cited[start : start + 60].sum()) for start in starts]
    assert shares.index(max(shares)) == 1 and shares[1] > 3 * max(shares[0], *shares[2:])


def test_heads_look_back_as_far_as_they_should_however_long_the_text_is(begun):
    model, tokenizer = begun
    ids = random.Random(1).choices(range(6, len(tokenizer)), k=2000)
    with torch.inference_mode():
        first = _attentions(model, ids)[0]
    at = torch.arange(8, 2000)
    assert first[0][at, at - 1].min() > 0.9 and first[1][at, at - 2].min() > 0.9
    assert first[2][at[:, None], at[:, None] - torch.arange(8)].sum(1).min() > 0.7


def test_of_titles_that_end_alike_the_start_finds_the_one_that_begins_alike_too(begun):
    model, tokenizer = begun
    rng, right = random.Random(2), 0
    for _ in range(40):
        numbers = [tokenizer.encode(f" [{n}", add_special_tokens=False) for n in "1234"]
        titles = [[rng.randrange(20, len(tokenizer)) for _ in range(3)] for _ in numbers]
        ends = [
            rng.randrange(20, len(tokenizer)) for _ in range(2)
        ]  # as of a family, or of firms called "Press"
        filler = [rng.choices(range(20, len(tokenizer)), k=12) for _ in numbers]
        passages = zip(titles, numbers, filler, strict=True)
        ids = [
            token for title, number, rest in passages for token in (*title, *ends, *number, *rest)
        ]
        ids += [*titles[2], *ends, numbers[0][0]]
        with torch.inference_mode():
            seen = _attentions(model, ids)[1][2][-1]  # from the bracket that has no number yet
        shares = [float(seen[19 * i + 6]) for i in range(4)]
        right += shares.index(max(shares)) == 2
    assert right >= 20  # 10 by chance, and more than 19 in one of a thousand cases


def _attentions(model, ids):
    model.set_attn_implementation("eager")
    return [layer[0] for layer in model(torch.tensor([ids]), output_attentions=True).attentions]


def test_held_heads_stay_as_they_are_set_until_they_are_let_go(begun):
    model, holding = copy.deepcopy(begun[0]), [True]
    hold_heads(model, 0, lambda depth: holding[0])
    optimizer = MuonWithAdamW(model, 0.01)
    number = slice(-32, None)
    before = model.model.layers[1].self_attn.k_proj.weight[number].detach().clone()
    for held in (True, False):
        holding[0] = held
        optimizer.zero_grad()
        model(torch.randint(6, 60, (1, 40)), labels=torch.randint(6, 60, (1, 40))).loss.backward()
        optimizer.step()
        after = model.model.layers[1].self_attn.k_proj.weight[number]
        assert torch.equal(before, after) == held
        if held:  # the rest learns
            assert model.model.layers[1].self_attn.k_proj.weight.grad.abs().sum() > 0


def test_a_model_too_small_for_the_start_is_refused(tokenizer):
    model = load_model(ModelSettings(layers=1, width=32, heads=2, vocabulary=400), tokenizer)
    with pytest.raises(ValueError, match="too few to set"):
        set_heads(model, 7, 0)
