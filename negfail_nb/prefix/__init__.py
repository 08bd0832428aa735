"""03 prefix: labels that say how good a run was, and rendering to token ids with a loss mask."""

from negfail_nb.prefix.chat import chat_template_text
from negfail_nb.prefix.exports import Exported, export
from negfail_nb.prefix.rendered import Example, Rendered, check_mask
from negfail_nb.prefix.rendering import render
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
    "load_templates",
    "nat_k",
    "render",
]
