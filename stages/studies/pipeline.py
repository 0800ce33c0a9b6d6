"""What dvc.yaml says a stage's result follows from, so that a setting's result has a name before it is run."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.common.errors import UserError
from stages.common.files import fingerprint

_ITEM, _SOURCE = "${item.model}", "${source.path}"


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml, a matrix's written out: `evaluate@sft`."""

    name: str
    cmd: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]


class Pipeline:
    """The stages of a repository, and keys that tell their results apart."""

    def __init__(self, root: Path):
        self.root = root
        content = YAML(typ="safe", pure=True).load((root / "dvc.yaml").read_text(encoding="utf-8"))
        self.stages = {stage.name: stage for stage in _stages(content["stages"])}
        self._files: dict[tuple[Path, ...], str] = {}

    @cached_property
    def maker(self) -> dict[str, str]:
        """The stage that writes each path."""
        return {out: stage.name for stage in self.stages.values() for out in stage.outs}

    def needed(self, targets: Iterable[str]) -> list[str]:
        """`targets` and every stage before them, in an order in which they can run.

        Raises:
            UserError: dvc.yaml has no such stage.
        """
        order: list[str] = []

        def add(name: str) -> None:
            if name not in self.stages:
                raise UserError(f"dvc.yaml: there is no stage {name}")
            if name not in order:
                for dep in self.stages[name].deps:
                    if dep in self.maker:
                        add(self.maker[dep])
                order.append(name)

        for target in targets:
            add(target)
        return order

    def keys(self, targets: Iterable[str], params: Mapping[str, Any]) -> dict[str, str]:
        """For each needed stage a key of all that its result follows from: command, code, data, params, stages before.

        Args:
            params: the whole of params.yaml with all overrides applied, nested.
        """
        keys: dict[str, str] = {}
        for name in self.needed(targets):
            stage = self.stages[name]
            deps = [[dep, keys[self.maker[dep]] if dep in self.maker else self._content(dep, params)]
                    for dep in stage.deps]
            values = [[key, value_of(params, key)] for key in stage.params]
            content = json.dumps([stage.cmd, deps, values], sort_keys=True, ensure_ascii=False)
            keys[name] = hashlib.sha256(content.encode()).hexdigest()
        return keys

    def _content(self, dep: str, params: Mapping[str, Any]) -> str:
        if dep == _SOURCE:
            return self._log(params["source"])
        path = self.root / dep
        if not path.exists():
            raise UserError(f"{path}: no such file or folder, and a stage needs it")
        return self._fingerprint([path])

    def _log(self, source: Mapping[str, Any]) -> str:
        """Of the files that are read and no others: what else lies in the folder changes no result."""
        if source["format"] == "simulated":
            return "simulated"
        path = self.root / source["path"]
        if not path.exists():
            raise UserError(f"{path}: no such file or folder, and a stage needs it (source.path)")
        if path.is_dir():
            return self._fingerprint([file for file in sorted(path.glob(source["files"])) if file.is_file()
                                      and not file.name.startswith(".") and file.suffix not in {".dvc", ".md"}])
        return self._fingerprint([path])

    def _fingerprint(self, paths: list[Path]) -> str:
        known = tuple(paths)
        if known not in self._files:
            self._files[known] = fingerprint(None, paths)
        return self._files[known]


def value_of(params: Mapping[str, Any], key: str) -> Any:
    """The value, or the section, at a dotted key.

    Raises:
        UserError: there is none.
    """
    value: Any = params
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise UserError(f"params.yaml: there is no key {key}")
        value = value[part]
    return value


def _stages(entries: Mapping[str, Any]) -> list[Stage]:
    stages = []
    for name, entry in entries.items():
        for item in entry.get("matrix", {}).get("model", [None]):
            written = [path for kind in ("outs", "metrics", "plots") for path in _paths(entry.get(kind, []), item)]
            stages.append(Stage(
                name=f"{name}@{item}" if item else name, cmd=_filled(entry["cmd"], item),
                deps=tuple(_paths(entry.get("deps", []), item)), params=tuple(entry.get("params", [])),
                outs=tuple(written),
            ))
    return stages


def _paths(entries: list, item: str | None) -> list[str]:
    return [_filled(path, item) for entry in entries for path in ([entry] if isinstance(entry, str) else entry)]


def _filled(text: str, item: str | None) -> str:
    return text.replace(_ITEM, item) if item else text
