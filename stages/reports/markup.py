"""HTML made of escaped text: whatever is not `Html` already is data, and becomes text.

The page is well-formed XML too, so that a parser can check it.
"""

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from stages.reports.palette import DARK, LIGHT, variables

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_VOID = {"meta", "br", "hr"}
# allowed neither in XML nor, for the most part, in HTML
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Html(str):
    """Markup; any other string is text and gets escaped."""


def text(value: object) -> Html:
    """`value` as markup: escaped, unless it is markup already. Control characters become the replacement character."""
    return value if isinstance(value, Html) else Html(html.escape(_CONTROL.sub("\ufffd", str(value))))


def join(parts: Iterable[object], between: str = "") -> Html:
    """The parts, escaped where they are text, one after another."""
    return Html(text(between).join(text(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. `cls` is the attribute class, `_` in other names is a hyphen; None leaves an attribute out."""
    names = {"cls": "class", "for_": "for"}
    given = "".join(
        f' {names.get(key, key.replace("_", "-"))}="{text(value)}"' for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}/>" if name in _VOID else f"<{name}{given}>{join(children)}</{name}>")


def paragraph(*children: object, cls: str | None = None) -> Html:
    return tag("p", *children, cls=cls)


def items(entries: Iterable[object]) -> Html:
    return tag("ul", *(tag("li", entry) for entry in entries))


def code(content: str) -> Html:
    """A block of commands, which scrolls by itself where it is too wide."""
    return tag("pre", tag("code", content), tabindex=0)


def facts(entries: Iterable[tuple[object, object]]) -> Html:
    """Names with their values, as a description list."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in entries), cls="facts")


def table(caption: object, head: Sequence[object], rows: Iterable[Sequence[object]], words: int = 1) -> Html:
    """A table whose rows begin with a heading; it scrolls by itself where it is too wide.

    Args:
        words: how many columns from the left are words, the others are numbers.
    """
    def kind(column: int) -> str | None:
        return None if column < words else "number"

    body = [
        tag("tr", tag("th", first, scope="row"), *(tag("td", cell, cls=kind(n)) for n, cell in enumerate(rest, 1)))
        for first, *rest in rows
    ]
    headings = (tag("th", name, scope="col", cls=kind(n)) for n, name in enumerate(head))
    made = tag("table", tag("caption", tag("span", caption, cls="told")), tag("thead", tag("tr", *headings)),
               tag("tbody", *body))
    return tag("div", made, cls="scroll", tabindex=0, role="group", aria_label="table, scrolls sideways")


def section(name: str, title: str, *children: object) -> Html:
    """A part of the page that the table of contents lists; `name` is its anchor."""
    return tag("section", tag("h2", title, id=f"{name}-title"), *children, id=name, aria_labelledby=f"{name}-title")


def page(title: str, lead: Html, sections: dict[tuple[str, str], Sequence[object]]) -> str:
    """The whole document.

    Args:
        lead: what stands above the table of contents.
        sections: contents by (anchor, title), in order.
    """
    contents = tag("nav", tag("h2", "Contents"), tag("ol", *(
        tag("li", tag("a", heading, href=f"#{name}")) for name, heading in sections
    )), aria_label="Contents")
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"), tag("meta", name="referrer", content="no-referrer"),
        tag("title", title), tag("style", _style()),
    )
    main = tag("main", *(section(*key, *children) for key, children in sections.items()))
    body = tag("body", tag("header", tag("h1", title), lead), contents, main)
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _style() -> Html:
    rules = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    return Html(
        f":root{{{variables(LIGHT)}}}\n@media screen and (prefers-color-scheme: dark){{:root{{{variables(DARK)}}}}}\n"
        f"{rules}"
    )
