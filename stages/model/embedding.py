"""What a language model makes of a behaviour's name by itself: one vector a name."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.model.readers import reader_of


@torch.inference_mode()
def embed(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> np.ndarray:
    """The mean over each name's tokens of the last normed hidden states, of unit length: `(N, H)` float32."""
    model.eval()
    reader = reader_of(model)
    rows = []
    for name in names:
        ids = torch.tensor([tokenizer(name, add_special_tokens=False)["input_ids"]], device=model.device)
        hidden, _ = reader.read(ids, torch.arange(ids.shape[1], device=model.device)[None])
        rows.append(hidden[0].float().mean(dim=0).cpu().numpy())
    vectors = np.stack(rows)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
