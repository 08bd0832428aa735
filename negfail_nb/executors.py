"""Where cells of a study run, besides processes of this machine: a Ray cluster.

Anything with the interface of `concurrent.futures.Executor` will do. This one is a thin adapter on
`ray.remote`: retries, resources and transport are Ray's. Ray is imported when it is asked for
(``pip install negfail_nb[ray]``).
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from negfail_nb.environment import package_version
from negfail_nb.locks import alone
from negfail_nb.parcels import pack, parcel_name, unpack
from negfail_nb.source import package_hash

PATIENCE = 5.0  # seconds for an address to answer; Ray itself would try for minutes
LONGEST = 36  # characters of Ray's folder: the names of its sockets may have 107 bytes in all
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # empty settings
ON = "what is done stays, and the same call goes on"


def ray_executor(
    address: str | None = None,
    gpus_per_cell: float | None = None,
    cpus_per_cell: int = 1,
    shared: bool = False,
    retries: int = 3,
    scratch: str | Path | None = None,
) -> RayExecutor:
    """Return an executor for `negfail_nb.studies.sweep` that runs each cell as a task of Ray.

    Parameters
    ----------
    address
        ``"auto"``: the cluster that this machine is a node of; ``"host:6379"``: that one; ``None``:
        a new one of this machine alone. A process that is connected to one already stays there.
    gpus_per_cell
        ``None``: one where the cluster has any, else none.
    cpus_per_cell
        Whole cores of a cell; its threads are as many. Results on a CPU equal those of a process
        with as many threads.
    shared
        Whether the project folder lies on a disk that all nodes see under the same path. Cells then
        work in it, and a node that takes over goes on from the last checkpoint. Else inputs are
        sent once, a cell works in a folder of its node, and what it made comes back when it is
        done.
    retries
        How often a cell begins again, or goes on, whose worker or node died.
    scratch
        Where nodes keep cells under way if nothing is shared; ``None``: the user's cache folder.

    Raises
    ------
    ImportError
        If Ray is not installed.
    ConnectionError
        If nothing answers at the address, or no Ray does.
    ValueError
        If no node of the cluster has the cores and GPUs that a cell asks for.
    """
    if int(cpus_per_cell) != cpus_per_cell or cpus_per_cell < 1:
        raise ValueError(f"cpus_per_cell is {cpus_per_cell}; a cell needs whole cores, at least 1")
    ray = _import_ray()
    own = None if ray.is_initialized() else _connect(ray, address)
    try:
        gpus = _any_gpu(ray) if gpus_per_cell is None else gpus_per_cell
        places = _count_places(ray, cpus_per_cell, gpus)
    except BaseException:
        _disconnect(ray, own)
        raise
    resources = {"num_cpus": int(cpus_per_cell), "num_gpus": gpus, "max_retries": retries}
    return RayExecutor(ray, resources, places, shared, scratch, own)


class RayExecutor(Executor):
    """Tasks of Ray behind the interface of `concurrent.futures.Executor`.

    Attributes
    ----------
    shared
        Whether workers see the files of this process.
    places
        How many tasks the cluster runs at once.
    """

    def __init__(
        self,
        ray: Any,
        resources: Mapping[str, Any],
        places: int,
        shared: bool,
        scratch: str | Path | None,
        own: Path | None,
    ) -> None:
        self.shared = shared
        self.places = places
        self._ray = ray
        self._own = own
        self._scratch = str(scratch or "")
        self._retries = resources["max_retries"]
        self._task = ray.remote(**resources)(_guarded(resources["num_cpus"]))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run a function of an importable module on some node.

        A worker that has another source of this package refuses. Errors of Ray are said with what
        to do; those of the function are its own.
        """
        with _saying(self._retries):
            work = self._ray.cloudpickle.dumps((fn, args, kwargs))
            return RayFuture(self._ray, self._task.remote(_here(), work), self._retries)

    def send(self, files: Mapping[str, Path]) -> Parcel:
        """Put files where all nodes reach them, each under the name that it is given."""
        with _saying(self._retries):
            return Parcel(self._ray.put(pack(files)), parcel_name(files), self._scratch)

    def clear(self, parcel: Parcel) -> None:
        """Remove from every node what was unpacked of a parcel, and what was made beside it."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        task = self._ray.remote(num_cpus=0, max_retries=0)(_guarded(1))
        for node in _nodes(self._ray):
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            work = self._ray.cloudpickle.dumps((parcel.remove, (), {}))
            made = task.options(scheduling_strategy=where).remote(_here(), work)
            with suppress(self._ray.exceptions.RayError):  # a node that has gone keeps nothing
                self._ray.get(made, timeout=60)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster; stop it if it was started for this executor."""
        _disconnect(self._ray, self._own)
        self._own = None


class RayFuture(Future):
    """The result of a task of Ray. Cancelled, it stops also while it runs."""

    def __init__(self, ray: Any, ref: Any, retries: int) -> None:
        super().__init__()
        self._ray = ray
        self._ref = ref
        self._retries = retries
        ref.future().add_done_callback(self._take)

    def cancel(self) -> bool:
        """Kill the worker of the task; its checkpoints stay."""
        if super().cancel():
            with suppress(Exception):  # the cluster may be gone
                self._ray.cancel(self._ref, force=True)
        return self.cancelled()

    def _take(self, inner: Future) -> None:
        with suppress(InvalidStateError):  # it was cancelled meanwhile
            if error := inner.exception():
                self.set_exception(_explained(error, self._retries))
            else:
                self.set_result(inner.result())


@dataclass(frozen=True, slots=True)
class Parcel:
    """Files in Ray's object store. On each node they are unpacked once."""

    ref: Any
    name: str
    scratch: str

    def open(self) -> Path:
        """Return the folder of this node that holds the files; unpack them if they are not there.

        What is made in it stays until `RayExecutor.clear`.
        """
        import ray

        folder = self._folder()
        with alone(folder, "inputs of a study"):
            if not folder.is_dir():
                unpack(ray.get(self.ref), folder)
        return folder

    def remove(self) -> None:
        """Remove the folder of this node."""
        shutil.rmtree(self._folder(), ignore_errors=True)

    def _folder(self) -> Path:
        import ray
        from platformdirs import user_cache_path

        base = Path(self.scratch) if self.scratch else user_cache_path("negfail_nb") / "cells"
        return base / ray.get_runtime_context().get_node_id()[:12] / self.name


def _guarded(threads: int) -> Callable[..., Any]:
    """Return what a worker does: check that its package is ours, then the work.

    As a function within a function it is sent whole, so that a worker with another version of the
    package can still say so. The work is closed until then. It is no object of Ray: while a task
    waits for one, Ray gives its core to the next.
    """

    def work(wanted: tuple[str, str], closed: bytes) -> Any:
        import sys

        import ray

        try:
            from negfail_nb.environment import package_version
            from negfail_nb.source import package_hash

            here = package_version("negfail_nb"), package_hash()
        except ImportError as error:
            here = "none", str(error)
        if here[1] != wanted[1]:
            node = ray.util.get_node_ip_address()
            raise RuntimeError(
                f"node {node} has another negfail_nb than this machine: version {here[0]}, source "
                f"{here[1][:12]}; wanted are {wanted[0]} and {wanted[1][:12]}. Install the same "
                "version there and start its Ray anew; what is done stays"
            )
        if "torch" in sys.modules:  # a worker that has worked before; a new one asks the variable
            sys.modules["torch"].set_num_threads(threads)
        # As Ray itself does with each task: these bytes come from who started the study.
        function, args, kwargs = ray.cloudpickle.loads(closed)
        return function(*args, **kwargs)

    return work


def _here() -> tuple[str, str]:
    return package_version("negfail_nb"), package_hash()


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ImportError(
            f"Ray is not installed ({error}): pip install negfail_nb[ray]; without it, cells run "
            "in processes of this machine (workers, --executor processes)"
        ) from None
    return ray


def _connect(ray: Any, address: str | None) -> Path | None:
    """Connect; return the folder that was made for a cluster of this machine alone."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        folder = _short_folder()
        ray.init(num_cpus=os.cpu_count(), include_dashboard=False, _temp_dir=str(folder), **quiet)
        return folder
    where = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if where not in ("auto", "local"):
        _check_answer(where)
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        raise ConnectionError(
            f"address {address!r}: {error}. Start a cluster with `ray start --head`, or give the "
            "address of one, host:6379"
        ) from None
    return None


def _disconnect(ray: Any, own: Path | None) -> None:
    if own is not None:
        ray.shutdown()
        shutil.rmtree(own, ignore_errors=True)


def _short_folder() -> Path:
    """Return a new folder for Ray's files with a short name."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    if len(str(folder)) <= LONGEST or not Path("/tmp").is_dir():
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))


def _check_answer(address: str) -> None:
    """Raise `ConnectionError` unless something at the address speaks HTTP/2, as Ray does."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    advice = "check the address and the firewall, or start Ray there: ray start --head --port=6379"
    if not (host and port.isdigit()):
        raise ConnectionError(f"address {address!r} is not of the form host:6379; {advice}")
    try:
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "1":
                return
            connection.sendall(HELLO)
            answer = connection.recv(9)
    except OSError as error:
        raise ConnectionError(f"no Ray answers at {address} ({error}); {advice}") from None
    if answer[3:4] != b"\x04":  # a server of HTTP/2 says its settings first
        raise ConnectionError(f"what answers at {address} is no Ray; {advice}")


def _nodes(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _any_gpu(ray: Any) -> int:
    return int(any(node["Resources"].get("GPU", 0) >= 1 for node in _nodes(ray)))


def _count_places(ray: Any, cpus: int, gpus: float) -> int:
    """Return how many cells run at once. Ray would wait for ever for what no node has."""
    found = [(n["Resources"].get("CPU", 0), n["Resources"].get("GPU", 0)) for n in _nodes(ray)]
    places = sum(int(min(c // cpus, g // gpus if gpus else c)) for c, g in found)
    if not places:
        shown = ", ".join(f"{c:g} cores and {g:g} GPUs" for c, g in found)
        raise ValueError(
            f"a cell asks for {cpus} cores and {gpus:g} GPUs, and no node has as many; the nodes "
            f"have {shown}. Set gpus_per_cell=0 (--gpus 0) for cells on CPUs, ask for fewer cores, "
            "or add nodes first"
        )
    return places


@contextmanager
def _saying(retries: int) -> Iterator[None]:
    """Say errors of Ray on this side with what to do."""
    try:
        yield
    except Exception as error:
        said = _explained(error, retries)
        raise said from (None if said is error else error)


def _explained(error: BaseException, retries: int) -> BaseException:
    """Return the error of a task itself; of Ray, one that says what to do."""
    from ray import exceptions as known

    cause = getattr(error, "cause", None)
    if isinstance(error, known.RayTaskError) and isinstance(cause, BaseException):
        return _explained(cause, retries)
    if isinstance(error, known.ObjectStoreFullError | known.OutOfDiskError):
        return RuntimeError(
            "Ray's object store is full. Give nodes more (ray start --object-store-memory=BYTES, "
            "or space on the disk it spills to), or put the project folder on a disk that all "
            f"nodes see and set shared=True (--shared): then nothing travels. {ON.capitalize()}. "
            f"Ray said: {str(error).splitlines()[0]}"
        )
    died = known.WorkerCrashedError | known.NodeDiedError | known.OutOfMemoryError
    if isinstance(error, died | known.ObjectLostError | known.LocalRayletDiedError):
        return RuntimeError(
            f"a worker of Ray died {retries + 1} times in one cell, or its node went. Most often "
            f"memory ran out: ask for more cores or a GPU each, or take smaller batches; {ON}. "
            f"Ray said: {str(error).splitlines()[0]}"
        )
    return RuntimeError(f"Ray: {error}; {ON}") if isinstance(error, known.RayError) else error
