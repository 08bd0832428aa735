"""Pages made from others are current: settings, measures, conda's environment, the lock."""

import importlib.util
import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path

from negfail_nb.__main__ import main
from negfail_nb.settings import Profile, settings_page

HOME = Path(__file__).parents[1]
PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA = (HOME / "environment.yml").read_text(encoding="utf-8")
LOCK = dict(
    line.split("==")
    for line in (HOME / "requirements.lock").read_text(encoding="utf-8").splitlines()
    if "==" in line
)


def test_the_page_of_settings_is_current(capsys):
    written = (HOME / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == settings_page(), "python -m negfail_nb settings --markdown > docs/settings.md"
    assert main(["settings", "--markdown"]) == 0
    assert capsys.readouterr().out == written


def test_the_page_of_measures_is_current():
    spec = importlib.util.spec_from_file_location("bench", HOME / "benchmarks" / "run.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    results = json.loads(bench.RESULTS.read_text(encoding="utf-8"))
    written = (HOME / "docs" / "measures.md").read_text(encoding="utf-8")
    made = bench.measures_page(results)
    assert written == made, "python benchmarks/run.py --markdown > docs/measures.md"


def test_the_page_has_every_setting_of_every_stage():
    page = settings_page()
    for stage in fields(Profile)[1:]:
        section = page.partition(f"\n## {stage.name}\n")[2].partition("\n## ")[0]
        for field in fields(stage.default):
            assert f"| `{field.name}` |" in section and field.metadata["help"] in section
    assert all(line.count("|") == 5 for line in page.splitlines() if line.startswith("| `"))


def test_conda_gets_what_pip_gets():
    assert f"name: {PROJECT['name']}" in CONDA
    least = re.search(r">=([\d.]+)", PROJECT["requires-python"])[1]
    assert re.search(rf"- python >={re.escape(least)}\b", CONDA)
    pip = CONDA.partition("- pip:")[2].split()
    assert ["-c", "requirements.lock"] == pip[1:3] and ["-e", ".[dev]"] == pip[4:6]
    conda = re.findall(r"^  - ([\w-]+)", CONDA, re.MULTILINE)
    asked = {re.match(r"[\w-]+", name)[0] for name in PROJECT["dependencies"]}
    own = set(conda) - {"python", "pip", "make"}
    assert own <= asked and {"jupyterlab", "numpy", "matplotlib"} <= own, "pyproject's, no others"


def test_every_dependency_is_in_the_lock_within_its_bounds():
    asked = [
        *PROJECT["dependencies"],
        *(d for group in PROJECT["optional-dependencies"].values() for d in group),
    ]
    for requirement in asked:
        name, least = re.match(r"([\w-]+)(?:\[[\w,]+\])?(?:>=([\d.]+))?", requirement).groups()
        if name == PROJECT["name"]:
            continue
        locked = {re.sub(r"[-_.]+", "-", key).lower(): value for key, value in LOCK.items()}
        found = locked.get(re.sub(r"[-_.]+", "-", name).lower())
        assert found, f"{name} is not in requirements.lock"
        assert not least or _parts(found) >= _parts(least), f"{name} {found} is older than {least}"


def _parts(version):
    return [int(part) for part in re.findall(r"\d+", version)]
