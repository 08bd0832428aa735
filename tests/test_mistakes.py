"""What newcomers get wrong: each mistake is made, and the answer says what happened, where, and
what to do next.

The list for people is docs/mistakes.md; it has a line for each test here.
"""

import bz2
import json
import logging
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from matplotlib.figure import Figure

import negfail_nb as nf
from negfail_nb import runs, views
from negfail_nb.__main__ import main
from negfail_nb.agents.protocol import ModelError, Task
from negfail_nb.agents.tasks import load_tasks
from negfail_nb.claims.records import Claim, Measure, Term, read_claims
from negfail_nb.pocket import generate_logs
from negfail_nb.settings import (
    EndpointSettings,
    ModelSettings,
    PrefixSettings,
    QualitySettings,
    TrainSettings,
    get_profile,
)
from negfail_nb.start import start_project
from negfail_nb.training import load_model, load_tokenizer
from negfail_nb.trajectory import Problem, write_lines

HOME = Path(__file__).parents[1]
TASKS = [Task(id="1", question="who?", answer="me", task="qa")]
SHAPE = ModelSettings(layers=1, width=32, heads=2, vocabulary=600)


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a command in a folder of its own; return the one line that it refuses with."""

    def run(*arguments):
        if arguments[0] != "run":
            start_project(tmp_path)
        given = arguments if "--profile" in arguments else (*arguments, "--profile", "pocket")
        assert main([*given, "--home", str(tmp_path)]) == 1
        *_, last = capsys.readouterr().err.strip().splitlines()
        assert last.startswith("negfail_nb: ") or "negfail_nb: " in last
        return last

    return run


def live(tmp_path, **endpoint):
    """Arguments that play one question on a server."""
    write_lines(tmp_path / "q.jsonl", [{"id": "1", "question": "who?", "answer": "me"}])
    write_lines(tmp_path / "c.jsonl", [{"title": "a", "text": "b"}])
    chosen = {
        "collect.player": "endpoint",
        "collect.questions": "q.jsonl",
        "collect.corpus": "c.jsonl",
    }
    chosen |= {f"endpoint.{name}": value for name, value in endpoint.items()}
    return [
        "collect",
        *(part for name, value in chosen.items() for part in ("--set", f"{name}={value}")),
    ]


def play(folder, **endpoint):
    """Play one question on a server."""
    model = nf.EndpointModel(EndpointSettings(**endpoint))
    return nf.collect(model, TASKS, [], file=folder / "e.jsonl")


def problem(path):
    (found,) = nf.load_trajectories(path).problems
    return str(found)


# Where things are


def test_started_in_the_wrong_folder(refused):
    assert (
        "no numbered notebooks in" in (said := refused("run"))
        and "start this in the project's folder" in said
    )


def test_logs_that_are_not_there(refused):
    said = refused("collect", "--set", 'collect.logs=["my_logs"]')
    assert "01_collect.ipynb failed; see" in said
    assert "FileNotFoundError: my_logs: there is no such file or folder" in said
    assert "paths in settings start from the project folder" in said


def test_an_empty_path():
    with pytest.raises(ValueError, match="the path of the logs is empty; give a file or a folder"):
        nf.load_trajectories("")


def test_a_notebook_out_of_order(tmp_path):
    """No mistake here: what is missing is made first."""
    project = nf.open_project(
        "pocket", tmp_path, {"collect": {"generate": 8}, "live": {"attempts": 2}}
    )
    assert nf.earlier.report(project).kept


def test_a_port_in_use(tmp_path):
    """`make lab` takes the next port and says so."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            f"--port={port}",
            "--ip=127.0.0.1",
        ]
        own = {
            f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "RUNTIME")
        }
        lab = subprocess.Popen(
            command, cwd=tmp_path, env=os.environ | own, stderr=subprocess.PIPE, text=True
        )
        try:
            said = next(
                line for line in lab.stderr if "already in use" in line or "is running at" in line
            )
        finally:
            lab.kill()
            lab.wait()
    assert f"port {port} is already in use, trying another port" in said


# Files of another kind


def test_csv_instead_of_json_lines(tmp_path):
    (tmp_path / "logs.csv").write_text("question,answer,success\nwho?,me,1\n", encoding="utf-8")
    said = problem(tmp_path / "logs.csv")
    assert (
        said.startswith("logs.csv: no known format")
        and "it is a table with the columns question, answer" in said
    )
    assert said.endswith(
        "columns={'question': 'question', 'messages': 'answer', 'success': 'success'}"
    )


def test_compressed_logs(tmp_path):
    (tmp_path / "logs.jsonl.bz2").write_bytes(bz2.compress(b'{"question": "who?"}\n'))
    assert "it is compressed (bzip2): unpack it first" in problem(tmp_path / "logs.jsonl.bz2")


def test_parquet(tmp_path):
    pandas.DataFrame({"q": ["who?"], "chat": ["me"]}).to_parquet(tmp_path / "logs.parquet")
    said = problem(tmp_path / "logs.parquet")
    assert said.endswith("columns={'question': 'q', 'messages': 'chat', 'success': '..'}")


def test_a_file_saved_as_utf_16(tmp_path):
    (tmp_path / "logs.jsonl").write_text('{"question": "who?"}\n', encoding="utf-16")
    assert "it is UTF-16: save it as UTF-8" in problem(tmp_path / "logs.jsonl")


def test_logs_of_an_unknown_shape(tmp_path):
    write_lines(tmp_path / "logs.jsonl", [{"frage": "wer?", "antwort": "ich"}])
    assert "its records have the keys antwort, frage. Formats: " in problem(tmp_path / "logs.jsonl")


def test_questions_without_answers(tmp_path):
    write_lines(tmp_path / "q.jsonl", [{"question": "who?"}])
    with pytest.raises(
        ValueError,
        match=r"q\.jsonl: 1 of 1 records cannot be played: 1: the field 'answer' is missing",
    ):
        load_tasks(tmp_path / "q.jsonl")


def test_a_csv_that_was_edited(tmp_path):
    table = pandas.DataFrame({"arm": ["nat"], "em": [3.0], "em_low": [1.0], "em_high": [5.0]})
    path = views.save_figure(Figure(), table, "t", tmp_path).with_suffix(".csv")
    path.write_text(path.read_text().replace("3.0", "4.0"))
    measure = Measure(
        csv="t.csv", column="em", direction="above", terms=(Term(row={"arm": "nat"}),)
    )
    claim = Claim(id="c", text="NAT gains.", measure=measure)
    (found,) = nf.check_claims([claim], [], tmp_path).verdicts
    assert "has changed since its figure was drawn" in found.reason


def test_a_figure_moved_without_its_json(tmp_path):
    (tmp_path / "x.csv").write_text("a\n1\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="a saved figure is its csv and its json"):
        views.redraw(tmp_path / "x.csv")


# Settings


def test_a_misspelt_profile(refused):
    assert "no profile 'llama8b'; there are pocket, smollm, logs, llama-8b" in refused(
        "run", "--profile", "llama8b"
    )


def test_a_misspelt_setting(refused):
    assert "train has no setting epoch; it has arms," in refused("train", "--set", "train.epoch=3")


def test_a_value_out_of_bounds(refused):
    assert "TrainSettings.epochs is 0.0; use 0.01 to 1000" in refused(
        "train", "--set", "train.epochs=0"
    )


def test_a_word_where_a_list_is_wanted(refused):
    assert 'is \'nat\'; give a list, such as ["one", "two"]' in refused(
        "train", "--set", "train.arms=nat"
    )


def test_changes_of_the_wrong_shape(tmp_path):
    with pytest.raises(
        ValueError,
        match=r'the changes of train are 3; write them as \{"train": \{"setting": value\}\}',
    ):
        nf.open_project("pocket", tmp_path, {"train": 3})
    with pytest.raises(ValueError, match="a profile has no stage 'epochs'; it has collect, live"):
        nf.open_project("pocket", tmp_path, {"epochs": {"train": 3}})


def test_a_misspelt_label_template():
    with pytest.raises(
        ValueError, match="there is no label template 'nat'; there are none, cot, target-aware"
    ):
        nf.make_arms(["nat"], PrefixSettings(template="nat"))


def test_a_misspelt_arm():
    with pytest.raises(ValueError, match="no arm 'nats'; there are vanilla, nut, nat, nat-k"):
        nf.make_arms(["nats"])


# Servers and keys


def test_no_key(refused, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    said = refused(*live(tmp_path, model="some"))
    assert "set the environment variable OPENAI_API_KEY, or name a server of your own" in said


def test_the_key_itself_as_the_name_of_its_variable(refused, tmp_path):
    said = refused(*live(tmp_path, model="some", key_variable="sk-canary0123456789abcdefgh"))
    assert (
        "is the name of an environment variable, not the key itself" in said
        and "canary" not in said
    )
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"canary" in p.read_bytes()]


def test_no_name_of_a_model(tmp_path):
    with pytest.raises(ModelError, match="model is empty; name the model as the server knows it"):
        play(tmp_path, base_url="http://127.0.0.1:9")


def test_a_server_that_is_down(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ModelError, match=f"cannot reach {url}.*Is the server up"):
        play(tmp_path, model="some", base_url=url, retries=0)


def test_an_address_without_http(tmp_path):
    with pytest.raises(ModelError, match="is 'localhost:8000'; it must begin with http:// or"):
        play(tmp_path, model="some", base_url="localhost:8000")


# Models and machines


def test_a_model_folder_that_is_not_there():
    with pytest.raises(
        ValueError,
        match=r"model folder \./my-model does not exist; give a folder of transformers files",
    ):
        load_tokenizer(ModelSettings(name="./my-model"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with a tokenizer of its own."""
    place = tmp_path_factory.mktemp("model")
    tokenizer = load_tokenizer(SHAPE, ["who is who", "search[who]"])
    tokenizer.save_pretrained(place)
    load_model(SHAPE, tokenizer).save_pretrained(place)
    return place


def test_a_model_with_pickled_weights(folder, tmp_path):
    for path in folder.iterdir():
        name = "pytorch_model.bin" if path.suffix == ".safetensors" else path.name
        (tmp_path / name).write_bytes(path.read_bytes())
    name = ModelSettings(name=str(tmp_path))
    with pytest.raises(ValueError, match=r"lacks weights as safetensors.*save_pretrained"):
        load_model(name, load_tokenizer(name))


def test_a_model_too_big_for_the_memory(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "hidden_size": 65_536,
        "intermediate_size": 262_144,
        "num_hidden_layers": 8,
        "num_attention_heads": 512,
    }
    config |= {"num_key_value_heads": 512, "head_dim": 128}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    name = ModelSettings(name=str(tmp_path))
    with pytest.raises(
        ValueError,
        match=r"billion parameters: [\d,]+ GB as float32, and [\d,]+ GB of memory are free",
    ) as said:
        load_model(name, load_tokenizer(name))
    assert "train.dtype=bfloat16" in str(said.value) and "a smaller model" in str(said.value)


def test_a_base_model_without_a_chat_template(folder):
    name = ModelSettings(name=str(folder))
    tokenizer = load_tokenizer(name)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"has no chat template.*llama-3"):
        nf.render(generate_logs(2, 2, 0), "target-aware", tokenizer)


def test_no_gpu(capsys, tmp_path):
    assert main(["doctor", "--home", str(tmp_path)]) == 0
    assert re.search(r"GPU +\S", capsys.readouterr().out), (
        "what there is, or that pocket and logs do without"
    )
    assert get_profile("pocket").train.dtype == get_profile("logs").train.dtype == "float32"


# Runs


def test_everything_is_filtered_away():
    with pytest.raises(
        ValueError,
        match=r"all \d+ trajectories were removed, most of them .* by the filter 'too_long'",
    ):
        nf.assess(generate_logs(2, 2, 0), QualitySettings(window_tokens=64))


def test_nothing_failed_and_an_arm_needs_failures():
    solved = [t for t in generate_logs(12, 3, 0) if t.success]
    with pytest.raises(ValueError, match="needs failed trajectories"):
        nf.select(solved, nf.make_arms(["nat"])[0], TrainSettings())


def test_a_run_folder_of_other_settings(tmp_path):
    run = runs.start(runs.Place(tmp_path, "train"), QualitySettings(seed=1))
    with pytest.raises(
        runs.SettingsChanged,
        match=r"begun with other settings: settings\.seed: 1 -> 2\. Use the old ones",
    ):
        runs.start(run.folder, QualitySettings(seed=2))


def test_an_old_run_folder_that_was_touched(tmp_path, caplog):
    run = runs.start(runs.Place(tmp_path, "collect"), QualitySettings())
    run.path("a.txt").write_text("as it was", encoding="utf-8")
    run.finish()
    run.path("a.txt").write_text("changed", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert not runs.start(runs.Place(tmp_path, "collect"), QualitySettings()).done
    assert "is not taken as done: a.txt changed since it was written" in caplog.text


def test_figures_before_any_walk(refused):
    said = refused("paper")
    assert "no figures in" in said and "`python -m negfail_nb run` draws them" in said


def test_every_mistake_has_a_line_in_the_docs():
    page = (HOME / "docs" / "mistakes.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| ") and "`test_" in line]
    named = set(re.findall(r"`(test_\w+)`", page))
    made = {name for name in globals() if name.startswith("test_")} - {
        "test_every_mistake_has_a_line_in_the_docs"
    }
    assert named == made and len(lines) == len(made) >= 20


def test_what_a_log_says_to_a_terminal_is_shown_and_not_obeyed(tmp_path, capsys):
    evil = "\x1b]0;title\x07\x1b[31m\r\u202e\x9b1m"
    (tmp_path / "q.jsonl").write_text(
        json.dumps({"question": {evil: evil}}) + "\n", encoding="utf-8"
    )
    with pytest.raises(ValueError, match="cannot be played") as raised:
        load_tasks(tmp_path / "q.jsonl")
    assert r"\x1b" in str(raised.value) and not set("\x1b\x07\r\u202e\x9b") & set(str(raised.value))
    assert str(Problem("x\r.jsonl", "line 1", evil)).startswith(r"x\r.jsonl:line 1: \x1b]0;")
    main(["settings", "--set", f"{evil}.x=1"])
    assert not set("\x1b\x07\r\u202e\x9b") & set("".join(capsys.readouterr()))


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"a = [", b"[[claims]]\nid = 1", b"claims = 5", b"a = " + b"[" * 100_000],
)
def test_a_file_of_claims_that_is_none(content, tmp_path):
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.toml"):
        read_claims(tmp_path / "mine.toml")
