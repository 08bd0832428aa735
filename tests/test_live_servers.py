"""One endpoint, several servers on loopback: shares, affinity, failures, and one budget for all."""

import asyncio
import json
import logging
import threading
import time
from collections import defaultdict
from contextlib import ExitStack

import pytest
from mock_server import MockServer, RawServer
from test_live_endpoint import SAMPLING, ask, endpoint, no_key, play, untimed  # noqa: F401

from negfail_nb.__main__ import main
from negfail_nb.agents.endpoint import EndpointModel
from negfail_nb.agents.live import collect
from negfail_nb.agents.protocol import ModelError, Task
from negfail_nb.settings import BudgetSettings, EndpointSettings, LiveSettings, LoadSettings
from negfail_nb.speed import measure_load, probe_server

NOWHERE = "http://127.0.0.1:9/v1"
CARD = {"id": "mock", "object": "model", "root": "/models/Llama", "max_model_len": 4096}


class Pair(ExitStack):
    """Two servers that are started together; ``second`` is what the second one has of its own."""

    def __init__(self, second=None, **given):
        super().__init__()
        makers = MockServer(**given), MockServer(**given | (second or {}))
        self.servers = [self.enter_context(server) for server in makers]
        self.urls = tuple(server.url for server in self.servers)

    def play(self, folder, count=4, settings=LiveSettings(), **more):
        return play(self.servers[0], folder, count, settings, base_url=self.urls, **more)

    @property
    def shares(self):
        return [len(server.requests) for server in self.servers]


def question(body):
    return next(m["content"] for m in body["messages"] if m["role"] == "user"), body["seed"]


def turns(server):
    """Return, for each episode at a server, how many messages its requests had."""
    found = defaultdict(list)
    for body in server.requests:
        found[question(body)].append(len(body["messages"]))
    return found


def in_cache(servers):
    """Return how many requests go on with one that the same server had before."""
    hits = 0
    for server in servers:
        seen = set()
        for body in server.requests:
            hits += json.dumps(body["messages"][:-2]) in seen
            seen.add(json.dumps(body["messages"]))
    return hits


# Shares and affinity


def test_episodes_are_shared_equally_and_each_stays_with_its_server(tmp_path):
    with MockServer(calls=4) as alone:
        one = play(alone, tmp_path / "one", count=20)
    with Pair(calls=4, delay=0.02) as pair:
        both = pair.play(tmp_path / "two", count=20)
    assert untimed(both) == untimed(one)
    first, second = map(turns, pair.servers)
    assert len(first) + len(second) == 60 and not set(first) & set(second)
    assert all(found == [2, 4, 6, 8] for found in [*first.values(), *second.values()])
    assert sum(pair.shares) == 240 and min(pair.shares) >= 0.4 * 240
    assert in_cache(pair.servers) == in_cache([alone]) == 180


def test_each_of_two_servers_has_as_many_at_once_as_it_can_take(tmp_path):
    with Pair(calls=2, delay=0.05, slots=4) as pair:
        pair.play(tmp_path, count=8, settings=LiveSettings(concurrency=8))
    assert [server.most_at_once for server in pair.servers] == [4, 4]


def test_a_budget_is_one_for_all_servers(tmp_path):
    with Pair(delay=0.01) as pair:
        budget = BudgetSettings(tokens=600)
        tasks = [Task(id=f"q{n}", question=f"What is {n}?", answer=str(n)) for n in range(40)]
        model = endpoint(pair.servers[0], base_url=pair.urls)
        settings = LiveSettings(concurrency=8)
        logs = collect(model, tasks, [], settings, file=tmp_path / "live.jsonl", budget=budget)
    spent = [
        8 + sum(len(m["content"].split()) for m in body["messages"])
        for server in pair.servers
        for body in server.requests
    ]
    assert logs.missing and "600 tokens" in logs.problems[0].reason
    assert sum(spent) - max(spent) < 600 and min(pair.shares) > 0


# Servers that fail


def fail_in_the_middle(server, after):
    """Kill a server once it has had so many requests."""

    def watch():
        while len(server.requests) < after:
            time.sleep(0.005)
        server.kill()

    threading.Thread(target=watch, daemon=True).start()


def test_no_episode_is_lost_when_a_server_is_killed_in_the_middle(tmp_path, caplog):
    with Pair(calls=4, delay=0.02) as pair:
        fail_in_the_middle(pair.servers[1], after=40)
        logs = pair.play(tmp_path, count=20)
        left = len(pair.servers[1].requests)
    assert {t.termination for t in logs} == {"finished"} and len(logs) == 60
    assert 40 <= left < 100
    said = [record.message for record in caplog.records if "left out" in record.message]
    assert said and all(pair.urls[1] in text for text in said)


def test_a_server_that_cannot_be_reached_any_more_is_not_waited_for():
    async def ask_four(model, pair):
        async with model, asyncio.timeout(20):
            pair.servers[1].kill()
            pair.servers[1]._thread.join()
            for number in range(4):
                asked = [{"role": "user", "content": f"What is {number}?"}]
                await model.reply(asked, SAMPLING)

    with Pair() as pair:
        settings = EndpointSettings(base_url=pair.urls, model="mock")
        asyncio.run(ask_four(EndpointModel(settings, first_wait=60.0), pair))
        assert pair.shares[0] == 4


def test_a_server_that_comes_back_is_asked_again(tmp_path, caplog):
    with Pair(calls=4, delay=0.02) as pair:
        port = int(pair.urls[1].rpartition(":")[2].partition("/")[0])
        pair.servers[1].kill()
        pair.servers[1]._thread.join()
        caplog.set_level(logging.WARNING)
        back = []

        def return_later():
            while len(pair.servers[0].requests) < 40:
                time.sleep(0.005)
            back.append(pair.enter_context(MockServer(calls=4, delay=0.02, port=port)))

        thread = threading.Thread(target=return_later)
        thread.start()
        logs = pair.play(tmp_path, count=40, settings=LiveSettings(concurrency=8))
        thread.join()
        assert back[0].requests, "the one that was not there at first"
    assert {t.termination for t in logs} == {"finished"} and len(logs) == 120
    assert f"{pair.urls[1]} is left out" in caplog.text


@pytest.mark.parametrize(("fault", "at_the_bad_one"), [("500", 4), ("hang", 1), ("garbage", 4)])
def test_a_server_that_fails_after_its_retries_or_in_silence_is_left_out(
    tmp_path, fault, at_the_bad_one
):
    one_by_one = LiveSettings(attempts=1, concurrency=1)
    with Pair(second={"always": {"": fault}}) as pair:
        given = {"timeout": 0.5, "retries": 3}
        logs = pair.play(tmp_path, count=6, settings=one_by_one, **given)
        tried = pair.shares[1]
    assert {t.termination for t in logs} == {"finished"} and len(logs) == 6
    assert tried >= at_the_bad_one and pair.shares[0] == 12


def test_a_server_that_fails_quickly_does_not_attract_all_requests(tmp_path):
    with Pair(second={"always": {"": "500"}}, delay=0.02) as pair:
        logs = pair.play(tmp_path, count=20, retries=10, settings=LiveSettings(concurrency=8))
    assert {t.termination for t in logs} == {"finished"} and pair.shares[0] == 120
    assert pair.shares[1] <= 11 + 7 + 12, "11 in a row, those under way, tries after rests"


def test_a_conversation_that_no_server_can_take_is_a_crashed_record_and_the_rest_goes_on(tmp_path):
    with Pair(always={"What is 2?": "500"}) as pair:
        logs = pair.play(tmp_path, count=8, retries=1, settings=LiveSettings(attempts=1))
    ends = {t.id: t.termination for t in logs}
    assert ends.pop("q2/0") == "crashed" and set(ends.values()) == {"finished"}
    (crashed,) = (t for t in logs if t.termination == "crashed")
    assert "scripted 500" in crashed.error
    assert any(url in crashed.error for url in pair.urls)


def test_if_all_servers_are_down_one_error_names_each_and_why(tmp_path):
    with Pair() as pair:
        for server in pair.servers:
            server.kill()
        with pytest.raises(ModelError, match="none of the 2 servers answers") as error:
            pair.play(tmp_path / "at first")
        assert all(f"{url}: cannot reach" in str(error.value) for url in pair.urls)
    with Pair(calls=4, delay=0.02) as pair:
        for server in pair.servers:
            fail_in_the_middle(server, after=30)
        with pytest.raises(ModelError, match="none of the 2 servers answers") as error:
            pair.play(tmp_path / "later", count=40)
        assert all(f"{url}: lost connection" in str(error.value) for url in pair.urls)
        kept = (tmp_path / "later" / "live.jsonl").read_text().splitlines()
    assert all(json.loads(line)["termination"] == "finished" for line in kept)
    with MockServer(calls=4) as server:
        logs = play(server, tmp_path / "later", count=40)  # and it goes on elsewhere
    assert {t.termination for t in logs} == {"finished"} and len(logs) == 120


def test_hosts_that_are_not_there_are_not_tried_again():
    several = EndpointSettings(base_url=[NOWHERE, "http://no-such-host.invalid/v1"], model="m")
    model = EndpointModel(several, first_wait=60.0)
    with pytest.raises(ModelError, match="cannot reach http://127.0.0.1:9.*no-such-host.invalid"):
        ask(model)


LOADING = 503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}


def test_a_server_that_loads_its_model_is_no_reason_to_wait(tmp_path):
    with MockServer() as ready, RawServer(LOADING) as loading:
        urls = ready.url, loading.url
        logs = play(ready, tmp_path, count=6, base_url=urls, start_timeout=0.0, retries=0)
    assert {t.termination for t in logs} == {"finished"} and loading.requests


def test_servers_that_all_load_their_model_are_waited_for():
    said = {"message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    loading = [LOADING] * 5
    with RawServer(*loading, (200, {"choices": [said]})) as one, RawServer(LOADING) as other:
        given = {"base_url": (one.url, other.url), "retries": 0}
        assert ask(endpoint(one, **given))[0].message["content"] == "a"
    with RawServer(LOADING) as one, RawServer(LOADING) as other:
        given = {"base_url": (one.url, other.url), "start_timeout": 0.2}
        with pytest.raises(ModelError, match="none of the 2 servers .*Loading model.*Loading"):
            ask(endpoint(one, **given))


# Bad input


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["http://a:1/v1", "http://b:1/v1", "http://A:1/v1/"], r"names http://A:1/v1/ twice"),
        ("http://a:1/v1,http://a:1/v1", "twice"),
        (["http://a:1/v1", ""], "an empty address"),
        ("http://a:1/v1,,http://b:1/v1", "an empty address"),
        ("http://a:1/v1,", "a comma too many"),
        (["http://a:1/v1", 3], "each item must be a str"),
        ({"http://a:1/v1": 1}, "give a list"),
        (("http://a:1/v1", "http://me:hidden@b:1/v1"), "a user or a password|like a key"),
        ("http://a:1/v1,http://b:1/v1?api_key=hidden", "like a key"),
    ],
)
def test_addresses_that_cannot_be_right(given, words):
    with pytest.raises(ValueError, match=rf"EndpointSettings.base_url .*({words})") as error:
        EndpointSettings(base_url=given)
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("", ()),
        ("http://a:1/v1", ("http://a:1/v1",)),
        ("http://a:1/v1, http://b:1/v1", ("http://a:1/v1", "http://b:1/v1")),
        (["http://a:1/v1"], ("http://a:1/v1",)),
    ],
)
def test_one_address_and_several_may_be_written_in_all_ways(given, wanted):
    assert EndpointSettings(base_url=given).base_url == wanted


def test_the_command_line_and_the_environment_take_several(tmp_path, capsys, monkeypatch):
    value = "endpoint.base_url=http://a:1/v1,http://b:1/v1"
    assert main(["settings", "--home", str(tmp_path), "--set", value]) == 0
    assert "http://b:1/v1" in capsys.readouterr().out
    with Pair() as pair:
        monkeypatch.setenv("OPENAI_BASE_URL", ",".join(pair.urls))
        logs = play(pair.servers[0], tmp_path, base_url="")
    assert len(logs) == 12 and min(pair.shares) > 0
    monkeypatch.setenv("OPENAI_BASE_URL", f"{NOWHERE},{NOWHERE}")
    with pytest.raises(ModelError, match="OPENAI_BASE_URL names .* twice"):
        ask(EndpointModel(EndpointSettings(model="mock")))


def test_an_address_without_http_is_named(tmp_path):
    with MockServer() as server, pytest.raises(ModelError, match="'b:1/v1'; it must begin"):
        play(server, tmp_path, base_url=(server.url, "b:1/v1"))


DIFFERENT = [
    ({"card": CARD | {"id": "other"}, "model": "other"}, "serves 'mock', .* serves other"),
    ({"card": CARD | {"root": "/models/Qwen"}}, "serves /models/Llama, .* serves /models/Qwen"),
    ({"card": CARD, "tokens": [1, 2]}, "into 3 tokens, .* into 2, .*tokenizers"),
]


@pytest.mark.parametrize(("second", "words"), DIFFERENT, ids=["name", "weights", "tokenizer"])
def test_servers_of_different_models_are_refused_and_both_are_named(tmp_path, second, words):
    with Pair(second, card=CARD, tokens=[1, 2, 3]) as pair:
        with pytest.raises(ModelError, match=f"different models.*{words}") as error:
            pair.play(tmp_path)
        assert all(url in str(error.value) for url in pair.urls)
        assert pair.shares == [0, 0]


def test_servers_of_the_same_model_in_other_folders_are_one(tmp_path):
    other = CARD | {"root": "/elsewhere/Llama"}
    with Pair({"card": other}, card=CARD, tokens=[1, 2, 3]) as pair:
        assert len(pair.play(tmp_path)) == 12
        assert pair.servers[0].looks == ["/v1/models", "/tokenize"]


def test_another_model_that_comes_later_stops_everything(tmp_path):
    with Pair(card=CARD) as pair:
        port = int(pair.urls[1].rpartition(":")[2].partition("/")[0])
        pair.servers[1].kill()
        pair.servers[1]._thread.join()

        def start_another():
            while not pair.servers[0].requests:
                time.sleep(0.005)
            card = CARD | {"id": "other"}
            pair.enter_context(MockServer(port=port, card=card, model="other"))

        thread = threading.Thread(target=start_another)
        thread.start()
        with pytest.raises(ModelError, match="different models"):
            pair.play(tmp_path, count=400, settings=LiveSettings(concurrency=2))
        thread.join()


def test_of_different_windows_the_smaller_one_counts(tmp_path, caplog):
    small = CARD | {"max_model_len": 40}
    lengths = []
    for second in ({"card": small}, {"card": CARD}):
        with Pair(second, card=CARD, calls=6) as pair:
            folder = tmp_path / str(len(lengths))
            settings = LiveSettings(attempts=1, max_tokens=8, instruction=False)
            logs = pair.play(folder, count=6, settings=settings)
            lengths.append([(t.termination, t.usage.calls) for t in logs])
    assert {how for how, _ in lengths[0]} == {"max_steps"}, "at both servers alike"
    assert len({calls for _, calls in lengths[0]}) == 1
    assert {how for how, _ in lengths[1]} == {"finished"}
    said = [r.message for r in caplog.records if "different numbers of tokens" in r.message]
    assert len(said) == 1 and "the 40 of" in said[0]


def test_a_load_is_measured_at_one_server():
    several = EndpointSettings(base_url="http://a:1/v1,http://b:1/v1", model="mock")
    with pytest.raises(ModelError, match="2 servers; .* keep one of http://a:1/v1, http://b:1/v1"):
        probe_server(several)
    with pytest.raises(ModelError, match="2 servers"):
        measure_load(several, ["one"], LoadSettings(requests=1, concurrency=(1,)))


def test_the_key_goes_to_each_server_and_stands_nowhere(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "plain-words-7391")
    caplog.set_level(logging.DEBUG)
    with Pair(key="plain-words-7391") as pair:
        fail_in_the_middle(pair.servers[1], after=4)
        logs = pair.play(tmp_path)
    assert {t.termination for t in logs} == {"finished"} and min(pair.shares) > 0
    kept = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "plain-words-7391" not in kept + caplog.text
    with Pair({"key": "another"}, key="plain-words-7391") as pair:
        with pytest.raises(ModelError, match="OPENAI_API_KEY holds a key") as error:
            pair.play(tmp_path / "wrong")
        assert pair.urls[1] in str(error.value) and "plain-words" not in str(error.value)
