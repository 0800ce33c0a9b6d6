"""The README stays short, names what is there, and its commands can be found by those that run them."""

import re

import pytest

from tests.contract.imports import PACKAGE, ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / PACKAGE).rglob("README.md")), ROOT / "data" / "README.md",
         ROOT / "data" / "raw" / "README.md", ROOT / "metrics" / "studies" / "README.md"]


def tables(text: str) -> list[list[str]]:
    """The rows of each table, without its heading."""
    return [block.splitlines()[2:] for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]


def test_it_has_at_most_12_kilobytes_and_one_table_of_results_of_at_most_8_rows():
    assert len(TEXT.encode()) <= 12_000
    # what commands print is no table of ours
    outside = re.sub(r"^```.*?^```", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    results = [rows for rows in tables(outside) if any(re.search(r"\.\d\d", row) for row in rows)]
    assert len(results) == 1 and len(results[0]) <= 8
    assert len(re.findall(r"^!\[", outside, re.MULTILINE)) == 1, "one picture"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_is_there(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target


def test_the_tree_names_every_folder():
    [tree] = re.findall(r"```\n(stages/.*?)```", TEXT, re.DOTALL)
    named = set(re.findall(r"^  (\w+)/", tree, re.MULTILINE))
    there = {path.name for path in (ROOT / PACKAGE).iterdir() if (path / "__init__.py").exists()}
    assert named == there
    assert set(re.findall(r"^(\w+)/", tree, re.MULTILINE)) == {"stages", "data", "models", "metrics", "tests"}


def test_keys_of_params_in_it_are_keys():
    from stages.common.params import dotted_keys
    from stages.params import Params

    sections = "|".join(sorted(Params.model_fields))
    named = set(re.findall(rf"`((?:{sections})\.\w+)`", TEXT))
    assert named and named <= dotted_keys(Params)
