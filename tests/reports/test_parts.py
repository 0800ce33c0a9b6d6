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
from stages.metrics.summary import measure
from stages.reports import figures, results
from stages.reports.answer import answer
from stages.reports.differences import differences
from stages.reports.drawing import COLOURS, Picture, clean, require_library
from stages.reports.examples import examples
from stages.reports.inputs import Paths, read_inputs
from stages.reports.page import render
from stages.studies.definitions import MODELS
from stages.studies.repository import Commit
from tests.reports.made import NASTY
from tests.reports.made_page import section, words


@pytest.fixture
def copied(paths, tmp_path):
    """A run that a test may damage."""
    root = shutil.copytree(paths.params.parent, tmp_path / "run")
    return Paths(root / "params.yaml", root / "dvc.lock", root / "data", root / "metrics", root / "models")


def test_text_is_escaped_and_markup_is_not(inputs):
    counts = inputs.counts | {"ingest": inputs.counts["ingest"] | {"format": '<a b="c">&\x00'}}
    made = section("data", replace(inputs, counts=counts))
    assert "&lt;a b=&#34;c&#34;&gt;&amp;\ufffd" in made and "<a b" not in made and "<dl" in made
    assert clean("\x00\x1f\ufffe\n") == "\ufffd\ufffd\ufffd\n"


def test_palettes_name_the_same_colours_each_once():
    assert COLOURS["light"].keys() == COLOURS["dark"].keys()
    assert all(len(set(colours.values())) == len(colours) for colours in COLOURS.values())


def test_differences_are_of_both_decisions_and_of_every_pair(inputs):
    found = differences(inputs)
    assert {decision for (_, decision), _ in found} == {"plain", "adjusted"} and len(found) == 16
    table = section("metrics", inputs).split("Paired differences")[1].split("</table>")[0]
    assert len(re.findall("<tr>", table)) == 17


def test_predictions_of_another_run_are_refused(copied):
    path = copied.data / "predictions" / "dpo.parquet"
    tables.write(pl.read_parquet(copied.data / "predictions" / "sft.parquet"), "predictions", path)
    with pytest.raises(UserError, match="are not those that the metrics are of .*run `dvc repro`"):
        differences(read_inputs(copied))


def test_examples_are_right_and_wrong_of_each_group_and_agree_with_the_tables(inputs):
    chosen = examples(inputs)
    assert examples(inputs) == chosen and 3 <= len(chosen) <= 6
    assert {one.right for one in chosen} == {True, False} and len({one.group for one in chosen}) == 3
    for one in chosen:
        probabilities = [p for _, p in one.answers]
        assert len(one.answers) == 3 and probabilities == sorted(probabilities, reverse=True)
        assert one.right == (one.answers[0][0] == one.truth)
        assert (one.truth in [name for name, _ in one.answers]) == (one.rank <= 3)
        assert inputs.vocabulary.filter(behavior=one.truth)["group"].item() == one.group
        assert all(re.fullmatch(r"\w+day, \d\d h", when) for when, _, _ in [*one.history, (one.when, "", "")])


def test_what_a_person_alone_did_is_in_examples_and_differences(inputs):
    """The most frequent behaviour leaves the vocabulary: differences are those of the metrics all the same."""
    vocabulary = inputs.vocabulary.slice(1)
    name = inputs.vocabulary["behavior"][0]
    log_p = pl.col("log_p").list.slice(1)
    rest = log_p.list.eval(pl.element() - pl.element().exp().sum().log())
    frames = {row: frame.filter((pl.col("behavior") != name) | (pl.col("split") != "balanced"))
              .with_columns(log_p=rest) for row, frame in inputs.predictions.items()}
    params = inputs.params
    metrics = {row: measure(frame, inputs.events, vocabulary, params.evaluate, params.data_seed)
               for row, frame in frames.items()}
    own = replace(inputs, vocabulary=vocabulary, predictions=frames, metrics=inputs.metrics | metrics)
    assert metrics["sft"]["natural"]["own_candidates"] > 0 and metrics["sft"]["opened"]["share"] > 0
    assert len(differences(own)) == 16  # or it would say that they are of another run
    chosen = examples(own)
    assert name in {answer for one in chosen for answer, _ in one.answers}
    assert all(one.right == (one.answers[0][0] == one.truth) for one in chosen)


def test_a_history_holds_no_event_of_another_user(inputs):
    """Every event is renamed after its user: only the target's own may be in front of it."""
    own = pl.col("user").rank("dense").cast(pl.String)
    events = inputs.events.with_columns(place=own)
    for one in examples(replace(inputs, events=events)):
        assert {place for _, place, _ in one.history} <= {one.place}


def test_tables_have_every_row_and_studies_their_caption(inputs):
    made = section("metrics", inputs)
    assert all(made.count(name) >= 4 for name in ("DPO after SFT on", "Markov with hour and place", "No tuning"))
    study = section("studies", inputs)
    assert "A planted effect &amp; its row" in study and "--setting small" in study
    assert "simulated log" not in study  # its setting names another log


def test_a_study_shows_what_its_file_says_beside_the_numbers(copied):
    path = copied.metrics / "studies" / "small" / "planted.json"
    content = json.loads(path.read_text())
    for number, row in enumerate(content["rows"]):
        row["facts"] = [{"valid": {"overall": 0.5 + number / 10 + fold / 100}} for fold in range(3)]
    path.write_text(json.dumps(content))
    assert "validation" not in section("studies", read_inputs(copied))
    way = "Share of the way from a & b (.1) to c (.2), overall:\n\n| row | share |\n|---|---|\n| a & b | −7 % |\n"
    path.write_text(json.dumps(content | {
        "command": "python -m stages.study planted -S seed=1", "commit": "abc123 with changes", "gap": way,
        "note": "Files go by `self` <here>.", "show_validation": True, "simulated": True, "format": "table",
    }))
    inputs = read_inputs(copied)
    made = section("studies", inputs)
    assert inputs.studies[0]["simulated"] and "simulated log" in made and "Log: table." in made
    assert "abc123 with changes" in made
    assert "<code>python -m stages.study planted -S seed=1</code>" in made and "--setting" not in made
    assert "Files go by <code>self</code> &lt;here&gt;." in made
    root = ElementTree.fromstring(f"<p>{made}</p>")
    table, shares = root.iter("table")
    heads = ["".join(cell.itertext()) for cell in table.find("thead").iter("th")]
    assert heads[1] == "validation"
    assert [row.find("td").text for row in table.find("tbody")][:2] == [".510", ".610"]
    rows = inputs.studies[0]["summary"].rows
    rows[1].facts[:] = [{}, {"valid": {"overall": None}}, {"valid": {"overall": 0.7}}]  # a row that knows of one only
    table = next(ElementTree.fromstring(f"<p>{section('studies', inputs)}</p>").iter("table"))
    assert [row.find("td").text for row in table.find("tbody")][:2] == [".510", ".700"]
    assert [cell.text for cell in shares.find("tbody")[0]] == ["a & b", "−7 %"] and "a & b (.1)" in "".join(
        shares.find("caption").itertext())


def test_a_way_that_is_no_table_stays_text(inputs):
    study = inputs.studies[0] | {"gap": "| a | b |\n|---|---|\n| c |"}
    assert "<pre" in section("studies", replace(inputs, studies=[study]))


def test_where_tau_and_temperature_come_from_follows_the_params(inputs):
    assert "best on validation windows" in section("metrics", inputs)
    fixed = replace(inputs, ran_with=inputs.ran_with | {"evaluate.tau": 0.5, "evaluate.temperature": 2})
    made = section("metrics", fixed)
    assert "validation" not in made and "the τ of evaluate.tau, 0.5" in made
    assert "T is the temperature of evaluate.temperature, 2" in made


def test_the_first_stage_is_called_what_it_was(inputs):
    other = replace(inputs, ran_with=inputs.ran_with | {"sft.labels": "tail"})
    for name in ("metrics", "model", "confidence", "training"):
        assert "SFT on the tail" in section(name, other) and "A-Tuning" not in section(name, other)


def test_examples_of_a_real_log_have_no_place(inputs):
    counts = inputs.counts | {"ingest": inputs.counts["ingest"] | {"format": "table"}}
    real = examples(replace(inputs, counts=counts))
    assert real and {place for one in real for place in (one.place, *(place for _, place, _ in one.history))} == {""}
    assert any(one.place for one in examples(inputs))


def test_cards_count_without_dates_users_or_paths(inputs):
    content = section("data", inputs) + section("model", inputs)
    assert f"{inputs.counts['ingest']['events']:,}" in content and "apache-2.0" in content
    assert not re.search(r"20\d\d-\d\d", content)
    folder = inputs.base | {"source": "folder", "name": "/home/somebody/model"}
    ran = inputs.ran_with | {"model.name": "own/model", "auxiliary.source": "/home/somebody/chats.json",
                             "source.path": "logs/of/somebody"}
    content = section("model", replace(inputs, base=folder, ran_with=ran))
    assert "/home/" not in content and "own/" not in content and "logs/of" not in content
    assert "auxiliary.source: chats.json" in content and "source.path: somebody" in content


def test_what_is_in_the_pool_is_said(inputs):
    said = words(section("model", inputs))
    assert "Habits alone 0.750 1.500 SFT on all 0.125 2.250 Counts of the whole past 0.000 1.750" in said
    assert "58 natural windows of validation users" in said and "its log-loss there is 1.375" in said
    assert "Habits alone: 3,001 parameters, from 9,000 training windows." in said
    counts = {name: found for name, found in inputs.counts.items() if name not in ("habits", "fusion")}
    said = words(section("model", replace(inputs, counts=counts)))
    assert "Counts of the whole past" not in said and "Habits" not in said


def test_how_much_of_the_past_a_model_saw_is_said_beside_its_examples(inputs):
    assert "saw up to 20 events of history, its habits all" in words(section("examples", inputs))
    for last, says in (("dpo", "The model saw up to 20 events"), ("habits", "It saw all that the person did before")):
        metrics = {name: found for name, found in inputs.metrics.items() if name not in MODELS or name == last}
        assert says in words(section("examples", replace(inputs, metrics=metrics)))


def test_params_are_those_of_the_run_and_a_change_since_is_shown(inputs):
    assert results.model_card(inputs)["changed"] == []
    later = replace(inputs, ran_with=inputs.ran_with | {"lora.rank": 64})
    content = section("model", later)
    assert "rank 64" in content and "has changed since the pipeline ran (lora.rank)" in content


def test_a_dirty_workspace_is_shown(inputs):
    content = section("reproduce", inputs, Commit("abc123", True))
    assert "git checkout abc123" in content and "differ from it" in content
    assert "differ from it" not in section("reproduce", inputs, Commit("abc123", False))


def test_without_what_has_not_run_yet_the_parts_say_so_or_stay_out(copied):
    for left in ("studies", "plots", "sft_history.csv", "dpo_history.csv"):
        path = copied.metrics / left
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    kept = [*(f"evaluation/{model}.json" for model in MODELS),
            "counts/ingest.json", "counts/windowing.json"]
    for path in copied.data.rglob("*"):
        if path.is_file() and str(path.relative_to(copied.data)) not in kept:
            path.unlink()
    shutil.rmtree(copied.models)
    copied.lock.unlink()
    inputs = read_inputs(copied)
    assert list(inputs.metrics) == list(MODELS)
    assert differences(inputs) == {} and examples(inputs) == [] and inputs.studies == []
    assert "dvc pull" in section("examples", inputs) and "dvc pull" in section("metrics", inputs)
    content = section("model", inputs)
    assert "dvc repro base" in content and "no dvc.lock" in content
    assert list(figures.figures(inputs, answer(inputs))) == ["rows"]


@pytest.mark.parametrize(("path", "content", "message"), [
    ("counts/ingest.json", None, "nothing to report before `dvc repro` has run"),
    ("counts/windowing.json", "{", "not readable as JSON"), ("counts/ingest.json", "{}", "it has no 'format'"),
    ("evaluation/base.json", '{"natural": {}}', "earlier version; run `dvc repro`"),
    ("../metrics/studies/small/planted.json", "{}", "not what stages.study writes"),
    ("../dvc.lock", "[]", "not a readable dvc.lock"),
])
def test_what_is_missing_or_damaged_is_named(copied, path, content, message):
    path = copied.data / path
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_inputs(copied)


def test_no_metrics_of_a_model(copied):
    shutil.rmtree(copied.data / "evaluation")
    with pytest.raises(UserError, match="no metrics of a model there; run `dvc repro`"):
        read_inputs(copied)


def test_behaviours_that_look_like_numbers_stay_names(inputs):
    assert "7" in inputs.plots["dpo/behaviors"]["behavior"].to_list()
    assert inputs.plots["dpo/behaviors"].schema["accuracy"] == pl.Float64


def test_an_empty_history_draws_nothing(copied):
    (copied.metrics / "sft_history.csv").write_text("")
    (copied.metrics / "dpo_history.csv").write_text("step,loss\n")
    inputs = read_inputs(copied)
    assert not {"sft_loss", "dpo_loss", "dpo_overall"} & figures.figures(inputs, answer(inputs)).keys()


def test_a_log_of_many_behaviours_is_cut_and_says_so(inputs):
    table = inputs.plots["dpo/behaviors"]
    many = pl.concat([table.with_columns(behavior=pl.col("behavior") + f" {n}") for n in range(4)])
    plots = inputs.plots | {f"{model}/behaviors": many for model in ("base", "fusion")}
    cut = replace(inputs, plots=plots)
    assert f"The {many.height - figures.MOST_NAMED} behaviours between" in words(section("behaviours", cut))
    shown = {point["behavior"] for point in figures.behaviors(cut).spec["data"]["values"]}
    assert len(shown) == figures.MOST_NAMED


def test_every_row_is_in_one_picture_plain_and_adjusted(inputs):
    found = answer(inputs)
    points = figures.rows(inputs, found).spec["data"]["values"]
    assert len(points) == len(inputs.metrics) * 2 * 2 and sum(point["chosen"] for point in points) == 2
    for point in points:
        assert point["low"] <= point["value"] <= point["high"]


def test_pictures_are_small_light_and_of_a_name_that_is_text(inputs, tmp_path):
    picture = figures.behaviors(inputs)
    picture.save_png(tmp_path)
    path = tmp_path / "behaviors.png"
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 120_000
    assert NASTY not in picture.svg and "$y$" in picture.svg and "var(--ink)" in picture.svg
    assert not any(value in picture.svg for value in COLOURS["light"].values())


def test_ids_in_a_picture_are_its_own():
    spec = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "data": {"values": [{"x": 1}]},
            "mark": {"type": "point", "clip": True}, "encoding": {"x": {"field": "x", "type": "quantitative"}}}
    svg = Picture("mine", spec).svg
    assert 'id="mine-' in svg and "url(#mine-" in svg and len(re.findall(r'\bid="(?!mine-)', svg)) == 0


def test_a_plot_that_cannot_be_drawn_is_named():
    spec = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "mark": 7}
    with pytest.raises(UserError, match="plot 'wrong' cannot be drawn"):
        Picture("wrong", spec).svg  # noqa: B018


@pytest.mark.parametrize("missing", ["vl_convert", "PIL"])
def test_without_the_libraries_the_extra_is_named(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"{missing}.*pip install -e '\.\[report\]'"):
        require_library()


def test_a_page_of_plots_names_them():
    spec = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "data": {"values": [{"x": 1}]},
            "mark": "point", "encoding": {"x": {"field": "x", "type": "quantitative"}}}
    page = render("plots.html.j2", pictures=[Picture("a", spec, {"target": "a & b"})], revisions=["main", "HEAD"])
    root = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))
    assert "a &amp; b" in page and "main, HEAD" in page and len(list(root.iter("figure"))) == 1
