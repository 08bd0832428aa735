"""What the README says holds: its links, its code, its commands and its numbers."""

import re
from pathlib import Path

import pytest

from negfail_nb.pocket import generate_logs, make_questions, make_tasks, make_world
from negfail_nb.settings import ContextSettings, LiveSettings, ModelSettings, TrainSettings
from negfail_nb.training import load_model, load_tokenizer
from negfail_nb.trajectory import write_lines, write_trajectories

HOME = Path(__file__).parents[1]
README = (HOME / "README.md").read_text(encoding="utf-8")
PAGES = [HOME / "README.md", HOME / "CONTRIBUTING.md", *sorted((HOME / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_two_commands_are_targets_of_the_makefile():
    makefile = (HOME / "Makefile").read_text(encoding="utf-8")
    for command in re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command


def test_the_code_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logs = generate_logs(24, 4, 0)
    write_trajectories(tmp_path / "my_logs" / "logs.jsonl", logs)
    shape = ModelSettings(layers=1, width=32, heads=2, vocabulary=600)
    tokenizer = load_tokenizer(shape, [m["content"] for t in logs for m in t.messages])
    tokenizer.save_pretrained("folder")
    load_model(shape, tokenizer).save_pretrained("folder")
    block, live, grid = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {
        "model": ModelSettings(name=str(tmp_path / "folder")),
        "QUICK": LiveSettings(attempts=1, max_tokens=8),
    }
    # The same call, with fewer steps than an hour's.
    exec(block.replace("nf.train(data, ", "nf.train(data, FAST, "), names | {"FAST": fast()}, names)
    assert len(names["data"]) > 0 and names["run"].steps == 2
    assert "underline" in names["data"].show(0)._repr_html_()
    tasks, passages = make_tasks(3, 0)
    write_lines(
        "questions.jsonl", ({"id": t.id, "question": t.question, "answer": t.answer} for t in tasks)
    )
    write_lines("passages.jsonl", ({"title": title, "text": text} for title, text in passages))
    exec(live.replace("tasks, tools, file=", "tasks, tools, QUICK, file="), names)
    assert len(names["scores"].table) == 3 and 0 <= names["scores"].em <= 1
    write_lines("hotpotqa.jsonl", make_questions(make_world(60, 0), 2, 0))
    names["SHORT"] = ContextSettings(lengths=(2048,))
    exec(grid.replace("index=index, folder=", "index=index, contexts=SHORT, folder="), names)
    assert set(names["table"]["arm"]) == {
        "closed_book",
        "oracle",
        "long_context@2048",
        "retrieve_1",
        "retrieve_3",
    }


def fast():
    return TrainSettings(budget="steps", steps=2, batch_tokens=4096)


def test_the_picture_is_there_with_its_numbers():
    (picture,) = re.findall(r"^!\[[^]]*\]\(([^)]+)\)", README, re.MULTILINE)
    for ending in (".png", ".pdf", ".csv", ".json"):
        assert (HOME / picture).with_suffix(ending).is_file()
