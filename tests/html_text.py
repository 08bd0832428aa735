"""What a person reads of a page: its text without tags, one space between words."""

import re
from html import unescape

from negfail_nb.views.pages import to_html


def text_of(shown):
    html = shown if isinstance(shown, str) else to_html(shown)
    html = re.sub(r"<style.*?</style>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())
