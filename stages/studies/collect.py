"""What finished experiments hold becomes the rows of a comparison."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import dvc.api
import numpy as np
import polars as pl
from dvc.exceptions import DvcException
from dvc.repo import Repo
from ruamel.yaml import YAML

from stages.common import tables
from stages.common.errors import UserError
from stages.common.files import atomic_file
from stages.studies.definitions import REFERENCES, Row, predictions_file
from stages.studies.pipeline import RIVALS
from stages.studies.repository import git


class Results:
    """Files of experiments, out of Git and DVC's cache, without touching the workspace."""

    def __init__(self, root: Path):
        self.root = root
        self._cache = Repo(str(root)).cache.local
        self._locks: dict[str, dict[str, Any]] = {}

    def metrics(self, commit: str, path: str) -> dict[str, Any]:
        """A metrics file of an experiment."""
        return json.loads(self._show(commit, path))

    def lock(self, commit: str) -> dict[str, Any]:
        """The stages of an experiment's dvc.lock, and of the rivals' where there is one."""
        if commit not in self._locks:
            stages = _stages(self._show(commit, "dvc.lock"))
            rivals = RIVALS.replace(".yaml", ".lock")
            shown = git(self.root, "show", f"{commit}:{rivals}")
            if shown is not None and not shown.returncode:
                stages |= {f"{RIVALS}:{name}": stage for name, stage in _stages(shown.stdout).items()}
            self._locks[commit] = stages
        return self._locks[commit]

    def table(self, name: str, commit: str, path: str) -> pl.DataFrame:
        """A table that DVC tracks, `path` within a tracked folder too; read from the cache, else from the remote."""
        return _read(name, str(self._file(commit, path)))

    def _file(self, commit: str, path: str) -> Path:
        digest = self._digest(commit, path)
        if digest and (file := Path(self._cache.oid_to_path(digest))).exists():
            return file
        file = self.root / ".dvc" / "tmp" / "studies" / (digest or commit) / path
        if not file.exists():
            try:
                opened = dvc.api.open(path, repo=str(self.root), rev=commit, mode="rb")
                with opened as content, atomic_file(file) as part:
                    part.write_bytes(content.read())
            except (DvcException, FileNotFoundError):
                raise UserError(f"experiment {commit[:7]}: {path} is neither in DVC's cache nor in its remote; "
                                f"`dvc exp remove` the experiment, and the study makes it again") from None
        return file

    def _digest(self, commit: str, path: str) -> str | None:
        """The file's hash; None of one within a folder whose listing is not in the cache."""
        for stage in self.lock(commit).values():
            for out in stage.get("outs", []):
                if out["path"] == path:
                    return out["md5"]
                if path.startswith(f"{out['path']}/"):
                    listing = Path(self._cache.oid_to_path(out["md5"]))
                    if not listing.exists():
                        return None
                    wanted = path.removeprefix(f"{out['path']}/")
                    for entry in json.loads(listing.read_text(encoding="utf-8")):
                        if entry["relpath"] == wanted:
                            return entry["md5"]
        raise UserError(f"experiment {commit[:7]}: its dvc.lock has no {path}")

    def _show(self, commit: str, path: str) -> str:
        shown = git(self.root, "show", f"{commit}:{path}")
        if shown is None or shown.returncode:
            raise UserError(f"experiment {commit[:7]}: it has no {path}")
        return shown.stdout


def _stages(lock: str) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(lock)["stages"]


@lru_cache(maxsize=8)
def _read(name: str, path: str) -> pl.DataFrame:
    return tables.read(name, Path(path))


def predictions_of(results: Results, commit: str, row: Row) -> pl.DataFrame:
    """Table `predictions` of the row's model in an experiment, before any decision."""
    return results.table("predictions", commit, f"data/{predictions_file(row.model)}")


def metrics_of(results: Results, commit: str, row: Row) -> dict[str, Any]:
    """The row's model's metrics in an experiment, as `stages.evaluate` or `stages.reference` wrote them."""
    if row.model not in REFERENCES:
        return results.metrics(commit, f"metrics/eval/{row.model}.json")
    rows = results.metrics(commit, "metrics/eval/reference.json")
    if row.model not in rows:
        raise UserError(f"experiment {commit[:7]}: no reference row {row.model}; the oracle is for simulated logs only")
    return rows[row.model]


def tail_groups(results: Results, commit: str, vocabulary: pl.DataFrame) -> dict[str, np.ndarray]:
    """Masks `(V,)` of the tail behaviours more and less like their nearest anchor than the median of the tail."""
    likeness = results.table("embeddings", commit, "data/embeddings.parquet")["likeness"].to_numpy()
    tail = ~vocabulary["is_anchor"].to_numpy()
    middle = np.nanmedian(likeness[tail])
    return {"near_tail": tail & (likeness > middle), "far_tail": tail & (likeness <= middle)}
