"""The work of `stages.ingest` and `stages.windowing` as it is done in pandas, in two ways, writing the same tables.

`usual` is how people write it: rules on whole columns of text, a hash for each row, a loop over the users. `vectorised`
is as fast as we can make pandas: the Arrow reader, labels and users handled once per distinct value, no loop over
users. Both read a clean CSV or Parquet log (no quotes, no offsets of time) and know the rules that its rows break.

    python -m stages.benchmarks.ingest_pandas vectorised params.yaml log.csv folder
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.common.hashing import bits, pseudonym, uniform
from stages.events.key import read_key
from stages.events.rules import CHAT, CONTROL, LONGEST, MISSING, OF_THE_TIME, Rule
from stages.params import Params, read_all

_MICROSECONDS = "%Y-%m-%d %H:%M:%S.%f"
_SPLIT, _NATURAL, _BALANCED = range(200, 203)  # as in stages.windows.cut: the draws are the same


def run(variant: str, params: Params, log: Path, folder: Path) -> None:
    """Read `log` and write the tables `events`, `quarantine`, `windows`, `vocabulary` and the counts into `folder`."""
    fast = variant == "vectorised"
    events, quarantine = _events(log, fast)
    windows, vocabulary = (_vectorised_windows if fast else _usual_windows)(events, params)
    tables = {"events": events, "quarantine": quarantine, "windows": windows, "vocabulary": vocabulary}
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    counts = {
        "rows": len(events) + len(quarantine), "events": len(events), "users": int(events["user"].nunique()),
        "behaviors": int(events["behavior"].nunique()), "places": int(events["place"].nunique()),
        "first": events["time"].min().isoformat(), "last": events["time"].max().isoformat(),
        "refused": quarantine["rule"].value_counts().to_dict(), "windows": windows["split"].value_counts().to_dict(),
    }
    (folder / "counts.json").write_text(json.dumps(counts))


def _events(log: Path, fast: bool) -> tuple[Any, Any]:
    """The tables `events` and `quarantine`."""
    parquet = log.suffix == ".parquet"
    if parquet:
        raw, first = pd.read_parquet(log), 1
        raw[["user", "place", "behavior"]] = raw[["user", "place", "behavior"]].fillna("")
        time, no_time = raw["time"], raw["time"].isna()
    else:
        raw, first = pd.read_csv(log, dtype=str, keep_default_na=False, engine="pyarrow" if fast else "c"), 2
        time, no_time = pd.to_datetime(raw["time"], format="ISO8601", errors="coerce"), _absent(raw["time"])
    each = _by_value if fast else lambda column, function: function(column)
    refused = {
        Rule.NO_USER.value: each(raw["user"], _absent), Rule.NO_TIME.value: no_time, Rule.TIME.value: time.isna(),
        Rule.TIME_RANGE.value: ~time.dt.year.between(1990, 2100),
    }
    broken, misplaced = each(raw["behavior"], _label_rule), each(raw["place"], _area_rule)
    rule = pd.Series(np.select([*refused.values(), broken != "", misplaced != ""], [*refused, broken, misplaced], ""),
                     dtype="str")
    twice = (rule == "") & raw.duplicated()
    events = pd.DataFrame({"user": each(raw["user"], _pseudonyms), "time": time.astype("datetime64[us]"),
                           "place": each(raw["place"], _area), "behavior": each(raw["behavior"], _clean),
                           "offset": pd.array([pd.NA], dtype="Int16").repeat(len(raw))})
    bad, again = raw[rule != ""], events[twice]
    written = bad["time"].dt.strftime(_MICROSECONDS) if parquet else bad["time"]
    quarantine = pd.concat([
        pd.DataFrame({"line": bad.index + first, "rule": rule[bad.index],
                      "text": _at_fault(bad, written, rule[bad.index], misplaced[bad.index])}),
        pd.DataFrame({"line": again.index + first, "rule": Rule.DUPLICATE.value, "text": ""}),
    ]).sort_values("line")
    quarantine.insert(0, "file", log.as_posix())
    events = events[(rule == "") & ~twice].sort_values(["user", "time"], kind="stable", ignore_index=True)
    return events, quarantine.reset_index(drop=True)


def _at_fault(rows: Any, time: Any, rule: Any, misplaced: Any) -> Any:
    """The field that breaks the rule; of a user nothing."""
    text = np.select([rule == Rule.NO_USER.value, rule.isin(OF_THE_TIME), rule != misplaced],
                     ["", time.fillna(""), rows["behavior"]], rows["place"])
    long = pd.Series(text, dtype="str")
    return long.mask(long.str.len() > LONGEST, long.str.slice(0, LONGEST) + "…").to_numpy()


def _by_value(column: Any, function: Any) -> Any:
    """`function` of a column, computed once for each distinct value."""
    codes, values = pd.factorize(column)
    return function(pd.Series(values, dtype="str")).take(codes).reset_index(drop=True)


def _pseudonyms(names: Any) -> Any:
    return names.str.strip().map(functools.partial(pseudonym, key=read_key().secret)).astype("uint64")


def _absent(text: Any) -> Any:
    return text.str.strip().isin(MISSING)


def _clean(text: Any) -> Any:
    return text.str.replace(r"\s+", " ", regex=True).str.strip().str.normalize("NFC")


def _label_rule(text: Any) -> Any:
    text = text.str.strip()
    rules = {Rule.NO_BEHAVIOR.value: _absent(text), Rule.CONTROL.value: text.str.contains(CONTROL),
             Rule.CHAT.value: text.str.contains(CHAT), Rule.LONG.value: text.str.len() > LONGEST}
    return pd.Series(np.select(list(rules.values()), list(rules), ""), dtype="str")


def _area(text: Any) -> Any:
    return _clean(text).mask(_absent(text), "unknown")


def _area_rule(text: Any) -> Any:
    return _label_rule(_clean(text)).mask(_absent(text), "")


def _usual_windows(events: Any, params: Params) -> tuple[Any, Any]:
    """User by user."""
    settings, seed = params.windowing, params.data_seed
    histories: dict[str, list[Any]] = {"train": [], "valid": [], "test": []}
    for user, history in events.groupby("user", sort=False):
        histories[_split(np.array([user], np.uint64), seed)[0]].append(history)
    vocabulary = _vocabulary(pd.concat(histories["train"])["behavior"], settings.anchor_threshold)
    least, windows = settings.min_history, {}
    for split, of_users in histories.items():
        found = pd.concat([each.iloc[least:].assign(position=range(least, len(each))) for each in of_users])
        windows[split] = found.assign(known=found["behavior"].isin(vocabulary["behavior"]))
    return _table(windows, params), vocabulary


def _vectorised_windows(events: Any, params: Params) -> tuple[Any, Any]:
    """All users at once."""
    settings = params.windowing
    codes, users = events["user"].factorize()
    split = _split(users.to_numpy().astype(np.uint64), params.data_seed)[codes]
    vocabulary = _vocabulary(events["behavior"][split == "train"], settings.anchor_threshold)
    position = events.groupby(codes, sort=False).cumcount()
    usable, known = position >= settings.min_history, events["behavior"].isin(vocabulary["behavior"])
    windows = {name: events.loc[usable & (split == name), []].assign(known=known) for name in ("train", "valid")}
    windows["test"] = events[usable & (split == "test")].assign(position=position, known=known)
    return _table(windows, params), vocabulary


def _split(users: np.ndarray, seed: int) -> np.ndarray:
    names = np.array(["train", "valid", "test"])
    return names[np.searchsorted(np.cumsum([0.8, 0.1]), uniform(seed, _SPLIT, users), side="right")]


def _vocabulary(train: Any, anchor_threshold: float) -> Any:
    counts = train.value_counts().rename("train_events").rename_axis("behavior").reset_index()
    counts = counts.sort_values(["train_events", "behavior"], ascending=[False, True], ignore_index=True)
    share = counts["train_events"] / counts["train_events"].sum()
    group = np.select([share > 0.05, share < 0.01], ["head", "tail"], "medium")
    return counts.assign(share=share, group=group, is_anchor=share > anchor_threshold)


def _table(windows: dict[str, Any], params: Params) -> Any:
    """The table `windows` of the windows of each split, test windows with their position."""
    settings, seed, test = params.windowing, params.data_seed, windows["test"]
    keys = (test["user"].to_numpy(), test["time"].to_numpy().view("int64"), test["position"].to_numpy())
    drawn = test.assign(natural=bits(seed, _NATURAL, *keys), balanced=bits(seed, _BALANCED, *keys))
    drawn = drawn.sort_values("natural", kind="stable")
    size = min(settings.natural, len(drawn) // 2)
    natural, rest = drawn[:size], drawn[size:].query("known").sort_values("balanced", kind="stable")
    balanced = rest.groupby("behavior").head(settings.balanced_per_behavior)
    train, valid = windows["train"], windows["valid"]
    rows = {"train": train, "valid": valid.query("known"), "valid_outside": valid.query("not known"),
            "natural": natural, "balanced": balanced}
    return pd.concat([pd.DataFrame({"row": np.sort(part.index), "split": name}) for name, part in rows.items()],
                     ignore_index=True)


if __name__ == "__main__":
    run(sys.argv[1], read_all(Path(sys.argv[2])), Path(sys.argv[3]), Path(sys.argv[4]))
