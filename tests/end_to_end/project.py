"""A working copy of this repository, and the user's commands on it."""

import json
import re
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

SCRIPTS = Path(sysconfig.get_path("scripts"))


@dataclass
class Project:
    """A working copy and the environment in which its commands run."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str | Path) -> str:
        """Run a command and return what it printed; it must succeed."""
        result = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False,
        )
        assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout[-6000:]}"
        return result.stdout

    def dvc(self, *arguments: str | Path) -> str:
        return self.run("dvc", *arguments)

    def dvc_json(self, *arguments: str | Path) -> Any:
        """What a command prints with --json, behind its warnings: the baselines' pipeline has not run."""
        printed = self.dvc(*arguments, "--json")
        return json.loads(printed[printed.index("{"):])

    def git(self, *arguments: str | Path) -> str:
        return self.run("git", *arguments)

    def changed(self) -> list[str]:
        """Files that Git would call changed, staged or unknown."""
        return [line[3:] for line in self.git("status", "--porcelain", "--untracked-files=all").splitlines()]

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)

    def back_to(self, branch: str) -> None:
        """Throw the workspace's changes away."""
        locks = [self.folder / "dvc.lock", self.folder / "stages" / "baselines" / "dvc.lock"]
        before = [path.read_bytes() for path in locks if path.exists()]
        # Git takes a file for unchanged whose size and second of change are the same, as no person's edits ever are
        (self.folder / "params.yaml").unlink(missing_ok=True)
        self.git("checkout", "--quiet", "--force", branch)
        if before != [path.read_bytes() for path in locks if path.exists()]:  # else outputs are those of the branch
            self.dvc("checkout", "--quiet", "--force")

    def clone(self, folder: Path) -> "Project":
        self.git("clone", "--quiet", self.folder, folder)
        return Project(folder, self.environment)


def stages_run(output: str) -> list[str]:
    """The stages that a command ran, not those it found unchanged or in the run cache."""
    return re.findall(r"Running stage '([^']+)'", output)


def set_values(path: Path, values: dict[str, object]) -> None:
    """Edit a params file as `dvc exp run -S` does."""
    apply_overrides(str(path), [f"{key}={value}" for key, value in values.items()])


def stages_of(path: Path) -> list[str]:
    """Every stage of a dvc.yaml by the name that DVC prints, a matrix written out."""
    names = []
    for name, stage in YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))["stages"].items():
        names += [f"{name}@{item}" for item in next(iter(stage["matrix"].values()))] if "matrix" in stage else [name]
    return names
