import json
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import polars as pl
import pytest

from stages.common import tables
from stages.common.errors import UserError
from stages.reports import cards, drawing, figures
from stages.reports.differences import differences
from stages.reports.drawing import require_matplotlib, save_png
from stages.reports.examples import cards as example_cards
from stages.reports.examples import examples
from stages.reports.gather import Places, gather
from stages.reports.markup import Html, tag, text
from stages.reports.palette import DARK, LIGHT
from stages.reports.results import difference_table, metric_tables, study_tables
from stages.studies.repository import Commit
from tests.reports.made import NASTY

NOWHERE = Commit(None, False)


@pytest.fixture
def copied(places, tmp_path):
    """A run that a test may damage."""
    root = shutil.copytree(places.params.parent, tmp_path / "run")
    return Places(root / "params.yaml", root / "dvc.lock", root / "data", root / "metrics", root / "models")


def test_text_is_escaped_and_markup_is_not():
    assert text('<a b="c">&\x00') == "&lt;a b=&quot;c&quot;&gt;&amp;\ufffd"
    assert tag("p", "<", Html("<b>x</b>"), cls='"', id=None) == '<p class="&quot;">&lt;<b>x</b></p>'


def test_palettes_name_the_same_colours_each_once():
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)  # a picture's colours are told apart by their values


def test_differences_are_of_both_decisions_and_of_every_pair(material):
    found = differences(material)
    assert {key[0] for key in found} == {"plain", "adjusted"} and len(found) == 8
    assert len(re.findall("<tr>", str(difference_table(material, found)))) == 9


def test_predictions_of_another_run_are_refused(copied):
    path = copied.data / "predictions" / "dpo.parquet"
    tables.write(pl.read_parquet(copied.data / "predictions" / "sft.parquet"), "predictions", path)
    with pytest.raises(UserError, match="are not those that metrics/eval is of .*run `dvc repro`"):
        differences(gather(copied))


def test_examples_are_right_and_wrong_of_each_group_and_agree_with_the_tables(material):
    chosen = examples(material)
    assert examples(material) == chosen and 3 <= len(chosen) <= 6
    assert {one.right for one in chosen} == {True, False} and len({one.group for one in chosen}) == 3
    for one in chosen:
        probabilities = [p for _, p in one.answers]
        assert len(one.answers) == 3 and probabilities == sorted(probabilities, reverse=True)
        assert one.right == (one.answers[0][0] == one.truth)
        assert (one.truth in [name for name, _ in one.answers]) == (one.rank <= 3)
        assert material.vocabulary.filter(behavior=one.truth)["group"].item() == one.group
        assert all(re.fullmatch(r"\w+day, \d\d h", when) for when, _, _ in [*one.history, (one.when, "", "")])


def test_a_history_holds_no_event_of_another_user(material):
    """Every event is renamed after its user: only the target's own may be in front of it."""
    own = pl.col("user").rank("dense").cast(pl.String)
    events = material.events.with_columns(place=own)
    for one in examples(replace(material, events=events)):
        assert {place for _, place, _ in one.history} <= {one.place}


def test_tables_have_every_row_and_studies_their_caption(material):
    made = "".join(metric_tables(material))
    assert all(made.count(name) >= 4 for name in ("B-Tuning", "Markov with hour and place", "No tuning"))
    study = "".join(study_tables(material.studies))
    assert "A planted effect &amp; its row" in study and "--setting small" in study
    assert "simulated log" not in study  # its setting names another log


def test_a_study_shows_what_its_file_says_beside_the_numbers(copied):
    path = copied.metrics / "studies" / "small" / "planted.json"
    content = json.loads(path.read_text())
    for number, row in enumerate(content["rows"]):
        row["facts"] = [{"valid": {"overall": 0.5 + number / 10 + fold / 100}} for fold in range(3)]
    path.write_text(json.dumps(content))
    assert "validation" not in "".join(study_tables(gather(copied).studies))
    way = "Share of the way from a & b (.1) to c (.2), overall:\n\n| row | share |\n|---|---|\n| a & b | −7 % |\n"
    path.write_text(json.dumps(content | {
        "command": "python -m stages.study planted -S seed=1", "commit": "abc123 with changes", "gap": way,
        "note": "Files go by `self` <here>.", "show_validation": True, "simulated": True, "format": "table",
    }))
    study = gather(copied).studies[0]
    made = "".join(study_tables([study]))
    assert study.simulated and "simulated log" in made and "Log: table." in made and "abc123 with changes" in made
    assert "<code>python -m stages.study planted -S seed=1</code>" in made and "--setting" not in made
    assert "Files go by <code>self</code> &lt;here&gt;." in made
    root = ElementTree.fromstring(f"<p>{made}</p>")
    table, shares = root.iter("table")
    heads = ["".join(cell.itertext()) for cell in table.find("thead").iter("th")]
    assert heads[1] == "validation"
    assert [row.find("td").text for row in table.find("tbody")][:2] == [".510", ".610"]
    assert [cell.text for cell in shares.find("tbody")[0]] == ["a & b", "−7 %"] and "a & b (.1)" in "".join(
        shares.find("caption").itertext())


def test_a_way_that_is_no_table_stays_text(material):
    study = replace(material.studies[0], way="| a | b |\n|---|---|\n| c |")
    assert "<pre" in "".join(study_tables([study]))


def test_where_tau_and_temperature_come_from_follows_the_params(material):
    assert "best on validation windows" in "".join(metric_tables(material))
    fixed = replace(material, ran_with=material.ran_with | {"evaluate.tau": 0.5, "evaluate.temperature": 2})
    made = "".join(metric_tables(fixed))
    assert "validation" not in made and "the τ of evaluate.tau, 0.5" in made
    assert "T is the temperature of evaluate.temperature, 2" in made


def test_the_first_stage_is_called_what_it_was(material):
    other = replace(material, ran_with=material.ran_with | {"sft.labels": "all"})
    for parts in (metric_tables(other), difference_table(other, differences(other)), cards.model_card(other, NOWHERE)):
        assert "SFT on all" in "".join(parts) and "A-Tuning" not in "".join(parts)


def test_examples_of_a_real_log_have_no_place(material):
    counts = material.counts | {"ingest": material.counts["ingest"] | {"format": "table"}}
    real = examples(replace(material, counts=counts))
    assert real and {place for one in real for place in (one.place, *(place for _, place, _ in one.history))} == {""}
    assert any(one.place for one in examples(material))


def test_cards_count_without_dates_users_or_paths(material):
    content = "".join([*cards.data_card(material), *cards.model_card(material, NOWHERE)])
    assert f"{material.counts['ingest']['events']:,}" in content and "apache-2.0" in content
    assert not re.search(r"20\d\d-\d\d", content)
    folder = material.base | {"source": "folder", "name": "/home/somebody/model"}
    ran = material.ran_with | {"model.name": "own/model", "auxiliary.source": "/home/somebody/chats.json",
                               "source.path": "logs/of/somebody"}
    content = "".join(cards.model_card(replace(material, base=folder, ran_with=ran), NOWHERE))
    assert "/home/" not in content and "own/" not in content and "logs/of" not in content
    assert "auxiliary.source: chats.json" in content and "source.path: somebody" in content


def test_params_are_those_of_the_run_and_a_change_since_is_told(material):
    assert cards.changed(material) == []
    later = replace(material, ran_with=material.ran_with | {"lora.rank": 64})
    content = "".join(cards.model_card(later, NOWHERE))
    assert "rank 64" in content and "has changed since the pipeline ran (lora.rank)" in content


def test_a_dirty_workspace_is_told(material):
    content = "".join(cards.reproduce(material, Commit("abc123", True)))
    assert "git checkout abc123" in content and "differ from it" in content
    assert "differ from it" not in "".join(cards.reproduce(material, Commit("abc123", False)))


def test_without_what_has_not_run_yet_the_parts_say_so_or_stay_out(copied):
    for left in ("studies", "plots", "sft_history.csv", "dpo_history.csv", "eval/reference.json", "sft.json",
                 "dpo.json"):
        path = copied.metrics / left
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(copied.data)
    shutil.rmtree(copied.models)
    copied.lock.unlink()
    material = gather(copied)
    assert list(material.metrics) == ["base", "sft", "dpo"]
    assert differences(material) == {} and examples(material) == [] and material.studies == []
    assert "dvc pull" in "".join(example_cards(material, []))
    content = "".join(cards.model_card(material, NOWHERE))
    assert "dvc repro base" in content and "no dvc.lock" in content
    with drawing.style():
        drawn = [figures.behaviors(material), figures.confusion(material), figures.reliability(material),
                 figures.coverage(material), figures.frequencies(material), figures.embeddings(material)]
    assert drawn == [None] * 6 and figures.learning_curves(material) == []


@pytest.mark.parametrize(("path", "content", "message"), [
    ("ingest.json", None, "nothing to report before `dvc repro` has run"),
    ("windowing.json", "{", "not readable as JSON"), ("ingest.json", "{}", "it has no 'format'"),
    ("eval/base.json", '{"natural": {}}', "earlier version; run `dvc repro`"),
    ("studies/small/planted.json", "{}", "not what stages.study writes"),
    ("../dvc.lock", "[]", "not a readable dvc.lock"),
])
def test_what_is_missing_or_damaged_is_named(copied, path, content, message):
    path = copied.metrics / path
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=message):
        gather(copied)


def test_no_metrics_of_a_model(copied):
    shutil.rmtree(copied.metrics / "eval")
    with pytest.raises(UserError, match="no metrics of a model there; run `dvc repro`"):
        gather(copied)


def test_behaviours_that_look_like_numbers_stay_names(material):
    assert "7" in material.curves["dpo"]["behaviors"]["behavior"].to_list()
    assert material.curves["dpo"]["behaviors"].schema["accuracy"] == pl.Float64


def test_an_empty_history_draws_nothing(copied):
    (copied.metrics / "sft_history.csv").write_text("")
    (copied.metrics / "dpo_history.csv").write_text("step,loss\n")
    assert figures.learning_curves(gather(copied)) == []


def test_a_log_of_many_behaviours_is_cut_and_says_so(material):
    table = material.curves["dpo"]["behaviors"]
    many = pl.concat([table.with_columns(behavior=pl.col("behavior") + f" {n}") for n in range(4)])
    curves = {model: material.curves["dpo"] | {"behaviors": many} for model in ("base", "dpo")}
    with drawing.style():
        picture = figures.behaviors(replace(material, curves=curves))
    assert f"The {many.height - figures.MOST_NAMED} behaviours between" in picture.caption
    assert len(picture.figure.axes[0].get_yticklabels()) == figures.MOST_NAMED


def test_pictures_are_small_light_and_of_a_name_that_is_text(material, tmp_path):
    with drawing.style():
        picture = figures.behaviors(material)
    path = save_png(picture, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 120_000
    element = drawing.element(picture)
    assert NASTY not in element and "$y$" in element and "var(--ink)" in element
    assert not any(value in element for value in LIGHT.values())


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[report\]'"):
        require_matplotlib()
