"""Adapters are carried away through a remote: a folder, and a server that speaks S3."""

import shutil

import pytest

from stages.common.files import sha256
from tests.end_to_end.project import Project, stages_run

pytestmark = pytest.mark.timeout(1200)
ADAPTERS = ("models/sft", "models/dpo")


def adapters(project: Project) -> dict[str, str]:
    return {str(path.relative_to(project.folder)): sha256(path)
            for name in ADAPTERS for path in sorted((project.folder / name).rglob("*")) if path.is_file()}


def carried_away(project: Project, store: str, place) -> None:
    """Push everything, then pull the adapters in a clone that never saw the cache."""
    known = adapters(project)
    assert any(path.endswith("adapter_model.safetensors") for path in known)
    project.dvc("push", "--remote", store)
    clone = project.clone(place)
    shutil.copy(project.folder / ".dvc" / "config.local", clone.folder / ".dvc")
    clone.dvc("pull", "--remote", store, *ADAPTERS)
    assert adapters(clone) == known
    assert clone.changed() == []
    clone.dvc("pull", "--remote", store)
    assert stages_run(clone.dvc("repro")) == []
    assert clone.changed() == []


def test_a_folder(project, tmp_path):
    project.dvc("remote", "add", "--local", "--force", "folder", tmp_path / "store")
    carried_away(project, "folder", tmp_path / "clone")
    assert project.changed() == []


def test_s3(project, s3, tmp_path):
    project.dvc("remote", "add", "--local", "--force", "s3", "s3://adapters/store")
    for name, value in (("endpointurl", s3), ("access_key_id", "test"), ("secret_access_key", "test"),
                        ("region", "us-east-1")):
        project.dvc("remote", "modify", "--local", "s3", name, value)
    carried_away(project, "s3", tmp_path / "clone")
