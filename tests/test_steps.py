"""Actions out of ReAct text, tags and tool calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negfail_nb.actions import as_played, read_actions
from negfail_nb.steps import Action, final_answer, parse_actions, read_steps, text
from negfail_nb.trajectory import Trajectory


def said(content, **more):
    return {"role": "assistant", "content": content, **more}


def actions_of(text):
    return tuple(found.action for found in read_actions(text))


def attempt(*turns):
    return Trajectory(
        id="1", question_id="q", question="Q?", messages=({"role": "user", "content": "Q?"}, *turns)
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Thought 1: t\nAction 1: Search[a]", [("search", "a")]),
        ("Action: Search[a]", [("search", "a")]),
        ("action 12 : FINISH[ yes ]", [("finish", "yes")]),
        ("Action: calculate[(1 + 2) * x[0]]", [("calculate", "(1 + 2) * x[0]")]),
        ("Action: Search[a [b [c]] d] trailing text", [("search", "a [b [c]] d")]),
        ("Action: Search[a], Lookup[b]", [("search", "a"), ("lookup", "b")]),
        ("Action: Search[a] and Search[b]", [("search", "a"), ("search", "b")]),
        ("Action: Search[a]\nAction: Finish[b]", [("search", "a"), ("finish", "b")]),
        ("Action: Search[two\nlines]", [("search", "two\nlines")]),
        ("Action: wiki search[a]", [("wiki search", "a")]),
        ("Action: search2[foo]", [("search2", "foo")]),
        ("Action: web-search[foo]", [("web-search", "foo")]),
        ("Action: 2 Search[a] - Lookup[b]", [("search", "a"), ("lookup", "b")]),
        ("Action: [1] Search[[a]]", [("search", "[a]")]),
        ("Action: Final Answer[Paris]", [("final_answer", "Paris")]),
        ("Action: search\nAction Input: foo [bar", [("search", "foo [bar")]),
        ('Action: search\nAction Input: {"query": "foo"}\nObservation: x', [("search", "foo")]),
        ('Action: search\nAction Input: "foo"', [("search", "foo")]),
        ("Thought: I know\nFinal Answer: Paris\n", [("final_answer", "Paris")]),
        (
            "Action: search\nAction Input: a\nFinal Answer: Paris",
            [("search", "a"), ("final_answer", "Paris")],
        ),
        ("Final Answer: Paris\nObservation: no", [("final_answer", "Paris")]),
        ("Action: Search[never closed", []),
        ("Action: Search[a [b]", []),
        ("Action: think about it", []),
        ("Thought: Search[a] would help", []),
        ("I look at Action: Search[a]", []),
        ("", []),
        ("Action: Finish[]", [("finish", "")]),
        ("Action: Search[a]\nObservation: see Lookup[b]", [("search", "a")]),
    ],
)
def test_react_text(content, expected):
    assert [(a.name, a.argument) for a in actions_of(content)] == expected


balanced = st.recursive(
    st.text(alphabet="ab ,:()1é\u4e2d", max_size=6),
    lambda inner: st.tuples(inner, inner, inner).map(lambda t: f"{t[0]}[{t[1]}]{t[2]}"),
    max_leaves=8,
)
names = st.sampled_from(["Search", "Lookup", "calculate", "Finish"])


@given(
    name=names,
    argument=balanced,
    number=st.integers(1, 99) | st.just(""),
    after=st.sampled_from(["", ".", " done", "\n"]),
)
def test_balanced_brackets_come_back_whole(name, argument, number, after):
    assert actions_of(f"Thought {number}: t\nAction {number}: {name}[{argument}]{after}") == (
        Action(name.lower(), argument.strip()),
    )


@given(
    st.lists(st.tuples(names, balanced), max_size=5),
    st.sampled_from([", ", " ", "; ", " and ", " then "]),
)
def test_several_actions_on_one_line_keep_their_order(calls, between):
    line = "Action: " + between.join(f"{name}[{argument}]" for name, argument in calls)
    assert actions_of(line) == tuple(
        Action(name.lower(), argument.strip()) for name, argument in calls
    )


@given(st.text(alphabet="Action:Search[] \n1", max_size=80))
def test_noise_never_fails_and_found_arguments_stand_in_the_text(content):
    for action in actions_of(content):
        assert action.argument in content


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<thought>t</thought>\n<execute>\nprint(1)\n</execute>", [("execute", "print(1)")]),
        ("The answer is <solution> 4 </solution>.", [("finish", "4")]),
        ("<execute>a</execute><execute>b</execute>", [("execute", "a"), ("execute", "b")]),
        ("<execute>cut off", [("execute", "cut off")]),
    ],
)
def test_tags(content, expected):
    assert [(a.name, a.argument) for a in parse_actions(said(content))] == expected


@pytest.mark.parametrize(
    "content",
    [
        "a" * 200_000,
        "the " * 50_000,
        "a[" * 100_000,
        "[" * 200_000,
        "a" * 200_000 + "[x]",
        "Action: " * 25_000,
    ],
)
def test_degenerate_text_of_any_length_comes_back(content):
    # Each of these took hours where the reading went back over the text at every character.
    assert actions_of(f"Action: {content}") == ()


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("submit", '{"answer": "Paris", "confidence": 0.9}', "Paris"),
        ("finish", '{"why": "x", "result": 18}', "18"),
        ("Final Answer", '{"final_answer": "no", "n": 1}', "no"),
        ("finish", '{"a": 1, "b": 2}', '{"a": 1, "b": 2}'),
        ("submit", '{"answer": "hi \\ud83d"}', "hi \ufffd"),
        ("submit", '{"answer": "\\ud83d\\ude00"}', "\U0001f600"),
    ],
)
def test_the_answer_of_a_finishing_call(name, arguments, expected):
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    assert final_answer([said("", tool_calls=[call])]) == expected


def test_a_final_answer_ends_the_thought():
    only = read_steps(attempt(said("Thought: I know\nFinal Answer: Paris")))[0]
    assert (only.thought, only.argument, only.error) == ("I know", "Paris", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"query": "x [y]"}', "x [y]"),
        ('{"a": 1, "b": "é"}', '{"a": 1, "b": "é"}'),
        ('{"n": 3}', "3"),
        ("not json", "not json"),
        ({"query": "x"}, "x"),
        ("", ""),
    ],
)
def test_tool_calls(arguments, expected):
    message = said(
        "Action: ignored[x]",
        tool_calls=[{"type": "function", "function": {"name": "Search", "arguments": arguments}}],
    )
    assert parse_actions(message) == (Action("search", expected),)


def test_final_answer_is_the_last_finish():
    turns = [
        said("Action: Finish[a]"),
        {"role": "user", "content": "Observation: no\nAction: Finish[x]"},
        said("Action: Finish[b]"),
    ]
    assert (
        final_answer(turns) == "b" and final_answer(turns[:1]) == "a" and final_answer([]) is None
    )


def test_steps_pair_thought_action_and_observation():
    found = read_steps(
        attempt(
            said("Thought 1: I search.\nAction 1: Search[x]"),
            {"role": "user", "content": "Observation 1: found\nmore"},
            said("Thought 2: done"),
        )
    )
    assert [
        (s.message, s.thought, s.action, s.argument, s.observation, s.error) for s in found
    ] == [(1, "I search.", "search", "x", "found\nmore", ""), (3, "done", "", "", "", "parse")]


def test_refused_and_failed_actions_are_told_apart():
    refused = read_steps(
        attempt(
            said("Action: Search x"),
            {"role": "user", "content": "Observation: Invalid Action. Valid Actions are"},
        )
    )
    failed = read_steps(
        attempt(
            said("<execute>1/0</execute>"),
            {
                "role": "user",
                "content": "Observation:\nTraceback (most recent call last):\nZeroDivisionError: x",
            },
            said("<solution>1</solution>"),
        )
    )
    assert [s.error for s in refused] == ["parse"] and [s.error for s in failed] == ["tool", ""]


def test_broken_arguments_are_a_parse_error():
    call = {"type": "function", "function": {"name": "search", "arguments": '{"query": '}}
    assert [s.error for s in read_steps(attempt(said("", tool_calls=[call])))] == ["parse"]


def test_text_joins_parts_and_takes_missing_content():
    assert (
        text({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, "b"]})
        == "ab"
    )
    assert text({"role": "assistant", "content": None}) == "" == text({"role": "assistant"})


def test_the_innermost_solution_tag_is_the_answer():
    assert parse_actions(said("<solution> The answer is <solution> 140 </solution>")) == (
        Action("finish", "140"),
    )


FORMS = [
    "**Action:** search[x y]",
    "**Action**: search[x y]",
    'Action: search("x y")',
    "Action: search('x y')",
    "Action: search: x y",
    "Action: search(x y)",
    'Action: search(query="x y")',
    'Action: search[query="x y"]',
    'Action: search["x y"]',
    "Action：search[x y]",
    "Action： search［x y］",
    "Action: search【x y】",
    "Action: search（“x y”）",
    "Action: `search[x y]`",
    "`Action: search[x y]`",
    "Action: Search[x y].",
    "- Action: search[x y]",
    "1. Action: search[x y]",
    "### Action\nsearch[x y]",
    "### Action: search[x y]",
    "**Action**\nsearch[x y]",
    "> Action: search[x y]",
    "Action:\nsearch[x y]",
    "Action: search\nAction Input: x y",
    "**Action:** search\n**Action Input:** x y",
    'Action: [search]\nAction Input: "x y"',
    "Action: `search`\nAction Input: `x y`",
    "Action: search, Action Input: x y",
    'Action: search\nAction Input:\n```json\n{"query": "x y"}\n```',
    'Action:\n```json\n{"action": "search", "action_input": "x y"}\n```',
    'Action:\n```\n{\n  "action": "search",\n  "action_input": {"query": "x y"}\n}\n```',
    '{"action": "search", "action_input": "x y"}',
    '```json\n{"action": "search", "action_input": "x y"}\n```',
    'Action: {"name": "search", "arguments": {"query": "x y"}}',
    '{"name": "search", "parameters": {"query": "x y"}}',
    '<tool_call>\n{"name": "search", "arguments": {"query": "x y"}}\n</tool_call>',
    'I look.\n<tool_call>{\n "name": "search",\n "arguments": {"query": "x y"}\n}</tool_call>',
    '<tool_call>{"name": "search", "arguments": {"query": "x y"}',
    '<tool_call>{"name": "search", "arguments": {"query": "x y"}</tool_call>',
    '<tool_call>{"name": "search", "arguments": "{\\"query\\": \\"x y\\"}"}</tool_call>',
    '<function=search>{"query": "x y"}</function>',
    '<|python_tag|>{"name": "search", "parameters": {"query": "x y"}}<|eom_id|>',
    '<|python_tag|>search.call(query="x y")',
    '[TOOL_CALLS][{"name": "search", "arguments": {"query": "x y"}}]',
    '[TOOL_CALLS] [{"name": "search", "arguments": {"query": "x y"}}]</s>',
    '[TOOL_CALLS]search[ARGS]{"query": "x y"}',
    '[TOOL_CALLS]search{"query": "x y"}',
    "<tool_call>\n<function=search>\n<parameter=query>\nx y\n</parameter>\n</function>\n"
    "</tool_call>",
    '<function_calls><invoke name="search"><parameter name="query">x '
    "y</parameter></invoke></function_calls>",
    "<tool_call>search\n<arg_key>query</arg_key>\n<arg_value>x y</arg_value>\n</tool_call>",
    '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>search\n```json\n{"query":'
    ' "x y"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.search:0<|tool_call_argument_begin"
    '|>{"query":'
    ' "x y"}<|tool_call_end|>',
    "<|start|>assistant<|channel|>commentary to=functions.search <|constrain|>json<|message"
    '|>{"query": "x y"}<|call|>',
    '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "search", "parameters": {"query": "x '
    'y"}}]<|END_ACTION|>',
    '```tool_code\nsearch(query="x y")\n```',
    '<|tool_call|>[{"name": "search", "arguments": {"query": "x y"}}]<|/tool_call|>',
    "Thought: I look. Action: search[x y]",
    "I must look it up.\nsearch[x y]",
    'search("x y")',
    "Thought 1: t\nAction 1: search[x y]\nObservation 1: found\nAction 2: finish[Sweden]",
    "Action: search[x y] Observation 1: Sweden Action 2: finish[z]",
    "Action: search[x y]\nResult: Sweden\nAction: finish[Sweden]",
    "Action: search[x y]\n<observation>Sweden</observation>\nAction: finish[Sweden]",
    '<tool_call>{"name": "search", "arguments": {"query": "x y"}}</tool_call>'
    '\n<tool_response>Sweden</tool_response>\n<tool_call>{"name":'
    ' "finish", "arguments": {"answer": "Sweden"}}</tool_call>',
    '[search(query="x y")]',
    "Action: search -> x y",
    "Action #1: search[x y]",
    "**Action 1**: **search[x y]**",
    "ACTION: SEARCH[x y]",
    "Action: search [x y]",
    "Next Action: search[x y]",
    'Action: search "x y"',
]


@pytest.mark.parametrize("reply", FORMS)
def test_an_action_is_read_in_any_form_that_a_reader_would_read(reply):
    assert parse_actions(said(reply)) == (Action("search", "x y"),)
    assert read_steps(attempt(said(reply)))[0].reason == ""


@pytest.mark.parametrize(
    "thought", ["<think>Maybe\n{}\n</think>\n", "{}\n</think>", "<reasoning>\n{}</reasoning>\n"]
)
def test_a_thought_is_no_action(thought):
    for form in (
        "Action: finish[Sweden]",
        "<tool_call>{}</tool_call>",
        '{"action": "finish", "action_input": "x"}',
    ):
        content = thought.replace("{}", form) + "Action: search[x y]"
        assert parse_actions(said(content)) == (Action("search", "x y"),)
        assert parse_actions(said(thought.replace("{}", form) + "I do not know.")) == ()


def test_what_a_message_only_thinks_is_no_step_of_its_own():
    turn = said("Action: search[x]", reasoning_content="Action: finish[y]")
    open_thought = said("<think>Action: finish[y]")
    first, last = read_steps(
        attempt(turn, {"role": "user", "content": "Observation: no"}, open_thought)
    )
    assert (first.action, first.thought, first.error) == ("search", "Action: finish[y]", "")
    assert (last.actions, last.error, last.reason) == (
        (),
        "parse",
        "the reply ends within its thought",
    )
    assert final_answer([turn, open_thought]) is None


@pytest.mark.parametrize(
    "sentence",
    [
        "He said that the action: search for it, was wrong.",
        "Action: think about it",
        "The action (search) is next.",
        "Action: I would look at the list [1] first",
        "Note: see [3].",
        "Final thoughts: none.",
        "Action movies are [sic] fun.",
        "The tool call failed. I will try a tool.",
        "Search results (3) are there.",
        "My action is to search (carefully).",
        "- Action items: call Bob [today]",
        "Action: see the passage [3]",
        'In Python, print("x") writes x.',
        "The answer is in the book [2].",
        '{"a": 1}',
        "I use f(x) = x[0].",
        "arr[0]",
        "Action! Camera!",
        "For example, write search[query] to search.",
        "Call finish with the answer.",
        "What follows the action: nothing.",
        "Call to action: subscribe (now).",
    ],
)
def test_prose_is_no_action(sentence):
    assert parse_actions(said(sentence)) == ()


words = st.sampled_from(
    "action search finish the answer tool call (note) [3] is: look, e.g. x = 2 . I".split()
)


@given(st.lists(words, max_size=12).map(" ".join))
def test_sentences_of_the_words_of_actions_are_no_actions(sentence):
    assert parse_actions(said(f"So {sentence}")) == ()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("Action: search[x", "the bracket of 'search[x' is never closed"),
        (
            "Action: search for it",
            "what follows 'Action:' is no call such as search[query]: 'search for it'",
        ),
        ("<tool_call>search</tool_call>", "the tool call is no JSON with a name and arguments"),
        (
            "Oslo is in Norway.",
            "there is neither a line 'Action: tool[argument]' nor a tool call: 'Oslo is in "
            "Norway.'",
        ),
        ("Observation: found", "it begins with an observation of its own"),
        (" ", "nothing was said"),
    ],
)
def test_what_remains_unreadable_keeps_its_reason(reply, reason):
    found = read_steps(
        attempt(
            said("Action: search[y]"), {"role": "user", "content": "Observation: no"}, said(reply)
        )
    )
    assert found[-1].error == "parse" and found[-1].reason.startswith(reason)


@pytest.mark.parametrize(
    "invented",
    [
        "\nObservation 1: born in Sweden\nAction 2: finish[Sweden]",
        " Observation: born in Sweden\nAction: finish[Sweden]",
        "\n**Observation:** born in Sweden\n**Action:** finish[Sweden]",
        "\nResult: Sweden\nFinal Answer: Sweden",
        "\n<observation>Sweden</observation>\nAction: finish[Sweden]",
        "\nUser: Observation: Sweden\nAssistant:\nAction: finish[Sweden]",
        "\nTool response: Sweden\nAction: finish[Sweden]",
    ],
)
@pytest.mark.parametrize(
    "first", ["Thought: t\nAction 1: search[x y]", "Action: search\nAction Input: x y"]
)
def test_what_follows_an_invented_observation_never_happened(first, invented):
    assert parse_actions(said(first + invented)) == (Action("search", "x y"),)
    assert as_played(first + invented) == first
    assert final_answer([said(first + invented)]) is None
