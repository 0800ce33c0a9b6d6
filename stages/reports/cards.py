"""Facts of the data card and of the model card; neither users nor dates nor paths of the machine are in them."""

import json
from datetime import datetime
from pathlib import PurePath
from typing import Any

from stages.reports.inputs import Inputs, flat
from stages.studies.view import public


def days(inputs: Inputs) -> int:
    """How many days the log covers."""
    first, last = (datetime.fromisoformat(inputs.counts["ingest"][end]).date() for end in ("first", "last"))
    return (last - first).days + 1


def model_card(inputs: Inputs) -> dict[str, Any]:
    """The base model, all params by key as YAML's readers expect them, and those changed since the pipeline ran."""
    base, used = inputs.base, public(inputs.used)
    if base is not None and base.get("source") == "folder":
        base = base | {"name": PurePath(str(base.get("name", ""))).name}
        used["model.name"] = PurePath(used["model.name"]).name
    params = {key: value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
              for key, value in used.items()}
    return {"base": base, "params": params, "changed": changed(inputs)}


def changed(inputs: Inputs) -> list[str]:
    """Keys of params.yaml that differ from those the pipeline last ran with."""
    now = flat(inputs.params.model_dump(by_alias=True))
    return [key for key, value in inputs.ran_with.items() if now.get(key, value) != value]
