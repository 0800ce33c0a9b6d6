"""Behaviours' names as vectors: one text encoder for every baseline that reads names, and on record which.

By default the project's own language model, with no adapter, as stage `embeddings` uses it: the mean over the tokens of
its last states. Or a model that sentence-transformers knows, which the settings name.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.baselines.fitting.task import Task
from stages.common.device import device
from stages.common.errors import UserError
from stages.common.params import Section
from stages.model.embedding import embed
from stages.model.load import load_base, load_tokenizer
from stages.model.resolve import read_manifest, resolve, weights_folder

TEMPLATE = "A smartphone user's activity: {name}."
BASE = "base"

_LEAST_VARIANCE = 1e-6
"""Of the largest: below it a direction is rounding, and to divide by its root would blow that up."""


class NameSettings(Section):
    encoder: str
    revision: str


@dataclass(frozen=True)
class NameVectors:
    """Vectors `(V, H)` float32 of unit length, in the vocabulary's order, and the name of what made them."""

    vectors: np.ndarray
    encoder: str

    def facts(self) -> dict[str, Any]:
        """What a baseline's counts say of them."""
        return {
            "encoder": self.encoder, "dimensions": self.vectors.shape[1], "template": TEMPLATE,
            "sha256": hashlib.sha256(np.ascontiguousarray(self.vectors, dtype="<f4").tobytes()).hexdigest(),
        }


def load_names(task: Task, model: Path) -> NameVectors:
    """Vectors of the task's vocabulary, by the encoder that section `names` of the settings names."""
    return embed_names(task.sequences.names, task.settings("names", NameSettings)[1], model)


def embed_names(names: Sequence[str], settings: NameSettings, model: Path) -> NameVectors:
    """Vectors of `TEMPLATE` filled with each name.

    Raises:
        UserError: the encoder is not to be had, or sentence-transformers is wanted and not installed.
    """
    texts = [TEMPLATE.format(name=name) for name in names]
    if settings.encoder == BASE:
        manifest = read_manifest(model)
        # in float32, so that vectors differ between machines by rounding alone
        vectors = embed(load_base(model, torch.float32), load_tokenizer(model), texts)
        return NameVectors(vectors, f"{manifest.name} ({manifest.source}), sha256 {manifest.sha256}")
    return _sentence_transformer(texts, settings)


def principal(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates `(V, R)` of the centred vectors `(V, H)` along their principal axes, and the variances `(R,)` there.

    Largest first, in float64, those axes alone that have a variance: R is V − 1 at most, whatever H is. Inner products
    of the centred vectors are those of the coordinates.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    variance = singular**2 / max(1, len(vectors) - 1)
    rank = min(len(vectors) - 1, int((variance > _LEAST_VARIANCE * variance[0]).sum()))
    return left[:, :rank] * singular[:rank], variance[:rank]


def _sentence_transformer(texts: list[str], settings: NameSettings) -> NameVectors:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError(f"names.encoder: {settings.encoder!r} is a model for sentence-transformers, which is not "
                        "installed; `pip install -e '.[baselines]'` does, or set it to `base`") from None
    try:
        manifest = resolve(settings.encoder, settings.revision)
        folder = weights_folder(manifest)
    except UserError as error:  # it speaks of the keys of the language model
        raise UserError(str(error).replace("model.name", "names.encoder").replace("model.revision", "names.revision")) \
            from None
    if unsafe := sorted(path.name for path in folder.rglob("*.bin")):
        raise UserError(f"names.encoder: {settings.encoder}: holds {', '.join(unsafe)}; only safetensors are loaded")
    encoder = SentenceTransformer(str(folder), device=str(device()), local_files_only=True, trust_remote_code=False,
                                  model_kwargs={"use_safetensors": True})
    vectors = encoder.encode(texts, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False)
    origin = manifest.revision or manifest.source
    return NameVectors(vectors.astype(np.float32), f"{manifest.name} ({origin}), sha256 {manifest.sha256}")
