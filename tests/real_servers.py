"""Real servers for tests: how each kind is started on loopback, waited for, and stopped."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from negfail_nb.settings import EndpointSettings

VLLM = os.environ.get("NEGFAIL_NB_VLLM", "")
START = 300  # seconds that a server may take to start


def commands(kind: str, folder: Path, port: int, more: list[str]) -> tuple[list[str], str]:
    """Return the command of a server, and the model's name there."""
    at = ["--host", "127.0.0.1", "--port", str(port)]
    if kind == "vllm":
        flags = ["--served-model-name", "small", "--dtype", "float32", "--enforce-eager"]
        return [f"{VLLM}/bin/vllm", "serve", str(folder), *at, *flags, *more], "small"
    flags = ["--continuous-batching", "--device", "cpu", "--attn-implementation", "sdpa"]
    program = [str(Path(sys.executable).parent / "transformers"), "serve", str(folder)]
    return [*program, *at, *flags, "--cb-max-memory-percent", "0.1", *more], str(folder)


@contextmanager
def serving(kind: str, folder: Path, cache: Path, more: list[str]):
    """Start a server, and stop it afterwards."""
    if kind == "vllm" and not VLLM:
        pytest.skip("NEGFAIL_NB_VLLM names no environment with vLLM")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (cache / "hub").mkdir()  # without it, transformers' server answers 500
    offline = {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    command, name = commands(kind, folder, port, more)
    log = cache / "log"
    with log.open("w") as stream:
        # A group of its own: a server that is killed leaves no workers behind.
        given = {
            "env": os.environ | offline,
            "stdout": stream,
            "stderr": subprocess.STDOUT,
            "start_new_session": True,
        }
        process = subprocess.Popen(command, **given)
    try:
        wait(f"http://127.0.0.1:{port}/health", process, log)
        yield EndpointSettings(
            base_url=f"http://127.0.0.1:{port}/v1", model=name, timeout=120.0, retries=1
        )
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def wait(url: str, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + START
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")
