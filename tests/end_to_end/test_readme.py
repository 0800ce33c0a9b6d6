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


def examples() -> list[list[tuple[str, list[str]]]]:
    """Each `console` block: its commands, with what they read on standard input, and the lines printed below each."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [block_of(block.splitlines()) for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)]


def block_of(content: list[str]) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []
    lines = iter(content)
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
    """Every expected line is printed, and without `…` no other line is; numbers agree, but for rounding.

    DVC prints files in an order of its own at each run, so lines may stand in another order.
    """
    left = [line for line in printed if line.strip()]
    for line in (line for line in expected if line.strip() not in ("", ANYTHING)):
        alike = [other for other in left if words(other) == words(line)]
        # another type of numbers trains another model, of which only the shape of the output is known
        if compute_dtype() == torch.bfloat16:
            alike = [other for other in alike if close(other, line)]
        assert alike, f"{command}\nnot printed: {line}\nprinted: {left}"
        left.remove(alike[0])
    assert not left or ANYTHING in expected, f"{command}\nprinted beside: {left}"


def close(one: str, other: str) -> bool:
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    return all(math.isclose(float(mine), float(theirs), rel_tol=0.02, abs_tol=0.02) for mine, theirs in pairs)


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
    for block in examples():
        finished.back_to("main")
        for command, expected in block:
            result = subprocess.run(["bash", "-c", command], cwd=finished.folder, env=finished.environment, text=True,
                                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
            compare(command, expected, result.stdout.splitlines())
