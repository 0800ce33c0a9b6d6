"""Sections of the page as a reader sees them."""

import html
import re

from stages.commands.report import values
from stages.reports.page import render
from stages.studies.repository import Commit

NOWHERE = Commit(None, False)


def section(name, inputs, at=NOWHERE, with_examples=True):
    """A section as markup."""
    return render(f"sections/{name}.html.j2", **values(inputs, at, with_examples))


def words(markup):
    """What is read of it: tags gone, pictures too, one space between words."""
    text = re.sub(r"<svg.*?</svg>", "", markup, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())
