"""The source of a result: a hash over the modules that compute it, found by following their
imports.

A module counts with all that it imports of the package, also inside functions. Its text counts as
it stands, comments and all: telling apart what a change means would cost more time than it saves.
Left out are `negfail_nb.views`, which only draws; settings, whose values a plan holds already; and
the modules that keep run folders. Tables and templates of the package count beside their modules.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
NAME = "negfail_nb"
LEFT_OUT = ("views", "settings", "profiles", "runs", "source", "environment", "locks")
LEFT_OUT += ("plans", "stages", "walk")  # of which a stage's own functions count
DATA = (".toml", ".jinja")  # of the package, read beside the modules

# Parsing all modules takes a second, and searching them a hundredth of it.
_CHECKED_ONLY = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t]+.*\n|\n)*", re.MULTILINE)
_IMPORT = re.compile(
    rf"^[ \t]*(?:from[ \t]+({NAME}[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]*)"
    rf"|import[ \t]+({NAME}[\w.]*))",
    re.MULTILINE,
)
_OWNERS = {"walk": "walk.", "self": "walk.", "stages": ""}
_IMPORTED = re.compile(r"(\w+)(?:[ \t]+as[ \t]+(\w+))?")


def source_hash(entry: str) -> str:
    """Return the SHA-256 over a module of the package and all that it imports of it.

    Parameters
    ----------
    entry
        A module such as ``"agents.live"``; or one function of `negfail_nb.stages`, such as
        ``"stages:make_quality"``: with what it uses of that module and of `Walk`, and no more.
    """
    return _hash_of(entry, PACKAGE)


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
    module, _, function = entry.partition(":")
    if not entry:
        files = {path for path in package.rglob("*") if path.suffix in (".py", *DATA)}
    elif function:
        texts, used = _cut(function, package)
        yield "\n".join(texts).encode()
        files = _files(used, package)
    else:
        files = _files({module}, package)
    for path in sorted(files):
        yield path.relative_to(package).as_posix().encode()
        yield path.read_bytes()


def _files(modules: set[str], package: Path) -> set[Path]:
    """Return the files of modules, of all that they import, and the data in their rooms."""
    todo, found = list(modules), set()
    while todo:
        path = _file(todo.pop(), package)
        if path is None or path in found:
            continue
        found.add(path)
        todo += [_origin(module, name, package) for _, module, name in _written_in(path)]
    rooms = {path.parent for path in found} - {package}
    return found | {path for room in rooms for path in room.rglob("*") if path.suffix in DATA}


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
    """Return the module that a name comes from, through rooms that only pass it on."""
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


def _cut(function: str, package: Path) -> tuple[list[str], set[str]]:
    """Return the definitions that a function of ``stages`` uses, and the modules that these import.

    `Walk.run` is where a stage ends: what it returns is an input, whose content counts already.
    """
    defined, imported = _stages(package)
    todo, texts, used = [function], {}, set()
    while todo:
        name = todo.pop()
        if name in imported:
            used.add(imported[name])
        if name in defined and name not in texts and name != "walk.run":
            texts[name] = ast.unparse(defined[name])
            used |= {origin for _, origin in _imports(texts[name], package)}
            todo += _names(defined[name])
    return [texts[name] for name in sorted(texts)], used


@cache
def _stages(package: Path) -> tuple[dict[str, ast.stmt], dict[str, str]]:
    """Return what ``stages`` and `Walk` define, and what their modules import, by name."""
    defined, imported = {}, {}
    for path in (package / "walk.py", package / "stages.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                imported |= dict(_imports(ast.unparse(node), package))
            defined |= dict(_defined(node))
    return defined, imported


def _defined(node: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    """Yield a function, class or constant by its name, and the methods of `Walk` by theirs."""
    if isinstance(node, ast.ClassDef) and node.name == "Walk":
        methods = (part for part in node.body if isinstance(part, ast.FunctionDef))
        yield from ((f"walk.{part.name}", part) for part in methods)
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name, node
    elif isinstance(node, ast.Assign):
        yield from ((part.id, node) for part in ast.walk(node) if isinstance(part, ast.Name))


def _names(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a definition uses, and ``walk.<method>`` for the walk's methods."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Attribute) and getattr(part.value, "id", "") in _OWNERS:
            yield f"{_OWNERS[part.value.id]}{part.attr}"
