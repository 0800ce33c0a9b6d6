"""Stage `embeddings`: the behaviours' names as the untuned model sees them, and in a plane (paper, Figure 1b)."""

from pathlib import Path

import numpy as np
import polars as pl
from sklearn.decomposition import PCA

from stages.common import tables
from stages.common.params import Section
from stages.common.stage import COUNTS, Stage, csv, place, table
from stages.model.embedding import embed
from stages.model.load import load_base, load_tokenizer


class Params(Section):
    """None: names and a model are all there is to it."""


def embeddings(vocabulary: pl.DataFrame, model: Path) -> tuple[pl.DataFrame, pl.DataFrame, dict]:
    """Table `embeddings`, the plane of its first two principal components, and how alike anchors and tail are.

    Likeness is the cosine of two behaviours' vectors less the mean vector: a language model's vectors all point much
    the same way, and what distinguishes them is what is left. `nearest_anchor` of an anchor is another anchor.
    """
    names, anchor = vocabulary["behavior"].to_list(), vocabulary["is_anchor"].to_numpy()
    vectors = embed(load_base(model), load_tokenizer(model), names)
    centred = vectors - vectors.mean(axis=0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    likeness = np.where(anchor & ~np.eye(len(names), dtype=bool), unit @ unit.T, -np.inf)
    nearest = likeness.argmax(axis=1)
    found = np.isfinite(likeness.max(axis=1))
    frame = vocabulary.select("behavior").with_columns(
        nearest_anchor=pl.Series([names[number] if any_ else None for number, any_ in zip(nearest, found, strict=True)],
                                 dtype=pl.String),
        likeness=pl.Series(np.where(found, likeness.max(axis=1), np.nan)).cast(pl.Float32).fill_nan(None),
        embedding=pl.Series(vectors.tolist(), dtype=tables.FLOATS),
    )
    components = min(2, *vectors.shape)
    pca = PCA(components, svd_solver="full").fit(vectors)
    plane = np.zeros((len(names), 2))
    plane[:, :components] = pca.transform(vectors)
    kind = np.where(anchor, "anchor", "tail")
    points = pl.DataFrame({"behavior": names, "kind": kind, "x": plane[:, 0], "y": plane[:, 1]}).with_columns(
        pl.col("x", "y").round(5)
    )
    tail = frame.filter(~pl.Series(anchor))["likeness"].drop_nulls()
    return frame, points, {
        "behaviors": len(names), "dimensions": vectors.shape[1],
        "explained_variance": float(pca.explained_variance_ratio_.sum()) if len(names) > 1 else None,
        "tail_likeness_median": float(tail.median()) if len(tail) else None,
    }


STAGE = Stage(
    "embeddings", __doc__, lambda vocabulary, model, params: embeddings(vocabulary, model), Params,
    reads={"vocabulary": table("vocabulary"), "model": place("folder with base.json")},
    writes={"out": table("embeddings"), "plot": csv("the first two principal components (CSV)"), "counts": COUNTS},
    message=lambda args, frame, points, counts:
        f"embeddings: {counts['behaviors']} behaviours, {counts['dimensions']} dimensions",
)

if __name__ == "__main__":
    STAGE.run()
