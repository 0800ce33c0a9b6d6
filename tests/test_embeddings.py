import sys

import numpy as np
import polars as pl
import pytest
import torch

from stages import embeddings as stage
from stages.common import tables
from stages.common.files import read_json
from stages.embeddings import embeddings
from stages.model.embedding import embed
from stages.model.load import load_base, load_tokenizer
from tests.small_log import BEHAVIORS, all_behaviors


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


@pytest.fixture(scope="module")
def parts(tiny_base):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHAVIORLM_DTYPE", "float32")
        return load_base(tiny_base), load_tokenizer(tiny_base)


@pytest.fixture
def made(tiny_base):
    return embeddings(all_behaviors(), tiny_base)


def with_anchors(anchors, names=BEHAVIORS):
    """Table `vocabulary` of `names`, those numbered `anchors` being anchors."""
    return pl.DataFrame({
        "behavior": names, "train_events": 1, "share": 1 / len(names), "group": "medium",
        "is_anchor": [number in anchors for number in range(len(names))],
    }).cast(tables.SCHEMAS["vocabulary"])


def test_a_names_vector_is_the_mean_of_its_tokens_last_states(parts):
    model, tokenizer = parts
    vectors = embed(model, tokenizer, BEHAVIORS)
    assert vectors.dtype == np.float32 and vectors.shape == (6, 64)
    for name, vector in zip(BEHAVIORS, vectors, strict=True):
        ids = torch.tensor([tokenizer(name, add_special_tokens=False).input_ids])
        with torch.no_grad():
            mean = model.get_decoder()(ids).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)


def test_vectors_are_of_unit_length_and_follow_the_names(parts):
    vectors = embed(*parts, BEHAVIORS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(embed(*parts, BEHAVIORS[::-1]), vectors[::-1], atol=1e-6)
    np.testing.assert_allclose(embed(*parts, BEHAVIORS[2:3]), vectors[2:3], atol=1e-6)
    assert (vectors @ vectors.T)[np.triu_indices(6, 1)].max() < 1 - 1e-6, "no two are the same"


def test_the_table_has_the_vocabularys_order_and_the_models_vectors(made, parts):
    frame, points, counts = made
    tables.check(frame, "embeddings", "x")
    assert frame["behavior"].to_list() == points["behavior"].to_list() == all_behaviors()["behavior"].to_list()
    np.testing.assert_allclose(np.stack(frame["embedding"].to_numpy()), embed(*parts, frame["behavior"]), atol=1e-6)
    assert (counts["behaviors"], counts["dimensions"]) == (6, 64)


@pytest.mark.parametrize("anchors", [{0, 1, 2, 3}, {1, 4}, {2}, {0, 1, 2, 3, 4, 5}])
def test_the_nearest_anchor_is_the_most_alike_but_never_the_behaviour_itself(tiny_base, anchors):
    frame, _, counts = embeddings(with_anchors(anchors), tiny_base)
    vectors = np.stack(frame["embedding"].to_numpy()).astype(float)
    vectors -= vectors.mean(axis=0)
    cosines = vectors @ vectors.T
    cosines /= np.outer(*[np.linalg.norm(vectors, axis=1)] * 2)
    for number, (name, nearest, likeness, _) in enumerate(frame.iter_rows()):
        others = {BEHAVIORS[other]: cosines[number, other] for other in anchors - {number}}
        if others:
            assert nearest == max(others, key=others.get) and nearest != name
            assert likeness == pytest.approx(others[nearest], abs=1e-5)
        else:
            assert nearest is None and likeness is None, "the only anchor has no other"
    tail = [likeness for number, likeness in enumerate(frame["likeness"]) if number not in anchors]
    assert counts["tail_likeness_median"] == (pytest.approx(np.median(tail), abs=1e-5) if tail else None)


def test_two_anchors_are_as_like_as_each_other(tiny_base):
    frame, _, _ = embeddings(with_anchors({1, 4}), tiny_base)
    one, other = frame.row(1, named=True), frame.row(4, named=True)
    assert (one["nearest_anchor"], other["nearest_anchor"]) == (BEHAVIORS[4], BEHAVIORS[1])
    assert one["likeness"] == pytest.approx(other["likeness"], abs=1e-6)


def test_the_order_of_the_vocabulary_changes_no_likeness(tiny_base, made):
    frame, points, _ = made
    other, moved, _ = embeddings(all_behaviors().reverse(), tiny_base)
    assert other["nearest_anchor"].to_list()[::-1] == frame["nearest_anchor"].to_list()
    np.testing.assert_allclose(other["likeness"].to_numpy()[::-1], frame["likeness"], atol=1e-5)
    for axis in ("x", "y"):  # a component's sign is no one's choice
        np.testing.assert_allclose(moved[axis].abs().to_numpy()[::-1], points[axis].abs(), atol=1e-4)


def test_a_vocabulary_without_any_anchor_has_no_nearest_one(tiny_base):
    frame, points, counts = embeddings(with_anchors(set()), tiny_base)
    tables.check(frame, "embeddings", "x")
    assert frame["nearest_anchor"].null_count() == frame["likeness"].null_count() == 6
    assert set(points["kind"]) == {"tail"} and counts["tail_likeness_median"] is None
    assert frame["embedding"].null_count() == 0


@pytest.mark.parametrize("anchors", [set(), {0}])
def test_a_single_behaviour_stands_at_the_origin(tiny_base, anchors):
    frame, points, counts = embeddings(with_anchors(anchors, BEHAVIORS[:1]), tiny_base)
    tables.check(frame, "embeddings", "x")
    assert points.row(0) == (BEHAVIORS[0], "anchor" if anchors else "tail", 0, 0)
    assert frame["nearest_anchor"].to_list() == frame["likeness"].to_list() == [None]
    assert counts == {"behaviors": 1, "dimensions": 64, "explained_variance": None, "tail_likeness_median": None}


def test_the_plane_is_that_of_the_first_two_principal_components(made):
    frame, points, counts = made
    vectors = np.stack(frame["embedding"].to_numpy()).astype(float)
    u, sizes, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    for axis, name in enumerate(("x", "y")):
        np.testing.assert_allclose(points[name].abs(), np.abs(u[:, axis] * sizes[axis]), atol=1e-4)
    assert counts["explained_variance"] == pytest.approx((sizes[:2] ** 2).sum() / (sizes**2).sum(), abs=1e-4)
    assert points["kind"].to_list() == ["anchor"] * 4 + ["tail"] * 2


def test_the_command_writes_the_table_the_points_and_the_counts(tiny_base, tmp_path, monkeypatch, made):
    vocabulary, out, plot, metrics = (tmp_path / name for name in ("v.parquet", "e.parquet", "e.csv", "e.json"))
    tables.write(all_behaviors(), "vocabulary", vocabulary)
    monkeypatch.setattr(sys, "argv", [
        "embeddings", "--vocabulary", str(vocabulary), "--model", str(tiny_base), "--out", str(out),
        "--counts", str(metrics), "--plot", str(plot),
    ])
    stage.STAGE.main()
    frame, points, counts = made
    assert tables.read("embeddings", out).equals(frame) and read_json(metrics) == pytest.approx(counts, rel=1e-5)
    written = pl.read_csv(plot)
    assert written.columns == ["behavior", "kind", "x", "y"] and written.equals(points), "names with commas are quoted"
