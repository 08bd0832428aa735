"""The source of a result: a change of what computes it is seen, and a change of anything else is
not.
"""

import ast
import platform
import shutil
import subprocess
import sys

import pytest

from negfail_nb import source
from negfail_nb.environment import environment

STAGES = (
    "logs.loading",
    "quality",
    "prefix.rendering",
    "training.fit",
    "training.preference",
    "agents.live",
    "agents.endpoint",
    "agents.local",
    "evaluation.agent",
    "evaluation.likelihood",
    "benchmarking.grid",
    "claims.checking",
)
SKIPPED = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.csv", "tokenizer.json")
MODULES = sorted(p.relative_to(source.PACKAGE) for p in source.PACKAGE.rglob("*.py"))


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copied") / "negfail_nb"
    return shutil.copytree(source.PACKAGE, folder, ignore=SKIPPED)


@pytest.fixture
def package(copied, monkeypatch):
    """A copy of the package; a process reads its source once, so after each change of it all is
    forgotten.
    """
    monkeypatch.setattr(source, "PACKAGE", copied)
    yield copied
    forget()


def forget():
    source._hash_of.cache_clear()


def hashes():
    forget()
    return {name: source.source_hash(name) for name in STAGES}


def changed_by(package, name, old="", new="\nADDED = 1\n"):
    path, before = package / name, hashes()
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new) if old else text + new, encoding="utf-8")
    try:
        return {stage for stage, digest in hashes().items() if digest != before[stage]}
    finally:
        path.write_text(text, encoding="utf-8")


LIVE = {"agents.endpoint"}  # of a model its own class counts, beside the loop


@pytest.mark.parametrize(
    ("module", "touched", "untouched"),
    [
        ("quality/failures.py", {"quality"}, {"logs.loading", "agents.live", "training.fit"}),
        ("logs/importers/react.py", {"logs.loading"}, {"training.fit", "evaluation.likelihood"}),
        ("agents/transport.py", LIVE, {"logs.loading", "quality", "training.fit"}),
        ("pocket/world.py", set(), {"logs.loading", "quality", "training.fit"}),
        (
            "prefix/templates.toml",
            {"prefix.rendering", "training.preference"},
            {"logs.loading", "quality"},
        ),
        ("prefix/chat_templates/chatml.jinja", {"prefix.rendering", "agents.local"}, {"quality"}),
        ("training/fit.py", {"training.fit"}, {"agents.live", "quality"}),
        ("training/preference.py", {"training.preference"}, {"quality", "training.fit"}),
        ("intervals.py", {"evaluation.likelihood"}, {"training.fit", "prefix.rendering"}),
        ("benchmarking/lexical.py", {"benchmarking.grid"}, {"evaluation.agent", "training.fit"}),
        ("claims/checking.py", {"claims.checking"}, set(STAGES) - {"claims.checking"}),
        ("steps.py", {"quality", "prefix.rendering", "evaluation.agent"}, set()),
        ("trajectory.py", set(STAGES), set()),
        ("views/figures.py", set(), set(STAGES)),
    ],
)
def test_a_changed_module_counts_for_the_stages_that_it_computes(
    package, module, touched, untouched
):
    changed = changed_by(package, module)
    assert touched <= changed and not untouched & changed


def imported(text):
    """What the interpreter would import of the package: the slow way, by parsing."""
    tree = ast.parse(text)
    checked = {
        id(n)
        for c in ast.walk(tree)
        if isinstance(c, ast.If) and getattr(c.test, "id", "") == "TYPE_CHECKING"
        for n in ast.walk(c)
    }
    for node in ast.walk(tree):
        if id(node) in checked:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == source.NAME:
            assert not node.level
            yield from ((a.asname or a.name, a.name, node.module) for a in node.names)
        elif isinstance(node, ast.Import):
            yield from (("", "", a.name) for a in node.names if a.name.split(".")[0] == source.NAME)


def test_all_imports_are_found_and_followed_to_who_defines_them():
    for module in MODULES:
        text = (source.PACKAGE / module).read_text(encoding="utf-8")
        found = dict(source._imports(text, source.PACKAGE))
        for bound, name, origin in imported(text):
            if {name, *origin.split(".")} & set(source.LEFT_OUT):
                continue
            assert bound in found, f"{module}: {origin}.{name}"
            path = source.PACKAGE.joinpath(*found[bound].split("."))
            path = next(
                (p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None
            )
            assert path and (
                not name or name in path.read_text(encoding="utf-8") or path.stem == name
            ), (module, name)


def test_the_hash_does_not_depend_on_where_the_package_lies(package, tmp_path, monkeypatch):
    before = source.package_hash(), hashes()
    monkeypatch.setattr(source, "PACKAGE", shutil.copytree(package, tmp_path / "elsewhere"))
    assert (source.package_hash(), hashes()) == before


def git(folder, *words):
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", *name, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A project folder as git sees it: package, notebooks, and what a walk writes."""
    names = (
        "negfail_nb/environment.py",
        "negfail_nb/experiment/cells.csv",
        "notebooks/a.ipynb",
        "figures/a.csv",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(sys.modules["negfail_nb.environment"], "__file__", str(tmp_path / names[0]))
    git(tmp_path, "init", "-q")
    return tmp_path


def test_what_a_walk_rewrites_does_not_make_a_commit_dirty(repository):
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "all")
    assert environment()["git"] == {"commit": git(repository, "rev-parse", "HEAD"), "dirty": False}
    for name in ("figures/a.csv", "figures/new.csv", "negfail_nb/experiment/cells.csv", "note.txt"):
        (repository / name).write_text("2")
        assert environment()["git"]["dirty"] is False, name
    for name in ("notebooks/a.ipynb", "negfail_nb/environment.py", "negfail_nb/new.py"):
        (repository / name).write_text("2")
        assert environment()["git"]["dirty"] is True, name
        git(repository, "stash", "-u")
        assert environment()["git"]["dirty"] is False, name


def test_a_package_in_somebody_elses_repository_names_its_source_and_not_their_commit(repository):
    git(repository, "add", "figures")
    git(repository, "commit", "-qm", "another project")
    made = environment()
    assert (
        made["git"] == {} and made["source"] == source.package_hash() and len(made["source"]) == 64
    )


def test_a_package_outside_of_any_repository_has_no_commit(repository):
    shutil.rmtree(repository / ".git")
    assert environment()["git"] == {}


def test_memory_that_lies_below_what_is_in_use_goes_back_to_the_system():
    """In a process of its own: what the tests before it left behind would hide it."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only the C library of Linux keeps it")
    code = (
        "import re\n"
        "from pathlib import Path\n"
        "from negfail_nb.environment import release_memory\n"
        "def used():\n"
        "    found = re.search(r'VmRSS:\\s+(\\d+)', Path('/proc/self/status').read_text())\n"
        "    return int(found[1]) // 1024\n"
        "blocks = [b'x' * 60_000 for _ in range(4000)]\n"
        "full = used()\n"
        "last = blocks.pop()\n"
        "blocks.clear()\n"
        "release_memory()\n"
        "print(full - used())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 200  # of 229 MB
