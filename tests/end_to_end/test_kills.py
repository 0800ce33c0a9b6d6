"""A stage that is killed, anywhere, and run again writes the bytes of one that nobody killed."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.end_to_end.conftest import ROOT, SMALL
from tests.end_to_end.project import set_values


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_kill_leaves_a_trace(environment, teachable_model, tmp_path):
    folder = tmp_path / "run"
    for name in ("data/taxonomy", "data/auxiliary"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder / name)
    set_values(folder / "params.yaml", SMALL | {"model.name": teachable_model})
    result = subprocess.run(
        [sys.executable, "-m", "tests.end_to_end.kills", folder], cwd=ROOT, text=True, check=False,
        capture_output=True, env=environment | {"BEHAVIORLM_CACHE": str(tmp_path / "cache")},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    kills, resumed = map(int, re.findall(r"(\d+) kills, (\d+) resumed", result.stdout)[0])
    assert kills >= 54 and resumed == 4
