"""The README's console examples, run in a copy with the real model after the README's own `dvc repro`, and compared."""

import math
import os
import re
import subprocess

import pytest
import torch

from stages.model.load import compute_dtype
from tests.contract.imports import ROOT
from tests.end_to_end.project import SCRIPTS, Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

HASH = re.compile(r"\b[0-9a-f]{7}\b(?= \[)")  # of an experiment
NUMBER = re.compile(r"[-+]?\d+\.\d+(?:e-?\d+)?")
ANYTHING = "…"


def examples() -> list[tuple[str, list[str]]]:
    """Each command of a `console` block, what it reads on standard input with it, and the lines printed below it."""
    found: list[tuple[str, list[str]]] = []
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        lines = iter(block.splitlines())
        for line in lines:
            if not line.startswith("$ "):
                found[-1][1].append(line)
                continue
            command = line.removeprefix("$ ")
            if heredoc := re.search(r"<<'(\w+)'", command):
                for more in lines:
                    command += f"\n{more}"
                    if more == heredoc[1]:
                        break
            found.append((command, []))
    return found


def words(line: str) -> str:
    """A line without its numbers and widths; boxes and arrows stay."""
    return " ".join(NUMBER.sub("0.0", HASH.sub("0", line)).split())


def compare(command: str, expected: list[str], printed: list[str]) -> None:
    """Every expected line is printed, in order, and without `…` no other line is; numbers agree, but for rounding."""
    at, skipping = 0, False
    for line in (line for line in expected if line.strip()):
        if line.strip() == ANYTHING:
            skipping = True
            continue
        while skipping and at < len(printed) and words(printed[at]) != words(line):
            at += 1
        assert at < len(printed), f"{command}\nnot printed: {line}"
        assert words(printed[at]) == words(line), command
        # another type of numbers trains another model, of which only the shape of the output is known
        if compute_dtype() == torch.bfloat16:
            pairs = zip(NUMBER.findall(printed[at]), NUMBER.findall(line), strict=True)
            close = [math.isclose(float(mine), float(theirs), rel_tol=0.02, abs_tol=0.02) for mine, theirs in pairs]
            assert all(close), f"{command}\n{line}\n{printed[at]}"
        at, skipping = at + 1, False
    assert skipping or at == len(printed), f"{command}\nprinted beside: {printed[at:]}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Project:
    """A clone after `dvc repro`, committed, as a reader of the README has it."""
    environment = os.environ | {"PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120"}
    project = Project(tmp_path_factory.mktemp("clone") / "repository", environment)
    subprocess.run(["git", "clone", "--quiet", ROOT, project.folder], check=True)
    project.git("config", "user.name", "Test")
    project.git("config", "user.email", "test@example.org")
    project.git("checkout", "--quiet", "-B", "main")
    project.dvc("repro")
    project.commit("first run")
    return project


def test_the_console_examples_print_what_stands_below_them(finished):
    for command, expected in examples():
        result = subprocess.run(["bash", "-c", command], cwd=finished.folder, env=finished.environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        compare(command, expected, [line for line in result.stdout.splitlines() if line.strip()])
