"""Names by themselves as a language model sees them: a vector each."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.model.readers import make_reader


@torch.inference_mode()
def embed(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> np.ndarray:
    """The mean over each name's tokens of the last normed hidden states, of unit length: `(N, H)` float32."""
    model.eval()
    reader = make_reader(model)
    rows = []
    for name in names:
        ids = torch.tensor([tokenizer(name, add_special_tokens=False)["input_ids"]], device=model.device)
        hidden, _ = reader.read(ids, torch.arange(ids.shape[1], device=model.device)[None])
        rows.append(hidden[0].float().mean(dim=0).cpu().numpy())
    vectors = np.stack(rows)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
