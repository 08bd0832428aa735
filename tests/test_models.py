"""Models known by name, and where each is found: in the package, a folder, the hub or its cache, or
fetched from a package index.
"""

import json
import os
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from negfail_nb import fetch, models
from negfail_nb.__main__ import main
from negfail_nb.agents import LocalModel, Task, collect
from negfail_nb.agents.tools import CalculatorTool
from negfail_nb.benchmarking import served_window
from negfail_nb.content import file_hash
from negfail_nb.models import ModelNotFound, find_model, find_weights, known_models
from negfail_nb.prefix import render
from negfail_nb.settings import (
    LiveSettings,
    LoraSettings,
    ModelSettings,
    PrefixSettings,
    TrainSettings,
    profiles,
)
from negfail_nb.training import load_tokenizer, train
from negfail_nb.trajectory import Trajectory
from tests.small_wheel import NAME, make_wheel, small_llama, use_index, use_table

COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
OTHER = "HuggingFaceTB/SmolLM2-360M-Instruct"
BLOB = "5af571cbf074e6d21a03528d2330792e532ca608"


@pytest.fixture(autouse=True)
def apart(monkeypatch, tmp_path):
    """Caches of this test alone, and no answer of the hub from another one."""
    monkeypatch.setenv(models.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    models._ask_hub.cache_clear()


class Hub:
    """A hub on this machine that knows the commit of every model, or keeps silent."""

    def __init__(self, monkeypatch, status=200, silent=False):
        self.asked = []
        self.done = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path.startswith("/api/models/"):
                    hub.asked.append(self.path)
                if silent:
                    hub.done.wait()
                    return
                name = self.path.removeprefix("/api/models/")
                body = json.dumps({"id": name, "sha": COMMIT}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{self.server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)

    def close(self):
        self.done.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hub(monkeypatch):
    hubs = []

    def start(**given):
        hubs.append(Hub(monkeypatch, **given))
        return hubs[-1]

    yield start
    for each in hubs:
        each.close()


@pytest.fixture
def no_hub(monkeypatch):
    """An address of this machine at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    return folder, make_wheel(folder, small_llama())


@pytest.fixture(scope="module")
def made(index, tmp_path_factory):
    """A small model as it is fetched, once for all tests of this file."""
    patch = pytest.MonkeyPatch()
    patch.setenv(models.CACHE, str(tmp_path_factory.mktemp("made")))
    use_table(patch, index[1])
    use_index(patch, index[0])
    yield fetch.fetch("smollm")
    patch.undo()


@pytest.fixture
def fetched(index, made, monkeypatch):
    """The small model in this test's cache."""
    use_table(monkeypatch, index[1])
    folder = index[1].wheel.folder
    shutil.copytree(made, folder)
    return folder


def cached(name, made, hub_cache, *left_out):
    """Lay a model into the hub's cache as the hub's library does, all files but some."""
    base = Path(hub_cache) / ("models--" + name.replace("/", "--"))
    (base / "refs").mkdir(parents=True, exist_ok=True)
    (base / "refs" / "main").write_text(COMMIT)
    snapshot = base / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (base / "blobs").mkdir()
    for path in made.iterdir():
        if path.name not in (*left_out, "whole.json"):
            blob = base / "blobs" / file_hash(path)
            shutil.copy(path, blob)
            (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


# The table ---------------------------------------------------------------------------------------


def test_every_model_that_a_profile_names_is_in_the_table():
    named = {p.model.name for p in profiles().values()} | {
        p.benchmark.model for p in profiles().values()
    }
    assert named - {""} <= set(known_models())
    for known in known_models().values():
        assert known.licence and known.source and known.parameters and known.window, known


def test_the_models_of_the_package_are_as_the_table_says():
    for name, known in known_models().items():
        if known.folder:
            folder = Path(find_model(name))
            assert file_hash(folder / known.file) == known.sha256
            assert json.loads((folder / "config.json").read_text())["max_position_embeddings"] == (
                known.window
            )
            assert find_weights(name).described == {
                "name": name,
                "origin": "the package",
                "sha256": file_hash(folder),
            }


# Where a model is found --------------------------------------------------------------------------


def test_a_folder_of_that_name_comes_first(made, fetched, hub, tmp_path):
    cached(NAME, made, tmp_path / "hub")
    asked = hub().asked
    shutil.copytree(made, NAME)
    found = find_weights(NAME)
    assert found.place == NAME and found.origin == "a folder" and found.sha256 == file_hash(made)
    assert not asked


def test_then_the_hubs_cache_which_needs_no_network(made, fetched, hub, tmp_path):
    snapshot = cached(NAME, made, tmp_path / "hub")
    asked = hub().asked
    found = find_weights(NAME)
    assert found.place == str(snapshot) and found.origin == f"hub {COMMIT}"
    assert found.sha256 == file_hash(made / "model.safetensors")
    assert not asked


def test_then_the_hub(made, fetched, hub, tmp_path):
    cached(NAME, made, tmp_path / "hub", "model.safetensors")  # a tokenizer alone is no model
    asked = hub().asked
    found = find_weights(NAME)
    assert found.place == NAME and found.origin == f"hub {COMMIT}" and found.sha256 == ""
    find_weights(NAME)
    assert asked == [f"/api/models/{NAME}"], "it is asked once for several uses"


def test_what_results_depend_on_is_the_same_before_a_download_and_after_it(made, hub, tmp_path):
    hub()
    before = find_weights(NAME)
    cached(NAME, made, tmp_path / "hub")
    after = find_weights(NAME)
    assert before.place != after.place and before.content == after.content


@pytest.mark.parametrize("how", ["nothing there", "silent", "refuses", "offline"])
def test_then_the_fetched_folder_within_seconds(fetched, hub, no_hub, monkeypatch, how):
    asked = []
    if how in ("silent", "refuses"):
        monkeypatch.setattr(models, "PATIENCE", 0.2)
        asked = hub(silent=how == "silent", status=401).asked
    if how == "offline":
        asked = hub().asked
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = find_weights(NAME)
    assert found.place == str(fetched)
    assert found.origin == "small-smollm 0.1.2 from the package index, quantised once (Q4_1)"
    assert len(asked) == (how in ("silent", "refuses"))
    assert load_tokenizer(ModelSettings(name=NAME)).eos_token == "<|im_end|>"
    assert served_window(NAME) == 256 == LocalModel.open(NAME).window


def test_results_of_the_hubs_weights_and_of_the_fetched_ones_are_told_apart(
    fetched, made, no_hub, tmp_path
):
    one = LocalModel.open(NAME)
    cached(NAME, made, tmp_path / "hub")
    other = LocalModel.open(NAME)
    assert one.weights["origin"] != other.weights["origin"] and one.content != other.content


def test_then_what_the_hubs_cache_has_of_it(made, no_hub, tmp_path):
    snapshot = cached(OTHER, made, tmp_path / "hub", "model.safetensors")
    assert find_model(OTHER) == str(snapshot)
    assert load_tokenizer(ModelSettings(name=OTHER)).eos_token == "<|im_end|>"
    with pytest.raises(ValueError, match=f"model folder {OTHER} lacks weights as safetensors"):
        LocalModel.open(OTHER).model  # noqa: B018


def test_a_half_written_conversion_is_not_taken(fetched, no_hub):
    (fetched / "whole.json").unlink()
    with pytest.raises(ModelNotFound, match="`negfail_nb fetch smollm`"):
        find_weights(NAME)


@pytest.mark.parametrize(("name", "named"), [(NAME, True), (OTHER, False), ("gpt-nothing", False)])
def test_a_model_that_is_nowhere_says_what_to_do(no_hub, name, named, capsys):
    with pytest.raises(OSError) as said:
        load_tokenizer(ModelSettings(name=name))
    text = str(said.value)
    assert f"model.name={name!r}: no such folder here" in text and "the network" in text
    assert ("or `negfail_nb fetch smollm`" in text) == named
    assert served_window(name) is None


def test_a_folder_that_does_not_exist_is_not_looked_for_on_the_hub(hub):
    asked = hub().asked
    for name in ("./nothing", "/nothing/here", "a/b/c", "~/nothing"):
        with pytest.raises(ValueError, match="does not exist"):
            load_tokenizer(ModelSettings(name=name))
    assert not asked


def test_doctor_says_where_the_small_real_model_is(fetched, no_hub, capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "smollm       small-smollm 0.1.2 from the package index, quantised once (Q4_1)" in said
    assert "fetch smollm" not in said
    shutil.rmtree(fetched)
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "smollm       not here" in said and "`negfail_nb fetch smollm` brings it" in said


# What results say of it --------------------------------------------------------------------------


def runs():
    def run(number):
        asked = {"role": "user", "content": f"{number}+1?"}
        said = {"role": "assistant", "content": f"Action: finish[{number + 1}]"}
        given = {"question": f"{number}+1?", "messages": (asked, said), "success": True}
        return Trajectory(id=str(number), question_id=str(number), **given)

    return [run(number) for number in range(4)]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_trained_model_and_what_it_plays_name_the_weights_that_it_began_from(
    fetched, no_hub, tmp_path, rank
):
    model = ModelSettings(name=NAME)
    data = render(runs(), "none", load_tokenizer(model), PrefixSettings(max_tokens=128))
    settings = TrainSettings(budget="steps", steps=1, batch_tokens=64)
    trained = train(data, settings, model, LoraSettings(rank=rank), tmp_path / "trained")
    origin = "small-smollm 0.1.2 from the package index, quantised once (Q4_1)"
    assert trained.run.manifest["results"]["weights"] == find_weights(NAME).described
    assert trained.base["origin"] == origin
    if rank:
        adapter = json.loads((trained.weights / "adapter_config.json").read_text())
        assert adapter["base_model_name_or_path"] == NAME, "no path of this machine"
    live = LiveSettings(max_calls=1, max_tokens=4, temperatures=(0.0,))
    player = LocalModel.open(trained)
    tasks = [Task(id="1", question="1+1?", answer="2", task="math")]
    played = collect(player, tasks, [CalculatorTool()], live, folder=tmp_path / "played")
    noted = played.run.manifest["results"]["weights"]
    assert noted["origin"] == f"trained from {origin}" and noted["sha256"] == trained.content
    untuned = collect(
        LocalModel.open(NAME), tasks, [CalculatorTool()], live, folder=tmp_path / "untuned"
    )
    assert untuned.run.manifest["results"]["weights"] == find_weights(NAME).described
