"""Stage `card`: an adapter's model card in the hub's format, with its metrics, and its lineage out of dvc.lock."""

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

_TITLES = {"sft": "SFT adapter", "dpo": "DPO adapter"}
_TASK = "next-behavior-prediction"
_B_TUNING = ("scoring", "selection", "dpo")
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
        f"# BehaviorLM: {_TITLES.get(name, name)}",
        f"LoRA (rank {adapter['r']}, alpha {adapter['lora_alpha']}) on {_base(manifest)}, which predicts what a person "
        f"does next from what they did before. Made by `dvc repro` of a log of format `{params.source.format}`.",
        "## Metrics", _metrics_table(metrics),
        "Means over test users that occur in no other split, with 95 % intervals from a bootstrap over users. "
        "`natural`: windows as they come; `balanced`: the same number of windows of each behaviour. `adjusted`: the "
        f"most likely behaviour after subtracting τ = {metrics['adjusted']['tau']:g} times its log-frequency.",
        *map(sentence, caveats(metrics)),
        "## Lineage", _lineage_table(stages), "## Settings", _settings(params, stages),
        "## Use", f"```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f"base = AutoModelForCausalLM.from_pretrained({_base(manifest)!r})\n"
        f"model = PeftModel.from_pretrained(base, \"models/{name}\")\n```",
        "Prompts and exact probabilities: `python -m stages.predict` of the repository that made it.",
        "## Limits", _limits(manifest, params.source.format),
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


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
    return "```json\n" + json.dumps(keep, indent=2, ensure_ascii=False, sort_keys=True) + "\n```"


def _limits(manifest: Manifest, log: str) -> str:
    return (
        ("The log is **simulated**: these numbers say nothing about real people. " if log == "simulated" else "")
        + "It knows the behaviours of its own training log and no others, and predicts what such people tend to do, "
        "not what anybody should do. The base model's weights and licence are its makers' "
        f"({manifest.license}; {manifest.source})."
    )


def read_and_describe(model: Path, evaluation: Mapping[str, Any], lock: Path, params: Params) -> str:
    """The card of the adapter in the folder `model`; `lock` is DVC's record, which need not be there."""
    stages = read_yaml(lock)["stages"] if lock.exists() else {}
    return card(model.name, read_manifest(model), read_json(model / "adapter_config.json"), evaluation, stages,
                params)


STAGE = Stage(
    "card", __doc__, read_and_describe, Params,
    reads={"model": place("folder of the adapter"), "evaluation": json_file("all its metrics (from stage evaluate)")},
    writes={"out": text("the card to write (Markdown)")},
    options={"lock": {"type": Path, "default": Path("dvc.lock"), "help": "DVC's record (default: %(default)s)"}},
    message=lambda args, made: f"model card: {args.out}",
)

if __name__ == "__main__":
    STAGE.run()
