"""The work of `stages.ingest` and `stages.windowing` as it is done in pandas, in two ways, writing the same tables.

`usual` is how people write it: rules on whole columns of text, a hash for each row, a loop over the users. `vectorised`
is as fast as we can make pandas: the Arrow reader, labels and users looked at once per distinct value, no loop over
users. Both read a clean CSV or Parquet log (no quotes, no offsets of time) and know the rules that its rows break.

    python -m stages.benchmarks.ingest_pandas vectorised params.yaml log.csv folder
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from stages.common.hashing import bits, pseudonym, uniform
from stages.params import Params, read_all
from stages.events.rules import CHAT, CONTROL, LONGEST, MISSING, Rule

_MICROSECONDS = "%Y-%m-%d %H:%M:%S.%f"
_SPLIT, _NATURAL, _BALANCED = range(200, 203)  # as in stages.windows.cut: the draws are the same


def run(variant: str, params: Params, log: Path, folder: Path) -> None:
    """Read `log` and write the tables `events`, `quarantine`, `windows`, `vocabulary` and the counts into `folder`."""
    fast = variant == "vectorised"
    events, quarantine = _events(log, fast)
    events.to_parquet(folder / "events.parquet", index=False)
    quarantine.to_parquet(folder / "quarantine.parquet", index=False)
    windows, vocabulary = (_vectorised_windows if fast else _usual_windows)(events, params)
    windows.to_parquet(folder / "windows.parquet", index=False)
    vocabulary.to_parquet(folder / "vocabulary.parquet", index=False)
    counts = {
        "rows": len(events) + len(quarantine), "events": len(events), "users": int(events["user"].nunique()),
        "behaviors": int(events["behavior"].nunique()), "places": int(events["place"].nunique()),
        "first": events["time"].min().isoformat(), "last": events["time"].max().isoformat(),
        "refused": quarantine["rule"].value_counts().to_dict(), "windows": windows["split"].value_counts().to_dict(),
    }
    (folder / "counts.json").write_text(json.dumps(counts))


def _events(log: Path, fast: bool) -> tuple[Any, Any]:
    import pandas as pd

    if log.suffix == ".parquet":
        raw, first = pd.read_parquet(log), 1
        raw[["user", "place", "behavior"]] = raw[["user", "place", "behavior"]].fillna("")
    else:
        raw = pd.read_csv(log, dtype=str, keep_default_na=False, engine="pyarrow" if fast else "c")
        first = 2
    time = raw["time"] if log.suffix == ".parquet" else pd.to_datetime(raw["time"], format="ISO8601", errors="coerce")
    in_range = time.dt.year.between(1990, 2100)
    no_time = raw["time"].isna() if log.suffix == ".parquet" else _absent(raw["time"])
    if fast:
        user, no_user = _by_value(raw["user"], _pseudonyms), _by_value(raw["user"], _absent)
        label, area = _by_value(raw["behavior"], _clean), _by_value(raw["place"], _area)
        broken, misplaced = _by_value(raw["behavior"], _label_rule), _by_value(raw["place"], _area_rule)
    else:
        user, no_user = raw["user"].str.strip().map(pseudonym).astype("uint64"), _absent(raw["user"])
        label, area = _clean(raw["behavior"]), _area(raw["place"])
        broken, misplaced = _label_rule(raw["behavior"]), _area_rule(raw["place"])
    rule = pd.Series(np.select(
        [no_user, no_time, time.isna(), ~in_range, broken != "", misplaced != ""],
        [Rule.NO_USER.value, Rule.NO_TIME.value, Rule.TIME.value, Rule.TIME_RANGE.value, broken, misplaced], ""),
        dtype="str")
    twice = (rule == "") & raw.duplicated()
    events = pd.DataFrame({"user": user, "time": time.astype("datetime64[us]"), "place": area, "behavior": label})
    bad, again = raw[rule != ""], events[twice]
    written = bad["time"].dt.strftime(_MICROSECONDS) if log.suffix == ".parquet" else bad["time"]
    quarantine = pd.concat([
        pd.DataFrame({"line": bad.index + first, "rule": rule[bad.index], "text": _text(bad, written)}),
        pd.DataFrame({"line": again.index + first, "rule": Rule.DUPLICATE.value,
                      "text": _text(again, again["time"].dt.strftime(_MICROSECONDS))}),
    ]).sort_values("line")
    quarantine.insert(0, "file", log.as_posix())
    events = events[(rule == "") & ~twice].sort_values(["user", "time"], kind="stable", ignore_index=True)
    return events, quarantine.reset_index(drop=True)


def _text(rows: Any, time: Any) -> Any:
    return time + " | " + rows["place"] + " | " + rows["behavior"]


def _by_value(column: Any, function: Any) -> Any:
    """`function` of a column, computed once for each distinct value."""
    import pandas as pd

    codes, values = pd.factorize(column)
    return function(pd.Series(values, dtype="str")).take(codes).reset_index(drop=True)


def _pseudonyms(names: Any) -> Any:
    return names.str.strip().map(pseudonym).astype("uint64")


def _absent(text: Any) -> Any:
    return text.str.strip().str.lower().isin(MISSING)


def _clean(text: Any) -> Any:
    return text.str.replace(r"\s+", " ", regex=True).str.strip().str.normalize("NFC")


def _label_rule(text: Any) -> Any:
    import pandas as pd

    text = text.str.strip()
    rules = [_absent(text), text.str.contains(CONTROL), text.str.contains(CHAT), text.str.len() > LONGEST]
    names = [Rule.NO_BEHAVIOR, Rule.CONTROL, Rule.CHAT, Rule.LONG]
    return pd.Series(np.select(rules, [name.value for name in names], ""), dtype="str")


def _area(text: Any) -> Any:
    return _clean(text).mask(_absent(text), "unknown")


def _area_rule(text: Any) -> Any:
    return _label_rule(_clean(text)).mask(_absent(text), "")


def _usual_windows(events: Any, params: Params) -> tuple[Any, Any]:
    """User by user."""
    import pandas as pd

    settings, seed = params.windowing, params.data_seed
    histories = {"train": [], "valid": [], "test": []}
    for user, history in events.groupby("user", sort=False):
        histories[_split(np.array([user], np.uint64), seed)[0]].append(history)
    vocabulary = _vocabulary(pd.concat(histories["train"])["behavior"], settings.anchor_threshold)
    made = {}
    for split, of_users in histories.items():
        windows = []
        for history in of_users:
            window = history.iloc[settings.min_history :].assign(position=range(settings.min_history, len(history)))
            windows.append(window[window["behavior"].isin(vocabulary["behavior"])])
        made[split] = pd.concat(windows)
    return _table(made, vocabulary, params), vocabulary


def _vectorised_windows(events: Any, params: Params) -> tuple[Any, Any]:
    """All users at once."""
    settings = params.windowing
    codes, users = events["user"].factorize()
    split = _split(users.to_numpy().astype(np.uint64), params.data_seed)[codes]
    vocabulary = _vocabulary(events["behavior"][split == "train"], settings.anchor_threshold)
    position = events.groupby(codes, sort=False).cumcount()
    usable = (position >= settings.min_history) & events["behavior"].isin(vocabulary["behavior"])
    test = usable & (split == "test")
    made = {name: events.loc[usable & (split == name), []] for name in ("train", "valid")}
    made["test"] = events[test].assign(position=position[test])
    return _table(made, vocabulary, params), vocabulary


def _split(users: np.ndarray, seed: int) -> np.ndarray:
    names = np.array(["train", "valid", "test"])
    return names[np.searchsorted(np.cumsum([0.8, 0.1]), uniform(seed, _SPLIT, users), side="right")]


def _vocabulary(train: Any, anchor_threshold: float) -> Any:
    counts = train.value_counts().rename("train_events").rename_axis("behavior").reset_index()
    counts = counts.sort_values(["train_events", "behavior"], ascending=[False, True], ignore_index=True)
    share = counts["train_events"] / counts["train_events"].sum()
    group = np.select([share > 0.05, share < 0.01], ["head", "tail"], "medium")
    return counts.assign(share=share, group=group, is_anchor=share > anchor_threshold)


def _table(made: dict[str, Any], vocabulary: Any, params: Params) -> Any:
    """The table `windows` of the windows of each split, test windows with their position."""
    import pandas as pd

    settings, seed, test = params.windowing, params.data_seed, made["test"]
    keys = (test["user"].to_numpy(), test["time"].to_numpy().view("int64"), test["position"].to_numpy())
    drawn = test.assign(natural=bits(seed, _NATURAL, *keys), balanced=bits(seed, _BALANCED, *keys))
    drawn = drawn.sort_values("natural", kind="stable")
    size = min(settings.natural, len(drawn) // 2)
    natural, rest = drawn[:size], drawn[size:].sort_values("balanced", kind="stable")
    balanced = rest.groupby("behavior").head(settings.balanced_per_behavior)
    rows = {"train": made["train"], "valid": made["valid"], "natural": natural, "balanced": balanced}
    return pd.concat([pd.DataFrame({"row": np.sort(part.index), "split": name}) for name, part in rows.items()],
                     ignore_index=True)


def main() -> None:
    variant, params, log, folder = sys.argv[1:]
    run(variant, read_all(Path(params)), Path(log), Path(folder))


if __name__ == "__main__":
    main()
