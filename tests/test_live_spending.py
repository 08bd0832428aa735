"""What live runs may spend, whether they are whole, prompts that a server cut, and disks that are
full.
"""

import errno
import json
import logging
import os
import re
from dataclasses import replace

import pytest
from benchmark_towns import POOL, QUESTIONS, SMALL, Words
from mock_server import MockServer, RawServer
from test_live_endpoint import Search, endpoint, no_key  # noqa: F401 - a fixture

from negfail_nb import journal as journals
from negfail_nb.agents.counts import PromptCounts
from negfail_nb.agents.live import collect
from negfail_nb.agents.protocol import Reply, Task
from negfail_nb.agents.scripted import ScriptedModel
from negfail_nb.benchmarking.grid import benchmark
from negfail_nb.settings import BudgetSettings, ContextSettings, LiveSettings
from negfail_nb.trajectory import read_trajectories

TASKS = [Task(id=f"q{n}", question=f"What is {n}?", answer=str(n)) for n in range(40)]


class Costly(MockServer):
    """Says of each prompt and each reply a number of tokens, whatever they hold."""

    def __init__(self, prompt, completion, **more):
        super().__init__(**more)
        self.told = {"prompt_tokens": prompt, "completion_tokens": completion}

    def _reply(self, *given):
        status, answer = super()._reply(*given)
        return status, answer | {"usage": self.told}


def play(model, folder, tasks=TASKS, budget=BudgetSettings(), **settings):
    return collect(
        model,
        tasks,
        [Search()],
        LiveSettings(**settings),
        file=folder / "live.jsonl",
        budget=budget,
    )


def spent(server):
    return len(server.requests) * sum(server.told.values())


@pytest.mark.parametrize("at_once", [1, 64])
@pytest.mark.parametrize(
    ("budget", "most"),
    [
        (BudgetSettings(tokens=3000), 3000),
        (BudgetSettings(money=3.0, prompt_price=1000.0, completion_price=1000.0), 3000),
    ],
)
def test_what_is_under_way_passes_the_budget_by_one_reply_at_most(tmp_path, at_once, budget, most):
    with Costly(300, 40, delay=0.01) as server:
        logs = play(endpoint(server), tmp_path, budget=budget, concurrency=at_once, max_tokens=64)
        assert most <= spent(server) < most + 340
    assert (
        not logs.complete
        and logs.missing == 120 - len(logs)
        and "budget" in logs.problems[0].reason
    )


def test_replies_much_shorter_than_they_may_be_do_not_end_a_run_early(tmp_path):
    with Costly(30, 4) as server:
        play(
            endpoint(server),
            tmp_path,
            budget=BudgetSettings(tokens=3000),
            concurrency=64,
            max_tokens=4096,
        )
        assert 3000 <= spent(server) < 3034


def test_a_larger_budget_goes_on_and_ends_whole(tmp_path):
    with Costly(30, 4) as server:
        part = play(endpoint(server), tmp_path, TASKS[:5], BudgetSettings(tokens=200))
        whole = play(endpoint(server), tmp_path, TASKS[:5], BudgetSettings(tokens=2000))
        assert len(server.requests) <= 30 + 12, "what is there is not asked again"
    assert (
        not part.complete
        and whole.complete
        and (part.missing, whole.missing) == (15 - len(part), 0)
    )


BROKEN = {
    "no choices": {"choices": [], "usage": {"prompt_tokens": 900, "completion_tokens": 100}},
    "no message": {"choices": [{}], "usage": {"prompt_tokens": 900, "completion_tokens": 100}},
    "an error": {
        "error": {"message": "broke", "code": 502},
        "usage": {"prompt_tokens": 900, "completion_tokens": 100},
    },
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_answers_are_paid_for(tmp_path, kind):
    with RawServer((200, BROKEN[kind])) as server:
        logs = play(
            endpoint(server, retries=50),
            tmp_path,
            budget=BudgetSettings(tokens=3000),
            concurrency=8,
        )
        assert len(server.requests) == 3, "no try begins once the budget is spent"
    assert not len(logs) and logs.missing == 120


def test_an_answer_that_breaks_off_is_paid_for(tmp_path):
    body = b'{"usage": {"prompt_tokens": 900, "completion_tokens": 100}, "choices": [{"mess'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    with RawServer(head + body) as server:
        play(
            endpoint(server, retries=50),
            tmp_path,
            budget=BudgetSettings(tokens=3000),
            concurrency=8,
        )
        assert len(server.requests) == 3


@pytest.mark.parametrize("count", [-1000, 0, 10**12])
def test_counts_that_cannot_be_are_estimated(tmp_path, caplog, count):
    with Costly(count, count) as server:
        logs = play(endpoint(server), tmp_path, budget=BudgetSettings(tokens=3000), concurrency=4)
        assert 1 <= len(server.requests) < 240, (
            "a budget is spent although the server says nothing of use"
        )
    assert not logs.complete and all(t.usage.prompt_tokens is None for t in logs)
    assert caplog.text.count(f"prompt_tokens {count}, which cannot be") == 1


# Two counts of one prompt


class Cutting(MockServer):
    """Reads no more than so many words of a prompt, and answers 200."""

    def __init__(self, most, **more):
        super().__init__(**more)
        self.most = most

    def _reply(self, *given):
        status, answer = super()._reply(*given)
        answer["usage"]["prompt_tokens"] = min(answer["usage"]["prompt_tokens"], self.most)
        return status, answer


def test_a_cut_prompt_of_an_episode_ends_it_with_the_reason(tmp_path):
    with Cutting(60, calls=6) as server:
        logs = play(endpoint(server), tmp_path, TASKS[:1], attempts=1)
    assert logs[0].termination == "max_steps" and "it cut the prompt" in logs[0].error
    assert "read 60 tokens" in logs[0].error and logs[0].usage.calls >= 1


def replies(*tokens):
    """A script in which the prompts have so many tokens, as the server says."""
    left = list(tokens)
    text = {"role": "assistant", "content": "Action: search[x]"}
    return lambda messages, sampling: Reply(
        message=text, prompt_tokens=left.pop(0), completion_tokens=4
    )


@pytest.mark.parametrize(
    ("told", "cut"),
    [
        ((300, 320, 340), False),
        ((300, 320, 200), True),  # num_ctx of Ollama, context shift of llama.cpp: the begin is gone
        ((300, 150, 160), True),
        ((300, 12, 14), False),  # only what was not cached
        ((300, None, 340), False),
        ((300, 297, 299), False),  # a template that writes the last turn otherwise
    ],
)
def test_a_prompt_that_falls_while_its_conversation_grows_was_cut(tmp_path, told, cut):
    logs = play(ScriptedModel(replies(*told)), tmp_path, TASKS[:1], attempts=1, max_calls=3)
    assert logs[0].termination == "max_steps" and ("it cut the prompt" in logs[0].error) == cut


@pytest.fixture(scope="module")
def tokenizer():
    from negfail_nb.training import make_tokenizer

    return make_tokenizer([f"{p.title}: {p.text}" for p in POOL] * 3, 400)


class Reader(MockServer):
    """Answers every question; says of each prompt a share of its tokens, or a number of them."""

    def __init__(self, tokenizer, share=1.0, most=10**9):
        super().__init__()
        self.tokenizer, self.share, self.most = tokenizer, share, most

    def _reply(self, path, authorization, body):
        count = len(self.tokenizer(body["messages"][-1]["content"])["input_ids"])
        told = {
            "prompt_tokens": min(round(count * self.share) + 9, self.most),
            "completion_tokens": 3,
        }
        message = {"role": "assistant", "content": "Answer: x [1]"}
        return 200, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": told}


def grid(server, tokenizer, lengths=(512,)):
    settings = replace(SMALL, prompt="bare", answer_tokens=16)
    given = {
        "pool": POOL,
        "index": Words(),
        "tokenizer": tokenizer,
        "contexts": ContextSettings(lengths=lengths),
    }
    return benchmark(endpoint(server), QUESTIONS, ["long_context"], settings, **given)


def test_a_long_context_that_the_server_cut_is_too_long(tokenizer):
    with Reader(tokenizer, most=256) as server:
        bench = grid(server, tokenizer, (256, 512))
    assert [a.termination for a in bench.answers] == ["answered"] * 8 + ["too_long"] * 8
    assert re.search(r"read 256 tokens of a prompt that has \d+: .*num_ctx", bench.answers[8].error)
    assert bench.answers[8].calls[0].prompt_tokens == 256 and bench.complete


@pytest.mark.parametrize(("share", "said"), [(1.0, 0), (1.03, 0), (1.2, 1)])
def test_how_far_two_counts_differ_is_said_once_and_is_no_cut(tokenizer, caplog, share, said):
    with Reader(tokenizer, share=share) as server, caplog.at_level(logging.WARNING, "negfail_nb"):
        bench = grid(server, tokenizer)
    assert {a.termination for a in bench.answers} == {"answered"} and caplog.text.count(
        "is it the model's own?"
    ) == said


def test_where_counts_agreed_a_tenth_less_is_a_cut_and_else_half():
    prompt = [{"role": "user", "content": "x" * 1000}]
    counts = PromptCounts(
        lambda texts, add_special_tokens: {"input_ids": [list(text) for text in texts]}
    )
    assert not counts.cut(prompt, 700), "it may be another tokenizer"
    assert "read 400 tokens of a prompt that has 1000" in counts.cut(prompt, 400)
    assert not counts.cut(prompt, 1010) and "cut the prompt" in counts.cut(prompt, 700)


def test_without_a_tokenizer_a_prompt_has_its_words_at_least():
    counts = PromptCounts()
    assert counts.size([{"role": "user", "content": "one two three"}]) == (3, 0)
    assert counts.size([{"role": "user", "content": "北京是中国的首都"}]) == (3, 0)
    long = [{"role": "user", "content": "word " * 2000}]
    assert (
        "it cut the prompt" in counts.cut(long, 512)
        and not counts.cut(long, 2100)
        and not counts.cut(long, None)
    )


def test_a_grid_without_tokens_left_says_that_it_is_not_whole():
    model = ScriptedModel(lambda messages, sampling: "Answer: x")
    part = benchmark(
        model, QUESTIONS, ["closed_book"], SMALL, pool=POOL, budget=BudgetSettings(episodes=3)
    )
    assert (part.missing, part.complete) == (5, False)
    assert benchmark(model, QUESTIONS, ["closed_book"], SMALL, pool=POOL).complete


# Disks


class Full:
    """A file on a disk that takes so many more bytes."""

    def __init__(self, stream, room):
        self.stream, self.room = stream, room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self.stream.write(data[: self.room])
        self.room -= taken
        return taken

    def __getattr__(self, name):
        return getattr(self.stream, name)


@pytest.mark.parametrize("room", [0, 10, 3000])
def test_a_full_disk_is_named_and_the_file_goes_on_whole(tmp_path, monkeypatch, room):
    enter = journals.Journal.__enter__

    def full(self):
        enter(self)
        self._stream = Full(self._stream, room)
        return self

    model = ScriptedModel(lambda messages, sampling: "Action: finish[1]")
    with monkeypatch.context() as patch:
        patch.setattr(journals.Journal, "__enter__", full)
        with pytest.raises(OSError, match=r"No space left .*Make room.*live\.jsonl"):
            play(model, tmp_path, concurrency=1)
    assert all(line.endswith("}") for line in (tmp_path / "live.jsonl").read_text().splitlines())
    assert len(play(model, tmp_path)) == 120
    assert len(list(read_trajectories(tmp_path / "live.jsonl"))) == 120


def test_a_last_line_that_breaks_off_is_played_again(tmp_path):
    model = ScriptedModel(lambda messages, sampling: "Action: finish[1]")
    play(model, tmp_path, TASKS[:2])
    path = tmp_path / "live.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    assert len(play(model, tmp_path, TASKS[:2])) == 6 and all(
        map(json.loads, path.read_text().splitlines())
    )


def test_scores_of_an_agent_say_whether_all_was_played(tmp_path):
    from negfail_nb.evaluation.agent import evaluate

    def score(budget):
        live, file = LiveSettings(attempts=2), tmp_path / "live.jsonl"
        return evaluate(
            endpoint(server), TASKS[:4], [Search()], live=live, file=file, budget=budget
        )

    with Costly(30, 4) as server:
        part, whole = score(BudgetSettings(tokens=200)), score(BudgetSettings())
    assert (part.complete, part.missing) == (False, 8 - len(part.table)) and whole.complete
