"""03 prefix: labels that say how good a run was, and rendering to token ids with a loss mask.

One trajectory: its question turn gets the label of its class (`templates`, `turns`), the chat
template writes the turns and the text is cut where loss starts and ends (`chat`), the pieces become
ids (`tokens`), and what the assistant wrote carries loss (`masks`). `rendering` strings these
together.
"""

from negfail_nb.prefix.chat_text import chat_template_text
from negfail_nb.prefix.exports import Exported, export
from negfail_nb.prefix.masks import check_mask
from negfail_nb.prefix.rendered import Example, Rendered
from negfail_nb.prefix.rendering import in_all, render
from negfail_nb.prefix.templates import LabelClass, Template, find_template, load_templates, nat_k

__all__ = [
    "Example",
    "Exported",
    "LabelClass",
    "Rendered",
    "Template",
    "chat_template_text",
    "check_mask",
    "export",
    "find_template",
    "in_all",
    "load_templates",
    "nat_k",
    "render",
]
