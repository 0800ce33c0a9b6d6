"""What a language model is told of an event by the model of habits: log-probabilities, or a vector made of them.

The vector is the mean of the behaviours' names, weighted so, in the model's own input space: a name is the mean of its
tokens' embeddings. So nothing has to be learned before it means something, and a certain guess reads like a name. It
is as long as an ordinary token where the guess is certain, and shorter where it is not; what a person did outside the
vocabulary makes it shorter, too.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import polars as pl
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.common.errors import UserError
from stages.common.tables import PRIOR_TOKENS, SCHEMAS
from stages.model.soft import attach


class Prior:
    """A table `prior`."""

    def __init__(self, table: pl.DataFrame):
        self.table = table.sort("row")

    @cached_property
    def _rows(self) -> np.ndarray:
        return self.table["row"].to_numpy()

    def of(self, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Log-probabilities of the candidates of each of `rows`, V and the person's own.

        Raises:
            UserError: the table has no such row.
        """
        rows = np.asarray(rows, dtype=np.int64)
        places = np.searchsorted(self._rows, rows)
        found = np.append(self._rows, -1)[places] == rows
        if not found.all():
            raise UserError(f"prior: no row {rows[~found][0]}: made for other windows, or another prompt.prior; run "
                            "`dvc repro` again")
        return [each.to_numpy() for each in self.table["log_p"].gather(places)]


def told(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocabulary: pl.DataFrame, prior: pl.DataFrame | None,
    how: str, rows: Sequence[int] | np.ndarray,
) -> list[np.ndarray]:
    """Tell `model` as `prompt.prior` says how; the `log_prior` of the windows of `rows` for `likelihood.score`.

    Raises:
        UserError: the table `prior` has not all of the rows.
    """
    if how == "none":
        return []
    found = Prior(pl.DataFrame(schema=SCHEMAS["prior"]) if prior is None else prior)
    if how == "logits":
        return found.of(rows)
    read_priors(model, tokenizer, vocabulary, found)
    return []


def read_priors(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocabulary: pl.DataFrame, prior: Prior
) -> None:
    """Have `model` read the token `PRIOR_TOKENS` + row as the vector of that event; see the module."""
    names = [tokenizer(f" {name}", add_special_tokens=False, split_special_tokens=True).input_ids
             for name in vocabulary["behavior"].to_list()]
    embedding = attach(model, tokenizer, PRIOR_TOKENS)
    with torch.no_grad():
        weight = embedding.weight
        vectors = torch.stack([weight[torch.tensor(name, device=weight.device)].float().mean(dim=0) for name in names])
        vectors *= embedding.mean_norm() / vectors.norm(dim=-1).mean()

    def source(numbers: torch.Tensor) -> torch.Tensor:
        log_p = np.stack([each[: len(names)] for each in prior.of(numbers.cpu().numpy())])
        return torch.from_numpy(np.exp(log_p)).to(vectors.device) @ vectors

    embedding.source = source
