"""What the README says holds: its commands, its numbers, its promises; links of all pages."""

import csv
import re
from pathlib import Path

import pytest

from negfail_nb import __main__ as cli
from negfail_nb import notebooks

HOME = Path(__file__).parents[1]
README = (HOME / "README.md").read_text(encoding="utf-8")
PAGES = [HOME / "README.md", HOME / "CONTRIBUTING.md", *sorted((HOME / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    sources = re.findall(r'<img src="([^"]+)"', text)
    for target in [*re.findall(r"\]\(([^)#]+)[^)]*\)", text), *sources]:
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_it_is_one_screen():
    assert len(README.split()) <= 900


def test_a_run_ends_as_it_shows(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("runs/pocket/report").mkdir(parents=True)
    Path("runs/pocket/report/report.html").touch()
    walked = notebooks.Walked(8, 0, (Path("runs/pocket"),))
    monkeypatch.setattr(notebooks, "walk_notebooks", lambda *given, **named: walked)
    monkeypatch.setattr(notebooks, "plan_notebooks", lambda *given: [])
    monkeypatch.setattr(cli, "_foretell", lambda planned, force: {})  # what stands before the end
    assert cli.main(["run"]) == 0
    assert f"ends with\n\n```\n{capsys.readouterr().out}```\n" in README


@pytest.mark.parametrize("picture", re.findall(r"(figures/(?!lab/)[\w/]+)\.png", README))
def test_a_picture_is_there_with_its_numbers(picture):
    for ending in (".png", ".pdf", ".csv", ".json"):
        assert (HOME / picture).with_suffix(ending).is_file()


def test_the_numbers_of_the_findings_are_those_of_the_studies():
    table = HOME / "figures" / "smollm" / "05_study_arms.csv"
    if not table.is_file():
        pytest.skip("the studies on the small real model were not drawn yet")
    with open(table, encoding="utf-8") as file:
        rows = {row["condition"]: row for row in csv.DictReader(file) if not row["seed"]}
    text = README.partition("## Results")[2]
    for arm in ("nut", "nat"):
        for column in ("em_difference", "em_difference_low", "em_difference_high"):
            assert f"{abs(float(rows[arm][column])):.1f}" in text, (arm, column)


def test_the_numbers_are_those_of_the_figures():
    with open(HOME / "figures" / "pocket" / "06_accuracy.csv", encoding="utf-8") as file:
        em = {row["arm"]: f"{float(row['em']):.0f} %" for row in csv.DictReader(file)}
    text = re.search(r"With everything in the window.*", README)[0]
    for arm in ("long_context@1024", "long_context@4096", "retrieve_3"):
        assert em[arm] in text, arm


def test_each_promise_names_a_test_that_keeps_it():
    section = README.partition("## Promises")[2].partition("\n## ")[0]
    promises = re.findall(r"^- \*\*.*$", section, re.MULTILINE)
    assert len(promises) == 6
    assert all(re.search(r"\[test\]\(tests/test_\w+\.py\)", promise) for promise in promises)
