"""How thick the house is: ``make house`` prints the table, tests keep what must not grow.

Everything is counted from the tree, so it runs at any commit. The files that a log and a
question pass through are counted while a tiny log and a tiny question pass.
"""

import ast
import importlib
import io
import os
import pkgutil
import re
import sys
import tempfile
import threading
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import ModuleType

HOME = Path(__file__).parents[1]
PACKAGE = HOME / "negfail_nb"
NAME = PACKAGE.name
LINE = 100
# What a reader meets: a name is used if it occurs in one of these.
SHOWN = ("notebooks/*.ipynb", "README.md", "CONTRIBUTING.md", "docs/*.md", "Makefile")
GENERATED = ("docs/settings.md",)


def sources(*folders: str) -> list[Path]:
    """Return the Python files of some folders of the project."""
    return sorted(
        p for f in folders for p in (HOME / f).rglob("*.py") if "_notebooks" not in p.parts
    )


def lines(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def module_name(path: Path) -> str:
    parts = path.relative_to(HOME).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# -- imports ---------------------------------------------------------------------------------------


def imports() -> dict[str, set[str]]:
    """Return for each module those that it imports, also inside functions and for types only.

    That a module makes its packages run first does not count: ``a.b`` imports ``a`` only if it
    says so.
    """
    paths = {module_name(path): path for path in sources(NAME)}
    return {name: set(_imported(path, set(paths))) - {name} for name, path in paths.items()}


def _imported(path: Path, known: set[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            assert not node.level, f"{path} imports relatively; write the whole name"
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in known else node.module for name in inner)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others."""
    from scipy.sparse import lil_matrix
    from scipy.sparse.csgraph import connected_components

    names = sorted(graph)
    place = {name: number for number, name in enumerate(names)}
    arrows = lil_matrix((len(names), len(names)), dtype=bool)
    for name in names:
        for other in graph[name]:
            arrows[place[name], place[other]] = True
    _, labels = connected_components(arrows.tocsr(), connection="strong")
    groups: dict[int, list[str]] = {}
    for name, label in zip(names, labels, strict=True):
        groups.setdefault(int(label), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def package_graph(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return which package imports which; a module on the ground floor is a package of its own."""

    def package(name: str) -> str:
        return ".".join(name.split(".")[:2])

    found: dict[str, set[str]] = {package(name): set() for name in graph}
    for name, others in graph.items():
        found[package(name)] |= {package(other) for other in others} - {package(name)}
    return found


# -- names and settings ----------------------------------------------------------------------------


def modules() -> dict[str, ModuleType]:
    """Import every module of the package, entry points apart."""
    package = importlib.import_module(NAME)
    found = pkgutil.walk_packages(package.__path__, f"{NAME}.")
    names = [one.name for one in found if not one.name.endswith("__main__")]
    return {name: importlib.import_module(name) for name in [NAME, *names]}


def hidden() -> list[str]:
    """Return modules that their package hides behind a function or class of the same name."""
    loaded = modules()
    return [
        name
        for name in loaded
        if name != NAME
        and getattr(loaded[name.rpartition(".")[0]], name.rpartition(".")[2]) is not loaded[name]
    ]


def shown() -> str:
    """Return all that a reader meets, in one text."""
    paths = [p for pattern in SHOWN for p in sorted(HOME.glob(pattern))]
    kept = [p for p in paths if p.relative_to(HOME).as_posix() not in GENERATED]
    return "\n".join(p.read_text(encoding="utf-8") for p in kept).replace('\\"', '"')


def unused(module: str, prefix: str) -> tuple[list[str], list[str]]:
    """Return the public names of a module, and those that no reader meets."""
    names = importlib.import_module(module).__all__
    text = shown()
    imported = " ".join(re.findall(rf"from {re.escape(module)} import ([^\n]*)", text))

    def meets(name: str) -> bool:
        return bool(
            re.search(rf"\b{prefix}\.{name}\b", text) or re.search(rf"\b{name}\b", imported)
        )

    return list(names), [name for name in names if not meets(name)]


def settings() -> tuple[list[str], list[str]]:
    """Return what can be set, as ``stage.setting``, and what neither a profile nor a page names.

    These are the fields of all classes ``...Settings``: of a profile, a load, a GPU measurement.
    """
    from negfail_nb.settings import Checked, Profile

    modules()
    stages = {type(f.default).__name__: f.name for f in fields(Profile)[1:]}
    text = shown() + (PACKAGE / "settings" / "profile.py").read_text(encoding="utf-8")
    names, nowhere = [], []
    for kind in _kinds(Checked):
        stage = stages.get(kind.__name__) or kind.__name__
        for field in fields(kind) if kind.__name__.endswith("Settings") else ():
            names.append(f"{stage}.{field.name}")
            patterns = (
                rf"\b{re.escape(stage)}\.{field.name}\b",
                rf"\b{field.name}=",
                rf"""["']{field.name}["']""",
                rf"--{field.name.replace('_', '-')}\b",  # of `python -m negfail_nb.speed.gpu`
                rf"form\([\w.]*\b{stage}\b, *\w+\)",  # a notebook shows the whole stage as knobs
            )
            if not any(re.search(pattern, text) for pattern in patterns):
                nowhere.append(names[-1])
    return names, nowhere


def described() -> dict[str, int]:
    """Return how many fields have the records that describe a model, a GPU, a load, prices."""
    from negfail_nb.settings import Checked

    kinds = [kind for kind in _kinds(Checked) if not kind.__name__.endswith("Settings")]
    return {kind.__name__: len(fields(kind)) for kind in kinds}


def _kinds(kind: type) -> Iterator[type]:
    seen = {}
    for sub in kind.__subclasses__():  # dataclasses with slots are made twice; the last one counts
        seen[f"{sub.__module__}.{sub.__qualname__}"] = sub
    for sub in seen.values():
        if sub.__module__.startswith(f"{NAME}."):
            yield sub
            yield from _kinds(sub)


# -- the two ways ----------------------------------------------------------------------------------


@contextmanager
def files_passed() -> Iterator[set[str]]:
    """Collect the files of the package in which a function is called meanwhile."""
    found: set[str] = set()
    root = str(PACKAGE)

    def seen(frame, event, argument):
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(root):
            found.add(Path(name).relative_to(PACKAGE).as_posix())

    before = sys.getprofile()
    sys.setprofile(seen)
    threading.setprofile(seen)
    try:
        yield found
    finally:
        sys.setprofile(before)
        threading.setprofile(None)


def log_to_tensor() -> set[str]:
    """Return the files through which a log passes until it is ids and labels."""
    import negfail_nb as nf
    from negfail_nb.pocket import generate_logs
    from negfail_nb.settings import ModelSettings, PrefixSettings, QualitySettings
    from negfail_nb.training import load_tokenizer
    from negfail_nb.trajectory import write_trajectories

    modules()
    logs = generate_logs(12, 2, 0)
    texts = [m["content"] for t in logs for m in t.messages]
    tokenizer = load_tokenizer(ModelSettings(layers=1, width=32, heads=2, vocabulary=400), texts)
    quality, prefix = QualitySettings(), PrefixSettings()
    with tempfile.TemporaryDirectory() as folder:
        write_trajectories(Path(folder) / "logs.jsonl", logs)
        with files_passed() as found:
            read = nf.load_trajectories(Path(folder) / "logs.jsonl")
            report = nf.assess(read, quality)
            data = nf.render(report.kept, "target-aware", tokenizer, prefix)
            assert len(data) and data.examples[0].labels is not None
    return found


def question_to_point() -> set[str]:
    """Return the files through which a question passes until it is a point of the curve."""
    import negfail_nb as nf
    from negfail_nb.agents import ScriptedModel
    from negfail_nb.benchmarking import MemoryPool
    from negfail_nb.pocket import make_questions, make_world
    from negfail_nb.settings import EvaluateSettings, ReadingSettings
    from negfail_nb.trajectory import write_lines

    modules()
    model = ScriptedModel(lambda messages, sampling: "The answer is Oslo [1].")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "questions.jsonl"
        write_lines(path, make_questions(make_world(60, 0), 3, 0))
        reading, few = ReadingSettings(passages=2, steps=2), EvaluateSettings(resamples=100)
        with files_passed() as found:
            asked = nf.load_questions(path)
            pool = MemoryPool(asked.passages)
            index = nf.build_index(pool)
            arms = ("closed_book", "oracle", "retrieve_1", "retrieve_3")
            made = nf.benchmark(
                model, asked, arms, pool=pool, index=index, settings=reading,
                folder=Path(folder) / "grid",
            )  # fmt: skip
            assert len(nf.tradeoff(made, settings=few).table) == len(arms)
    return found


# -- the table -------------------------------------------------------------------------------------


def comment_share(paths: Iterable[Path]) -> float:
    """Return the share of lines with a comment."""
    every = comments = 0
    for path in paths:
        text = path.read_text(encoding="utf-8")
        every += len(text.splitlines())
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments += sum(token.type == tokenize.COMMENT for token in tokens)
    return comments / every


def long_lines() -> list[str]:
    """Return the lines that are too long, of the package, tests, benchmarks and recipes."""
    return [
        f"{path.relative_to(HOME)}:{number}"
        for path in sources(NAME, "tests", "benchmarks", "recipes")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > LINE
    ]


def rows() -> Iterator[tuple[str, object, object]]:
    """Yield what is measured, the value, and what it should be."""
    package = sources(NAME)
    yield "lines of source", f"{lines(package):,} in {len(package)} files", "<= 29,000"
    for folder in ("recipes", "benchmarks", "tests"):
        yield f"lines of {folder}", f"{lines(sources(folder)):,}", "-"
    yield "tests / source", f"{lines(sources('tests')) / lines(package):.2f}", ">= 0.5"
    longest = max(package, key=lambda path: lines([path]))
    yield "longest file", f"{lines([longest])} lines, {longest.relative_to(HOME)}", "400 or so"
    long = Counter(place.partition(":")[0] for place in long_lines())
    yield f"lines over {LINE}", f"{long.total()} in {len(long)} files", 0
    yield "share of lines with a comment", f"{comment_share(package):.1%}", "where it is clever"
    for module, prefix, most in ((NAME, "nf", 41), (f"{NAME}.views", "views", 70)):
        names, idle = unused(module, prefix)
        yield f"public names of {module}", len(names), f"<= {most}"
        yield "  of them used in no notebook or page", _listed(idle), 0
    names, nowhere = settings()
    yield "settings", len(names), "<= 150"
    yield "  named in no profile, notebook or page", _listed(nowhere), 0
    records = described()
    text = ", ".join(f"{name} {count}" for name, count in records.items())
    yield "  fields of records, checked like settings", f"{sum(records.values())}: {text}", "-"
    graph = imports()
    found = [*circles(graph), *circles(package_graph(graph))]
    yield "circles of imports, lazy ones too", _listed([" = ".join(one) for one in found]), 0
    yield "modules hidden by a name", _listed(hidden()), 0
    yield from _way("files from a log to its tensor", log_to_tensor, 15)
    yield from _way("files from a question to its point", question_to_point, 10)


def _way(
    title: str, walk: Callable[[], set[str]], most: int
) -> Iterator[tuple[str, object, object]]:
    passed = sorted(walk())
    yield title, _listed(passed), f"<= {most}"


def _listed(names: list[str]) -> str:
    return f"{len(names)}" + (f": {', '.join(names)}" if names else "")


def main() -> int:
    os.environ["TQDM_DISABLE"] = "1"
    for title, value, wanted in rows():
        print(f"{title:<48} {value}   (wanted {wanted})", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
