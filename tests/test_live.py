"""Live collection with scripted models: how an episode runs and ends, and what the file of episodes
holds.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negfail_nb.agents.live import collect
from negfail_nb.agents.protocol import Model, ModelError, Reply, Task
from negfail_nb.agents.rollout import play
from negfail_nb.agents.scripted import ScriptedModel
from negfail_nb.journal import Journal
from negfail_nb.logs import load_trajectories
from negfail_nb.runs import SettingsChanged
from negfail_nb.settings import BudgetSettings, LiveSettings
from negfail_nb.source import source_hash
from negfail_nb.trajectory import read_trajectories

TASK = Task(
    id="q", question="Where is Oslo?", answer="Norway", gold_titles=("Oslo",), split="train"
)
ONCE = LiveSettings(attempts=1, temperatures=(0.0,))


class Search:
    name, argument, description = "search", "query", "searches"

    def __call__(self, query):
        if query == "boom":
            raise RuntimeError("the index is gone")
        return f"#1: {query}: a city"


def episode(script, tools=(Search(),), task=TASK, settings=ONCE, window=None, attempt=0):
    return asyncio.run(play(ScriptedModel(script, window=window), task, tools, settings, attempt))


def tasks(count):
    return [Task(id=f"q{n}", question=f"What is {n}?", answer=str(n)) for n in range(count)]


def answers(messages, sampling):
    """Search once, then answer; wrong above a temperature of 0.6."""
    number = messages[-1]["content"].removeprefix("What is ").removesuffix("?")
    if number.isdigit():
        return f"Action: search[{number}]"
    found = messages[-1]["content"].split()[2].removesuffix(":")
    return f"Action: finish[{found}]" if sampling.temperature < 0.6 else "Action: finish[wrong]"


def run(file, script=answers, count=4, settings=LiveSettings(), **more):
    return collect(
        ScriptedModel(script, name=more.pop("name", "m")),
        tasks(count),
        [Search()],
        settings,
        file=file,
        **more,
    )


def test_an_episode_is_a_graded_conversation():
    done = episode(
        ["Thought: look\nAction: search[Oslo]\nObservation: made up", "Action: finish[norway]"]
    )
    system, *turns = done.messages
    assert "search[query]" in system["content"] and "finish[answer]" in system["content"]
    assert [(m["role"], m["content"]) for m in turns] == [
        ("user", "Where is Oslo?"),
        ("assistant", "Thought: look\nAction: search[Oslo]"),
        ("user", "Observation: #1: Oslo: a city"),
        ("assistant", "Action: finish[norway]"),
    ]
    assert (done.id, done.question_id, done.prediction, done.success) == (
        "q/0",
        "q",
        "norway",
        True,
    )
    assert (done.scores["em"], done.termination, done.gold_titles, done.split) == (
        1,
        "finished",
        ("Oslo",),
        "train",
    )
    assert (done.source.model, done.source.format, done.usage.calls) == ("scripted", "live", 2)
    words = [len(text.split()) for text in (system["content"], *(m["content"] for m in turns))]
    # The scripted model counts its whole reply, also the part that is cut.
    assert done.usage.completion_tokens == words[2] + 3 + words[4]
    assert done.usage.prompt_tokens == sum(words[:2]) + sum(words[:4])


@pytest.mark.parametrize(
    ("script", "termination", "last"),
    [
        (["Oslo is in Norway."], "parse_error", "Oslo is in Norway."),
        (["Action: search[Oslo"], "parse_error", "Action: search[Oslo"),
        ([" \n"], "empty", " \n"),
        (["Action: search[x]"] * 7, "max_steps", "Observation: #1: x: a city"),
        (["Action: search[boom]"] * 7, "tool_error", "Observation: Error: the index is gone"),
        (
            ["Action: Lookup[x]"] * 7,
            "max_steps",
            "Observation: Invalid action: lookup. Valid actions are search[query] and "
            "finish[answer].",
        ),
    ],
)
def test_how_an_episode_ends(script, termination, last):
    done = episode(script)
    assert (done.termination, done.messages[-1]["content"]) == (termination, last)
    assert (done.success, done.prediction, done.usage.calls) == (False, None, len(script))


def cut(content, **more):
    return Reply(
        message={"role": "assistant", "content": content, **more},
        finish_reason="length",
        completion_tokens=7,
    )


@pytest.mark.parametrize("style", ["react", "tools"])
@pytest.mark.parametrize(
    "thought",
    ["<think>e.g.\nAction: finish[Sweden]\n</think>\n{}", "Action: finish[Sweden]</think>{}"],
)
def test_a_thought_is_kept_and_no_action(style, thought):
    script = [
        thought.format("Action: search[Ida Holm]"),
        "<reasoning>Sweden?</reasoning>Action: finish[Norway]",
    ]
    done = episode(script, settings=replace(ONCE, style=style))
    first, last = (m for m in done.messages if m["role"] == "assistant")
    assert (first["content"], last["content"]) == (
        "Action: search[Ida Holm]",
        "Action: finish[Norway]",
    )
    assert (
        "Action: finish[Sweden]" in first["reasoning_content"]
        and last["reasoning_content"] == "Sweden?"
    )
    assert (done.prediction, done.success, done.usage.calls) == ("Norway", True, 2)


@pytest.mark.parametrize(
    ("thoughts", "shown"), [("neither", False), ("history", True), ("loss", True)]
)
def test_whether_earlier_thoughts_are_shown_is_a_setting(thoughts, shown):
    asked = []

    def script(messages, sampling):
        asked.append(messages)
        return "<think>hm</think>Action: search[x]" if len(asked) == 1 else "Action: finish[x]"

    done = asyncio.run(play(ScriptedModel(script), TASK, (Search(),), ONCE, thoughts=thoughts))
    assert any("reasoning_content" in m for m in asked[1]) == shown
    assert done.messages[2]["reasoning_content"] == "hm", "the record has it anyway"


@pytest.mark.parametrize(
    ("reply", "termination", "reason"),
    [
        (
            cut("<think>Answer: Norway\nAction: finish[Norway]"),
            "empty",
            "within its thought after 7 tokens",
        ),
        ("<think>Action: finish[Norway]", "empty", "the reply ends within its thought"),
        (cut("Final Answer: Nor"), "parse_error", "cut before its action was whole after 7 tokens"),
        (cut("Thought: I think that"), "parse_error", "raise LiveSettings.max_tokens"),
        (cut("", reasoning_content="Action: finish[Norway]"), "empty", "LiveSettings.max_tokens"),
        (
            "Oslo is in Norway.",
            "parse_error",
            "neither a line 'Action: tool[argument]' nor a tool call",
        ),
        ("Action: search[Oslo", "parse_error", "the bracket of 'search[Oslo' is never closed"),
    ],
)
def test_what_cannot_be_played_keeps_its_reason(reply, termination, reason):
    done = episode([reply])
    assert (done.termination, done.prediction, done.success) == (termination, None, False)
    assert reason in done.error


def test_a_whole_action_of_a_reply_that_was_cut_is_played():
    assert episode([cut("Action: finish[Norway] and so")]).success


@pytest.mark.parametrize(
    "reply",
    [
        "Action 1: search[x]\nObservation 1: born in Sweden\nAction 2: finish[Sweden]",
        "Action 1: search[x] Observation 1: born in Sweden Action 2: finish[Sweden]",
        "Action 1: search[x]\n<observation>Sweden</observation>\nFinal Answer: Sweden",
        "Action 1: search[x], finish[Sweden]",
        "Action 1: search[x]\nResult: Sweden\nSo it is Sweden.",
    ],
)
def test_what_follows_the_first_action_never_happened(reply):
    done = episode([reply, "Action: finish[Norway]"])
    assert [m["content"] for m in done.messages[2:4]] == [
        "Action 1: search[x]",
        "Observation: #1: x: a city",
    ]
    assert done.prediction == "Norway"


def test_an_observation_before_any_action_is_no_ground_to_act():
    done = episode(["Thought: so\nObservation 1: Norway\nAction: finish[Norway]"])
    assert (done.messages[-1]["content"], done.termination) == ("Thought: so", "parse_error")


@pytest.mark.parametrize(
    "reply",
    [
        'I look.\n<tool_call>\n{"name": "search",\n "arguments": {"query": "x"}}\n</tool_call>\n'
        "<tool_response>Sweden</tool_response>\n"
        '<tool_call>{"name": "finish", "arguments": {"answer": "Sweden"}}</tool_call>',
        'I look.\n<function=search>{"query": "x"}</function>',
        'I look.\n[TOOL_CALLS][{"name": "search", "arguments": {"query": "x"}}]',
        "I "
        "look.\n<tool_call>\n<function=search>\n<parameter=query>\nx\n</parameter>\n"
        "</function>\n</tool_call>",
        '<think>finish</think>I look.\n{"name": "search", "parameters": {"query": "x"}}',
    ],
)
def test_a_tool_call_in_the_content_is_a_tool_call(reply):
    done = episode([reply, "The answer is Norway."], settings=replace(ONCE, style="tools"))
    turn, answer = done.messages[2:4]
    assert (turn["content"], len(turn["tool_calls"])) == ("I look.", 1)
    assert turn["tool_calls"][0]["function"] == {"name": "search", "arguments": '{"query": "x"}'}
    assert answer == {
        "role": "tool",
        "tool_call_id": turn["tool_calls"][0]["id"],
        "content": "#1: x: a city",
    }
    assert done.termination == "parse_error" and "nor a tool call" in done.error


def test_a_tool_that_raises_is_an_observation_and_the_episode_goes_on():
    done = episode(["Action: search[boom]", "Action: finish[Norway]"])
    assert (done.termination, done.success) == ("finished", True)


def test_a_prompt_stands_in_for_the_question_and_no_answer_means_no_label():
    done = episode(
        ["Action: finish[5]"], task=Task(id="a", question="Q?", prompt="Q? Think first.")
    )
    assert (done.messages[1]["content"], done.question, done.success, dict(done.scores)) == (
        "Q? Think first.",
        "Q?",
        None,
        {},
    )


def test_instruction_is_a_setting():
    assert (
        episode(["Action: finish[x]"], settings=replace(ONCE, instruction=False)).messages[0][
            "role"
        ]
        == "user"
    )


def test_native_tool_calls():
    def call(name, **arguments):
        return {
            "id": name,
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }

    first = {
        "role": "assistant",
        "content": "",
        "tool_calls": [call("search", query="Oslo", k=3), call("search", query="b")],
    }
    last = {"role": "assistant", "content": "", "tool_calls": [call("finish", answer="Norway")]}
    done = episode([first, last], settings=replace(ONCE, style="tools"))
    assert done.messages[3] == {
        "role": "tool",
        "tool_call_id": "search",
        "content": "#1: Oslo: a city",
    }
    assert len(done.messages[2]["tool_calls"]) == 1, "only the call that was played is kept"
    assert [t["function"]["name"] for t in done.tools] == ["search", "finish"]
    assert (done.success, done.termination) == (True, "finished")


@pytest.mark.parametrize("where", ["model", "setting"])
def test_an_episode_longer_than_the_window_is_recorded(where):
    window = 80
    settings = replace(ONCE, window_tokens=window) if where == "setting" else ONCE
    done = episode(
        ["Action: search[x]"] * 7, settings=settings, window=window if where == "model" else None
    )
    assert done.termination == "max_steps" and f"window of {window}" in done.error
    assert 1 <= done.usage.calls < 7


def test_a_crash_is_a_record_without_the_key():
    done = episode(
        ["Action: search[x]", RuntimeError("api_key=sk-0123456789abcdefghijklmn was wrong")]
    )
    assert (done.termination, done.error, done.success) == (
        "crashed",
        "RuntimeError: api_key=*** was wrong",
        False,
    )
    assert len(done.messages) == 4


def test_a_reply_that_no_file_can_hold_is_mended(tmp_path):
    logs = run(tmp_path / "a.jsonl", ["Action: finish[\ud800]"], count=1, settings=ONCE)
    assert logs[0].prediction == "�"
    assert list(read_trajectories(tmp_path / "a.jsonl")) == list(logs)


@given(st.lists(st.text(max_size=60), max_size=8))
def test_no_reply_can_break_an_episode(replies):
    done = episode([*replies, "Action: finish[x]"])
    assert done.termination in ("finished", "parse_error", "empty", "max_steps")
    json.dumps(done.to_dict(), ensure_ascii=False).encode()


def test_attempts_take_the_temperatures_in_turn_and_seeds_of_their_own(tmp_path):
    logs = run(tmp_path / "a.jsonl", count=2, settings=LiveSettings(attempts=4, seed=7))
    assert [t.id for t in logs] == [f"q{n}/{a}" for n in (0, 1) for a in range(4)]
    assert [(t.source.temperature, t.source.seed) for t in logs[:4]] == [
        (0.2, 7),
        (0.5, 8),
        (0.7, 9),
        (0.2, 10),
    ]
    assert [t.success for t in logs[:4]] == [True, True, False, True]


@pytest.mark.parametrize("concurrency", [1, 3, 64])
def test_result_and_file_do_not_depend_on_concurrency(tmp_path, concurrency):
    async def reply(self, messages, sampling, tools=()):
        # Later questions are answered sooner.
        await asyncio.sleep(0.02 / (1 + len(str(messages)) % 7))
        return await ScriptedModel.reply(self, messages, sampling, tools)

    model = type("Uneven", (ScriptedModel,), {"reply": reply})(answers, name="m")
    settings = LiveSettings(concurrency=concurrency)
    logs = collect(model, tasks(6), [Search()], settings, file=tmp_path / "a.jsonl")
    (tmp_path / "other").mkdir()
    assert logs.trajectories == run(tmp_path / "other" / "a.jsonl", count=6).trajectories
    assert {t.id: t for t in read_trajectories(tmp_path / "a.jsonl")} == {t.id: t for t in logs}


def test_no_more_episodes_at_once_than_the_setting_says(tmp_path):
    class Counting(ScriptedModel):
        now = most = 0

        async def reply(self, *given):
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.01)
            self.now -= 1
            return await super().reply(*given)

    model = Counting(answers)
    collect(model, tasks(6), [Search()], LiveSettings(concurrency=5), file=tmp_path / "a.jsonl")
    assert model.most == 5


def test_the_file_is_one_of_our_logs(tmp_path):
    logs = run(tmp_path / "a.jsonl")
    read = load_trajectories(tmp_path / "a.jsonl")
    assert not read.problems and sorted(t.id for t in read) == sorted(t.id for t in logs)
    assert logs.table()[["file", "records", "successes", "failures"]].values.tolist() == [
        ["a.jsonl", 12, 8, 4]
    ]


def test_what_is_there_is_not_played_again(tmp_path):
    whole = run(tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_text("".join(lines[:5]) + lines[5][:40])
    asked = []

    def script(messages, sampling):
        asked.append(messages)
        return answers(messages, sampling)

    assert run(tmp_path / "a.jsonl", script).trajectories == whole.trajectories
    assert len(asked) == 2 * 7, "the episode whose line was cut off is played again"
    assert run(tmp_path / "a.jsonl", [RuntimeError("asked")]).trajectories == whole.trajectories


def test_crashed_episodes_stay_unless_asked_for(tmp_path):
    failing = [RuntimeError("down")]
    assert [t.termination for t in run(tmp_path / "a.jsonl", failing, 1)] == ["crashed"] * 3
    assert [t.termination for t in run(tmp_path / "a.jsonl", count=1)] == ["crashed"] * 3
    again = run(tmp_path / "a.jsonl", count=1, retry_crashed=True)
    assert [t.termination for t in again] == ["finished"] * 3
    assert run(tmp_path / "a.jsonl", failing, 1).trajectories == again.trajectories


@pytest.mark.parametrize(
    ("named", "more"),
    [
        ("live.temperatures", {"settings": LiveSettings(temperatures=(0.1,))}),
        ("live.max_calls", {"settings": LiveSettings(max_calls=3)}),
        ("model", {"name": "another"}),
        ("tasks.hash", {"count": 5}),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, named, more):
    run(tmp_path / "a.jsonl")
    before = (tmp_path / "a.jsonl").read_bytes()
    with pytest.raises(SettingsChanged, match=named):
        run(tmp_path / "a.jsonl", **more)
    assert (tmp_path / "a.jsonl").read_bytes() == before


def test_other_tools_are_refused_and_what_only_changes_the_pace_is_not(tmp_path):
    run(tmp_path / "a.jsonl")
    run(tmp_path / "a.jsonl", settings=LiveSettings(concurrency=2), budget=BudgetSettings(tokens=5))
    search = Search()
    search.fingerprint = "another corpus"
    with pytest.raises(SettingsChanged, match="tools.search"):
        collect(ScriptedModel(answers, name="m"), tasks(4), [search], file=tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl.settings.json").unlink()
    with pytest.raises(SettingsChanged, match="a.jsonl.settings.json"):
        run(tmp_path / "a.jsonl")


def test_a_budget_of_episodes_plays_the_first_and_counts_the_rest(tmp_path):
    logs = run(tmp_path / "a.jsonl", budget=BudgetSettings(episodes=5))
    assert [t.id for t in logs] == ["q0/0", "q0/1", "q0/2", "q1/0", "q1/1"]
    assert "7 episodes were not played" in str(
        logs.problems[0]
    ) and "BudgetSettings.episodes" in str(logs.problems[0])
    assert len(run(tmp_path / "a.jsonl", budget=BudgetSettings(episodes=5))) == 5, (
        "what is there counts"
    )
    assert len(run(tmp_path / "a.jsonl")) == 12


PAID = {"money": 0.001, "prompt_price": 5.0, "completion_price": 5.0}


@pytest.mark.parametrize(("limits", "most"), [({"tokens": 600}, 600), (PAID, 200)])
@pytest.mark.parametrize("told", [True, False])
def test_a_budget_of_tokens_or_money_is_checked_before_each_call(tmp_path, limits, most, told):
    asked = []

    def script(messages, sampling):
        asked.append(messages)
        message = {"role": "assistant", "content": answers(messages, sampling)}
        return (
            Reply(message=message, prompt_tokens=90, completion_tokens=10)
            if told
            else Reply(message=message)
        )

    settings = LiveSettings(concurrency=1, instruction=False)
    logs = run(
        tmp_path / "a.jsonl", script, count=40, settings=settings, budget=BudgetSettings(**limits)
    )
    name = "tokens" if "tokens" in limits else "money"
    assert f"BudgetSettings.{name}" in str(logs.problems[0])
    assert str(logs.problems[0]).split(": ")[1].startswith(f"{120 - len(logs)} episodes")
    assert 0 < len(logs) < 120
    if told:
        assert len(asked) == most // 100 and len(logs) == most // 200
    assert {t.termination for t in logs} == {"finished"}, (
        "what was not played to its end is no record"
    )


def test_a_wrong_setting_stops_everything_and_keeps_what_is_done(tmp_path):
    def script(messages, sampling):
        if "What is 2?" in str(messages):
            raise ModelError("no such model")
        return answers(messages, sampling)

    with pytest.raises(ModelError, match="no such model"):
        run(tmp_path / "a.jsonl", script, settings=LiveSettings(concurrency=1))
    assert [t.id for t in read_trajectories(tmp_path / "a.jsonl")] == [
        f"q{n}/{a}" for n in (0, 1) for a in range(3)
    ]
    assert len(run(tmp_path / "a.jsonl")) == 12


def test_inside_a_running_event_loop(tmp_path):
    async def cell():
        return run(tmp_path / "a.jsonl")

    assert len(asyncio.run(cell())) == 12


@pytest.fixture
def ctrl_c():
    """Ctrl-C as a terminal has it; a process that a script starts in the background ignores it, and
    would wait.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("in_a_loop", [False, True])
def test_interrupted_by_hand_the_file_is_whole(tmp_path, in_a_loop):
    def script(messages, sampling):
        if "What is 2?" in str(messages):
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            return Reply(message={"role": "assistant", "content": "Action: search[again]"})
        return answers(messages, sampling)

    class Slow(ScriptedModel):
        async def reply(self, messages, *given):
            if len(messages) > 3 and "What is 2?" in str(messages):
                await asyncio.sleep(60)
            return await super().reply(messages, *given)

    def play_all():
        settings = LiveSettings(concurrency=1, attempts=1)
        return collect(
            Slow(script, name="m"), tasks(4), [Search()], settings, file=tmp_path / "a.jsonl"
        )

    async def cell():
        return play_all()

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        # As a notebook's kernel does, which leaves Ctrl-C alone; `asyncio.run` would take it.
        asyncio.new_event_loop().run_until_complete(cell()) if in_a_loop else play_all()
    assert time.monotonic() - start < 30, "it does not wait for the episode under way"
    assert [t.id for t in read_trajectories(tmp_path / "a.jsonl")] == ["q0/0", "q1/0"]


CHILD = """
import sys
from negfail_nb.journal import Journal
from negfail_nb.agents.live import collect
from negfail_nb.agents.protocol import Task
from negfail_nb.agents.scripted import ScriptedModel
from negfail_nb.settings import LiveSettings
model = ScriptedModel(["Action: finish[1]"], delay=0.05)
tasks = [Task(id=f"q{n}", question=f"What is {n}?", answer=str(n)) for n in range(20)]
settings = LiveSettings(attempts=2, concurrency=2)
print(len(collect(model, tasks, settings=settings, file=sys.argv[1])))
"""


def test_killed_outright_it_goes_on(tmp_path):
    file = tmp_path / "a.jsonl"
    child = [sys.executable, "-c", CHILD, str(file)]
    killed = subprocess.Popen(child, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
        file.exists() and file.read_bytes().count(b"\n") > 5
    ):
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    before = file.read_bytes()
    assert 5 < before.count(b"\n") < 40
    file.write_bytes(
        before + b'{"id": "q19/1", "ques'
    )  # as a kill in the middle of a write leaves it
    done = subprocess.run(child, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "40"
    assert file.read_bytes().startswith(before), "what was there is left as it was"
    assert sorted(t.id for t in read_trajectories(file)) == sorted(
        f"q{n}/{a}" for n in range(20) for a in (0, 1)
    )


def test_a_file_that_cannot_be_written_stops_everything(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    run(tmp_path / "a.jsonl", count=1, budget=BudgetSettings(episodes=1))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "a.jsonl", count=1)


def test_the_scripted_model_is_a_model():
    assert isinstance(ScriptedModel([]), Model)
    by_question = ScriptedModel({"Where is Oslo?": ["Action: finish[Norway]"]})
    assert asyncio.run(play(by_question, TASK)).success
    assert "has 1 replies" in episode(["Action: search[x]"]).error


def test_two_processes_do_not_write_one_file(tmp_path, caplog):
    """The second waits, says for whom, and plays nothing that the first one played."""
    path, plan = tmp_path / "a.jsonl", {"some": "settings"}
    first = Journal(path, plan)
    with first:
        thread = threading.Thread(target=lambda: found.append(Journal(path, plan)))
        found = []
        thread.start()
        while "waiting for process" not in caplog.text and thread.is_alive():
            time.sleep(0.01)
        assert f"process {os.getpid()} on" in caplog.text and not found
        first.add(run(tmp_path / "b.jsonl", count=1)[0])
    thread.join()
    assert len(found[0].records) == 1


def test_a_file_that_was_written_since_it_was_read_is_not_written_over(tmp_path):
    path, plan = tmp_path / "a.jsonl", {"some": "settings"}
    late, early = Journal(path, plan), Journal(path, plan)
    with early:
        early.add(run(tmp_path / "b.jsonl", count=1)[0])
    with (
        pytest.raises(
            RuntimeError, match="written by another process since it was read; call again"
        ),
        late,
    ):
        pass
    with Journal(path, plan) as again:
        assert len(again.records) == 1


def test_records_of_another_source_are_kept_and_told(tmp_path, caplog, monkeypatch):
    run(tmp_path / "a.jsonl", count=1)
    made = json.loads((tmp_path / "a.jsonl.settings.json").read_text())["sources"]
    assert made == [source_hash("agents.live")]
    monkeypatch.setattr(sys.modules["negfail_nb.journal"], "source_hash", lambda module: "other")
    run(tmp_path / "a.jsonl", count=1)
    assert "were made by another source of this package" in caplog.text
    assert set(json.loads((tmp_path / "a.jsonl.settings.json").read_text())["sources"]) == {
        *made,
        "other",
    }
