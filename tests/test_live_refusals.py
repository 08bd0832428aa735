"""What servers say when they refuse, break or send nonsense: each is read as what it is, in all
their words.
"""

import gzip
import json
import logging
import tracemalloc

import pytest
from mock_server import PAGE, MockServer, RawServer
from test_live_endpoint import (
    ASKED,
    SAMPLING,
    Answering,
    ask,
    chat,
    endpoint,
    no_key,  # noqa: F401 - a fixture
    play,
)

from negfail_nb.agents import transport
from negfail_nb.agents.protocol import EpisodeTooLong, ModelError
from negfail_nb.settings import LiveSettings

SYSTEM = [{"role": "system", "content": "Be brief."}, *ASKED]
TOOLS = [{"type": "function", "function": {"name": "search", "parameters": {}}}]
GOOD = {"choices": [{"message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}]}


def raw(body, *headers, status="200 OK", kind="application/json"):
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


TOO_LONG = [
    (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 1024. Given: "
          "900 and 200"),  # TGI
    (422, "Input validation error: `inputs` must have less than 1024 tokens. Given: 4000"),
    (413, "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and "
          "512"),
    (400, "This model's maximum context length is 4096 tokens. However, you requested 5000 "
          "tokens"),  # vLLM
    (400, "The decoder prompt (length 5951) is longer than the maximum model length of 4096. "
          "Make sure .."),
    (400, "'max_tokens' is too large: 512. This model's maximum context length is 4096 tokens "
          "and your request .."),
    (400, "This model's maximum prompt length is 131072 but the request contains 537812 "
          "tokens."),  # xAI
    (400, "input length and `max_tokens` exceed context limit: 188240 + 21333 > "
          "200000"),  # Anthropic
    (400, "prompt is too long: 207791 tokens > 200000 maximum"),
    (400, "The input (5000 tokens) is longer than the model's context length (4096 "
          "tokens)."),  # SGLang
    (400, "Requested token count exceeds the model's maximum context length of 4096 tokens."),
    (400, "request (4390 tokens) exceeds the available context size (4096 tokens), try "
          "increasing it"),  # llama.cpp
    (500, "Context size has been exceeded."),
    (500, "the request exceeds the available context size. try increasing the context size"),
    (400, "The input token count (218152) exceeds the maximum number of tokens allowed "
          "(65536)."),  # Gemini
    (400, "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 "
          "maximum context length"),
    (400, "Please reduce the length of the messages or completion."),  # Groq
    (400, "Input is too long for requested model."),  # Bedrock
    (400, "Trying to keep the first 5000 tokens when context the overflows. However, the model "
          "is loaded with context "
     "length of only 4096 tokens"),  # LM Studio
    (400, "Invalid request: Your request exceeded model token limit: 8192"),  # Moonshot
    (400, "Range of input length should be [1, 129024]"),  # DashScope
    (400, "prompt token count of 70000 exceeds the limit of 64000"),  # GitHub Copilot
    (400, "prompt too long; exceeded max context length by 5 tokens"),  # Ollama
]  # fmt: skip


@pytest.mark.parametrize(("status", "said"), TOO_LONG)
@pytest.mark.parametrize("shape", ["openai", "plain", "detail"])
def test_a_prompt_that_does_not_fit_is_too_long_in_all_words(status, said, shape):
    answer = {
        "openai": {"error": {"message": said}},
        "plain": {"error": said},
        "detail": {"detail": said},
    }[shape]
    with RawServer((status, answer)) as server, pytest.raises(EpisodeTooLong) as refusal:
        ask(endpoint(server))
    assert said[:60] in str(refusal.value) and len(server.requests) == 1


def test_too_long_by_its_code_alone_and_by_status_413():
    coded = (400, {"error": {"message": "no", "type": "exceed_context_size_error", "code": 400}})
    nginx = raw(
        b"<html><h1>413 Request Entity Too Large</h1></html>",
        status="413 Too Large",
        kind="text/html",
    )
    with RawServer(coded, nginx) as server:
        for _ in range(2):
            with pytest.raises(EpisodeTooLong):
                ask(endpoint(server))


def test_an_episode_of_a_text_generation_server_ends_and_the_others_go_on(tmp_path):
    said = (
        422,
        {"error": "`inputs` tokens + `max_new_tokens` must be <= 1024", "error_type": "validation"},
    )
    with RawServer(said) as server:
        logs = play(server, tmp_path, 20)
    assert {t.termination for t in logs} == {"max_steps"} and len(logs) == 60


RATE = [
    (
        413,
        "Request too large for model `llama-3.3-70b` on tokens per minute (TPM): Limit 12000, "
        "Requested 14137",
    ),
    (
        429,
        "Request too large for gpt-4o on tokens per min (TPM): Limit 30000. The input tokens "
        "must be reduced.",
    ),
    (400, "Rate limit reached for this model, please try again in 4.77s"),
    (403, "API rate limit exceeded for user"),
    (429, "You exceeded your current quota. Input tokens per model per minute, context window"),
    (503, "Too many requests; throttled"),
]


@pytest.mark.parametrize(("status", "said"), RATE)
def test_a_rate_is_waited_for_whatever_its_status(status, said):
    with RawServer((status, {"error": {"message": said}}), (200, GOOD)) as server:
        assert ask(endpoint(server))[0].message["content"] == "a"
        assert len(server.requests) == 2


def test_a_server_that_loads_its_model_is_waited_for_and_no_longer_than_a_setting():
    loading = 503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
    warm = 503, {"error": "Model m is currently loading", "estimated_time": 20.0}
    with RawServer(loading, warm, loading, (200, GOOD)) as server:
        assert ask(endpoint(server, retries=0))[0].message["content"] == "a", "it is no try"
    with (
        RawServer(loading) as server,
        pytest.raises(ModelError, match="Loading model.*start_timeout"),
    ):
        ask(endpoint(server, start_timeout=1.6))
    assert 1 < len(server.requests) < 4


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            (500, {"error": {"message": "tools param requires --jinja flag", "code": 500}}),
            "style to 'react'",
        ),
        ((400, {"error": "registry.ollama.ai/m does not support tools"}), "style to 'react'"),
        ((500, {"error": "tool calling is not supported by this model"}), "style to 'react'"),
        (
            (501, {"error": {"message": "This server does not support chat completions"}}),
            "no try can succeed",
        ),
        (
            (400, {"error": "max_tokens is too large: 9. This model supports at most 8 tokens"}),
            "max_tokens",
        ),
        (
            (
                400,
                {
                    "error": "`max_tokens` must be less than or equal to `8`, "
                    "less than the `context_window`"
                },
            ),
            "Lower",
        ),
        (
            (
                422,
                {"error": "Input validation error: `max_new_tokens` must be <= 512. Given: 1000"},
            ),
            "Lower",
        ),
    ],
)
def test_what_no_try_can_mend_is_tried_once_and_says_what_to_set(answer, words):
    with RawServer(answer) as server, pytest.raises(ModelError, match=words):
        ask(endpoint(server), tools=TOOLS)
    assert len(server.requests) == 1


NO_SYSTEM = [
    (500, "Error: Jinja Exception: System role not supported"),
    (400, "Conversation roles must alternate user/assistant/user/assistant/..."),
    (400, "Unsupported value: 'messages[0].role' does not support 'system' with this model."),
    (400, "Developer instruction is not enabled for models/gemma-3-27b-it"),
]


@pytest.mark.parametrize(("status", "said"), NO_SYSTEM)
def test_an_instruction_that_no_system_message_may_hold_is_put_before_the_question(
    status, said, caplog
):
    refusal = status, {"error": {"message": said}}
    with RawServer(refusal, (200, GOOD)) as server, caplog.at_level(logging.WARNING, "negfail_nb"):
        ask(endpoint(server), times=2, messages=SYSTEM)
        assert [[m["role"] for m in body["messages"]] for body in server.requests] == [
            ["system", "user"],
            ["user"],
            ["user"],
        ]
        assert server.requests[1]["messages"][0]["content"] == "Be brief.\n\nWhat is 7?"
    assert caplog.text.count("before the first user turn") == 1


def test_whole_episodes_are_played_on_a_model_without_a_system_role(tmp_path):
    class Gemma(MockServer):
        def _reply(self, path, authorization, body):
            if body["messages"][0]["role"] == "system":
                return 400, {"error": {"message": "System role not supported"}}
            return super()._reply(path, authorization, body)

    with Gemma() as server:
        logs = play(server, tmp_path)
    assert {t.termination for t in logs} == {"finished"} and logs[0].messages[0]["role"] == "system"


GARBLED = {
    "status line": b"HTTQ/9 garbage\r\n\r\n",
    "status": b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
    "chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: minus\r\n\r\n{}",
    "header": b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n{}",
    "gzip": raw(b"no gzip", "Content-Encoding: gzip"),
    "brotli": raw(b"no brotli", "Content-Encoding: br"),
    "unknown": raw(b'{"choices"', "Content-Encoding: rot13"),
}


@pytest.mark.parametrize("what", GARBLED)
def test_garbled_answers_are_tried_again_and_a_server_of_them_alone_stops_everything(
    tmp_path, what
):
    settings = LiveSettings(concurrency=1)
    good = raw(json.dumps(GOOD).encode())
    with (
        RawServer(good, GARBLED[what], close=True) as server,
        pytest.raises(ModelError, match="16 replies in a row"),
    ):
        play(server, tmp_path, 20, settings, retries=0)
    with RawServer(GARBLED[what], good, close=True) as server:
        assert ask(endpoint(server))[0].message["content"] == "a"


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret@127.0.0.1:9/v1",
        "http://secret@127.0.0.1:9/v1",
        "http://me:secret@/v1",
        "http://127.0.0.1:9/v1?api_key=secret",
        "http://127.0.0.1:9/v1?x=1&access-token=secret",
    ],
)
def test_a_secret_in_an_address_is_refused_with_the_variable_to_use(tmp_path, monkeypatch, url):
    with (
        MockServer() as server,
        pytest.raises(ValueError, match="base_url .*key_variable") as error,
    ):
        play(server, tmp_path, base_url=url)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(ModelError, match="OPENAI_BASE_URL .*key_variable") as later:
        play(server, tmp_path, base_url="")
    assert "secret" not in str(error.value) + str(later.value) + "".join(
        p.read_text() for p in tmp_path.iterdir()
    )
    assert not server.requests


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_carry_neither_key_nor_question_elsewhere(monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", "plain-words-7391")
    with MockServer() as other:
        moved = raw(b"", f"Location: {other.url}/chat/completions", status=f"{status} Moved")
        with (
            RawServer(moved) as server,
            pytest.raises(ModelError, match=f"{status}.*{other.url}.*base_url"),
        ):
            ask(endpoint(server))
    assert not other.requests and len(server.requests) == 1


def bodies():
    long = json.dumps({"choices": [{"message": {"content": "x" * 3_000_000}}]}).encode()
    size = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    yield "length", raw(long)
    yield (
        "chunked",
        size
        + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [long[:9], long[9:]])
        + b"0\r\n\r\n",
    )
    yield "no length", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + long
    yield "gzip", raw(gzip.compress(b"[" + b" " * 300_000_000 + b"]", 1), "Content-Encoding: gzip")
    yield "error", raw(b'{"error": "' + b"x" * 3_000_000 + b'"}', status="400 Bad")


@pytest.mark.parametrize(
    ("kind", "body"), bodies(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_reply_has_a_bound_which_is_kept_while_it_is_read(kind, body, monkeypatch):
    monkeypatch.setattr(transport, "MOST_BYTES", 1_000_000)
    with RawServer(body, close=True) as server:
        model = endpoint(server)
        tracemalloc.start()
        with pytest.raises(RuntimeError, match="over 1 MB, which no reply needs"):
            ask(model)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(server.requests) == 1, "another try would bring no less"
    assert most < 80_000_000


def test_a_page_of_a_proxy_in_the_middle_of_a_run_is_tried_again(tmp_path):
    page = raw(PAGE, kind="text/html")
    with RawServer(
        (200, GOOD), page, raw(PAGE, status="502 Bad Gateway", kind="text/html"), (200, GOOD)
    ) as server:
        assert [r.message["content"] for r in ask(endpoint(server), times=2)] == ["a", "a"]


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ({"error": {"message": "Rate limited upstream", "code": 429}}, None, ""),  # OpenRouter
        ({"choices": [], "error": {"message": "overloaded"}}, None, ""),
        (
            {"choices": [{"message": {"content": ""}, "error": {"message": "x", "code": 502}}]},
            *(None, ""),
        ),
        (
            {"error": {"message": "maximum context length is 9", "code": 400}},
            *(EpisodeTooLong, "maximum context"),
        ),
        ({"error": {"message": "No credits", "code": 402}}, ModelError, "credit"),
        (
            {"object": "error", "message": "The model `m` does not exist", "code": 404},
            *(ModelError, "Settings.model"),
        ),
    ],
)  # fmt: skip
def test_an_error_that_comes_with_status_200_is_that_error(answer, kind, words):
    with RawServer((200, answer), (200, GOOD)) as server:
        if kind is None:
            assert ask(endpoint(server))[0].message["content"] == "a" and len(server.requests) == 2
        else:
            with pytest.raises(kind, match=words):
                ask(endpoint(server))


def test_a_flagged_question_is_no_wrong_key():
    said = (403, {"error": {"message": "Your input was flagged by moderation", "code": 403}})
    with RawServer(said) as server, pytest.raises(RuntimeError, match="flagged") as refusal:
        ask(endpoint(server))
    assert not isinstance(refusal.value, ModelError)


def test_thoughts_refusals_and_blocks_are_read_in_every_form():
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    answers = [
        chat(content="a", reasoning_content="hm"),
        chat(content="a", reasoning="hm"),
        chat(content="a", thinking="hm"),
        chat(content=[thought, {"type": "text", "text": "a"}]),
        chat(content=[{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]),
        chat(content=None, refusal="I cannot."),
    ]
    with Answering(*answers) as server:
        replies = [reply.message for reply in ask(endpoint(server), times=6)]
    assert replies[:5] == [{"role": "assistant", "content": "a", "reasoning_content": "hm"}] * 5
    assert replies[5] == {"role": "assistant", "content": "I cannot."}


def test_a_server_that_takes_no_thoughts_is_asked_without_them(caplog):
    # Groq
    said = (
        "'messages.1' : for 'role:assistant' the property 'messages.1.reasoning_content' is "
        "unsupported"
    )
    history = [*ASKED, {"role": "assistant", "content": "a", "reasoning_content": "hm"}, *ASKED]
    with RawServer((400, {"error": {"message": said}}), (200, GOOD)) as server:
        ask(endpoint(server), messages=history)
        sent = [["reasoning_content" in m for m in body["messages"]] for body in server.requests]
    assert sent == [[False, True, False], [False] * 3]
    assert caplog.text.count("'reasoning_content'; it is left out") == 1


@pytest.mark.parametrize(
    "said",
    [
        "tool call validation failed: attempted to call 'x', not in request.tools",
        "Failed to call a tool",
    ],
)
def test_a_call_that_the_model_wrote_badly_is_no_server_without_tools(said):
    with RawServer((400, {"error": {"message": said, "code": "tool_use_failed"}})) as server:
        with pytest.raises(RuntimeError, match="tool") as refusal:
            ask(endpoint(server), tools=TOOLS)
    assert not isinstance(refusal.value, ModelError)


def test_a_wrong_key_is_one_whatever_the_status():
    said = [
        {"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}
    ]  # Gemini
    with (
        RawServer((400, said)) as server,
        pytest.raises(ModelError, match="OPENAI_API_KEY is not set"),
    ):
        ask(endpoint(server))


@pytest.mark.parametrize("usage", [[], "none", 7, {"prompt_tokens_details": []}])
def test_a_reply_with_an_odd_usage_is_a_reply(usage):
    with RawServer((201, GOOD | {"usage": usage})) as server:
        assert ask(endpoint(server))[0].prompt_tokens is None


def test_a_withheld_reply_is_said_once(caplog):
    withheld = 200, {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}
    with Answering(withheld, withheld) as server, caplog.at_level(logging.WARNING, "negfail_nb"):
        replies = ask(endpoint(server), times=2)
    assert (
        replies[0].finish_reason == "content_filter"
        and caplog.text.count("content filter withheld") == 1
    )


@pytest.mark.parametrize("count", [-5, 10**12, True, "12", 1.5, None])
def test_counts_that_cannot_be_are_unknown_and_said_once(caplog, count):
    answer = 200, GOOD | {"usage": {"prompt_tokens": count, "completion_tokens": count}}
    with RawServer(answer) as server, caplog.at_level(logging.WARNING, "negfail_nb"):
        reply = ask(endpoint(server), times=2)[0]
    assert (reply.prompt_tokens, reply.completion_tokens) == (None, None)
    assert caplog.text.count("which cannot be") == (2 if type(count) is int else 0)


def test_zeros_are_no_counts_and_a_cache_beside_the_prompt_is_part_of_it():
    usages = [{"prompt_tokens": 0, "completion_tokens": 0}]
    usages += [
        {
            "prompt_tokens": 4,
            "completion_tokens": 3.0,
            "prompt_tokens_details": {"cached_tokens": 40},
        }
    ]
    with RawServer(*[(200, GOOD | {"usage": usage}) for usage in usages]) as server:
        first, second = ask(
            endpoint(server), times=2, messages=[{"role": "user", "content": "word " * 44}]
        )
    assert (first.prompt_tokens, first.completion_tokens) == (None, None)
    assert (second.prompt_tokens, second.completion_tokens, second.cached_tokens) == (44, 3, 40)
    assert SAMPLING.max_tokens == 50
