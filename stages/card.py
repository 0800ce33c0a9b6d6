"""Stage `card`: a model card in the hub's format, of an adapter or of the pool, with its lineage out of dvc.lock."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from stages.common.errors import UserError
from stages.common.files import read_json
from stages.common.params import Seed, read_yaml
from stages.common.stage import Stage, place, text
from stages.common.stage import json as json_file
from stages.events.settings import Source
from stages.metrics.caveats import caveats, sentence
from stages.metrics.registry import METRICS
from stages.model.resolve import Manifest, read_manifest
from stages.model.settings import Lora
from stages.prompts.settings import Auxiliary, Instructions, PromptParams
from stages.training.settings import Sft

_TITLES = {"sft": "SFT adapter", "dpo": "DPO adapter", "fusion": "habits and language model, pooled"}
_POOL = "fusion.json"
_TASK = "next-behavior-prediction"
_B_TUNING = ("scoring", "selection", "dpo")
_PARTS = {
    "habits": "`models/habits`, a small network over what the person did before: all of it, by hour, place, last event",
    "base": "the language model, untuned, told the last events", "sft": "`models/sft`, told the last events",
    "dpo": "`models/dpo`, told the last events",
    "reference/past": "counts of the whole past, smoothed onto a Markov chain",
}
_POOLED = ("windowing", "prompt", "predictions", "habits", "fusion", "instructions", "lora", "sft", *_B_TUNING)
# what the card's table and its front matter show
_SHOWN = [METRICS[name] for name in (
    "natural.rec_w", "natural.prec_w", "natural.log_loss", "balanced.overall", "balanced.head", "balanced.medium",
    "balanced.tail")]


class Params(PromptParams):
    seed: Seed
    source: Source
    auxiliary: Auxiliary
    instructions: Instructions
    lora: Lora
    sft: Sft


def card(
    name: str, manifest: Manifest, adapter: Mapping[str, Any], metrics: Mapping[str, Any], lock: Mapping[str, Any],
    params: Params,
) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        name: of the adapter, the stage that made it: sft or dpo.
        manifest: the base model.
        adapter: its adapter_config.json.
        metrics: its data/evaluation/<name>.json.
        lock: the stages of dvc.lock; those from which the adapter follows are its lineage.
        params: what it was made with.

    Raises:
        UserError: dvc.lock does not know the adapter.
    """
    stages = lineage(lock, f"models/{name}")
    data = ModelCardData(
        base_model=_base(manifest), library_name="peft", license=manifest.license, pipeline_tag="text-generation",
        tags=["behavior-prediction", "lora", "peft"], model_name=f"BehaviorLM {_TITLES.get(name, name)}",
        eval_results=_results(metrics, params.source.format),
    )
    parts = [
        f"LoRA (rank {adapter['r']}, alpha {adapter['lora_alpha']}) on {_base(manifest)}, which predicts what a person "
        f"does next from what they did before. Made by `dvc repro` of a log of format `{params.source.format}`.",
        *_measured(metrics),
        "## Lineage", _lineage_table(stages), "## Settings", _settings(params, stages),
        "## Use", f"```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f"base = AutoModelForCausalLM.from_pretrained({_base(manifest)!r})\n"
        f"model = PeftModel.from_pretrained(base, \"models/{name}\")\n```",
        "Prompts and exact probabilities: `python -m stages.predict` of the repository that made it.",
        "## Limits", _limits(params.source.format) + " The base model's weights and licence are its makers' "
        f"({manifest.license}; {manifest.source}).",
    ]
    return _written(name, data, parts)


def pool_card(pool: Mapping[str, Any], metrics: Mapping[str, Any], lock: Mapping[str, Any], log: str) -> str:
    """The card of the pool, as `card` makes an adapter's.

    Args:
        pool: its fusion.json.
        log: format of the log.
    """
    stages, losses = lineage(lock, "models/fusion"), pool["valid_log_loss"]
    data = ModelCardData(tags=["behavior-prediction"], model_name=f"BehaviorLM {_TITLES['fusion']}",
                         eval_results=_results(metrics, log))
    table = [(name, _PARTS.get(name, "a baseline's predictions"), f"{weight:.3f}", losses[name])
             for name, weight in pool["weights"].items()]
    table += [("all", "the pool", "", losses["fusion"]),
              ("without the language model", "a pool of the others", "", losses["without"])]
    keep = {f"{section}.{key}": value for stage in stages.values()
            for section, values in stage.get("params", {}).get("params.yaml", {}).items() if section in _POOLED
            for key, value in values.items()}
    return _written("fusion", data, [
        "A logarithmic opinion pool that predicts what a person does next: the log-probabilities of its parts, each "
        f"times its weight, summed and normalised. Made by `dvc repro` of a log of format `{log}`.",
        "## What is in it", "\n".join([
            "| part | what it is | weight | log-loss |", "|---|---|---|---|",
            *(f"| {name} | {what} | {weight or '—'} | {'—' if loss is None else f'{loss:.3f}'} |"
              for name, what, weight, loss in table)]),
        f"Weights and log-losses are of {pool['valid_windows']:,} natural windows of validation users; in the last two "
        "rows each half of these users has the weights that the other half chose. What the language model adds is the "
        "last row less the one above it. A part of weight 0 adds nothing.",
        *_measured(metrics),
        "## Lineage", _lineage_table(stages), "## Settings", _as_json(keep),
        "## Use", "Every part has to be there. Predictions: `python -m stages.predict` of the repository that made it.",
        "## Limits", _limits(log, "and what each person did before") + " Of a person whose past is short it knows "
        "little more than what people do.",
    ])


def _written(name: str, data: ModelCardData, parts: list[str]) -> str:
    body = "\n\n".join([f"# BehaviorLM: {_TITLES.get(name, name)}", *parts])
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


def _measured(metrics: Mapping[str, Any]) -> list[str]:
    """The section on metrics."""
    return [
        "## Metrics", _metrics_table(metrics),
        "Means over test users that occur in no other split, with 95 % intervals from a bootstrap over users. "
        "`natural`: windows as they come; `balanced`: the same number of windows of each behaviour. `adjusted`: the "
        f"most likely behaviour after subtracting τ = {metrics['adjusted']['tau']:g} times its log-frequency.",
        *map(sentence, caveats(metrics)),
    ]


def lineage(lock: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The entries of dvc.lock from which `path` follows, those that come first in front.

    Raises:
        UserError: no entry writes `path`.
    """
    maker = {out["path"]: name for name, entry in lock.items() for out in entry.get("outs", [])}
    if path not in maker:
        raise UserError(f"dvc.lock: no stage has written {path}; run `dvc repro`")
    order: dict[str, Any] = {}

    def add(name: str) -> None:
        if name not in order:
            for dep in lock[name].get("deps", []):
                if dep["path"] in maker:
                    add(maker[dep["path"]])
            order[name] = lock[name]

    add(maker[path])
    return order


def _base(manifest: Manifest) -> str:
    # a folder's path is the machine's, and nobody else's
    return Path(manifest.name).name if manifest.source == "folder" else manifest.name


def _results(metrics: Mapping[str, Any], log: str) -> list[EvalResult]:
    return [
        EvalResult(task_type=_TASK, dataset_type=log, dataset_name=log, dataset_split=section,
                   dataset_args={key: metrics[section].get(key, 0)
                                 for key in ("windows", "users", "outside_candidates")},
                   metric_type=each.key, metric_name=each.label, metric_value=round(metrics[section][each.key], 6))
        for each in _SHOWN if metrics[section := each.split][each.key] is not None
    ]


def _metrics_table(metrics: Mapping[str, Any]) -> str:
    lines = ["| test set | metric | plain | adjusted |", "|---|---|---|---|"]
    for each in _SHOWN:
        plain, adjusted = (_estimate(decided[each.split], each.key) for decided in (metrics, metrics["adjusted"]))
        lines.append(f"| {each.split} | {each.label} | {plain} | {adjusted} |")
    return "\n".join(lines)


def _estimate(section: Mapping[str, Any], key: str) -> str:
    value, bounds = section[key], section["interval"].get(key, {})
    if value is None:
        return "—"
    if bounds.get("low") is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({bounds['low']:.3f}–{bounds['high']:.3f})"


def _lineage_table(stages: Mapping[str, Any]) -> str:
    lines = ["What was read and written, by content (MD5, as in dvc.lock).", "",
             "| stage | read | written |", "|---|---|---|"]
    for name, entry in stages.items():
        read = [dep for dep in entry.get("deps", []) if not dep["path"].startswith("stages/")]
        lines.append(f"| {name} | {_digests(read)} | {_digests(entry.get('outs', []))} |")
    return "\n".join(lines)


def _digests(entries: list[Mapping[str, Any]]) -> str:
    def shown(path: str) -> str:
        # a log may lie anywhere on somebody's machine
        return path if not Path(path).is_absolute() else Path(path).name

    return "<br>".join(f"{shown(entry['path'])} `{entry['md5'][:8]}`" for entry in entries) or "—"


def _settings(params: Params, stages: Mapping[str, Any]) -> str:
    """What the adapter was made with; of B-Tuning's sections what dvc.lock has, so A-Tuning's card is left alone."""
    auxiliary = params.auxiliary.model_copy(update={"source": Path(params.auxiliary.source).name})
    sections = {
        "windowing": params.windowing, "prompt": params.prompt, "auxiliary": auxiliary,
        "instructions": params.instructions, "lora": params.lora, "sft": params.sft,
    }
    keep = {"seed": params.seed, "data_seed": params.data_seed} | {
        f"{name}.{key}": value for name, section in sections.items()
        for key, value in section.model_dump(by_alias=True).items()
    }
    for entry in stages.values():
        for name, section in entry.get("params", {}).get("params.yaml", {}).items():
            if name in _B_TUNING:
                keep |= {f"{name}.{key}": value for key, value in section.items()}
    return _as_json(keep)


def _as_json(content: Mapping[str, Any]) -> str:
    return "```json\n" + json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n```"


def _limits(log: str, beside: str = "and no others") -> str:
    return (
        ("The log is **simulated**: these numbers say nothing about real people. " if log == "simulated" else "")
        + f"It knows the behaviours of its own training log {beside}, and predicts what such people tend to do, not "
        "what anybody should do."
    )


def read_and_describe(model: Path, evaluation: Mapping[str, Any], lock: Path, params: Params) -> str:
    """The card of the adapter or pool in the folder `model`; `lock` is DVC's record, which need not be there."""
    stages = read_yaml(lock)["stages"] if lock.exists() else {}
    if (model / _POOL).exists():
        return pool_card(read_json(model / _POOL), evaluation, stages, params.source.format)
    return card(model.name, read_manifest(model), read_json(model / "adapter_config.json"), evaluation, stages,
                params)


STAGE = Stage(
    "card", __doc__, read_and_describe, Params,
    reads={"model": place("folder of the adapter, or of the pool"),
           "evaluation": json_file("all its metrics (from stage evaluate)")},
    writes={"out": text("the card to write (Markdown)")},
    options={"lock": {"type": Path, "default": Path("dvc.lock"), "help": "DVC's record (default: %(default)s)"}},
    message=lambda args, made: f"model card: {args.out}",
)

if __name__ == "__main__":
    STAGE.run()
