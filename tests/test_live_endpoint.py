"""Live collection from an OpenAI-compatible server on loopback, and what its faults do."""

import asyncio
import logging
import time

import pytest
from mock_server import MockServer

from negfail_nb.agents.endpoint import EndpointModel
from negfail_nb.agents.live import collect
from negfail_nb.agents.protocol import Model, ModelError, Sampling, Task
from negfail_nb.agents.tools import SearchTool
from negfail_nb.runs import SettingsChanged
from negfail_nb.settings import EndpointSettings, LiveSettings
from negfail_nb.trajectory import read_trajectories

ASKED = [{"role": "user", "content": "What is 7?"}]
SAMPLING = Sampling(temperature=0.2, max_tokens=50, seed=3)


class Search:
    name, argument, description = "search", "query", "searches"

    def __call__(self, query):
        return f"#1: found: {query}"


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def endpoint(server, **settings):
    settings = {"base_url": server.url, "model": "mock", "timeout": 20.0, "retries": 3} | settings
    return EndpointModel(EndpointSettings(**settings), first_wait=0.01)


def ask(model, times=1, messages=ASKED, sampling=SAMPLING, tools=()):
    async def all_replies():
        async with model:
            return [await model.reply(messages, sampling, tools) for _ in range(times)]

    return asyncio.run(all_replies())


def play(server, folder, count=4, settings=LiveSettings(), **more):
    tasks = [Task(id=f"q{n}", question=f"What is {n}?", answer=str(n)) for n in range(count)]
    return collect(
        endpoint(server, **more), tasks, [Search()], settings, file=folder / "live.jsonl"
    )


def untimed(logs):
    """Return the records without the seconds that the server took."""
    records = [t.to_dict() for t in logs]
    for record in records:
        assert record["usage"].pop("seconds") >= 0
    return records


def test_one_reply():
    with MockServer(delay=0.05) as server:
        reply = ask(endpoint(server))[0]
        sent = server.requests[0]
    assert isinstance(endpoint(server), Model)
    assert reply.message["content"].startswith("Thought: so\nAction: search[What is 7?]")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == (3, 8, 0)
    assert (reply.finish_reason, 0.05 <= reply.seconds < 20) == ("stop", True)
    assert sent == {
        "model": "mock",
        "messages": ASKED,
        "temperature": 0.2,
        "max_tokens": 50,
        "seed": 3,
        "stop": ["\nObservation:"],
    }, "nothing else may be sent: strict servers refuse unknown fields"


@pytest.mark.parametrize("style", ["react", "tools"])
def test_episodes(tmp_path, style):
    with MockServer(calls=3) as server:
        logs = play(server, tmp_path, settings=LiveSettings(style=style))
        sent = server.requests[-1]
    assert [t.success for t in logs[:3]] == [True, True, False], (
        "the mock is wrong above a temperature of 0.6"
    )
    assert {(t.termination, t.usage.calls, t.usage.completion_tokens) for t in logs} == {
        ("finished", 3, 24)
    }
    assert "invented" not in str(logs[0].messages), (
        "a reply is cut where the server honours no stop text"
    )
    assert list(read_trajectories(tmp_path / "live.jsonl"))[0].source.model == "mock"
    assert ("tools" in sent, "stop" in sent) == (style == "tools", style == "react")
    assert {m["role"] for m in logs[0].messages[2:]} == {
        "assistant",
        "tool" if style == "tools" else "user",
    }


FAULTS = [
    "429",
    "500",
    "502",
    "408",
    "409",
    "half",
    "garbage",
    "empty",
    "drop",
    "429:0.05",
    "503:0",
]


def test_no_fault_of_the_server_reaches_the_records(tmp_path):
    for name, faults in (("calm", ()), ("wild", FAULTS)):
        (tmp_path / name).mkdir()
        with MockServer(faults=faults) as server:
            play(server, tmp_path / name, retries=12)
            assert len(server.requests) == 24 + len(faults)
            assert not server.faults
    calm, wild = (
        untimed(read_trajectories(tmp_path / name / "live.jsonl")) for name in ("calm", "wild")
    )
    assert sorted(calm, key=lambda t: t["id"]) == sorted(wild, key=lambda t: t["id"])


@pytest.mark.parametrize("fault", [*FAULTS, "hang"])
def test_each_fault_is_tried_again(fault):
    with MockServer(faults=[fault, fault]) as server:
        reply = ask(endpoint(server, timeout=0.3 if fault == "hang" else 20.0))[0]
        assert len(server.requests) == 3
    assert reply.completion_tokens == 8


def test_retry_after_is_waited_for():
    with MockServer(faults=["429:0.5"]) as server:
        start = time.monotonic()
        ask(endpoint(server))
        assert time.monotonic() - start >= 0.5


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("503", "answered 503: scripted 503"),
        ("half", "lost connection"),
        ("garbage", "no chat completion"),
        ("hang", "timeout"),
    ],
)
def test_what_no_try_mends_is_a_crashed_record_and_the_rest_goes_on(tmp_path, fault, words):
    with MockServer(always={"What is 2?": fault}) as server:
        logs = play(server, tmp_path, retries=1, timeout=0.5 if fault == "hang" else 20.0)
    assert [t.termination for t in logs] == ["finished"] * 6 + ["crashed"] * 3 + ["finished"] * 3
    assert words in logs[6].error and "2 tries" in logs[6].error and logs[6].success is False


def test_same_results_for_one_and_sixteen_at_once(tmp_path):
    results = []
    for concurrency in (1, 16):
        (tmp_path / str(concurrency)).mkdir()
        with MockServer(
            delay=0.01, faults=["500", "drop"], always={"What is 3?": "half"}
        ) as server:
            settings = LiveSettings(concurrency=concurrency)
            results.append(
                untimed(play(server, tmp_path / str(concurrency), 8, settings, retries=2))
            )
            assert server.most_at_once <= concurrency
    port = [record.pop("error").split("/v1")[-1] for result in results for record in result]
    assert results[0] == results[1] and port[:24] == port[24:]


def test_connections_are_kept_and_no_more_than_are_needed():
    async def rounds(model):
        async with model:
            for _ in range(5):
                await asyncio.gather(*(model.reply(ASKED, SAMPLING) for _ in range(8)))

    with MockServer(delay=0.02, faults=["500", "drop"]) as server:
        asyncio.run(rounds(endpoint(server)))
        assert (len(server.requests), server.connected) == (42, 9), "the dropped one is replaced"


def test_replies_that_come_together_are_handed_on_one_by_one():
    """Else requests that follow from them leave together, behind the work on all of them, and so
    for good.
    """
    turns, handed = [0], []

    def turn():
        turns[0] += 1
        asyncio.get_running_loop().call_soon(turn)

    async def ask_one(model):
        await model.reply(ASKED, SAMPLING)
        handed.append(turns[0])

    async def ask_all(model):
        async with model:
            calls = [asyncio.create_task(ask_one(model)) for _ in range(8)]
            while len(server.requests) < 8:
                await asyncio.sleep(0.01)
            time.sleep(0.2)  # all replies are here before the first is read
            turn()
            await asyncio.gather(*calls)

    with MockServer(delay=0.1) as server:
        asyncio.run(ask_all(endpoint(server)))
    assert len(set(handed)) == 8


def test_more_than_a_hundred_are_asked_at_once():
    async def ask_all(model):
        async with model:
            await asyncio.gather(*(model.reply(ASKED, SAMPLING) for _ in range(150)))

    with MockServer(delay=1.0) as server:
        asyncio.run(ask_all(endpoint(server)))
        assert server.most_at_once == 150


def test_a_call_that_is_given_up_costs_no_connection_of_the_others():
    async def give_up(model):
        async with model:
            for _ in range(3):
                call = asyncio.create_task(model.reply(ASKED, SAMPLING))
                await asyncio.sleep(0.05)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            return await model.reply(ASKED, SAMPLING)

    with MockServer(faults=["hang"] * 3) as server:
        assert asyncio.run(give_up(endpoint(server))).completion_tokens == 8


def test_a_file_is_not_gone_on_with_on_another_corpus(tmp_path):
    task = Task(id="q", question="What is 7?", answer="7")

    def play_on(*passages, results=3):
        search = SearchTool(passages, results)
        return collect(
            endpoint(server),
            [task],
            [search],
            LiveSettings(attempts=1),
            file=tmp_path / "live.jsonl",
        )

    with MockServer() as server:
        first = play_on(("Seven", "It is 7."), ("Eight", "It is 8."))
        assert play_on(("Seven", "It is 7."), ("Eight", "It is 8."))[0] == first[0]
        assert len(server.requests) == 2, "with the same corpus, what is there is not played again"
        for passages, results in (
            ([("Seven", "It is 7!")], 3),
            ([("Seven", "It is 7."), ("Eight", "It is 8.")], 2),
        ):
            with pytest.raises(SettingsChanged, match="search"):
                play_on(*passages, results=results)


@pytest.mark.parametrize("field", ["seed", "stop"])
def test_a_refused_field_is_left_out_and_said_once(tmp_path, caplog, field):
    with MockServer(refuses=(field,)) as server, caplog.at_level(logging.WARNING, "negfail_nb"):
        logs = play(server, tmp_path, settings=LiveSettings(concurrency=4))
        refused = [body for body in server.requests if field in body]
    assert {t.termination for t in logs} == {"finished"} and 1 <= len(refused) <= 4
    assert caplog.text.count(f"takes no {field!r}") == 1


def test_an_episode_longer_than_the_servers_window_is_recorded(tmp_path):
    with MockServer(calls=9, window=90) as server:
        logs = play(server, tmp_path, 1)
    assert {t.termination for t in logs} == {
        "max_steps"
    } and "maximum context length is 90" in logs[0].error
    assert 1 < logs[0].usage.calls < 7 and logs[0].success is False


def test_unknown_tokens_are_unknown(tmp_path):
    with MockServer(usage=False) as server:
        logs = play(server, tmp_path, 1)
    assert (logs[0].usage.prompt_tokens, logs[0].usage.completion_tokens, logs[0].usage.calls) == (
        None,
        None,
        2,
    )


def test_fields_of_a_message_that_only_records_know_are_not_sent():
    said = {"role": "assistant", "content": "Action: search[x]", "reasoning_content": "hm"}
    with MockServer() as server:
        ask(
            endpoint(server),
            messages=[*ASKED, said | {"weight": 0, "score": 1}, {"role": "user", "content": "y"}],
        )
        assert server.requests[0]["messages"][1] == said


class Answering(MockServer):
    """A mock whose next answers are given."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = list(answers)

    def _reply(self, path, authorization, body):
        return self.answers.pop(0)


def chat(**message):
    return 200, {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": None}]}


def test_odd_answers_are_brought_into_one_form():
    calls = [{"function": {"name": "search", "arguments": {"query": "x"}}}]
    with Answering(
        chat(content=None, tool_calls=calls, reasoning="hm"),
        chat(content=[{"type": "text", "text": "a"}]),
    ) as s:
        first, second = ask(endpoint(s), times=2)
    call = {
        "id": "call_0",
        "type": "function",
        "function": {"name": "search", "arguments": '{"query": "x"}'},
    }
    assert first.message == {
        "role": "assistant",
        "content": "",
        "tool_calls": [call],
        "reasoning_content": "hm",
    }
    assert (second.message["content"], second.finish_reason, second.prompt_tokens) == (
        "a",
        "stop",
        None,
    )


def test_a_model_that_wants_the_newer_name_of_max_tokens():
    said = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        "'max_completion_tokens' instead."
    )
    refusal = (
        400,
        {"error": {"message": said, "param": "max_tokens", "code": "unsupported_parameter"}},
    )
    with Answering(refusal, chat(content="a"), chat(content="b")) as server:
        ask(endpoint(server), times=2)
        assert [("max_tokens" in b, b.get("max_completion_tokens")) for b in server.requests] == [
            (True, None),
            (False, 50),
            (False, 50),
        ]


@pytest.mark.parametrize(
    "said",
    [
        "Unrecognized request argument supplied: seed",
        "Unsupported parameter: 'seed' is not supported with this model.",
        '[{"type": "extra_forbidden", "loc": ["body", "seed"], '
        '"msg": "Extra inputs are not permitted"}]',
    ],
)
def test_refusals_of_a_field_in_other_words(said):
    with Answering((400, {"error": {"message": said}}), chat(content="a")) as server:
        ask(endpoint(server))
        assert [("seed" in b, "stop" in b) for b in server.requests] == [
            (True, True),
            (False, True),
        ]


def test_the_key_is_sent_and_stands_nowhere(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", "plain-words-7391")
    with (
        MockServer(key="plain-words-7391", faults=["500", "429"]) as server,
        caplog.at_level(logging.DEBUG),
    ):
        logs = play(server, tmp_path, 1, key_variable="MY_KEY")
    assert {t.termination for t in logs} == {"finished"}
    written = [path.read_text() for path in tmp_path.iterdir()]
    assert len(written) == 2 and "plain-words-7391" not in "".join(written) + caplog.text


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (
            400,
            {"detail": "Server is pinned to '/models/a'; requested 'mock'."},
        ),  # transformers serve
        (404, {"error": {"message": "The model `mock` does not exist.", "code": 404}}),  # vLLM
        (
            400,
            {"error": {"message": "Invalid model: mock", "type": "invalid_model", "code": "1500"}},
        ),  # Mistral
        (400, {"error": {"message": "mock is not a valid model ID", "code": 400}}),  # OpenRouter
        (
            400,
            {"error": {"message": "Model Not Exist", "code": "invalid_request_error"}},
        ),  # DeepSeek
        (400, {"error": {"message": "Please check it.", "param": "model"}}),
        (403, {"error": {"message": "No access.", "code": "model_not_found"}}),
    ],
)
def test_a_model_that_the_server_does_not_have_stops_all_by_name(status, error):
    with Answering((status, error)) as server, pytest.raises(ModelError) as refusal:
        ask(endpoint(server))
    assert "'mock' (EndpointSettings.model)" in str(refusal.value)


@pytest.mark.parametrize(
    "said",
    [
        "The response was filtered by the content policy.",
        "Invalid 'messages[1].content': too many images.",
    ],
)
def test_a_refusal_of_one_conversation_loses_only_that(said):
    with (
        Answering((400, {"error": {"message": said}})) as server,
        pytest.raises(RuntimeError, match="400") as refusal,
    ):
        ask(endpoint(server))
    assert not isinstance(refusal.value, ModelError) and said[:-1] in str(refusal.value)


def test_an_account_without_credit_is_not_a_wrong_model():
    with Answering((402, {"error": {"message": "Insufficient Balance"}})) as server:
        with pytest.raises(
            ModelError, match="Insufficient Balance. The account has no credit left"
        ):
            ask(endpoint(server))


def test_thinking_that_leaves_no_room_for_an_answer_is_said_once(caplog):
    cut = (
        200,
        {"choices": [{"message": {"content": None, "reasoning": "hm"}, "finish_reason": "length"}]},
    )
    short = 200, {"choices": [{"message": {"content": "Action: sea"}, "finish_reason": "length"}]}
    with Answering(cut, cut, short) as server, caplog.at_level(logging.WARNING, "negfail_nb"):
        ask(endpoint(server), times=3)
    assert caplog.text.count("raise LiveSettings.max_tokens") == 1


def test_a_model_that_is_not_entered_says_so():
    with pytest.raises(ModelError, match="not entered"):
        asyncio.run(EndpointModel(EndpointSettings(model="mock")).reply(ASKED, SAMPLING))
