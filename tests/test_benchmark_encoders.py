"""Encoders behind ``/v1/embeddings``, on a server of a few lines: right vectors, in order, or an
error that says which server and which texts.
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from negfail_nb.agents import ModelError
from negfail_nb.benchmarking import build_index, dense, open_index, served_encoder
from negfail_nb.benchmarking.pools import MemoryPool
from negfail_nb.benchmarking.records import Passage
from negfail_nb.benchmarking.served_encoder import BATCH, ServedEncoder, open_encoder, read_vectors
from negfail_nb.settings import EndpointSettings, RetrievalSettings

KEY = "sk-0123456789abcdefghijklmn"
COUNT = 3 * BATCH + 5
POOL = MemoryPool([Passage(f"Title {n}", (f"Of the number {n}.",)) for n in range(COUNT)])
TEXTS = [passage.searched for passage in POOL]


def vector(text, size=8):
    """Some direction of the text's own, not of length 1."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return (3 * np.random.default_rng(seed).normal(size=size)).tolist()


class EmbeddingServer:
    """A server; ``answer`` makes status and JSON of a request's number, body and key."""

    def __init__(self, answer=None):
        self.requests = []
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(outer.requests)
                    outer.requests.append((self.path, body, self.headers["Authorization"]))
                status, found = (answer or good)(number, body)
                content = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *given):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def asked(self):
        return [text for _, body, _ in self.requests for text in body["input"]]


def good(number, body, size=8):
    """In any order, as servers may."""
    items = [{"index": n, "embedding": vector(t, size)} for n, t in enumerate(body["input"])]
    return 200, {"data": items[::-1], "model": body["model"]}


def encoder(server, model="bge", **more):
    settings = EndpointSettings(base_url=server.url, model="a chat model", **more)
    return ServedEncoder(f"endpoint:{model}", settings, first_wait=0.001)


def test_vectors_are_those_of_the_texts_in_order_and_of_length_1(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with EmbeddingServer() as server:
        found = encoder(server).passages(TEXTS)
    wanted = np.array([vector(text) for text in TEXTS])
    assert found == pytest.approx(wanted / np.linalg.norm(wanted, axis=1, keepdims=True), abs=1e-6)
    assert found.dtype == np.float32 and sorted(server.asked) == sorted(TEXTS)
    assert {(path, body["model"], key) for path, body, key in server.requests} == {
        ("/v1/embeddings", "bge", f"Bearer {KEY}")
    }
    assert max(len(body["input"]) for _, body, _ in server.requests) == BATCH


def test_an_index_is_built_searched_and_opened_and_no_key_is_in_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with EmbeddingServer() as server:
        endpoint = EndpointSettings(base_url=server.url)
        chosen = RetrievalSettings(method="dense", encoder="endpoint:bge")
        made = build_index(POOL, chosen, tmp_path / "index", endpoint=endpoint)
        assert made.search(TEXTS[:3], 1).numbers[:, 0].tolist() == [0, 1, 2]
        before = len(server.asked)
        again = build_index(POOL, chosen, tmp_path / "index", endpoint=endpoint)
        other = RetrievalSettings(method="dense", encoder=f"endpoint:bge@{server.url}")
        build_index(POOL, other, tmp_path / "index")
        assert len(server.asked) == before, "nothing is encoded twice, wherever the model is"
        assert again.content == made.content
        opened = open_index(tmp_path / "index", POOL)
        assert opened.search([TEXTS[5]], 1).numbers.tolist() == [[5]]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 3 and not any(KEY.encode() in path.read_bytes() for path in files)


def test_a_stopped_build_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "_CHUNK", BATCH)
    down = [True]

    def breaks(number, body):
        return (500, {"error": "broken"}) if number >= 2 and down[0] else good(number, body)

    with EmbeddingServer(breaks) as server:
        endpoint = EndpointSettings(base_url=server.url, retries=0)
        chosen = RetrievalSettings(method="dense", encoder="endpoint:bge")
        with pytest.raises(RuntimeError, match=rf"texts 1 to {BATCH} of {BATCH}.*500"):
            build_index(POOL, chosen, tmp_path, endpoint=endpoint)
        down[0] = False
        before = len(server.asked)
        build_index(POOL, chosen, tmp_path, endpoint=endpoint)
    assert len(server.asked) - before == COUNT - 2 * BATCH


def test_a_busy_server_is_asked_again():
    def busy(number, body):
        return (429, {"error": "slow down"}) if number in (0, 2) else good(number, body)

    with EmbeddingServer(busy) as server:
        found = encoder(server).queries(TEXTS)
    assert found.shape == (COUNT, 8) and len(server.requests) == 4 + 2


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        ((401, {"error": f"bad key {KEY}"}), ModelError, "OPENAI_API_KEY"),
        ((404, {"error": "no such model"}), ModelError, "'bge'"),
        ((400, {"error": "maximum context length is 512"}), ValueError, "longer than the model"),
        ((200, {"data": []}), RuntimeError, "no list of 3 vectors"),
        ((200, {"data": [{"embedding": [1.0]}] * 2}), RuntimeError, "no list of 3 vectors"),
        ((200, {"data": [{"embedding": [float("nan")]}] * 3}), RuntimeError, "no list of 3"),
    ],
)
def test_an_error_names_server_and_texts_and_not_the_key(answer, kind, said, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with EmbeddingServer(lambda number, body: answer) as server:
        with pytest.raises(kind) as error:
            encoder(server, retries=1).passages(TEXTS[:3])
    text = str(error.value)
    assert said in text and "'bge', texts 1 to 3 of 3 ('Title 0" in text and KEY not in text
    assert server.url in text or "maximum context" in text


def test_a_server_that_is_not_there_is_named():
    with EmbeddingServer() as server:
        gone = encoder(server)
    with pytest.raises(ModelError, match=f"cannot reach {server.url}"):
        gone.queries(["one"])


def test_vectors_of_two_lengths_are_of_two_models(tmp_path):
    with EmbeddingServer(lambda number, body: good(number, body, 8 + (number > 1))) as server:
        with pytest.raises(ValueError, match="vectors of [89] numbers, and of [89] before"):
            encoder(server).passages(TEXTS)
    with EmbeddingServer(lambda number, body: good(number, body, size[0])) as server:
        size, endpoint = [8], EndpointSettings(base_url=server.url)
        chosen = RetrievalSettings(method="dense", encoder="endpoint:bge")

        def how(folder):
            return chosen, folder, tmp_path / "kept", endpoint

        first = build_index(MemoryPool(list(POOL)[:9]), *how(tmp_path / "a"))
        size[0] = 9
        with pytest.raises(ValueError, match="vectors of 9 numbers, and the index has .* of 8"):
            first.search(["one"], 1)
        with pytest.raises(ValueError, match="two models under one name"):
            build_index(POOL, *how(tmp_path / "b"))


def test_names_of_encoders(monkeypatch):
    monkeypatch.setattr(served_encoder, "Encoder", lambda name: name)
    assert open_encoder("minilm") == "minilm"
    settings = open_encoder("endpoint:@cf/baai/bge-m3@https://host/v1").settings
    assert (settings.model, settings.base_url) == ("@cf/baai/bge-m3", ("https://host/v1",))
    for wrong, said in (
        ("endpoint:", "names no model"),
        (f"endpoint:bge@https://user:{KEY}@host/v1", "looks like a key|password"),
        (f"endpoint:{KEY}", "looks like a key"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            RetrievalSettings(encoder=wrong)
        assert KEY not in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.integers(-2, 3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data", "index", "embedding"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON | st.lists(JSON, max_size=3).map(lambda items: {"data": items}), st.integers(1, 3))
def test_no_answer_breaks_the_reading(answer, count):
    found = read_vectors(json.dumps(answer).encode(), count)
    assert found is None or (len(found) == count and np.isfinite(found).all())
