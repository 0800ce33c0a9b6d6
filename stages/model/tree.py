"""Several answers to one prompt in a single sequence: a prefix tree of tokens behind the prompt, under a mask.

    prompt      p0 p1 p2
    answers     "A B .", "A C .", "D ."
    sequence    p0 p1 p2 | A B C D            the last token of an answer is only ever predicted, never read
    A attends to the prompt; B and C to the prompt and A; D to the prompt.

Every token has the position that it would have behind the prompt on its own, so a model under this mask computes what
it would compute for each answer separately, and reads the prompt once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch


@dataclass(frozen=True)
class AnswerTree:
    """T tokens to read, for A answers.

    `tokens`, `depth` (T,): token and distance behind the prompt, parents before children. `ancestors` (T, T): row t is
    True at t and its ancestors. The log-probability of answer `step_answer[i]` is the sum over its steps i of that of
    `step_target[i]` after tree token `step_source[i]`, where -1 is the prompt's last token; steps ascend by source.
    """

    tokens: np.ndarray
    depth: np.ndarray
    ancestors: np.ndarray
    step_answer: np.ndarray
    step_source: np.ndarray
    step_target: np.ndarray
    answers: int

    @classmethod
    def build(cls, answers: Sequence[Sequence[int]]) -> "AnswerTree":
        """From non-empty token lists. None may be the beginning of another: a terminator sees to that."""
        nodes: dict[tuple[int, ...], int] = {}
        steps: list[tuple[int, int, int]] = []
        for number, tokens in enumerate(map(tuple, answers)):
            for end in range(len(tokens)):
                if end:
                    nodes.setdefault(tokens[:end], len(nodes))
                steps.append((number, nodes[tokens[:end]] if end else -1, tokens[end]))
        ancestors = np.eye(len(nodes), dtype=bool)
        for path, node in nodes.items():
            if len(path) > 1:
                ancestors[node] |= ancestors[nodes[path[:-1]]]
        steps.sort(key=lambda step: step[1])
        answer, source, target = (np.array(column, dtype=np.int64) for column in zip(*steps, strict=True))
        return cls(
            tokens=np.array([path[-1] for path in nodes], dtype=np.int64),
            depth=np.array([len(path) - 1 for path in nodes], dtype=np.int64),
            ancestors=ancestors, step_answer=answer, step_source=source, step_target=target, answers=len(answers),
        )


    @cached_property
    def _branches(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each step its branch, which it has in common with the steps of the same source and target; of each branch
        its source, counted from 0."""
        steps = np.stack([self.step_source + 1, self.step_target], axis=1)
        branches, of_step = np.unique(steps, axis=0, return_inverse=True)
        return of_step.reshape(-1), branches[:, 0]

    def shifts(self, log_prior: np.ndarray) -> np.ndarray:
        """What each step's logit is raised by, so that the answers' `log_prior` (A,) is a factor of their likelihood.

        The log-probability of the answers behind a step, less that of the likeliest step from the same source.
        """
        of_step, source = self._branches
        mass = np.bincount(of_step, weights=np.exp(log_prior.astype(np.float64))[self.step_answer])
        log_mass = np.log(np.maximum(mass, _LEAST))
        top = np.full(source.max() + 1, -np.inf)
        np.maximum.at(top, source, log_mass)
        return (log_mass - top[source])[of_step].astype(np.float32)


_LEAST = 1e-17  # of an answer's prior


@dataclass(frozen=True)
class PackedBatch:
    """B packed sequences of S tokens at most, behind a shared prefix of P tokens that is not part of them.

    `input_ids`, `positions` (B, S); `mask` (B, S, P + S) additive; `last` (B,) is where each prompt ends.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    last: torch.Tensor


def pack(
    prompts: Sequence[Sequence[int]], trees: Sequence[AnswerTree], prefix: int, dtype: torch.dtype, pad: int = 0
) -> PackedBatch:
    """Pack prompt i and tree i, padded at the end. `prefix` tokens in front are attended to by all."""
    size = max(len(p) + len(t.tokens) for p, t in zip(prompts, trees, strict=True))
    ids = np.full((len(prompts), size), pad, dtype=np.int64)
    positions = np.zeros_like(ids)
    allowed = np.zeros((len(prompts), size, prefix + size), dtype=bool)
    for i, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
        n, stop = len(prompt), len(prompt) + len(tree.tokens)
        ids[i, :n], ids[i, n:stop] = prompt, tree.tokens
        positions[i, :n] = prefix + np.arange(n)
        positions[i, n:stop] = prefix + n + tree.depth
        # padding sees the prefix or itself: a row that sees nothing is NaN in some kernels
        allowed[i, :, : max(prefix, 1)] = True
        allowed[i, :n, prefix : prefix + n] = np.tri(n, dtype=bool)
        allowed[i, n:stop, prefix : prefix + n] = True
        allowed[i, n:stop, prefix + n : prefix + stop] = tree.ancestors
    mask = additive(allowed, dtype)
    last = torch.tensor([len(p) - 1 for p in prompts])
    return PackedBatch(torch.from_numpy(ids), torch.from_numpy(positions), mask, last)


def additive(allowed: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """A mask to be added to attention scores: 0 where `allowed`, else the lowest number there is."""
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~torch.from_numpy(allowed), torch.finfo(dtype).min)


def step_log_probs(
    hidden: torch.Tensor, tree: AnswerTree, head: torch.nn.Module, log_prior: np.ndarray | None = None
) -> torch.Tensor:
    """Log-probability (A,) of each answer behind one prompt, summed in float32.

    Args:
        hidden: last normed hidden states (1 + T, H), of the prompt's last token and of the tree's.
        tree: the answers.
        head: the language-model head, H to vocabulary.
        log_prior: log-probabilities (A,) that are a factor of the answers', see `AnswerTree.shifts`.
    """
    shifts = None if log_prior is None else tree.shifts(log_prior)
    steps = token_log_probs(hidden, tree.step_source + 1, tree.step_target, head, shifts)
    answers = torch.from_numpy(tree.step_answer).to(hidden.device)
    return torch.zeros(tree.answers, device=hidden.device).index_add(0, answers, steps)


def token_log_probs(
    hidden: torch.Tensor, rows: np.ndarray, targets: np.ndarray, head: Callable[[torch.Tensor], torch.Tensor],
    shifts: np.ndarray | None = None,
) -> torch.Tensor:
    """Log-probability (N,) in float32 of token `targets[i]` after hidden state `rows[i]` (ascending) of (R, H).

    `shifts` (N,) are added to these logits first, once to each; they are alike where row and target are.
    """
    parts = []
    for start in range(0, len(hidden), _HEAD_ROWS):
        logits = head(hidden[start : start + _HEAD_ROWS]).float()
        first, stop = np.searchsorted(rows, [start, start + _HEAD_ROWS])
        row, target = (torch.from_numpy(n[first:stop]).to(hidden.device) for n in (rows - start, targets))
        if shifts is not None:
            logits[row, target] = logits[row, target] + torch.from_numpy(shifts[first:stop]).to(hidden.device)
        parts.append(logits[row, target] - logits.logsumexp(dim=-1)[row])
    return torch.cat(parts)


_HEAD_ROWS = 128  # at once: with 49,152 tokens in the vocabulary, 25 MB of logits in float32
