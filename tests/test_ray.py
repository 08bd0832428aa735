"""Ray behind the interface of an executor: what dies is done again, and each error says what to
do.
"""

import socket
import sys
import tempfile
import threading

import psutil
import pytest
import ray_runs
from ray_runs import cluster, read, until  # noqa: F401

from negfail_nb import executors
from negfail_nb.executors import ray_executor


@pytest.fixture
def executor(cluster):  # noqa: F811
    return ray_executor(cpus_per_cell=1)


def test_a_worker_that_is_killed_is_replaced(executor, tmp_path):
    assert executor.places == 1 and not executor.shared
    assert executor.submit(ray_runs.die_once, tmp_path).result(timeout=120) == "again"
    (tmp_path / "killed").unlink()
    once = ray_executor(retries=0)
    with pytest.raises(RuntimeError, match="a worker of Ray died 1 times in one cell.*goes on"):
        once.submit(ray_runs.die_once, tmp_path).result(timeout=120)
    assert executor.submit(ray_runs.threads).result(timeout=120) == "1"


def test_an_error_of_a_cell_is_its_own(executor):
    with pytest.raises(ValueError, match="^train.steps is -1$"):
        executor.submit(ray_runs.fail).result(timeout=120)


def test_what_is_cancelled_stops_also_while_it_runs(executor, tmp_path):
    future = executor.submit(ray_runs.wait, tmp_path)
    behind = executor.submit(pow, 2, 3)
    worker = psutil.Process(int(until(lambda: read(tmp_path / "runs"))))
    assert future.cancel() and future.cancelled()
    assert behind.result(timeout=120) == 8
    assert until(lambda: not worker.is_running() or worker.status() == "zombie")


def test_a_worker_with_another_source_refuses(executor, monkeypatch):
    monkeypatch.setattr(executors, "package_hash", lambda: "0" * 64)
    with pytest.raises(RuntimeError, match="another negfail_nb.*wanted are.*000000000000.*Install"):
        executor.submit(pow, 2, 3).result(timeout=120)


def test_a_full_store_says_what_to_do_and_loses_nothing(executor, tmp_path):
    full = "object store is full.*--object-store-memory.*shared=True.*What is done stays"
    with pytest.raises(RuntimeError, match=full):
        executor.submit(ray_runs.much, 300).result(timeout=120)
    (tmp_path / "logs").write_bytes(bytes(300 * 2**20))
    with pytest.raises(RuntimeError, match=full):
        executor.send({"inputs/logs": tmp_path / "logs"})
    assert executor.submit(pow, 2, 3).result(timeout=120) == 8


def test_a_parcel_is_unpacked_once_a_node_and_cleared(executor, tmp_path):
    (tmp_path / "a.txt").write_text("one")
    scratch = tmp_path / "nodes"
    here = ray_executor(scratch=scratch)
    parcel = here.send({"inputs/a.txt": tmp_path / "a.txt"})
    folder = here.submit(parcel.open).result(timeout=120)
    assert (folder / "inputs" / "a.txt").read_text() == "one" and scratch in folder.parents
    (folder / "made").touch()
    assert here.submit(parcel.open).result(timeout=120) == folder and (folder / "made").exists()
    here.clear(parcel)
    assert not folder.exists()


def test_what_no_node_has_is_refused_at_once(cluster):  # noqa: F811
    with pytest.raises(ValueError, match="1 cores and 1 GPUs, and no node.*1 cores and 0 GPUs.*"):
        ray_executor(gpus_per_cell=1)
    with pytest.raises(ValueError, match="99 cores"):
        ray_executor(cpus_per_cell=99)
    with pytest.raises(ValueError, match="whole cores"):
        ray_executor(cpus_per_cell=0.5)


def test_ray_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install negfail_nb\[ray\].*--executor processes"):
        ray_executor()


@pytest.mark.parametrize("kind", ["nothing", "silence", "http"])
def test_an_address_without_ray_is_named_within_seconds(kind, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(executors, "PATIENCE", 0.5)
    server = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{server.getsockname()[1]}"
    if kind == "nothing":
        server.close()
    if kind == "http":
        threading.Thread(target=answer, args=(server,), daemon=True).start()
    with pytest.raises(ConnectionError, match=f"{address}.*ray start --head"):
        ray_executor(address)
    server.close()


def test_an_address_that_is_none_is_named(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConnectionError, match="not of the form host:6379"):
        ray_executor("cluster")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda **_: (_ for _ in ()).throw(ConnectionError("none")))
    with pytest.raises(ConnectionError, match="'auto': none. Start a cluster"):
        ray_executor("auto")


def test_the_folder_of_a_cluster_has_a_short_name(tmp_path, monkeypatch):
    long = tmp_path / ("long" * 10)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = executors._short_folder()
    assert len(str(folder)) <= executors.LONGEST and folder.is_dir()
    folder.rmdir()


def answer(server):
    connection, _ = server.accept()
    connection.recv(100)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    connection.close()
