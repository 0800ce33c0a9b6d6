"""Tokens and windows: no more than the settings allow, and said before."""

import polars as pl
import pytest

from stages.baselines.api.__main__ import chosen
from stages.baselines.api.cache import Cache
from stages.common.errors import UserError
from tests.baselines.api.case import ANY, SETTINGS
from tests.baselines.api.server import named
from tests.small_log import BEHAVIORS


def test_nothing_is_sent_if_the_estimate_is_above_the_cap(case, server):
    seen = server(ANY)
    with pytest.raises(UserError, match=f"{len(case.wanted)} windows.*nothing was sent"):
        case.run(max_tokens_total=1000)
    assert seen.bodies == []


def test_windows_and_tokens_are_printed_before_anything_is_sent(case, server, capsys):
    printed = []
    server(lambda body, number: printed.append(capsys.readouterr().err) or ANY)
    case.run()
    questions = case.questions()
    estimate = sum(questions.estimate(questions.request(row)) for row in case.wanted["row"])
    assert f"{len(case.wanted)} windows" in printed[0] and f"about {estimate:,} tokens" in printed[0]


def test_what_was_used_counts_over_all_runs_and_stops_them(case, server):
    seen = server(named(BEHAVIORS[0], tokens=(9_000, 1_000)))
    with pytest.raises(UserError, match="max_tokens_total: 35,000.*40,000 tokens are used"):
        case.run(max_tokens_total=35_000)
    assert len(seen.bodies) == 4
    with pytest.raises(UserError, match="answered before with 40,000 tokens.*nothing was sent"):
        case.run(max_tokens_total=40_000)
    with pytest.raises(UserError, match="max_tokens_total: 60,000.*60,000 tokens are used"):
        case.run(max_tokens_total=60_000)
    assert len(seen.bodies) == 6
    frame, _ = case.run(max_tokens_total=10_000 * len(case.wanted))
    assert len(seen.bodies) == len(set(seen.prompts())) == len(frame)


def test_an_endpoint_that_does_not_count_is_counted_by_the_estimate(case, server):
    seen = server(named(BEHAVIORS[0], tokens=None))
    questions = case.questions()
    estimates = [questions.estimate(questions.request(row)) for row in case.wanted["row"]]
    frame, facts = case.run(max_tokens_total=sum(estimates))
    assert len(seen.bodies) == len(frame) and facts["tokens"]["prompt_tokens"] == 0
    case.cache = Cache(case.cache.folder / "other")
    with pytest.raises(UserError, match="nothing was sent"):
        case.run(max_tokens_total=sum(estimates) - 1)


def test_a_limit_on_windows_is_a_seeded_choice_that_grows(case):
    wanted = case.wanted
    few, more = (chosen(wanted, SETTINGS.model_copy(update={"natural": n, "per_behavior": b}), 0)
                 for n, b in ((2, 1), (3, 2)))
    assert chosen(wanted, SETTINGS, 0).equals(wanted)
    assert len(few.join(more, on=["row", "split"], how="inner")) == len(few) < len(more) < len(wanted)
    natural = few.filter(~pl.col("split").str.contains("balanced"))["split"].value_counts()["count"]
    balanced = few.filter(pl.col("split").str.contains("balanced"))
    assert natural.max() == 2 and balanced.group_by("split", "behavior").len()["len"].max() == 1
    assert set(balanced["behavior"]) == set(wanted.filter(pl.col("split").str.contains("balanced"))["behavior"])
