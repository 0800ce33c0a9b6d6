"""Colours of the report, by the part they play: a light set, which pictures are drawn in, and a dark one."""

LIGHT = {
    "paper": "#fdfdfb", "raised": "#f4f4ef", "ink": "#20252b", "muted": "#5a626b", "rule": "#d8d9d3",
    "link": "#1f5f8b", "first": "#2b6690", "second": "#a3531f", "third": "#7a8288", "fourth": "#3d7f63",
}
DARK = {
    "paper": "#15181b", "raised": "#1e2226", "ink": "#e3e5e2", "muted": "#a2a9af", "rule": "#383e44",
    "link": "#86bce2", "first": "#7ab2da", "second": "#e39a66", "third": "#9aa2a9", "fourth": "#7fc4a3",
}

ANCHOR, TAIL = "first", "second"

OF_MODEL = {"base": "third", "sft": "first", "dpo": "second", "markov": "fourth"}
"""The colour of a row, the same in every picture."""


def variables(colours: dict[str, str]) -> str:
    """The colours as CSS custom properties, `--ink:#20252b;…`."""
    return "".join(f"--{name}:{value};" for name, value in colours.items())
