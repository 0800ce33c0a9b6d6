import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from stages.studies.compare import Difference, Estimate, Measured, RowSummary, Summary
from stages.studies.table import difference, estimate, legend, markdown, number, show, terminal


def measured(value, low=None, high=None, against=None, paper=None):
    return Measured(Estimate(value, low, high), [value], against, paper)


def summary(rows, metrics=("natural.rec_w", "natural.log_loss")):
    return Summary("sft", list(metrics), 0.95, 2000, True, 10_000, [0, 1], 89,
                   {"natural": [300, 300], "balanced": [377, 370]}, rows)


@pytest.fixture
def two_rows():
    ahead = Difference(0.083, 0.042, 0.11, 0.2, 0.001, 0.002)
    behind = Difference(-0.31, -0.4, 0.0, -0.1, 0.00001, 0.00002)
    return summary([
        RowSummary("sft", "SFT on [all]", [0, 1], [{}, {}], {
            "natural.rec_w": measured(0.413, 0.331, 0.51), "natural.log_loss": measured(2.31, 2.2, 2.4),
        }),
        RowSummary("dpo", "B-Tuning | ours", [0, 1], [{}, {}], {
            "natural.rec_w": measured(0.496, 0.4, 0.58, ahead, 0.5),
            "natural.log_loss": measured(2.0, against=behind),
        }),
    ])


@pytest.mark.parametrize(("value", "sign", "text"), [
    (0.413, False, ".413"), (-0.083, False, "−.083"), (0.083, True, "+.083"), (1.0, False, "1.000"), (0, True, ".000"),
    (-0.0001, True, ".000"), (12.3456, False, "12.346"), (-2.5, True, "−2.500"), (0.9996, False, "1.000"),
    (None, True, "—"),
])
def test_numbers(value, sign, text):
    assert number(value, sign) == text


def test_estimates_and_differences():
    assert estimate(Estimate(0.413, 0.331, 0.51)) == ".413 (.331–.510)"
    assert estimate(Estimate(0.413, None, None)) == ".413" and estimate(Estimate(None, None, None)) == "—"
    assert difference(Difference(0.083, 0.042, 0.11, 0.2, 0.001, 0.002)) == "+.083 (.042 to .110) p=.002"
    assert difference(Difference(-0.083, -0.11, 0.01, 0.2, 0, 0.0004)) == "−.083 (−.110 to .010) p<.001"
    assert difference(Difference(0.0, None, None, None, 1, 1)) == ".000 p=1.000"
    assert difference(Difference(0.1, 0, 0.2, None, None, None)) == "+.100 (.000 to .200)"
    assert difference(None) == difference(Difference(*[None] * 6)) == "—"


def test_markdown(two_rows):
    lines = markdown(two_rows, "Ablations", "Simulated log, two seeds.").split("\n")
    assert lines[:8] == [
        "# Ablations",
        "",
        "Simulated log, two seeds.",
        "",
        "| row | accuracy, natural | … against SFT on [all] | … in the paper "
        "| log-loss, natural | … against SFT on [all] |",
        "| --- | --- | --- | --- | --- | --- |",
        "| SFT on [all] | .413 (.331–.510) | — | — | 2.310 (2.200–2.400) | — |",
        "| B-Tuning \\| ours | **.496** (.400–.580) | +.083 (.042 to .110) p=.002 | .500 | **2.000** "
        "| −.310 (−.400 to .000) p<.001 |",
    ]
    assert lines[9].startswith("2 repetitions, 89 test users, 300 natural and 370 to 377 balanced windows each.")
    assert "Lower is better" in lines[9] and lines[10] == ""


def test_every_line_of_a_table_has_as_many_cells(study, summary_of):
    planted, names = study()
    planted[0] = replace(planted[0], label="a | b\nc \\ d")
    text = markdown(summary_of(planted, names), "t", "")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4 and len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_what_a_baseline_took_is_a_mean_over_repetitions(two_rows):
    cost = {"trained_targets": 500, "trained_parameters": 1000, "fit_seconds": 60.4, "latency_ms": 0.42}
    first, second = two_rows.rows
    second = replace(second, facts=[cost, {**cost, "fit_seconds": 71.0}])
    found = markdown(replace(two_rows, rows=[first, second]), "T", "")
    lines = [line for line in found.splitlines() if line.startswith("|")]
    assert lines[0].endswith("| targets given | parameters trained | fit, s | a window, ms |")
    assert lines[2].endswith("| — | — | — | — |") and lines[3].endswith("| 500 | 1,000 | 66 | 0.42 |")
    assert "fit, s" not in markdown(two_rows, "T", "")


def test_a_single_row_has_neither_bold_nor_differences(two_rows):
    text = markdown(replace(two_rows, rows=two_rows.rows[:1]), "t", "")
    assert "**" not in text and "against" not in text and "paper" not in text


def test_ties_are_bold_together_and_missing_values_stay_out(two_rows):
    first, second = two_rows.rows
    tie = {"natural.rec_w": measured(0.41304), "natural.log_loss": measured(None)}
    text = markdown(replace(two_rows, rows=[first, replace(second, metrics=tie)]), "t", "")
    assert text.count("**.413**") == 2 and "**2.310**" not in text and "nan" not in text.lower()


def shown(value, width):
    out = io.StringIO()
    show(value, "Ablations", "What was [run].", Console(file=out, width=width))
    return out.getvalue()


def test_one_table_where_it_fits(two_rows):
    text = shown(two_rows, 200)
    assert len(terminal(two_rows, "Ablations", 200)) == 1
    assert "What was [run]." in text and "SFT on [all]" in text and "Ablations (differences from SFT on [all])" in text


@pytest.mark.parametrize("width", [50, 60, 80, 100, 120])
def test_what_does_not_fit_is_split_and_never_cut(two_rows, width):
    text = shown(two_rows, width)
    assert max(map(len, text.splitlines())) <= width
    cells = [cell for row in two_rows.rows for value in row.metrics.values()
             for cell in (estimate(value.mean), difference(value.difference))]
    assert all(cell in text for cell in cells)
    assert "…" not in text


def test_many_metrics_and_long_labels(study, summary_of):
    planted, names = study()
    planted[1] = replace(planted[1], label="a label of many words that goes on " * 3)
    text = shown(summary_of(planted, names), 80)
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    assert re.sub(r"\s", "", text).count("alabel") >= 6


def test_a_terminal_too_narrow_for_a_cell_folds_it(two_rows):
    text = shown(two_rows, 24)
    assert max(map(len, text.splitlines())) <= 24
    assert "…" not in text and "B-Tuning" in text


def test_legend_says_what_was_drawn(two_rows):
    assert "resamples of users and repetitions" in legend(two_rows)
    one = replace(two_rows, repetitions=[0], windows={"natural": [300], "balanced": [377]}, metrics=["natural.rec_w"])
    assert "1 repetition, 89 test users, 300 natural and 377 balanced windows. " in legend(one)
    assert "of users, the" in legend(one) and "Lower" not in legend(one)
    assert "Intervals" not in legend(replace(one, resamples=0))


def with_scores(both, *scores):
    rows = [replace(row, facts=[{"valid": {"overall": value}} if value != "none" else {} for value in values])
            for row, values in zip(both.rows, scores, strict=False)]
    return replace(both, rows=rows)


def test_the_validation_score_is_the_mean_over_repetitions(two_rows):
    scored = with_scores(two_rows, (0.2, 0.3), (0.4, "none"))
    lines = markdown(scored, "Recipes", "", validation=True).split("\n")
    assert lines[2].startswith("| row | validation | accuracy, natural |")
    assert lines[4].startswith("| SFT on [all] | .250 | .413 ")
    assert lines[5].startswith("| B-Tuning \\| ours | **.400** | **.496** ")
    assert "validation: mean accuracy over behaviours" in lines[7]
    assert "validation" not in markdown(scored, "Recipes", "")


def test_rows_without_a_validation_score(two_rows):
    text = markdown(with_scores(two_rows, ("none", "none"), (None, None)), "Recipes", "", validation=True)
    assert "| SFT on [all] | — |" in text and "ours | — |" in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_validation_score_in_the_terminal(two_rows, width):
    out = io.StringIO()
    show(with_scores(two_rows, (0.2, 0.3), (0.4, 0.5)), "Recipes", "", Console(file=out, width=width), validation=True)
    text = out.getvalue()
    # among the means only, once
    assert text.count("validation ") >= 1 and text.count(".250") == 1 and text.count(".450") == 1
    assert max(map(len, text.splitlines())) <= width


def test_the_share_of_windows_outside_the_vocabulary_stands_in_the_legend(two_rows):
    """And older summaries, which left such windows out, say so."""
    natural = two_rows.windows["natural"]
    assert "outside" not in legend(replace(two_rows, outside=[0] * len(natural)))
    half = replace(two_rows, outside=[count // 2 for count in natural])
    assert "50.0 % of the natural windows are of behaviours that neither a training user nor the person" in legend(half)
    assert "they are left out" in legend(replace(two_rows, outside=None))


def test_few_users_are_said_in_the_legend(two_rows):
    few = legend(replace(two_rows, users=7))
    assert "Intervals over 7 users" in few and "under 10" in few
    assert "One user" in legend(replace(two_rows, users=1))
