import sys

import pytest

from stages import base as stage
from stages.base import base
from stages.model.resolve import Manifest, read_manifest
from tests.events.helpers import write_params
from tests.small_log import small_params


def test_a_models_name_becomes_a_record_of_it(tiny_model):
    manifest = base(small_params(model__name=str(tiny_model)))
    assert isinstance(manifest, Manifest) and manifest.source == "folder" and len(manifest.sha256) == 20


def test_the_record_is_all_that_is_written(tiny_model, tmp_path, monkeypatch):
    params = write_params(tmp_path / "params.yaml", small_params(model__name=str(tiny_model)))
    monkeypatch.setattr(sys, "argv", ["base", "--params", str(params), "--out", str(tmp_path / "models" / "base")])
    stage.STAGE.main()
    assert {path.name for path in (tmp_path / "models" / "base").iterdir()} == {"SHA256SUMS", "base.json"}
    assert read_manifest(tmp_path / "models" / "base") == base(small_params(model__name=str(tiny_model)))


def test_a_name_that_cannot_be_resolved_leaves_the_old_record(tmp_path, monkeypatch):
    params = write_params(tmp_path / "params.yaml", small_params(model__name="nothing"))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "base.json").write_text("old", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["base", "--params", str(params), "--out", str(tmp_path / "base")])
    with pytest.raises(ValueError, match="model.name: 'nothing'"):
        stage.STAGE.main()
    assert (tmp_path / "base" / "base.json").read_text(encoding="utf-8") == "old"
