"""Stage 1 of A-LLMRec: what a recommender and what a text encoder know of an item become one code.

Two autoencoders, of items' vectors and of their texts', are drawn together at their codes; the decoded item must
still serve the recommender. Losses and weights are the published code's (ghdtjr/A-LLMRec at commit e216bbc).
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from stages.common.console import track
from stages.common.params import Positive, Rate, Section

CODE = 128
"""Dimensions of a code."""

_ITEM_WEIGHT, _TEXT_WEIGHT = 0.5, 0.2  # of the reconstruction losses


class Matching(Section):
    """How stage 1 is trained; none of it is tuned."""

    matching_learning_rate: Rate
    matching_batch_size: Positive
    matching_epochs: Annotated[int, Field(ge=1)]


class Autoencoder(nn.Module):
    """Vectors `(…, D)` to codes `(…, CODE)` between 0 and 1, and back."""

    def __init__(self, dimensions: int):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(dimensions, CODE), nn.Linear(CODE, dimensions)

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.encoder(vectors).sigmoid()

    def forward(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The codes, and what is decoded from them."""
        codes = self.encode(vectors)
        return codes, self.decoder(codes)


@dataclass(frozen=True)
class Losses:
    """The four losses of some users, each a mean; positives and negatives are added up."""

    recommendation: torch.Tensor
    matching: torch.Tensor
    item: torch.Tensor
    text: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        return self.recommendation + self.matching + _ITEM_WEIGHT * self.item + _TEXT_WEIGHT * self.text


class Codes(nn.Module):
    """Both autoencoders over fixed vectors of V behaviours: the recommender's `(V, D)` and their texts' `(V, E)`."""

    def __init__(self, items: torch.Tensor, texts: torch.Tensor):
        super().__init__()
        self.register_buffer("item_vectors", items)
        self.register_buffer("text_vectors", texts)
        self.items, self.texts = Autoencoder(items.shape[1]), Autoencoder(texts.shape[1])

    def losses(self, users: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> Losses:
        """Of users' states `(B, D)`, the behaviours that followed `(B,)`, and ones that did not `(B,)`."""
        both = torch.stack([positive, negative])
        code, decoded = self.items(self.item_vectors[both])
        text_code, text_decoded = self.texts(self.text_vectors[both])
        score = (users * decoded).mean(dim=-1)  # a mean, not a sum: published so
        return Losses(
            F.softplus(-score[0]).mean() + F.softplus(score[1]).mean(), 2 * F.mse_loss(code, text_code),
            2 * F.mse_loss(decoded, self.item_vectors[both]), 2 * F.mse_loss(text_decoded, self.text_vectors[both]),
        )

    @torch.no_grad()
    def agreement(self) -> float:
        """Mean cosine between a behaviour's two codes, each less the mean over behaviours.

        Without that it would be near 1 from the start: codes lie around one half.
        """
        pair = (self.items.encode(self.item_vectors), self.texts.encode(self.text_vectors))
        return float(F.cosine_similarity(*(codes - codes.mean(dim=0) for codes in pair), dim=-1).mean())


def fit_codes(
    items: torch.Tensor, texts: torch.Tensor, users: torch.Tensor, label: torch.Tensor, settings: Matching, seed: int
) -> Codes:
    """Both autoencoders, trained, then frozen.

    Each time a user is met, another of the V − 1 behaviours that did not follow is drawn as the negative, uniformly
    (`losses.binary_cross_entropy` says why).

    Args:
        items, texts: see `Codes`.
        users: the recommender's states `(N, D)` before the events whose behaviours are `label` `(N,)`.
        settings: see there.
        seed: of weights, order and negatives.
    """
    torch.manual_seed(seed)
    codes, generator = Codes(items, texts), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(codes.parameters(), lr=settings.matching_learning_rate, betas=(0.9, 0.98))
    with track("A-LLMRec, codes", settings.matching_epochs) as progress:
        for _ in range(settings.matching_epochs):
            for chosen in torch.randperm(len(label), generator=generator).split(settings.matching_batch_size):
                shift = torch.randint(1, len(items), chosen.shape, generator=generator)
                loss = codes.losses(users[chosen], label[chosen], (label[chosen] + shift) % len(items)).total
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            progress.advance(1, f"agreement {codes.agreement():.3f}")
    return codes.eval().requires_grad_(False)
