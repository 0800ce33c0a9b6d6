"""What DVC says a stage's result follows from, so that a setting's result has a name before it is run.

No command prints what a stage depends on. But in a folder with nothing but the pipelines and their params, and lock
files that know no param, `dvc status` lists all of it as missing or new, matrices and templates put together by DVC
itself, and `dvc repro --dry` prints the commands.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from operator import getitem
from pathlib import Path, PurePath
from typing import Any

from ruamel.yaml import YAML

from stages.common.errors import UserError
from stages.common.files import fingerprint
from stages.common.params import read_yaml
from stages.studies.overrides import PARAMS, SETTINGS, Files, value_in
from stages.studies.repository import dvc

MAIN, BASELINES = "dvc.yaml", "stages/baselines/dvc.yaml"
"""Both pipelines; stages of the second have its path before their names, as DVC has it."""

_EVALUATED = f"{BASELINES}:evaluate@"
_TEMPLATE = re.compile(r"\$\{((?!item\.)\w+(?:\.\w+)+)\}")  # a param in dvc.yaml, which a study may override
_PARAM = re.compile(r"<(\w+(?:\.\w+)+)>")  # what stands for it
_LOG = "<source.path>"
_PUSH = "Use `dvc push` to send your updates to remote storage."  # the last line of what is printed
_PRINTED = re.compile(r"^Running stage '([^']+)':\n(.*?)(?=^Running stage '|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Stage:
    """One stage, a matrix's written out: `evaluate@sft`.

    Attributes:
        deps: paths; a param in one stands there as `<section.key>`.
        params: those of another file than params.yaml are `file:key`.
    """

    name: str
    cmd: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]


class Pipeline:
    """The stages of a repository, and a key for each of their results."""

    def __init__(self, root: Path):
        self.root = root
        self.stages = _stages(root)
        self._fingerprint = lru_cache(None)(lambda *paths: fingerprint(None, list(paths)))

    @cached_property
    def maker(self) -> dict[str, str]:
        """The stage that writes each path."""
        return {out: stage.name for stage in self.stages.values() for out in stage.outs}

    @cached_property
    def baselines(self) -> list[str]:
        """The models of the baselines' pipeline, by the names of their metrics."""
        return [name.removeprefix(_EVALUATED) for name in self.stages if name.startswith(_EVALUATED)]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the baselines are tuned over; nothing in a repository without baselines."""
        path = self.root / SETTINGS
        return read_yaml(path) if path.exists() else {}

    def makes(self, path: str) -> str | None:
        """The stage that writes `path`, or a folder that it lies in."""
        return next((self.maker[str(each)] for each in (PurePath(path), *PurePath(path).parents)
                     if str(each) in self.maker), None)

    def deps(self, name: str, files: Files) -> dict[str, str]:
        """`Stage.deps` and what they are with these params; the log stays as it is."""
        return {dep: dep if dep == _LOG else _PARAM.sub(lambda found: str(value_in(files, found[1])), dep)
                for dep in self.stages[name].deps}

    def needed(self, targets: Iterable[str], files: Files) -> list[str]:
        """`targets` and every stage before them, in an order in which they can run.

        Args:
            files: as in `keys`.

        Raises:
            UserError: dvc.yaml has no such stage.
        """
        order: list[str] = []

        def add(name: str) -> None:
            if name not in self.stages:
                file, _, stage = name.rpartition(":")
                raise UserError(f"{file or MAIN}: there is no stage {stage}")
            if name not in order:
                for dep in self.deps(name, files).values():
                    if maker := self.makes(dep):
                        add(maker)
                order.append(name)

        for target in targets:
            add(target)
        return order

    def keys(self, targets: Iterable[str], files: Files) -> dict[str, str]:
        """For each needed stage a key of all that its result follows from: command, code, data, params, stages before.

        Args:
            files: the whole of params.yaml, and of the baselines' settings where one of them is needed, with all
                overrides applied.
        """
        keys: dict[str, str] = {}
        for name in self.needed(targets, files):
            stage = self.stages[name]
            deps = [[dep, keys[maker] if (maker := self.makes(dep)) else self._content(dep, named, files[PARAMS])]
                    for named, dep in self.deps(name, files).items()]
            values = [[key, value_in(files, key)] for key in stage.params]
            content = json.dumps([stage.cmd, deps, values], sort_keys=True, ensure_ascii=False)
            keys[name] = hashlib.sha256(content.encode()).hexdigest()
        return keys

    def _content(self, dep: str, named: str, params: Mapping[str, Any]) -> str:
        """Of a log the files that are read and no others: what else lies in the folder changes no result."""
        source = params["source"] if dep == _LOG else {}
        if source.get("format") == "simulated":
            return "simulated"
        path = self.root / source.get("path", dep)
        if not path.exists():
            keys = ", ".join(_PARAM.findall(named))
            raise UserError(f"{path}: no such file or folder, and a stage needs it" + (keys and f" ({keys})"))
        if source and path.is_dir():
            return self._fingerprint(*(file for file in sorted(path.glob(source["files"])) if file.is_file()
                                       and not file.name.startswith(".") and file.suffix not in {".dvc", ".md"}))
        return self._fingerprint(path)


def timing(model: str) -> str:
    """The stage that measures what one window takes a model of ours, as baselines' are measured."""
    return f"{BASELINES}:timing@{model}"


def _stages(root: Path) -> dict[str, Stage]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in (MAIN, BASELINES, PARAMS, SETTINGS):
            if (root / path).exists():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / path, folder / path)
        params = read_yaml(folder / PARAMS)
        for key in _TEMPLATE.findall("".join(path.read_text(encoding="utf-8") for path in folder.rglob("dvc.yaml"))):
            *sections, last = key.split(".")
            reduce(getitem, sections, params)[last] = f"<{key}>"
        _write(folder / PARAMS, params)
        # what DVC notes of a repository elsewhere on the machine goes with the folder, too
        around = os.environ | {"DVC_SITE_CACHE_DIR": str(folder / "noted")}
        dvc(folder, "init", "--no-scm", "--quiet", environment=around)
        printed = dvc(folder, "repro", "--all-pipelines", "--dry", "--force", environment=around)
        commands = dict(_PRINTED.findall(printed))
        lock = {"cmd": "", "params": {path: {"": None} for path in (PARAMS, SETTINGS)}}
        for path in (MAIN, BASELINES):
            names = [stage for file, _, stage in (name.rpartition(":") for name in commands) if (file or MAIN) == path]
            if names:
                _write((folder / path).with_suffix(".lock"), {"schema": "2.0", "stages": dict.fromkeys(names, lock)})
        missing = json.loads(dvc(folder, "status", "--json", environment=around))
    stages = {}
    for name, cmd in commands.items():
        found = {kind: paths for part in missing[name] if isinstance(part, dict) for kind, paths in part.items()}
        deps = found.get("changed deps", {})  # params among them, by their file
        params = [key if file == PARAMS else f"{file}:{key}" for file, keys in deps.items() if isinstance(keys, dict)
                  for key in keys]
        stages[name] = Stage(name, cmd.strip().removesuffix(_PUSH).strip(),
                             tuple(dep for dep, state in deps.items() if isinstance(state, str)), tuple(params),
                             tuple(found.get("changed outs", {})))
    return stages


def _write(path: Path, content: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(content, file)
