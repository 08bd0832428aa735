"""Several processes train together: what they need is written into the run folder, torch's launcher
starts them, and what they say comes back here.

They are children in a process group of their own: what happens to them leaves this process, such
as a notebook's kernel, alone. They in turn end when it does, as their standard input ends then.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from negfail_nb.content import write_json
from negfail_nb.training.layout import devices

log = logging.getLogger("negfail_nb")

FOLDER = ".ranks"  # hidden, so that a finished run is whole with and without it
TASK = "task.json"
RESULTS = "results.json"
ERROR = "error.json"
TOKENIZER = "tokenizer"
ROWS = "rows"
MODULE = "negfail_nb.training.rank"
TOLD = "\x1e"  # begins a line that a rank tells its caller, as JSON
PATIENCE = 20  # seconds that ranks may take to stop
LAST_LINES = 12


def run_ranks(
    folder: Path, kind: str, processes: int, task: Mapping[str, Any], rows: Any, tokenizer: Any
) -> dict[str, Any]:
    """Train in several processes; return what the first of them wrote for the manifest.

    Parameters
    ----------
    folder
        Of the run.
    kind
        ``fit`` or ``preference``: who trains, see `negfail_nb.training.rank`.
    processes
        How many.
    task
        All else that they need, as JSON.
    rows, tokenizer
        A `datasets.Dataset` and the tokenizer of the model.

    Raises
    ------
    RuntimeError
        If one of them fails; the text has its own error.
    """
    place = folder / FOLDER
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    rows.save_to_disk(place / ROWS)
    tokenizer.save_pretrained(place / TOKENIZER)
    write_json(place / TASK, {"kind": kind, **task})
    _run(launch_command(processes, place, "--with-caller"), place, processes)
    results = json.loads((place / RESULTS).read_text(encoding="utf-8"))
    shutil.rmtree(place)
    return results


def launch_command(processes: int, place: str | Path, *options: str) -> list[str]:
    """Return how the ranks are started: each reads what is in ``place``.

    The launcher takes a free port by itself.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    count = f"--nproc-per-node={processes}"
    return [*launcher, "--local-addr=127.0.0.1", count, "-m", MODULE, str(place), *options]


def tell(what: Mapping[str, Any]) -> None:
    """Tell who started the ranks something, in a line of its own."""
    sys.stdout.write(TOLD + json.dumps(what) + "\n")
    sys.stdout.flush()


def _run(command: list[str], place: Path, processes: int) -> None:
    with _started(command, place, processes) as child:
        last = _follow(child)
        status = child.wait()
    if status:
        raise RuntimeError(_failed(place, processes, last))


@contextmanager
def _started(command: list[str], place: Path, processes: int) -> Iterator[subprocess.Popen[str]]:
    threads = str(max(1, devices() // processes))
    error = {"TORCHELASTIC_ERROR_FILE": str((place / ERROR).absolute())}
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={"OMP_NUM_THREADS": threads} | os.environ | error,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        _stop(child)


def _stop(child: subprocess.Popen[str]) -> None:
    """End the launcher, and with it the ranks, which read its standard input."""
    with suppress(OSError):
        child.stdin.close()
    if child.poll() is None:
        with suppress(OSError):
            child.send_signal(signal.SIGTERM)
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    child.stdout.close()


def _follow(child: subprocess.Popen[str]) -> list[str]:
    """Show progress and pass on the log; return the last lines that were neither."""
    last: deque[str] = deque(maxlen=200)
    bar = None
    try:
        for line in child.stdout:
            told = _told(line)
            if told is None:
                last.append(line.rstrip())
                log.debug("%s", line.rstrip())
            elif "text" in told:
                log.log(told["level"], "%s", told["text"])
            else:
                bar = bar or tqdm(total=told["of"], initial=told["from"], desc="train", unit="step")
                bar.update(told["step"] - bar.n)
                if told.get("loss") is not None:
                    bar.set_postfix(loss=f"{told['loss']:.3f}", refresh=False)
    finally:
        if bar is not None:
            bar.close()
    return list(last)


def _told(line: str) -> dict[str, Any] | None:
    _, mark, text = line.partition(TOLD)
    if not mark:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _failed(place: Path, processes: int, last: list[str]) -> str:
    """Say which rank failed, by its own words."""
    text = "\n".join(last)
    first = text[text.rfind("Root Cause (first observed failure)") :]
    killed = re.search(r"[Ss]ignal \d+ \((SIG\w+)\) received by PID \d+", first)
    rank = re.search(r"rank\s*:\s*(\d+) \(local_rank", first)
    who = f"rank {rank[1]}" if rank else "the launcher"
    try:
        told = json.loads((place / ERROR).read_text(encoding="utf-8"))["message"]
        why = told["message"] if isinstance(told, dict) else str(told)
    except (OSError, ValueError, KeyError, TypeError):
        why = f"it was ended by {killed[1]}" if killed else "\n".join(last[-LAST_LINES:])
        if killed and killed[1] == "SIGKILL":
            why += ", as the system does where memory runs out"
    return (
        f"training on {processes} processes stopped: {who}: {why}. Whole checkpoints stay; the "
        "same call goes on from the last of them"
    )
