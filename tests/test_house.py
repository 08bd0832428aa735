"""What must not grow back: circles of imports, hidden modules, long lines, too many settings."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "house.py"


@pytest.fixture(scope="module")
def house():
    spec = importlib.util.spec_from_file_location("house", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_module_imports_itself_through_others(house):
    assert house.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    graph = house.imports()
    assert "negfail_nb.settings" in graph["negfail_nb.intervals"]
    assert house.circles(graph) == []
    assert house.circles(house.package_graph(graph)) == []


def test_a_package_imports_only_what_stands_above_it_in_the_table_for_contributors(house):
    text = (PATH.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = text.partition("| where |")[2].partition("\n\n")[0].splitlines()[2:]
    named = [re.findall(r"`(\w+)(?:\.py|/)`", row.split("|")[1]) for row in rows]
    rank = {name: number for number, row in enumerate(named) for name in row}
    graph = house.package_graph(house.imports())
    arrows = {(a.split(".")[1], b.split(".")[1]) for a in graph for b in graph[a] if "." in a}
    assert {name for arrow in arrows for name in arrow} <= set(rank)
    assert [(a, b) for a, b in sorted(arrows) if rank[b] > rank[a]] == []


def test_no_module_is_hidden_by_a_function_of_its_name(house):
    assert house.hidden() == []


def test_no_line_is_too_long(house):
    assert house.long_lines() == []


def test_the_files_on_the_way_are_those_in_which_something_is_called(house):
    from negfail_nb.grading import grade
    from negfail_nb.settings import get_profile

    with house.files_passed() as found:
        grade("Oslo", "Oslo")
    assert "grading.py" in found and "settings/profile.py" not in found
    with house.files_passed() as found:
        get_profile("pocket")
    assert "settings/profile.py" in found and sys.getprofile() is None


def test_there_are_not_more_settings_than_one_can_know(house):
    names, _ = house.settings()
    assert len(names) == len(set(names)) <= 156
    assert {"train.epochs", "LoadSettings.requests"} <= set(names)
