"""What both pipelines say a stage's result follows from, so that a setting's result has a name before it is run."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.common.errors import UserError
from stages.common.files import fingerprint
from stages.studies.overrides import PARAMS, SETTINGS, Files, value_in

MAIN, RIVALS = "dvc.yaml", "stages/baselines/dvc.yaml"
"""Both pipelines; stages of the second have its path before their names, as DVC has it."""

_SOURCE = "${source.path}"
_EVALUATED = f"{RIVALS}:evaluate@"


@dataclass(frozen=True)
class Stage:
    """One stage, a matrix's written out: `evaluate@sft`; `params` of another file than params.yaml are `file:key`."""

    name: str
    cmd: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]


class Pipeline:
    """The stages of a repository, and keys that tell their results apart."""

    def __init__(self, root: Path):
        self.root = root
        self.stages: dict[str, Stage] = {}
        for path in (MAIN, RIVALS):
            if (root / path).exists():
                prefix = "" if path == MAIN else f"{path}:"
                self.stages |= {stage.name: stage for stage in _stages(_yaml(root / path)["stages"], prefix)}
        self._files: dict[tuple[Path, ...], str] = {}

    @cached_property
    def maker(self) -> dict[str, str]:
        """The stage that writes each path."""
        return {out: stage.name for stage in self.stages.values() for out in stage.outs}

    @cached_property
    def rivals(self) -> list[str]:
        """The systems of the rivals' pipeline, by the names of their metrics."""
        return [name.removeprefix(_EVALUATED) for name in self.stages if name.startswith(_EVALUATED)]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the rivals are tuned over; nothing in a repository without rivals."""
        path = self.root / SETTINGS
        return _yaml(path) if path.exists() else {}

    def needed(self, targets: Iterable[str]) -> list[str]:
        """`targets` and every stage before them, in an order in which they can run.

        Raises:
            UserError: dvc.yaml has no such stage.
        """
        order: list[str] = []

        def add(name: str) -> None:
            if name not in self.stages:
                file, _, stage = name.rpartition(":")
                raise UserError(f"{file or MAIN}: there is no stage {stage}")
            if name not in order:
                for dep in self.stages[name].deps:
                    if dep in self.maker:
                        add(self.maker[dep])
                order.append(name)

        for target in targets:
            add(target)
        return order

    def keys(self, targets: Iterable[str], files: Files) -> dict[str, str]:
        """For each needed stage a key of all that its result follows from: command, code, data, params, stages before.

        Args:
            files: the whole of params.yaml, and of the rivals' settings where one of them is needed, with all overrides
                applied.
        """
        keys: dict[str, str] = {}
        for name in self.needed(targets):
            stage = self.stages[name]
            deps = [[dep, keys[self.maker[dep]] if dep in self.maker else self._content(dep, files[PARAMS])]
                    for dep in stage.deps]
            values = [[key, value_in(files, key)] for key in stage.params]
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


def timing(model: str) -> str:
    """The stage that measures what one window takes a model of ours, as rivals' are measured."""
    return f"{RIVALS}:timing@{model}"


def _stages(entries: Mapping[str, Any], prefix: str) -> list[Stage]:
    stages = []
    for name, entry in entries.items():
        for item in combinations(entry.get("matrix", {})):
            written = [path for kind in ("outs", "metrics", "plots") for path in _paths(entry.get(kind, []), item)]
            suffix = "@" + "-".join(map(str, item.values())) if item else ""
            stages.append(Stage(
                name=f"{prefix}{name}{suffix}", cmd=filled(entry["cmd"], item),
                deps=tuple(_paths(entry.get("deps", []), item)), params=tuple(_params(entry.get("params", []))),
                outs=tuple(written),
            ))
    return stages


def combinations(matrix: Mapping[str, list]) -> Iterator[dict[str, Any]]:
    """Every combination of a matrix's values; one without any where there is no matrix."""
    for values in itertools.product(*matrix.values()):
        yield dict(zip(matrix, values, strict=True))


def _paths(entries: list, item: Mapping[str, Any]) -> list[str]:
    return [filled(path, item) for entry in entries for path in ([entry] if isinstance(entry, str) else entry)]


def _params(entries: list) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            yield from (f"{file}:{key}" for file, keys in entry.items() for key in keys)


def filled(text: str, item: Mapping[str, Any]) -> str:
    """`text` with the values of one combination in it."""
    for key, value in item.items():
        text = text.replace(f"${{item.{key}}}", str(value))
    return text


def _yaml(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
