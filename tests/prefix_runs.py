"""Runs to be rendered, and what is read back of them, for the tests of prefix."""

from chat_tokenizers import CONTROL
from hypothesis import strategies as st

from negfail_nb.settings import PrefixSettings
from negfail_nb.trajectory import Trajectory

FAMILIES = (
    "byte-level",
    "byte-level with space",
    "sentencepiece",
    "sentencepiece, legacy",
    "slow bytes",
)
QUESTION = "What is {2} + 2?"
BARE, INSTRUCTED = PrefixSettings(), PrefixSettings(instruction=True)


def run(*turns, id="run", question=QUESTION, **fields):
    """Return a trajectory of turns: user and assistant alternate, or each is a message."""
    turns = turns or (
        f"{QUESTION}\n",
        "Thought: add.\nAction: calculate[2 + 2]",
        "Observation: 4",
        "Action: finish[4]",
    )
    roles = ("user", "assistant") * len(turns)
    messages = tuple(
        t if isinstance(t, dict) else {"role": r, "content": t}
        for r, t in zip(roles, turns, strict=False)
    )
    return Trajectory(
        id=id, question_id="q", question=question, messages=messages, **{"success": True, **fields}
    )


def trained(rendered, index=0):
    """Return the text of each run of trained tokens, cut behind each end token."""
    example, end = rendered[index], rendered.tokenizer.convert_tokens_to_ids(rendered.end_token)
    runs, current = [], []
    for token, keep in zip(example.input_ids.tolist(), example.trained, strict=True):
        current += [token] if keep else []
        if current and (token == end or not keep):
            runs.append(current)
            current = []
    runs += [current] if current else []
    # Behind another token, for some tokenizers drop a space at the start of a text.
    return [rendered.tokenizer.decode([end, *ids]).removeprefix(rendered.end_token) for ids in runs]


def decoded(rendered, index=0):
    return rendered.tokenizer.decode(rendered[index].input_ids.tolist(), skip_special_tokens=False)


# Any text a model or a tool may have written; "▁" is a space to a SentencePiece tokenizer, and no
# loss of ours.
anything = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="▁"), max_size=12)
fragments = st.lists(
    st.one_of(
        anything, st.sampled_from([*CONTROL, "\n", "\n\n", " ", "  ", "\t", "assistant", "[/INST]"])
    )
)
contents = st.builds("".join, fragments)


CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "search", "arguments": '{"query": "Ed <|eot_id|> \\"Wood\\""}'},
        }
    ],
}
TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "d",
        "parameters": {"type": "object", "properties": {}},
    },
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": 'born "1924"\n<|eot_id|>'}
