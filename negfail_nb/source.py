"""The source of a result: a hash over the modules that compute it, found by following their
imports.

A module counts with all that it imports of the package, also inside functions. Its text counts as
it stands, comments and all: telling apart what a change means would cost more time than it saves.
Left out are `negfail_nb.views`, which only draws; settings, whose values a plan holds already; and
the modules that keep run folders. Tables and templates of the package count beside their modules.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
NAME = "negfail_nb"
LEFT_OUT = ("views", "settings", "runs", "content", "source", "environment", "locks")
DATA = (".toml", ".jinja")  # of the package, read beside the modules

# Parsing all modules takes a second, and searching them a hundredth of it.
_CHECKED_ONLY = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t]+.*\n|\n)*", re.MULTILINE)
_IMPORT = re.compile(
    rf"^[ \t]*(?:from[ \t]+({NAME}[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]*)"
    rf"|import[ \t]+({NAME}[\w.]*))",
    re.MULTILINE,
)
_IMPORTED = re.compile(r"(\w+)(?:[ \t]+as[ \t]+(\w+))?")


def source_hash(module: str) -> str:
    """Return the SHA-256 over a module of the package, such as ``"agents.live"``, and all that it
    imports of the package.
    """
    return _hash_of(module, PACKAGE)


def package_hash() -> str:
    """Return the SHA-256 over the whole package's source, tables and templates."""
    return _hash_of("", PACKAGE)


@cache
def _hash_of(entry: str, package: Path) -> str:
    digest = hashlib.sha256()
    for part in _parts(entry, package):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _parts(entry: str, package: Path) -> Iterator[bytes]:
    """Yield what is hashed, in an order that depends on names only."""
    if entry:
        files = _files({entry}, package)
    else:
        files = {path for path in package.rglob("*") if path.suffix in (".py", *DATA)}
    for path in sorted(files):
        yield path.relative_to(package).as_posix().encode()
        yield path.read_bytes()


def _files(modules: set[str], package: Path) -> set[Path]:
    """Return the files of modules, of all that they import, and the data beside them."""
    todo = list(modules)
    found = set()
    while todo:
        path = _file(todo.pop(), package)
        if path is None or path in found:
            continue
        found.add(path)
        todo += [_origin(module, name, package) for _, module, name in _written_in(path)]
    folders = {path.parent for path in found} - {package}
    return found | {path for folder in folders for path in folder.rglob("*") if path.suffix in DATA}


def _imports(text: str, package: Path) -> Iterator[tuple[str, str]]:
    """Yield each name that a text imports from the package, and the module it comes from."""
    for bound, module, name in _written(text):
        yield bound, _origin(module, name, package)


def _written(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield each import of a text as it is written: the name there, the module, the name in it."""
    for origin, names, plain in _IMPORT.findall(_CHECKED_ONLY.sub("", text)):
        if plain:
            yield "", plain.removeprefix(NAME).lstrip("."), ""
        for name, alias in _IMPORTED.findall(names):
            yield alias or name, origin.removeprefix(NAME).lstrip("."), name


def _origin(module: str, name: str, package: Path) -> str:
    """Return the module that a name comes from, through packages that only pass it on."""
    seen = set()
    while name and (module, name) not in seen:
        seen.add((module, name))
        inner = f"{module}.{name}".lstrip(".")
        if _file(inner, package):
            return inner
        path = _file(module, package)
        if path is None or path.name != "__init__.py":
            return module
        passed = {bound: (origin, what) for bound, origin, what in _written_in(path)}
        module, name = passed.get(name, (module, name))
    return module


@cache
def _written_in(path: Path) -> tuple[tuple[str, str, str], ...]:
    return tuple(_written(path.read_text(encoding="utf-8")))


@cache
def _file(module: str, package: Path) -> Path | None:
    """Return the file of a module; ``None`` where it is none of the package, or does not count."""
    if not module or module.partition(".")[0] in LEFT_OUT:
        return None
    path = package.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)
