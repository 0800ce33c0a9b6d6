"""The baseline of ingest and windowing does the same work: its tables are ours."""

import json

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from stages.benchmarks import ingest
from stages.common.errors import UserError

pytest.importorskip("pandas", reason="pandas, the baseline, comes with the extra `benchmark`")
TABLES = ("events", "quarantine", "windows", "vocabulary")


@pytest.fixture(scope="module", params=ingest.KINDS)
def folder(request, tmp_path_factory):
    """What ours and both ways of pandas make of a log of 40,000 rows."""
    folder = tmp_path_factory.mktemp("ingest")
    log = folder / f"log.{request.param}"
    ingest.write_log(log, 40_000)
    params = ingest.write_params(folder / "params.json", log)
    for side in ("ours", *ingest.VARIANTS):
        seconds, gigabytes = ingest.run(side, params, log, folder)
        assert 0 < seconds < 60 and 0.01 < gigabytes < 8
    return folder


@pytest.mark.parametrize("variant", ingest.VARIANTS)
@pytest.mark.parametrize("table", TABLES)
def test_pandas_writes_what_we_write(folder, variant, table):
    ours, baseline = (pl.read_parquet(folder / side / f"{table}.parquet") for side in ("ours", variant))
    # shares may differ in their last bit: the two divide by other means
    assert_frame_equal(baseline.cast(ours.schema), ours, check_exact=table != "vocabulary", rel_tol=1e-14, abs_tol=0)


@pytest.mark.parametrize("variant", ingest.VARIANTS)
def test_pandas_counts_what_we_count(folder, variant):
    baseline = json.loads((folder / variant / "counts.json").read_text())
    ours = json.loads((folder / "ours" / "ingest.json").read_text())
    assert baseline.pop("refused") == ours["refused"]["by_rule"]
    assert baseline.pop("windows") == json.loads((folder / "ours" / "windowing.json").read_text())["windows"]
    assert baseline == {name: ours[name] for name in baseline}


def test_the_log_breaks_several_rules_in_every_split(folder):
    assert pl.read_parquet(folder / "ours" / "quarantine.parquet")["rule"].n_unique() == 4
    assert pl.read_parquet(folder / "ours" / "windows.parquet")["split"].n_unique() == 4


def test_compare_gives_lines_for_the_benchmark(tmp_path):
    found = ingest.compare([6_000, 12_000], 2, tmp_path, kinds=["csv"], pandas_up_to=6_000).as_dict()
    assert json.loads(json.dumps(found)) == found
    by_work = {(line["work"], line["against"], line["unit"]): line for line in found["rows"]}
    for name in ingest.VARIANTS.values():
        line = by_work["ingest + windowing, csv, 6,000 rows", name, "rows/s"]
        assert len(line["ours"]["rounds"]) == len(line["baseline"]["rounds"]) == 2 and line["target"] == 15
    assert by_work["ingest + windowing, csv, 12,000 rows, over 6,000", "", "times the seconds"]["ours"]["median"] > 0
    assert set(found["details"]["runs"]) == {f"csv, {size} rows, {side}" for size, side in (
        ("6,000", "ours"), ("6,000", "usual"), ("6,000", "vectorised"), ("12,000", "ours"))}
    assert not list(tmp_path.glob("log.*"))


def test_a_run_that_fails_says_why(tmp_path):
    params = ingest.write_params(tmp_path / "params.json", tmp_path / "absent.csv")
    with pytest.raises(UserError, match=r"absent\.csv"):
        ingest.run("ours", params, tmp_path / "absent.csv", tmp_path)
