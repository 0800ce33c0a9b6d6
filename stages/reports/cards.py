"""Facts of the data card and of the model card; neither users nor dates nor paths of the machine are in them."""

from datetime import datetime
from pathlib import PurePath
from typing import Any

from stages.reports.inputs import Inputs, shown
from stages.studies.view import public


def days(inputs: Inputs) -> int:
    """How many days the log covers."""
    first, last = (datetime.fromisoformat(inputs.counts["ingest"][end]).date() for end in ("first", "last"))
    return (last - first).days + 1


def model_card(inputs: Inputs) -> dict[str, Any]:
    """The base model, LoRA's settings, all params as lines, and which of them have changed since the pipeline ran."""
    base, used = inputs.base, public(inputs.used)
    if base is not None and base.get("source") == "folder":
        base = base | {"name": PurePath(str(base.get("name", ""))).name}
        used["model.name"] = PurePath(used["model.name"]).name
    return {
        "base": base, "params": [f"{key}: {shown(value)}" for key, value in used.items()], "changed": changed(inputs),
        "lora": {key.partition(".")[2]: shown(value) for key, value in used.items() if key.startswith("lora.")},
    }


def changed(inputs: Inputs) -> list[str]:
    """Keys of params.yaml that differ from those the pipeline last ran with."""
    return [key for key, value in inputs.ran_with.items() if inputs.now.get(key, value) != value]
