"""What docs/real_models.md and docs/scale_servers.md say about a real model, typed as it stands
there: profiles ``llama-8b`` and ``llama-70b``, all eight notebooks, real servers (vLLM).

The real names stand for a small random Llama in a hub's cache (`small_llama`). Sizes are lowered by
further ``--set``, and what vLLM is told about GPUs is left out. ``make test-servers``, where
``NEGFAIL_NB_VLLM`` names an environment with vLLM; about ten minutes on two cores.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from real_servers import VLLM
from small_llama import COMMIT, lay_hub

from negfail_nb.pocket import generate_logs, make_questions, make_tasks, make_world
from negfail_nb.start import start_project
from negfail_nb.trajectory import read_trajectories, write_lines, write_trajectories

HOME = Path(__file__).parents[1]
REAL = ("real_models.md", "scale_servers.md")
SMALL = {
    "train.batch_tokens": 2048,
    "train.epochs": 1,
    "train.successes": 12,
    "train.failures": 24,
    "evaluate.agent_questions": 2,
    "evaluate.resamples": 100,
    "benchmark.questions": 6,
    "contexts.lengths": [1024, 2048],
    "reading.answer_tokens": 16,
    "live.max_tokens": 24,
    "live.max_calls": 3,
}
PYTHON = """#!{python}
import os, sys
words = sys.argv[1:]
if "negfail_nb" in words:
    words += [word for text in {small!r} for word in ("--set", text)]
    words += ["--seeds", "0"] if "experiment" in words else []
os.execv({python!r}, [{python!r}, *words])
"""
# A server that answers when the command is over, as somebody types the next one when it is ready.
SERVE = """#!{python}
import os, subprocess, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from real_servers import wait
words = sys.argv[1:]
if "--tensor-parallel-size" in words:
    at = words.index("--tensor-parallel-size")
    del words[at:at + 2]
if "--port" not in words:
    words += ["--port", {port!r}]
port = words[words.index("--port") + 1]
log = Path({servers!r}) / f"{{port}}.log"
with log.open("w") as stream:
    command = [{vllm!r}, *words, "--host", "127.0.0.1", "--enforce-eager"]
    given = {{"stdout": stream, "stderr": subprocess.STDOUT, "start_new_session": True}}
    environ = os.environ | {{"VLLM_CPU_KVCACHE_SPACE": "1"}}
    process = subprocess.Popen(command, env=environ, **given)
(Path({servers!r}) / f"{{port}}.pid").write_text(str(process.pid))
wait(f"http://127.0.0.1:{{port}}/health", process, log)
"""

pytestmark = pytest.mark.skipif(
    os.environ.get("NEGFAIL_NB_SERVERS") != "1" or not VLLM,
    reason="starts vLLM; set NEGFAIL_NB_SERVERS=1, and NEGFAIL_NB_VLLM to its environment",
)


def blocks(page, kind):
    text = (HOME / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


TYPED = [text for page in REAL for text in blocks(page, "bash") if "llama" in text.lower()]


def free_ports(count):
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(one.getsockname()[1]) for one in taken]
    for one in taken:
        one.close()
    return ports


class Walk:
    """A project folder, programs by the names that the pages use, and how they are run there."""

    def __init__(self, folder):
        self.folder = folder / "project"
        self.servers = folder / "servers"
        self.programs = folder / "programs"
        self.ports = free_ports(2)
        for made in (self.servers, self.programs):
            made.mkdir()
        self._write_data()
        self._write_programs()
        self.environ = os.environ | {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(HOME),
            "HF_HOME": str(folder / "hub"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.environ.pop("NEGFAIL_NB_DATA", None)

    def _write_data(self):
        start_project(self.folder)
        logs = generate_logs(40, 4, 0)
        write_trajectories(self.folder / "my_logs" / "logs.jsonl", logs)
        lay_hub(self.folder.parent / "hub", [m["content"] for t in logs for m in t.messages])
        tasks, passages = make_tasks(4, 1)
        asked = [{"id": t.id, "question": t.question, "answer": t.answer} for t in tasks]
        for name in ("questions.jsonl", "heldout.jsonl"):
            write_lines(self.folder / name, asked)
        found = ({"title": title, "text": text} for title, text in passages)
        write_lines(self.folder / "corpus.jsonl", found)
        hotpot = self.folder / "data" / "hotpotqa" / "hotpot_dev_distractor_v1.json"
        hotpot.parent.mkdir(parents=True)
        hotpot.write_text(json.dumps(list(make_questions(make_world(200, 0), 60, 0))))

    def _write_programs(self):
        small = [f"{name}={json.dumps(value)}" for name, value in SMALL.items()]
        given = {
            "python": sys.executable,
            "small": small,
            "tests": str(HOME / "tests"),
            "port": self.ports[0],
            "servers": str(self.servers),
            "vllm": f"{VLLM}/bin/vllm",
        }
        for name, text in (("python", PYTHON), ("vllm", SERVE)):
            (self.programs / name).write_text(text.format(**given))
            (self.programs / name).chmod(0o755)

    def type(self, text, shell=("bash", "-e", "-c")):
        """Run a block of a page, and stop the servers that it started."""
        text = re.sub(r"\b800([01])\b", lambda found: self.ports[int(found[1])], text)
        try:
            given = {"cwd": self.folder, "env": self.environ, "capture_output": True, "text": True}
            done = subprocess.run([*shell, text], **given)
        finally:
            if shell[0] == "bash" and "negfail_nb" in text:
                self.stop()
        said = f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        assert done.returncode == 0, said
        return done.stdout + done.stderr

    def stop(self):
        """Stop all servers that were started."""
        for path in self.servers.glob("*.pid"):
            os.killpg(int(path.read_text()), signal.SIGTERM)
            path.unlink()

    def asked(self, port):
        """Return how many replies the server of a page's port has given."""
        log = self.servers / f"{self.ports[port - 8000]}.log"
        return log.read_text().count('"POST /v1/chat/completions HTTP/1.1" 200')

    def newest(self, pattern):
        return sorted(self.folder.glob(pattern))[-1]


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    made = Walk(tmp_path_factory.mktemp("walk"))
    yield made
    made.stop()


def adapters_are_those_of_the_profile(walk, said):
    for arm in ("vanilla", "nut", "nat", "nat-k"):
        path = walk.newest(f"runs/llama-8b/train-{arm}/*/adapter/adapter_config.json")
        config = json.loads(path.read_text())
        kinds = {name.rpartition(".")[2] for name in config["target_modules"]}
        assert (config["r"], config["lora_alpha"], len(kinds)) == (64, 128, 7)
        run = path.parents[1]
        assert COMMIT in (run / "manifest.json").read_text()
    assert walk.newest("runs/llama-8b-own/notebooks/05_*.html")


def one_server_was_asked(walk, said):
    all_notebooks_were_executed(walk, "llama-8b")
    assert walk.asked(8000) >= 36


def both_servers_were_asked(walk, said):
    all_notebooks_were_executed(walk, "llama-70b")
    asked = walk.asked(8000), walk.asked(8001)
    # Half of the 16 questions that are asked at once, at least; the faster server has more later.
    assert sum(asked) >= 36 and min(asked) >= 8


def all_notebooks_were_executed(walk, profile):
    assert len(list(walk.folder.glob(f"runs/{profile}-own/notebooks/0*.html"))) == 8
    assert len(list(walk.folder.glob(f"runs/{profile}-own/figures/*.png"))) >= 20
    lines = walk.newest(f"runs/{profile}/benchmark/*/answers.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    assert len(answers) == 36  # 6 questions, 4 arms and 2 lengths
    assert not {"crashed", "too_long"} & {answer["termination"] for answer in answers}
    for answer in answers:  # token for token what the contexts were counted to, template and all
        if answer["arm"] == "long_context":
            sent = answer["calls"][0]["prompt_tokens"]
            assert sent + SMALL["reading.answer_tokens"] == round(answer["fill"] * answer["target"])


def episodes_are_played_and_none_crashed(walk, said):
    episodes = list(read_trajectories(walk.newest("runs/llama-8b/collect/*/episodes.jsonl")))
    assert len(episodes) == 4 * 3 and "crashed" not in {t.termination for t in episodes}
    assert {t.source.model for t in episodes} == {"meta-llama/Llama-3.1-70B-Instruct"}


def studies_have_their_tables(walk, said):
    cells = (walk.folder / "results-8b" / "cells.csv").read_text()
    assert all(study in cells for study in ("arms", "failures", "successes", "wordings"))


def the_served_adapter_answers(walk, said):
    (code,) = (text for text in blocks("real_models.md", "python") if 'model="nat"' in text)
    shutil.rmtree(walk.folder / "results-8b" / "nat.jsonl", ignore_errors=True)
    shown = "\nprint(scores['nat'].table.shape, scores['nat'].table['termination'].tolist())"
    try:
        said = walk.type(f"import negfail_nb as nf\n{code}{shown}", (sys.executable, "-c"))
    finally:
        walk.stop()
    assert re.search(r"\(4, \d+\)", said) and "crashed" not in said
    assert walk.asked(8000) >= 4


CHECKS = {
    "python -m negfail_nb train": adapters_are_those_of_the_profile,
    "run --profile llama-8b": one_server_was_asked,
    "negfail_nb collect": episodes_are_played_and_none_crashed,
    "negfail_nb experiment": studies_have_their_tables,
    "--lora-modules": the_served_adapter_answers,
    "run --profile llama-70b": both_servers_were_asked,
}


@pytest.mark.parametrize("number", range(len(TYPED)))
def test_what_the_pages_say_of_a_real_model_is_typed(walk, number):
    text = TYPED[number]
    checks = [check for words, check in CHECKS.items() if words in text]
    assert len(checks) == 1, f"no check, or several, for\n{text}"
    checks[0](walk, walk.type(text))
