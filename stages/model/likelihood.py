"""p(y|x) over all candidates, exactly, with each prompt read once: one function for scoring and evaluation.

What all prompts begin with is read once for all. A prompt that is the prefix of another (a user's earlier window, while
the history still grows) is not read by itself: its candidates are read behind that part of the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from transformers import PreTrainedModel

from stages.common import launch
from stages.common.console import track
from stages.common.processes import put_together
from stages.model.kv_cache import KeysAndValues
from stages.model.reader import Reader
from stages.model.readers import make_reader
from stages.model.tree import AnswerTree, additive, step_log_probs

# Tokens read at once, padding included: enough to keep matrix products busy, little enough for 8 GB. A GPU takes more.
_TOKENS_A_BATCH = 4096
_GPU_FACTOR = 8
_CACHED_PER_TOKEN = 4  # tokens whose keys and values are kept, for each token read at once
_TREES_KEPT = 64  # of what persons did beside the V

Answers = Sequence[Sequence[int]]
Further = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Scores:
    """`log_p` (N, V + E) float32: log-softmax over a window's candidates of their sequence log-likelihood, -inf behind
    its last; `embedding` (N, H) float32: the last normed hidden state at each prompt's last token, of unit length."""

    log_p: np.ndarray
    embedding: np.ndarray


@torch.inference_mode()
def score(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], answers: Answers, title: str = "scoring",
    own: Sequence[Answers] = (), log_prior: Sequence[np.ndarray] = (),
) -> Scores:
    """Score every answer after every prompt: s(y) = sum of log P(token | prompt, earlier tokens), terminator included.

    Several processes share the prompts, and each gets all scores.

    Args:
        model: a causal language model, with adapters merged, beside it, or none.
        prompts: N token lists, none empty.
        answers: V token lists, each ending in a terminator.
        title: what the progress bar says.
        own: further answers of each prompt, E at most, which stand behind the V; empty where no prompt has any. Prompts
            with the same ones are read together.
        log_prior: of each prompt, log-probabilities of its answers that are a factor of theirs (`AnswerTree.shifts`).
    """
    model.eval()
    further = [tuple(map(tuple, each)) for each in own] or [()] * len(prompts)

    @lru_cache(_TREES_KEPT)
    def tree_with(own: Further) -> AnswerTree:
        return AnswerTree.build([*answers, *own])

    reader, head, device = make_reader(model), model.get_output_embeddings(), model.device
    limit = _TOKENS_A_BATCH * (1 if device.type == "cpu" else _GPU_FACTOR)
    counts = np.array([len(answers) + len(each) for each in further])
    shared = common_prefix(prompts)
    past = prefill(reader, torch.tensor(prompts[0][:shared], dtype=torch.long, device=device))
    log_p, embedding = (np.zeros((len(prompts), size), np.float32) for size in (counts.max(), model.config.hidden_size))
    prefixes = _group_by_prefix(prompts)
    sizes = {i: len(prompts[i]) - shared for i in prefixes}
    # each process takes whole batches of those that one alone would read: the same numbers, to the bit
    batches = _batches(sorted(prefixes, key=lambda i: -len(prompts[i])), sizes, shared, limit)
    batches = batches[launch.number() :: launch.count()]
    title += f" (process 1 of {launch.count()})" * (launch.count() > 1)
    with track(title, sum(len(prefixes[longest]) for batch in batches for longest in batch)) as progress:
        for batch in batches:
            hidden, read = _read_prompts(reader, [prompts[i][shared:] for i in batch], shared, past, device)
            windows = [(place, i) for place, longest in enumerate(batch) for i in prefixes[longest]]
            trees = [(tree_with(each), group) for each, group in _alike(windows, further).items()]
            chunks = [(tree, chunk) for tree, group in trees
                      for chunk in _chunks(group, len(tree.tokens), shared + sizes[batch[0]], limit)]
            for tree, chunk in chunks:
                places, rows = map(list, zip(*chunk, strict=True))
                ends = [len(prompts[i]) - shared for i in rows]
                last = hidden[places, torch.tensor(ends) - 1]
                states = last[:, None]
                if len(tree.tokens):  # else each answer is one token
                    behind = read_tree(reader, tree, _gather_past(past, read, places, max(ends)), shared, ends)
                    states = torch.cat([states, behind], dim=1)
                for i, each in zip(rows, states.to(head.weight.dtype), strict=True):
                    log_p[i, : counts[i]] = step_log_probs(
                        each, tree, head, log_prior[i] if log_prior else None).log_softmax(dim=0).cpu().numpy()
                embedding[rows] = torch.nn.functional.normalize(last.float(), dim=-1).cpu().numpy()
                progress.advance(len(chunk))
    put_together(log_p)
    put_together(embedding)
    log_p[np.arange(log_p.shape[1]) >= counts[:, None]] = -np.inf
    return Scores(log_p, embedding)


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with; at least one token of each prompt is left out of it."""
    return min(shared_prefix(prompts), min(map(len, prompts)) - 1)


def shared_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens that all sequences begin with."""
    first, last = min(sequences, key=tuple), max(sequences, key=tuple)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _group_by_prefix(prompts: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """Prompts that share a prefix: for each that has to be read, those that are its beginning, itself among them."""
    prefixes: dict[int, list[int]] = {}
    longest = -1
    # what a prompt is the beginning of stands right behind it in this order
    for i in sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]), reverse=True):
        if longest < 0 or list(prompts[longest][: len(prompts[i])]) != list(prompts[i]):
            longest = i
        prefixes.setdefault(longest, []).append(i)
    return prefixes


def prefill(reader: Reader, tokens: torch.Tensor) -> KeysAndValues | None:
    """Keys and values (1, kv, P, D) of each layer after reading `tokens` (P,), None without any; differentiable."""
    if not len(tokens):
        return None
    return reader.read(tokens[None], torch.arange(len(tokens), device=tokens.device)[None])[1]


def read_tree(
    reader: Reader, tree: AnswerTree, past: KeysAndValues, shared: int, ends: Sequence[int]
) -> torch.Tensor:
    """Hidden states (B, T, H) of the same T answer tokens behind B prompts.

    Args:
        past: keys and values (B, kv, shared + E, D) of a layer each, E the longest prompt's own tokens.
        shared: tokens that all prompts begin with.
        ends: how many tokens of its own each prompt has; what stands behind them in `past` is not seen.
    """
    own, size = max(ends), len(tree.tokens)
    device = past[0][0].device
    allowed = np.ones((len(ends), size, shared + own + size), dtype=bool)
    allowed[:, :, shared : shared + own] = (np.arange(own) < np.array(ends)[:, None])[:, None]
    allowed[:, :, shared + own :] = tree.ancestors
    positions = torch.from_numpy(shared + np.array(ends)[:, None] + tree.depth).to(device)
    ids = torch.from_numpy(tree.tokens).to(device).expand(len(ends), -1)
    return reader.read(ids, positions, past, additive(allowed, past[0][0].dtype).to(device))[0]


def _read_prompts(
    reader: Reader, prompts: list[Sequence[int]], shared: int, past: KeysAndValues | None, device: torch.device
) -> tuple[torch.Tensor, KeysAndValues]:
    """Read prompts behind the shared prefix, padded at the end, where a causal model never reads."""
    ids = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    return reader.read(ids.to(device), shared + torch.arange(ids.shape[1], device=device)[None], past)


def _gather_past(past: KeysAndValues | None, own: KeysAndValues, places: list[int], longest: int) -> KeysAndValues:
    """What trees see behind the prompts at `places` of a batch: the shared prefix, then the first `longest` tokens."""
    parts = [(keys[places, :, :longest], values[places, :, :longest]) for keys, values in own]
    if past is None:
        return parts
    return [tuple(torch.cat([before.expand(len(places), -1, -1, -1), after], dim=2)
                  for before, after in zip(*layers, strict=True)) for layers in zip(past, parts, strict=True)]


def _batches(order: list[int], sizes: dict[int, int], shared: int, limit: int) -> list[list[int]]:
    """Cut `order` (longest first) where the padded tokens of a batch, or what they see, would exceed its limit."""
    batches: list[list[int]] = []
    for i in order:
        longest = sizes[batches[-1][0]] if batches else 0
        if not batches or (len(batches[-1]) + 1) * max(longest, (shared + longest) / _CACHED_PER_TOKEN) > limit:
            batches.append([])
        batches[-1].append(i)
    return batches


def _alike(windows: list[tuple[int, int]], further: list[Further]) -> dict[Further, list[tuple[int, int]]]:
    """`windows` by what each one's prompt has for further answers."""
    groups: dict[Further, list[tuple[int, int]]] = {}
    for place, i in windows:
        groups.setdefault(further[i], []).append((place, i))
    return groups


def _chunks(windows: list[tuple[int, int]], tokens: int, longest: int, limit: int) -> list[list[tuple[int, int]]]:
    """`windows` in parts whose trees of `tokens` are read at once, each behind a prompt of `longest` tokens at most."""
    size = max(1, int(limit / max(tokens, longest / _CACHED_PER_TOKEN)))
    return [windows[start : start + size] for start in range(0, len(windows), size)]
