import gzip

import polars as pl
import pytest

from stages.common.errors import UserError
from stages.events import taxonomy
from stages.events.assembly import read_log
from stages.events.formats import FORMATS
from stages.events.rules import Rule
from tests.events.helpers import DATA, ROOT, params_with

REAL = DATA / "dataset_TSMC2014_NYC.part.txt.gz"


def read(path, taxonomy_file=True, unlisted="keep"):
    source = params_with(source__format="foursquare_nyc", source__path=str(path), source__unlisted=unlisted).source
    names = taxonomy.read(ROOT / "data" / "taxonomy" / "foursquare_nyc.csv") if taxonomy_file else None
    return read_log(FORMATS["foursquare_nyc"], source, names)


def row(user="1", category="Bar", latitude="40.7580", longitude="-73.9855", offset="-240",
        utc="Tue Apr 03 18:00:09 +0000 2012", venue="v"):
    return f"{user}\t{venue}\tc\t{category}\t{latitude}\t{longitude}\t{offset}\t{utc}"


def write(tmp_path, rows, encoding="latin-1"):
    (tmp_path / "log.txt").write_text("\n".join(rows) + "\n", encoding=encoding)
    return tmp_path / "log.txt"


def test_time_is_local_and_fields_may_be_empty(tmp_path):
    rows = [row(), row(venue="", latitude="", longitude="", offset="-300", utc="Sun Dec 30 03:30:00 +0000 2012")]
    events = read(write(tmp_path, rows)).events
    assert events["time"].dt.to_string("%Y-%m-%d %H:%M").to_list() == ["2012-04-03 14:00", "2012-12-29 22:30"]
    assert events["place"].to_list() == ["Midtown Manhattan", "unknown"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_cafe_and_quotes(tmp_path, encoding):
    log = read(write(tmp_path, [row(category="Café"), row(category='"Bar', user="2")], encoding), taxonomy_file=False)
    assert sorted(log.events["behavior"]) == ['"Bar', "Café"]


@pytest.mark.parametrize(("latitude", "longitude", "area"), [
    ("40.7061", "-74.0088", "Lower Manhattan"), ("40.7308", "-73.9973", "Downtown Manhattan"),
    ("40.7829", "-73.9654", "Central Park"), ("40.7870", "-73.9754", "Upper West Side"),
    ("40.7736", "-73.9566", "Upper East Side"), ("40.8116", "-73.9465", "Upper Manhattan"),
    ("40.8296", "-73.9262", "Bronx"), ("40.7447", "-73.9485", "Queens"), ("40.6413", "-73.7781", "Queens"),
    ("40.7170", "-73.9580", "North Brooklyn"), ("40.6602", "-73.9690", "Brooklyn"),
    ("40.6437", "-74.0736", "Staten Island"),
    ("40.7178", "-74.0431", "New Jersey"), ("40.8509", "-73.9701", "New Jersey"), ("0", "0", "unknown"),
    ("x", "y", "unknown"),
])
def test_areas(tmp_path, latitude, longitude, area):
    assert read(write(tmp_path, [row(latitude=latitude, longitude=longitude)])).events["place"].to_list() == [area]


def test_rows_that_are_refused(tmp_path):
    rows = [row(), row(category="Spaceport"), row(utc="Tue Apr 33 18:00:09 +0000 2012"), row(utc=""), row(offset=""),
            row(offset="-24000"), row(user=""), row(category=""), row() + "\tmore"]
    log = read(write(tmp_path, rows), unlisted="refuse")
    assert log.quarantine["rule"].to_list() == [
        Rule.TAXONOMY, Rule.TIME, Rule.NO_TIME, Rule.TIME, Rule.TIME, Rule.NO_USER, Rule.NO_BEHAVIOR, Rule.FIELDS,
    ]


def test_another_layout_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"log\.txt: line 1: 1 fields separated by tabs.*has 8: user, venue"):
        read(write(tmp_path, ["user,time,place,behavior"]))


@pytest.mark.skipif(not REAL.exists(), reason="the check-ins are not ours to distribute; see data/raw/README.md")
def test_the_real_log():
    log = read(REAL)
    assert log.rows == 113_423 and set(log.quarantine["rule"]) == {Rule.DUPLICATE} and log.quarantine.height < 200
    assert log.events["user"].n_unique() == 837
    share = log.events["behavior"].value_counts(normalize=True)["proportion"]
    assert len(share) == 40 and (share > 0.05).sum() >= 5 and 15 <= (share > 0.01).sum() <= 20
    assert share.min() < 0.001
    assert log.events["place"].n_unique() == 15
    with gzip.open(REAL) as file:
        first = file.readline().split(b"\t")[-1].strip().decode()
    utc = pl.Series([first]).str.to_datetime("%a %b %d %H:%M:%S %z %Y").item().replace(tzinfo=None)
    assert (utc - log.events["time"].min()).total_seconds() == 4 * 3600
