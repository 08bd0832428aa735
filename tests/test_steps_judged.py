"""Steps of failed runs: a verdict on each, by rules or by a model, and what is trained of them."""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chat_tokenizers import tokenizer
from conftest import real_data
from hypothesis import given
from hypothesis import strategies as st
from prefix_runs import contents, trained

from negfail_nb.logs import load_trajectories
from negfail_nb.prefix import check_mask, export, find_template, render
from negfail_nb.quality import judge, judge_steps, known_ways, way_of
from negfail_nb.quality.judges import read_verdict
from negfail_nb.quality.judging import BAD, GOOD, NOTE, UNKNOWN, VERDICTS
from negfail_nb.quality.sums import invented_number, results, slip, worked
from negfail_nb.settings import PrefixSettings
from negfail_nb.toolcalls import Action
from negfail_nb.training import ALL_ARMS, make_arms
from negfail_nb.trajectory import Trajectory
from negfail_nb.views.figures import arm_title, look_of_model
from negfail_nb.views.prefix import browse_masks, show_tokens, tokens_of

NAT, STEPS, WEIGHTED, NUT = (
    arm.template for arm in make_arms(("nat", "nat-steps", "weighted", "nut"))
)
MINT = "trajectories/mint/mint_nofb_gsm8k.jsonl"
SUM = "Ann has 3 boxes of 8 pens. She loses 2. How many pens has she?"


def run(*turns, success=False, question=SUM, task="math", answer="22", id="run", **fields):
    """A run of turns (what the agent wrote, what came back)."""
    messages = [{"role": "user", "content": question}]
    for said, back in turns:
        messages.append({"role": "assistant", "content": said})
        messages += [{"role": "user", "content": f"Observation: {back}"}] if back else []
    given = {"question": question, "task": task, "answer": answer, "success": success}
    return Trajectory(id=id, question_id="q", messages=tuple(messages), **given, **fields)


def acts(name, argument, thought="I act."):
    return f"Thought: {thought}\nAction: {name}[{argument}]"


PENS = (acts("calculate", "3 * 8"), "24")
WRONG = (acts("finish", "24"), "Episode finished")
RIGHT = (acts("finish", "22"), "Episode finished")
SOLVED = run(PENS, (acts("calculate", "24 - 2"), "22"), RIGHT, success=True, id="solved")


def verdicts(trajectory, *others):
    found = judge_steps(trajectory, way_of(trajectory, known_ways([trajectory, *others])))
    return [(one.verdict, one.reason) for one in found]


@pytest.mark.parametrize(
    ("turn", "back", "verdict", "reason"),
    [
        ("Action: calculate[3 * 8", "", BAD, "malformed action: the bracket of 'calculate[3 * 8'"),
        (acts("calculate", "3 *"), "Error: syntax", BAD, "the tool reports an error: 'Error: sy"),
        (acts("calculate", "3 * 8", "Then 3 * 8 = 25."), "24", BAD, "writes '3 * 8 = 25', which"),
        (acts("calculate", "3 * 9"), "27", BAD, "its result 27 is on no known way"),
        (acts("calculate", "77 - 2"), "75", BAD, "uses 77, which is nowhere before"),
        ("Action: calculate[1]\nObservation 1: 5", "1", BAD, "writes an observation itself"),
        (acts("calculate", "3 + 8"), "11", BAD, "its result 11 is on no known way"),
        (acts("calculate", "3 * 8"), "24", UNKNOWN, "its result 24 is on a known way, and a wrong"),
        (acts("calculate", "24 - 2"), "22", GOOD, "its result 22 is the reference answer"),
        (acts("calculate", "8 * 3"), "many", UNKNOWN, "no single number comes back"),
        (acts("finish", "24"), "", BAD, "a wrong answer: '24'; right is '22'"),
        (acts("finish", "$22"), "", UNKNOWN, "the right answer, judged wrong: '$22'"),
    ],
)
def test_a_step_is_judged_by_what_the_record_says(turn, back, verdict, reason):
    found = verdicts(run((turn, back), WRONG), SOLVED)[0]
    assert found[0] == verdict and reason in found[1]


def test_what_is_on_the_way_of_a_solved_run_is_good_and_a_repetition_is_bad():
    failed = run(PENS, PENS, (acts("calculate", "24 + 2"), "26"), (acts("finish", "26"), "no"))
    assert verdicts(failed) == [
        (UNKNOWN, "no way to the answer is known"),
        (BAD, "repeats turn 1"),
        (UNKNOWN, "no way to the answer is known"),
        (BAD, "a wrong answer: '26'; right is '22'"),
    ]
    assert [v for v, _ in verdicts(failed, SOLVED)] == [GOOD, BAD, BAD, BAD]
    worked_out = failed.replace(answer="3 boxes are 3*8=<<3*8=24>>24.\n#### 22")
    assert [v for v, _ in verdicts(worked_out)] == [GOOD, BAD, BAD, BAD]


def test_an_answer_that_no_calculation_gave_says_what_the_last_gave():
    failed = run(PENS, (acts("calculate", "24 - 2"), "22"), (acts("finish", "25"), "no"))
    reason = verdicts(failed)[-1][1]
    assert reason == "a wrong answer: '25'; right is '22'; no calculation gave it, the last gave 22"


def test_what_led_to_a_rejected_answer_is_no_way():
    detour = run(
        (acts("calculate", "3 + 8"), "11"), (acts("finish", "11"), "Your answer is wrong.")
    )
    solved = detour.replace(messages=(*detour.messages, *SOLVED.messages[1:]), success=True, id="s")
    failed = run((acts("calculate", "3 + 8"), "11"), PENS, (acts("finish", "9"), ""))
    assert [v for v, _ in verdicts(failed, solved)] == [BAD, GOOD, BAD]


def search(query, found):
    return acts("search", query), found


def ask(*turns, **fields):
    given = {"question": "Who wrote Dune?", "task": "qa", "answer": "Frank Herbert"} | fields
    return run(*turns, (acts("finish", "Asimov"), "no"), **given)


def test_searches_are_judged_by_gold_titles():
    turns = (search("a", "Page: Foundation"), search("b", "Dune (novel): a book"))
    turns += (search("c", "Dune (novel) again"),)
    assert verdicts(ask(*turns, gold_titles=("Dune (novel)", "Herbert")))[:3] == [
        (BAD, "leads away from gold: turn 2 finds some"),
        (GOOD, "finds the gold passage 'Dune (novel)'"),
        (UNKNOWN, "finds only gold passages that were found before"),
    ]
    nothing = ask(search("a", "x"), gold_titles=("Dune",))
    assert verdicts(nothing)[0] == (UNKNOWN, "finds no gold passage, as all other turns")


def test_without_titles_searches_are_judged_by_the_answer_and_by_solved_runs():
    turns = (search("dune", "a desert"), search("author", "by Frank Herbert, 1965"))
    turns += (search("more", "Frank Herbert"), search("sand", "sand"))
    solved = ask(search("dune", "a desert"), success=True, id="s")
    assert verdicts(ask(*turns), solved)[:4] == [
        (GOOD, "a solved run of this question made this call"),
        (GOOD, "finds the reference answer 'Frank Herbert'"),
        (UNKNOWN, "no rule judges it"),
        (UNKNOWN, "no rule judges it"),
    ]
    truth = ask(search("dune", "yes it is"), answer="yes", task="yes_no")
    assert verdicts(truth)[0] == (UNKNOWN, "no rule judges it")


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("so 20 + 0.4*20 = 24 minutes", ("20 + 0.4*20 = 24", "28")),
        ("$52,500 + $15,750 = $97,750.", ("$52,500 + $15,750 = $97,750", "68250")),
        ("10 / 3 = 3.33 and 10 / 3 = 3.34 is no slip of rounding", None),
        ("(2 + 3) * 4 = 20, 5 * (1 + 1) = 10, 2x + 3 * 4 = 20, y = 3 * 4 == 13", None),
        ("8\n- 6 * 8 = 48, from 10:30 + 45 = 11:15, 50 / 100 = 50%, 3 * 2 = 1 * 6", None),
        ("7 / 0 = 1", None),
    ],
)
def test_sums_that_do_not_hold_are_found_and_others_are_left_alone(written, found):
    assert slip(written) == found


@given(st.text(alphabet="0123456789 +-*/=$.,()x\n", max_size=60))
def test_no_text_is_too_much_for_the_reading_of_numbers(text):
    found = slip(text)
    assert found is None or found[0].strip("$") in text
    invented_number(Action("calculate", text), text, "")
    assert all(value == value for value in (*results(text), *worked(f"####{text}")))


WORDS = ("Thought: ", "Action: ", "calculate[3*8]", "finish[22]", "search[Dune]", "\n", "[")
WORDS += ("Observation 1: 4", "3 * 8 = 25")
texts = st.builds("".join, st.lists(st.sampled_from(WORDS)))
turns = st.lists(
    st.tuples(texts, st.sampled_from(("", "24", "22", "Error: x", "Dune"))), max_size=5
)


@given(turns, st.sampled_from((False, True, None)), st.sampled_from(("math", "qa", "yes_no")))
def test_every_turn_of_a_failed_run_has_one_verdict_and_other_runs_none(turns, success, task):
    made = run(*turns, success=success, task=task)
    found = judge_steps(made, way_of(made, known_ways([made, SOLVED])))
    agent = [i for i, m in enumerate(made.messages) if m["role"] == "assistant"]
    assert [one.message for one in found] == (agent if success is False else [])
    assert all(one.verdict in VERDICTS and one.reason and one.by == "rules" for one in found)


# What is trained
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    return tokenizer("byte-level", "chatml")


FAILED = run(PENS, (acts("calculate", "24 + 2"), "26"), (acts("finish", "26"), "no"), id="failed")


def test_good_steps_of_failed_runs_carry_loss_under_the_label_of_successes(made):
    rendered = render([SOLVED, FAILED], STEPS, made)
    plain = render([SOLVED, FAILED], NAT, made)
    assert trained(rendered, 1) == [trained(plain, 1)[0]] and len(trained(plain, 1)) == 3
    assert trained(rendered, 0) == trained(plain, 0)
    assert rendered[1].label == f"Question: {SUM}. " + NAT.text("", "math", 0).partition(". ")[2]
    assert rendered[0].verdicts == () and [v[2] for v in rendered[1].verdicts] == [GOOD, BAD, BAD]
    assert rendered.classes == ("correct",) and check_mask(rendered, 1) == ()
    text = made.decode(rendered[1].input_ids)
    assert "calculate[24 + 2]" in text  # what is bad stays as context


@given(
    st.lists(st.tuples(contents, st.sampled_from(VERDICTS)), min_size=1, max_size=4), st.booleans()
)
def test_the_mask_is_that_of_nat_without_the_turns_that_are_not_good(said, instructed):
    made = tokenizer("byte-level", "chatml")
    messages = [{"role": "user", "content": "Who?"}]
    for words, verdict in said:
        note = {NOTE: {"verdict": verdict, "reason": "so"}}
        messages.append({"role": "assistant", "content": words, **note})
        messages.append({"role": "user", "content": "Observation: 4"})
    failed = Trajectory(
        id="f", question_id="q", question="Who?", messages=tuple(messages), success=False
    )
    settings = PrefixSettings(instruction=instructed)
    nat = render([failed], NAT, made, settings)
    steps = render([failed], STEPS, made, settings)
    wanted = [verdict == GOOD for _, verdict in said]
    if not any(wanted):
        assert len(steps) == 0 and "no step of this failed run is judged good" in str(steps.skipped)
        return
    assert check_mask(steps, 0) == ()
    kept = [words for words, (_, v) in zip(trained(nat), said, strict=True) if v == GOOD]
    assert trained(steps) == kept
    spans = [(first, last) for first, last, *_ in steps[0].verdicts]
    inside = np.zeros(len(steps[0].input_ids), dtype=bool)
    for (first, last), good in zip(spans, wanted, strict=True):
        inside[first:last] |= good
    assert (steps[0].trained <= inside).all()


def test_runs_without_a_good_step_and_of_unknown_outcome_are_left_out_and_counted(made):
    unknown = SOLVED.replace(id="u", success=None)
    rendered = render([SOLVED, run(WRONG), unknown], STEPS, made)
    assert [e.id for e in rendered.examples] == ["solved"]
    assert rendered.skip_reasons() == {
        "no step of this failed run is judged good": 1,
        "whether it succeeded is unknown, and the template sorts by that": 1,
    }
    asked = render([SOLVED, FAILED], STEPS, made, inference=True)
    assert len(asked) == 2 and asked[1].verdicts == () and len(trained(asked, 1)) == 3


def test_weighted_runs_carry_their_quality_and_no_label(made):
    half = FAILED.replace(scores={"quality": 0.5})
    rendered = render([SOLVED, half], WEIGHTED, made)
    plain = render([SOLVED, half], NUT, made)
    rows = rendered.dataset()
    assert "weights" not in plain.dataset().column_names
    assert [set(row) for row in rows["weights"]] == [{1.0}, {0.5}]
    assert [len(row) for row in rows["weights"]] == [len(e.input_ids) for e in plain.examples]
    assert rows["labels"] == plain.dataset()["labels"] and rendered.content != plain.content
    again = render([SOLVED, FAILED.replace(scores={"quality": 0.25})], WEIGHTED, made)
    assert again.content != rendered.content
    none = render([SOLVED, FAILED.replace(scores={"quality": 0.0})], WEIGHTED, made)
    assert "its score 'quality' is 0" in none.skipped[0].reason
    with pytest.raises(ValueError, match="needs the score 'quality'.*leave weighted out"):
        render([FAILED], WEIGHTED, made)
    with pytest.raises(ValueError, match="'quality' is 3.0; a weight of the loss is between 0 an"):
        render([FAILED.replace(scores={"quality": 3.0})], WEIGHTED, made)


@pytest.mark.parametrize("template", [STEPS, WEIGHTED])
def test_verdicts_and_weights_are_the_same_from_files(template, made, tmp_path):
    runs = [SOLVED, FAILED.replace(scores={"quality": 0.3}), run(WRONG, scores={"quality": 0.1})]
    here, there = (render(runs, template, made, folder=f) for f in (None, tmp_path / "r"))
    for one, other in zip(here.examples, there.examples, strict=True):
        assert one.verdicts == other.verdicts and one.weight == other.weight
        assert (one.trained == other.trained).all()
    assert here.content == there.content and here.skip_reasons() == there.skip_reasons()
    assert here.dataset()[:] == there.dataset()[:]


def test_exports_say_masks_and_weights_or_refuse(made, tmp_path):
    runs = [SOLVED, FAILED.replace(scores={"quality": 0.5})]

    def rows(kind, template, **options):
        done = export(runs, kind, tmp_path / f"{kind}.jsonl", template, **options)
        return [json.loads(line) for line in done.path.read_text("utf-8").splitlines()], done

    turns = rows("openai", STEPS)[0][1]["messages"]
    assert [m["weight"] for m in turns if m["role"] == "assistant"] == [1, 0, 0]
    turns = rows("sharegpt", STEPS)[0][1]["conversations"]
    assert [t.get("weight", 1) for t in turns if t["from"] == "gpt"] == [1, 0, 0]
    ids = rows("tokens", STEPS, tokenizer=made)[0][1]["labels"]
    assert ids == render(runs, STEPS, made)[1].labels.tolist()
    assert set(rows("tokens", WEIGHTED, tokenizer=made)[0][1]["weights"]) == {0.5}
    assert "weights" not in rows("tokens", STEPS, tokenizer=made)[0][0]
    for kind in ("sft", "dpo", "kto", "openai", "sharegpt"):
        with pytest.raises(ValueError, match=f"{kind} rows have no place for what the loss of a r"):
            rows(kind, WEIGHTED)
    for kind in ("dpo", "kto"):
        with pytest.raises(ValueError, match=f"{kind} rows prefer whole runs and mask no steps"):
            rows(kind, STEPS)


def test_a_page_says_of_each_turn_why_it_carries_no_loss_and_runs_nothing(made):
    script = "<script>alert('x')</script>"
    failed = run((acts("calculate", "24 - 2"), "22"), (acts("finish", script), ""), id=script)
    rendered = render([failed], STEPS, made)
    page = show_tokens(rendered, 0).html
    assert "<script" not in page and "masked, token" in page
    assert "good: its result 22 is the reference answer" in page
    assert "bad: a wrong answer: &quot;&lt;script&gt;" in page
    why = {token.why for token in tokens_of(rendered, 0) if token.kind == "trained"}
    assert why == {"good: its result 22 is the reference answer"}
    half = render([failed.replace(scores={"quality": 0.5})], WEIGHTED, made)
    assert "loss times 0.50" in show_tokens(half, 0).html
    assert "verdict" not in show_tokens(half, 0).html
    assert browse_masks({"nat-steps": rendered, "weighted": half}).children


# A model as the judge
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ('{"verdict": "good", "quote": "3 *  8", "reason": "needed"}', GOOD),
        ('Sure: {"verdict": "bad", "quote": "ACTION: CALCULATE"} and more', BAD),
        ('{"verdict": "bad", "quote": "never said"}', UNKNOWN),
        ('{"verdict": "bad", "quote": "8"}', UNKNOWN),
        ('{"verdict": "perhaps", "quote": "3 * 8"}', UNKNOWN),
        ('{"verdict": ["good"], "quote": "3 * 8"}', UNKNOWN),
        ("good", UNKNOWN),
        ("{", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_a_verdict_of_a_model_needs_words_of_the_turn(reply, verdict):
    assert read_verdict(reply, PENS[0])[0] == verdict


@given(st.text() | st.text(alphabet='{}[]":,verdictgood'), st.text())
def test_any_reply_is_a_verdict(reply, shown):
    assert read_verdict(reply, shown)[0] in VERDICTS


def test_a_model_notes_its_verdicts_in_the_run(made, caplog):
    caplog.set_level("INFO", "negfail_nb")
    prompts = []

    def ask(prompt):
        prompts.append(prompt)
        return '{"verdict": "good", "quote": "24 + 2", "reason": "it adds"}'

    ask.name = "a judge"
    solved, failed = judge([SOLVED, FAILED], ask)
    assert solved is SOLVED and len(prompts) == 3
    assert "Judge turn 2" in prompts[1] and "Observation 2: 26" in prompts[1]
    assert "finish[26]" not in prompts[1]  # what came later is not shown
    found = judge_steps(failed)
    assert [one.verdict for one in found] == [UNKNOWN, GOOD, UNKNOWN]
    assert {one.by for one in found} == {"a judge"}
    assert found[1].reason == 'it adds "24 + 2"'
    assert "a judge judged 3 steps: 1 good, 0 bad, 2 unknown" in caplog.text
    assert len(trained(render([failed], STEPS, made))) == 1
    assert NOTE not in str(export([failed], "openai", "/dev/null", STEPS)) + str(
        render([failed], NAT, made)[0]
    )
    assert judge([failed], ask) == (failed,) and len(prompts) == 3  # is not asked again
    broken = FAILED.replace(messages=({"role": "assistant", "content": "x", NOTE: "good"},))
    with pytest.raises(ValueError, match="'failed', message 0: judged is 'good'; write"):
        judge([broken], ask)


def judged(runs):
    """The verdicts on real runs, each checked to be on a turn of the agent."""
    ways = known_ways(runs)
    failed = [t for t in runs if t.success is False]
    found = [judge_steps(t, way_of(t, ways)) for t in failed]
    agent = [sum(m["role"] == "assistant" for m in t.messages) for t in failed]
    assert list(map(len, found)) == agent
    return Counter(one.verdict for steps in found for one in steps)


def test_real_runs_have_a_verdict_on_each_turn_and_few_are_good(tmp_path):
    lines = real_data(MINT).read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "some.jsonl").write_text("".join(lines[:240]), "utf-8")
    counts = judged(load_trajectories(tmp_path / "some.jsonl").trajectories)
    assert 0 < counts[GOOD] < counts[UNKNOWN] < counts[BAD]


@pytest.mark.skipif(not os.environ.get("NEGFAIL_NB_SCALE"), reason="NEGFAIL_NB_SCALE is not set")
def test_the_verdicts_on_a_public_log_are_those_in_the_results():
    counts = judged(load_trajectories(real_data(MINT)).trajectories)
    told = f"{counts[GOOD]:,} good, {counts[BAD]:,} bad, {counts[UNKNOWN]:,} unknown"
    assert told in (Path(__file__).parents[1] / "docs" / "results.md").read_text("utf-8")


def test_the_arms_are_named_and_their_labels_known():
    assert find_template("target-aware") == NAT and replace(STEPS, judged=False).classes[0].name
    assert STEPS.inference("Who?", "qa") == NAT.inference("Who?", "qa")
    assert WEIGHTED.inference("Who?", "qa") == NUT.inference("Who?", "qa")
    with pytest.raises(ValueError, match="no arm 'nat-step'; there are .*kto, nat-steps, weighted"):
        make_arms(["nat-step"])


def test_the_new_arms_look_like_no_other():
    looks = [look_of_model(arm) for arm in (*ALL_ARMS, "untuned")]
    assert len({look["color"] for look in looks}) == len({look["marker"] for look in looks}) == 9
    assert len({arm_title(arm) for arm in ALL_ARMS}) == 8
