"""README, CONTRIBUTING and the guides are true: their code runs as written, their commands are
taken, and what they name is there.

What needs a GPU, a key, a large model or hours has a stand-in: a server on loopback for a served
model, a small file for a large one, and, for a command, its parser and its settings.
"""

import ast
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pytest
from mock_server import RawServer
from stream_server import StreamServer

import negfail_nb
from negfail_nb import __main__ as cli
from negfail_nb import conditions, project, settings, views
from negfail_nb.claims import paper_sources
from negfail_nb.logs import registry
from negfail_nb.pocket import generate_logs, make_questions, make_tasks, make_world
from negfail_nb.settings import ModelSettings, Profile, get_profile
from negfail_nb.speed.gpu import GpuSettings, measure_gpu
from negfail_nb.training import load_model, load_tokenizer
from negfail_nb.trajectory import write_lines, write_trajectories
from negfail_nb.views.figures import DRAWN
from recipes.pictures import gallery

HOME = Path(__file__).parents[1]
ELSEWHERE = {"decisions.md"}  # says how things were when they were decided
HISTORY = {"results.md"}  # names what there was; its commands still run
PAGES = {
    page.name: page.read_text(encoding="utf-8")
    for page in (HOME / "README.md", HOME / "CONTRIBUTING.md", *sorted(HOME.glob("docs/*.md")))
    if page.name not in ELSEWHERE
}
SERVER = "http://localhost:8000/v1"
STAGES = {stage.name: stage.default for stage in fields(Profile)[1:]}
LLAMA = HOME / "negfail_nb" / "pocket" / "llama"


def blocks(page, kind):
    """Return the code blocks of a page that are in one language."""
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


def inline(page):
    """Return what stands between backticks in the prose of a page."""
    prose = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", prose)]


# --- code


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with all files that the pages name."""
    folder = tmp_path_factory.mktemp("docs")
    logs = generate_logs(24, 4, 0)
    write_trajectories(folder / "my_logs" / "logs.jsonl", logs)
    tasks, passages = make_tasks(3, 0)
    asked = [{"id": t.id, "question": t.question, "answer": t.answer} for t in tasks]
    for name in ("questions.jsonl", "heldout.jsonl", "eval.jsonl"):
        write_lines(folder / name, asked)
    write_lines(folder / "corpus.jsonl", ({"title": t, "text": text} for t, text in passages))
    write_lines(folder / "hotpotqa.jsonl", make_questions(make_world(60, 0), 3, 0))
    shape = ModelSettings(layers=1, width=32, heads=2, vocabulary=600)
    tokenizer = load_tokenizer(shape, [m["content"] for t in logs for m in t.messages])
    tokenizer.save_pretrained(folder / "my_model")
    load_model(shape, tokenizer).save_pretrained(folder / "my_model")
    weights = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(LLAMA, folder / "models" / "llama-3.1-70b-tokenizer", ignore=weights)
    shutil.copytree(HOME / "figures" / "pocket", folder / "runs" / "pocket" / "figures")
    (folder / "papers").mkdir()
    for source in paper_sources():
        path = folder / "papers" / f"{source.id}.txt"
        path.write_text(f"{source.title}\n\n{source.text}\n", encoding="utf-8")
    return folder


def served():
    """Return a model that says the same to everything."""
    said = "Thought: I know it.\nAction: finish[7]\nAnswer: 7"
    message = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 20, "completion_tokens": 8}
    return RawServer((200, {"id": "x", "choices": [message], "usage": usage}))


@dataclass
class Page:
    """How a page is run, and what must be true then.

    ``before`` is done before, ``instead`` has what is run for some of its words, and ``server``
    makes what answers at the address of the page.
    """

    proves: str
    before: object = lambda folder, patch: None
    instead: dict = field(default_factory=dict)
    server: object = served


def small_70b(folder, patch):
    """Let the profile read three questions of a file, at lengths that they fill."""
    small = {
        "benchmark": {"data": "hotpotqa.jsonl", "questions": 3},
        "contexts": {"lengths": [1024, 2048]},
        "retrieval": {"method": "linked"},
    }
    patch.setattr(project, "get_profile", lambda *given: get_profile(*given).change(**small))


def small_8b(folder, patch):
    """Let the profile tune a very small model on a few generated logs, and ask it two questions."""
    small = {
        "collect": {"logs": (), "generate": 24, "player": "teacher"},
        "quality": {"evaluation": ()},
        "model": {"name": "my_model"},
        "train": {"budget": "steps", "steps": 1, "dtype": "float32"},
        "live": {"max_tokens": 4, "max_calls": 1},
        "evaluate": {"agent_questions": 2, "questions": ()},
    }
    patch.setattr(project, "get_profile", lambda *given: get_profile(*given).change(**small))


def measured(folder, patch):
    """Measure a very small model in place of four layers of a 70B on a GPU."""
    tiny = {"layers": 1, "lengths": (32, 64), "batches": (1, 3), "cell_seconds": 0.0}
    measure_gpu(replace(GpuSettings.small(), **tiny), folder / "gpu.json")


def write_word_problems(folder, patch):
    """Write a small file of word problems in SVAMP's layout where the page's data are."""
    names = ("Ada", "Ben", "Cleo", "Dora", "Emil", "Finn", "Gwen", "Hugo", "Ines", "Jack")
    records = [
        {
            "ID": f"chal-{number}",
            "Body": f"{name} had {number + 7} apples and ate {number + 2} of them",
            "Question": "How many are left?",
            "Equation": f"( {number + 7}.0 - {number + 2}.0 )",
            "Answer": 5.0,
        }
        for number, name in enumerate(names * 3)
    ]
    (folder / "data" / "svamp").mkdir(parents=True)
    (folder / "data" / "svamp" / "SVAMP.json").write_text(json.dumps(records), encoding="utf-8")
    patch.delenv("NEGFAIL_NB_DATA", raising=False)


def write_toml(folder, patch):
    """Write the TOML of a page under the name that its prose has for it."""
    for page, name in (("claims.md", "claims.toml"), ("real_models.md", "my_templates.toml")):
        (block,) = blocks(page, "toml")
        (folder / name).write_text(block, encoding="utf-8")


RUN = {
    "README.md": Page("run.steps == 20 and len(figure.axes) > 0"),
    "figures.md": Page(
        "Path('runs/pocket-own/figures/turns.json').is_file() and 'runs' in figure.caption"
    ),
    "live_collection.md": Page(
        "len(logs) == 6 and not logs.problems and len(shown) == 4 and shown[0].success",
        before=write_word_problems,
        instead={"240": "4", "280": "5"},
    ),
    "long_context_vs_retrieval.md": Page(
        "{'oracle', 'long_context@2048', 'retrieve_3'} <= set(bench.scores.by('arm')['arm'])",
        before=small_70b,
    ),
    "measuring.md": Page(
        "len(summary.table) == 8 and fitted.rows > 0",
        before=measured,
        instead={
            "rates=(2.0,)": "rates=(400.0,)",
            "requests=160, output_tokens=128": "requests=12, output_tokens=16",
        },
        server=lambda: StreamServer(kind="vllm", ttft=0.002, itl=0.0005),
    ),
    "pocket.md": Page("len(tasks) == 100 and len(logs) == 400 and first.title"),
    "scale_logs.md": Page(
        "len(data.examples) == len(report.train) > 0 and len(logs.trajectories.files) > 0"
    ),
    "scale_studies.md": Page(
        "len(studies.cells) == 1 and studies.made[0]['model'] == 'my_model'",
        before=small_8b,
        instead={
            'folder="jobs"': 'folder="jobs", cluster="debug"',
            "paper_studies()[:3], seeds=(0, 1)": "paper_studies(4, 4)[2:3], seeds=(0,)",
        },
    ),
    "claims.md": Page(
        "len(checked.claims) == 1 and Path('report/report.html').is_file()", before=write_toml
    ),
    "real_models.md": Page(
        "len(scores['nat'].table) == 3 and Path('kto.jsonl').is_file()"
        " and 'grades' in nf.load_templates('my_templates.toml')",
        before=write_toml,
    ),
}


@pytest.fixture
def registered():
    """What a page registers is gone behind it."""
    kept = [(known, dict(known)) for known in (registry._IMPORTERS, DRAWN)]
    yield
    for known, before in kept:
        known.clear()
        known.update(before)


@pytest.mark.parametrize("name", [name for name in PAGES if blocks(name, "python")])
def test_the_code_of_a_page_runs_as_written(name, files, tmp_path, monkeypatch, registered):
    page, folder = RUN[name], tmp_path / "project"
    shutil.copytree(files, folder)
    monkeypatch.chdir(folder)
    page.before(folder, monkeypatch)
    names, texts = {}, blocks(name, "python")
    for said, instead in page.instead.items():
        assert any(said in text for text in texts), said
        texts = [text.replace(said, instead) for text in texts]
    with page.server() as server:
        for number, text in enumerate(texts, 1):
            code = compile(text.replace(SERVER, server.url), f"{name}, block {number}", "exec")
            exec(code, names)
    exec("from pathlib import Path", names)
    assert eval(page.proves, names), page.proves


# --- commands

WORDS = ("make", "python", "negfail_nb", "pip", "ray", "vllm", "curl", "apt-get")
STUB = """#!/bin/sh
{ printf '%s\\037' "${0##*/}" "$@"; printf '\\036'; } >> "$WORDS"
"""
LIGHT = {"settings", "formats", "start", "doctor"}  # commands of ours that take seconds


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    """A folder of programs that only write down what they were called with."""
    folder = tmp_path_factory.mktemp("stubs")
    for name in WORDS:
        (folder / name).write_text(STUB, encoding="utf-8")
        (folder / name).chmod(0o755)
    return folder


def commands(page):
    """Return the commands of a page: its blocks, and what reads like one in its prose."""
    begins = re.compile(rf"([A-Z_]+=\S+ )*({'|'.join(WORDS)}) |export ")
    found = [text for text in inline(page) if begins.match(text)]
    changed = [f"negfail_nb run {text}" for text in inline(page) if text.startswith("--set ")]
    return [*blocks(page, "bash"), *found, *changed]


@pytest.mark.parametrize("name", [name for name in PAGES if commands(name)])
def test_the_commands_of_a_page_are_taken(name, stubs, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(files / "my_logs", tmp_path / "data" / "trajectories")
    for made in (".venv/bin/activate", "docs/formats.md"):
        (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / made).touch()
    noted = tmp_path / "words"
    for text in commands(name):
        noted.write_text("", encoding="utf-8")
        environ = {**os.environ, "PATH": str(stubs), "WORDS": str(noted)}
        shell = [shutil.which("bash"), "-e", "-c", text]
        done = subprocess.run(shell, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        called = noted.read_text(encoding="utf-8").split("\x1e")[:-1]
        assert called or text.startswith("export "), text
        for program, *words in (call.split("\x1f")[:-1] for call in called):
            TAKEN[program](words)


def take_make(words):
    makefile = (HOME / "Makefile").read_text(encoding="utf-8")
    for word in words:
        variable, equals, value = word.partition("=")
        if not equals:
            assert re.search(rf"^{re.escape(word)}:|^READY := {word}$", makefile, re.M), word
            continue
        assert re.search(rf"^{variable} \?=", makefile, re.MULTILINE), word
        if variable == "PROFILE":
            get_profile(value)
        if variable == "ONLY" and value != "name":
            scripts = (HOME / "benchmarks").glob("[!_]*.py")
            assert any(value in s.stem or value in s.read_text("utf-8") for s in scripts), word


def take_negfail(words):
    options = cli._parser().parse_args(words)
    if "set" in options:
        get_profile(options.profile or "pocket").change(**cli._changes(options.set))
    if "studies" in options:
        known = {condition.study for condition in conditions.paper_studies()}
        assert set(filter(None, options.studies.split(","))) <= known, words
        assert all(seed.isdigit() for seed in options.seeds.split(","))
    if words[0] in LIGHT:
        assert cli.main(words) == 0


def take_python(words):
    if words[:2] == ["-m", "negfail_nb"]:
        take_negfail(words[2:])
    elif words[0] == "-c":
        used = ast.parse(words[1])
        imports = [node for node in used.body if isinstance(node, ast.ImportFrom | ast.Import)]
        names = {}
        exec(compile(ast.Module(imports, []), "-c", "exec"), names)
        loaded = {node.id for node in ast.walk(used) if isinstance(node, ast.Name)}
        assert loaded <= set(names) | {"print"}, words
    elif words[0] == "-m":
        assert importlib.util.find_spec(words[1]), words
        if words[1] == "negfail_nb.logs":
            assert importlib.import_module("negfail_nb.logs.__main__").main(words[2:]) == 0
        elif words[1] == "negfail_nb.speed.gpu":
            importlib.import_module("negfail_nb.speed.gpu.__main__")._parser().parse_args(words[2:])
    else:
        assert (HOME / words[0]).is_file(), words


def take_pip(words):
    extras = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"negfail_nb\[([\w,]+)\]", " ".join(words))
    assert words[0] == "install"
    assert {e for n in named for e in n.split(",")} <= set(extras["optional-dependencies"]), words


def take_others(words):
    """Programs of others are not ours to check."""


TAKEN = dict.fromkeys(WORDS, take_others) | {
    "make": take_make,
    "negfail_nb": take_negfail,
    "python": take_python,
    "pip": take_pip,
}


# --- names


def test_the_gallery_is_current_and_says_of_every_figure_who_makes_it():
    written = (HOME / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert written == gallery(), "python -m recipes.pictures"
    figures = [*(HOME / "figures").glob("pocket/*.png"), *(HOME / "figures").glob("smollm/*.png")]
    assert len(figures) > 20
    assert all(f"../figures/{p.parent.name}/{p.name})" in written for p in figures)
    assert written.count("Made by [") == len(figures)


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    command = [sys.executable, "-m", "pdoc", "negfail_nb", "--docformat", "numpy"]
    said = subprocess.run([*command, "-o", folder], capture_output=True, text=True, cwd=HOME)
    assert said.returncode == 0, said.stderr
    return folder


def test_a_page_is_made_of_every_docstring_and_its_links_lead_somewhere(api):
    pages = {path: path.read_text(encoding="utf-8") for path in api.rglob("*.html")}
    ids = {path: set(re.findall(r' id="([^"]+)"', text)) for path, text in pages.items()}
    assert set(negfail_nb.__all__) - {"earlier"} <= ids[api / "negfail_nb.html"]  # a module
    lost = []
    for path, text in pages.items():
        for link in re.findall(r'href="([^"]+)"', text):
            file, _, name = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            if not link.startswith(("http", "data:")) and name not in {*ids.get(target, ()), ""}:
                lost.append((path.name, link))
    assert not lost


def of_settings(owner, name):
    """Return whether a stage of a profile, or a class of settings, has a setting."""
    kind = type(STAGES[owner]) if owner in STAGES else getattr(settings, owner, None)
    return kind is None or name in {known.name for known in fields(kind)}


@pytest.mark.parametrize("name", PAGES)
def test_settings_that_a_page_names_exist(name):
    for text in inline(name):
        changed = re.fullmatch(r"(?:changes = )?(\{.*\})", text)
        if changed and text.startswith("changes"):
            get_profile("pocket").change(**ast.literal_eval(changed[1]))
        dotted = re.fullmatch(r"(\w+)\.(\w+)(?: ?=.*)?", text)
        owners = {*STAGES, *(n for n in settings.__all__ if n.endswith("Settings"))}
        if dotted and dotted[1] in owners and dotted[2] not in ("md", "toml", "json", "py"):
            assert of_settings(*dotted.groups()), text


@pytest.mark.parametrize("name", [name for name in PAGES if name not in HISTORY])
def test_names_and_files_that_a_page_names_exist(name):
    parts = {"nf": negfail_nb, "views": views}
    for text in inline(name):
        for part, attribute in re.findall(r"\b(nf|views)\.(\w+)", text):
            assert hasattr(parts[part], attribute), text
        for dotted in re.findall(r"\bnegfail_nb(?:\.\w+)+", text):
            module, _, attribute = dotted.rpartition(".")
            if not importlib.util.find_spec(dotted if module == "negfail_nb" else module):
                raise AssertionError(dotted)
            found = importlib.import_module(module)
            assert hasattr(found, attribute) or importlib.util.find_spec(dotted), dotted
        for path in re.findall(r"(?:[\w.]+/)+[\w.]*\w(?:\.(?:py|toml|md|ipynb))", text):
            places = (HOME, HOME / "negfail_nb", HOME / "docs")
            made = ("my_", "papers/", "runs/", "figures/", "grids/", "models/")
            assert path.startswith(made) or any((p / path).exists() for p in places), path
