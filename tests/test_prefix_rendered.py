"""What was rendered: checked, shown, saved and loaded, as a dataset and as a table."""

import re

import numpy as np
from chat_tokenizers import tokenizer
from prefix_runs import QUESTION, run

from negfail_nb.prefix import check_mask, render
from negfail_nb.settings import PrefixSettings


def test_check_mask_finds_a_wrong_mask():
    made = tokenizer("byte-level", "llama3")
    rendered = render([run()], "none", made)
    assert check_mask(rendered, 0) == ()
    mask = rendered[0].trained
    first = int(np.flatnonzero(mask)[0])
    mask[first] = False
    assert (
        "trained ': add." in check_mask(rendered, 0)[0] or "written" in check_mask(rendered, 0)[0]
    )
    mask[first] = True
    mask[-1] = False
    assert "1 trained turns with an end token, 2 in the trajectory" in check_mask(rendered, 0)[0]


def test_view_escapes_and_marks_without_colour():
    made = tokenizer("byte-level", "llama3")
    view = render(
        [run(QUESTION, "<script>alert(1)</script>", "<b>", "ok")], "prefix-good", made
    ).show(0)
    html = view._repr_html_()
    assert (
        "<script>" not in html
        and "&lt;script&gt;alert(1)&lt;/script&gt;&lt;|eot_id|&gt;</span>" in html
    )
    assert re.search(r'<span style="text-decoration:underline[^"]*">&lt;script', html)
    assert re.search(r'<span style="font-weight:bold[^"]*">\[Good\] Question: </span>', html)
    assert "[[ok<|eot_id|>]]" in repr(view) and "**[Good] Question: **" in repr(view)
    assert re.match(r"run: class good, \d+ tokens, \d+ trained", repr(view))


def test_content_is_what_training_and_evaluation_see():
    made = tokenizer("byte-level", "llama3")
    rendered = render([run(), run(QUESTION, id="silent")], "target-aware", made)
    again = render([run()], "target-aware", tokenizer("byte-level", "llama3"))
    assert rendered.skipped and rendered.content == again.content
    others = [
        render([run(), run(id="b")], "target-aware", made),
        render([run(id="b")], "target-aware", made),
        render([run()], "prefix-good", made),
        render([run()], "target-aware", made, PrefixSettings(max_tokens=64)),
        render([run()], "target-aware", tokenizer("byte-level", "chatml")),
    ]
    assert len({again.content, *(other.content for other in others)}) == 6


def test_dataset_and_table_agree():
    rendered = render(
        [run(), run(id="b", success=False)], "target-aware", tokenizer("byte-level", "llama3")
    )
    rows, table = rendered.dataset(), rendered.table()
    assert [len(r["input_ids"]) for r in rows] == table["tokens"].tolist()
    assert [sum(x != -100 for x in r["labels"]) for r in rows] == table["trained"].tolist()
    assert rows["id"][:] == ["run", "b"] and rows["question_id"][:] == ["q", "q"]
