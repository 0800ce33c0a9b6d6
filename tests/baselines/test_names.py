import builtins
import hashlib

import numpy as np
import pytest
from ruamel.yaml import YAML

from stages.baselines.language.names import TEMPLATE, NameSettings, embed_names, principal
from stages.baselines.systems import alphafuse, llmesr
from stages.common import tables
from stages.common.errors import UserError
from stages.common.files import read_json
from stages.model.embedding import embed
from stages.model.load import load_base, load_tokenizer

NAMES = ["Watching video", "Online shopping", "Taking a taxi"]
BASE = NameSettings(encoder="base", revision="")


def test_by_default_the_projects_model_reads_the_template(tiny_base):
    import torch

    found = embed_names(NAMES, BASE, tiny_base)
    texts = ["A smartphone user's activity: Watching video.", *(TEMPLATE.format(name=name) for name in NAMES[1:])]
    wanted = embed(load_base(tiny_base, torch.float32), load_tokenizer(tiny_base), texts)
    np.testing.assert_array_equal(found.vectors, wanted)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, rtol=1e-5)
    assert np.abs(found.vectors[0] - found.vectors[1]).max() > 0.01


def test_facts_tell_the_encoder_and_its_vectors(tiny_base):
    found = embed_names(NAMES, BASE, tiny_base)
    facts = found.facts()
    assert facts["dimensions"] == 64 and facts["template"] == TEMPLATE and "sha256" in facts["encoder"]
    assert facts["sha256"] == hashlib.sha256(found.vectors.astype("<f4").tobytes()).hexdigest()
    assert facts["sha256"] != embed_names(NAMES[::-1], BASE, tiny_base).facts()["sha256"]


def test_sentence_transformers_are_asked_for_where_they_are_missing(tiny_base, monkeypatch):
    plain = builtins.__import__

    def without(name, *rest):
        if name == "sentence_transformers":
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"names.encoder: 'some/model'.*pip install -e '.\[baselines\]'"):
        embed_names(NAMES, NameSettings(encoder="some/model", revision=""), tiny_base)
    embed_names(NAMES, BASE, tiny_base)  # needs none


@pytest.fixture(scope="session")
def sentence_model(tiny_model, tmp_path_factory):
    """A folder with a model for sentence-transformers: the tiny one, its last states averaged."""
    pytest.importorskip("sentence_transformers", reason="pip install -e '.[baselines]'")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = tmp_path_factory.mktemp("sentence_model")
    words = Transformer(str(tiny_model))
    SentenceTransformer(modules=[words, Pooling(words.get_embedding_dimension(), "mean")]).save(str(folder))
    return folder


def test_a_sentence_transformer_gives_unit_vectors(sentence_model, tiny_base):
    found = embed_names(NAMES, NameSettings(encoder=str(sentence_model), revision=""), tiny_base)
    assert found.vectors.shape == (3, 64) and found.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, rtol=1e-5)
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(sentence_model)).encode([TEMPLATE.format(name=name) for name in NAMES])
    np.testing.assert_allclose(found.vectors, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-4)
    assert np.abs(found.vectors[0] - found.vectors[1]).max() > 0.01
    assert str(sentence_model) in found.facts()["encoder"]


def test_a_hub_id_needs_a_commit_and_weights_are_safetensors(sentence_model, tiny_base, tmp_path):
    with pytest.raises(UserError, match="names.revision: 'main'"):
        embed_names(NAMES, NameSettings(encoder="some/model", revision="main"), tiny_base)
    (sentence_model / "1_Pooling" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pytorch_model\.bin; only safetensors"):
        embed_names(NAMES, NameSettings(encoder=str(sentence_model), revision=""), tiny_base)
    (sentence_model / "1_Pooling" / "pytorch_model.bin").unlink()


@pytest.mark.parametrize(("count", "width", "rank"), [(6, 40, 5), (40, 6, 6), (1, 5, 0)])
def test_principal_coordinates_keep_inner_products_on_axes_that_have_a_variance(count, width, rank):
    vectors = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32) + 3
    coordinates, variance = principal(vectors)
    assert coordinates.shape == (count, rank) and (np.diff(variance) <= 0).all()
    centred = vectors - vectors.mean(axis=0, dtype=float)
    np.testing.assert_allclose(coordinates @ coordinates.T, centred @ centred.T, atol=1e-4)
    np.testing.assert_allclose((coordinates**2).sum(axis=0), variance * (count - 1))


def test_names_that_are_alike_have_no_axis():
    assert principal(np.ones((5, 3), np.float32))[0].shape == (5, 0)
    twice = np.random.default_rng(0).normal(size=(4, 9)).repeat(2, axis=0)
    assert principal(twice)[0].shape == (8, 3)


@pytest.mark.parametrize(("module", "section"), [
    (alphafuse, {"text_dimensions": [2], "id_dimensions": [6], "id_start": ["zeros"], "temperature": [0.07],
                 "windows_per_epoch": 200}),
    (llmesr, {"dimensions": [8], "blocks": [1], "heads": [1], "alpha": [0.1], "text": True, "cross_attention": True,
              "similar": 2, "pool": 100, "windows_per_validation": 100}),
])
def test_a_baselines_command_says_what_read_the_names(module, section, log, tiny_base, tmp_path, monkeypatch):
    name = module.__name__.rpartition(".")[2]
    trained = {"learning_rate": [0.01], "dropout": [0.1], "weight_decay": [0.0], "batch_size": [64], "epochs": [1],
               "warmup": [0]}
    with (tmp_path / "settings.yaml").open("w") as file:
        YAML().dump({"budget": {"trials": 1, "valid_windows": 50, "patience": 1, "windows_per_validation": 1},
                     name: section | trained, "names": {"encoder": "base", "revision": ""}}, file)
    argv = [name, "--settings", tmp_path / "settings.yaml", "--context", "next", "--model", tiny_base,
            "--out", tmp_path / "out.parquet", "--weights", tmp_path / "weights",
            "--counts", tmp_path / "counts.json"]
    for table, frame in zip(("events", "windows", "vocabulary"), log(users=20), strict=True):
        tables.write(frame.cast(tables.SCHEMAS[table]), table, tmp_path / f"{table}.parquet")
        argv += [f"--{table}", tmp_path / f"{table}.parquet"]
    monkeypatch.setattr("sys.argv", [*map(str, argv)])
    module.STAGE.main()
    facts, found = read_json(tmp_path / "counts.json"), tables.read("predictions", tmp_path / "out.parquet")
    assert facts["windows"] == len(found) > 100 and found["log_p"].explode().is_finite().all()
    names = tables.read("vocabulary", tmp_path / "vocabulary.parquet")["behavior"].to_list()
    assert facts["names"].items() >= embed_names(names, BASE, tiny_base).facts().items()
    assert facts["tuning"]["trials"] == 1 and facts["tuning"]["valid_windows"] == 50
    assert (tmp_path / "weights" / "model.safetensors").exists()
