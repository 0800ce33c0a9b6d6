"""Windows a second with all candidates weighed: ours against lm-eval's Hugging Face `loglikelihood`.

Both get the same model object, prompts and answers in the default layout. lm-eval gets them as it would have cut them
itself (it is told so token by token, which spares it that work), with its own batching and its own cache of
continuations that share their logits, at the best batch of a trial. It shares nothing between windows, so a few of
ours are enough to know its rate. A second, smaller run in float32 compares the log-probabilities.
"""

import logging
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from stages.benchmarks import flops
from stages.benchmarks.data import Material
from stages.benchmarks.machine import peak
from stages.benchmarks.peers import installed
from stages.benchmarks.sft import peak_rows
from stages.benchmarks.sizes import Sizes
from stages.benchmarks.timing import Comparison, Row, alternate, now
from stages.benchmarks.training import fastest
from stages.common.console import console
from stages.common.draws import stream
from stages.model.likelihood import score, shared_prefix
from stages.model.load import load_merged
from stages.prompts.layout import prompts

Tokens = list[list[int]]
_EXACT = 1e-3


def compare(material: Material, sizes: Sizes, ours_only: bool = False) -> Comparison:
    """Windows a second of both sides, the share of the peak that ours uses, and how far the two are apart."""
    answers = material.stream.answers
    asked = windows(material, sizes.score_windows)
    # a model each: neither finds what the other may have kept in it
    model, theirs = load_merged(material.model), load_merged(material.model)
    console.print(f"scoring: {len(answers)} candidates; warming up")
    our_rate(model, asked[:8], answers)
    sides = {"peak": lambda _: peak(), "ours": lambda _: our_rate(model, asked, answers)}
    details: dict[str, Any] = {"candidates": len(answers), "our_windows": len(asked),
                               "tokens_a_prompt": float(np.mean([len(p) for p in asked]))}
    batch = None
    if not ours_only and installed("lm_eval"):
        few = asked[: sizes.their_score_windows]
        batch, details["trials"] = fastest(
            sizes.score_batches, lambda size: their_rate(theirs, material, asked[:1], answers, size), "lm-eval"
        )
        details |= {"their_windows": len(few), "their_batch": batch, "cut_alike": cut_alike(material, few, answers)}
        if batch is not None:
            sides["theirs"] = lambda _: their_rate(theirs, material, few, answers, batch)
    results = alternate(sides, sizes.rounds)
    needed = flops.scoring(flops.Shape.of(model), shared_prefix(asked), [len(p) for p in asked], answers)
    details |= {"flops_a_window": {"linear": needed.linear / len(asked), "total": needed.total / len(asked)},
                "peak_flops_a_second": results["peak"]}
    rows = [Row(
        f"scoring, {len(answers)} candidates", "lm-eval HFLM loglikelihood", "windows/s", results["ours"],
        results.get("theirs", []), target=40, note=f"theirs: batch {batch}" if batch else "",
    )]
    if batch is not None:
        del model, theirs
        rows.append(exactness(material, asked[: sizes.exact_windows], answers, min(sizes.score_batches)))
    return Comparison([*rows, *peak_rows("scoring", needed, len(asked), results)], details)


def exactness(material: Material, asked: Tokens, answers: Tokens, batch: int) -> Row:
    """The largest difference of any candidate's log-probability between the two, both in float32."""
    ours = score(load_merged(material.model, torch.float32), asked, answers, "float32").log_p
    model = load_merged(material.model, torch.float32)
    theirs = torch.tensor(their_sums(model, material, asked, answers, batch)).log_softmax(dim=-1).numpy()
    return Row(
        "scoring, float32", "the same", "largest difference of a log-probability",
        [float(np.abs(ours - theirs).max())], rule="at_most", target=_EXACT, note=f"{len(asked)} windows",
    )


def windows(material: Material, count: int) -> Tokens:
    """Prompts of training windows, a seeded choice: what the stage `scoring` reads."""
    rows = stream(material.params.seed, "benchmark scoring windows").permutation(material.rows("train"))[:count]
    return prompts(material.stream, rows)


def our_rate(model: PreTrainedModel, asked: Tokens, answers: Tokens) -> float:
    """Windows a second."""
    start = now()
    score(model, asked, answers, "scoring")
    return len(asked) / (now() - start)


def their_rate(model: PreTrainedModel, material: Material, asked: Tokens, answers: Tokens, batch: int) -> float:
    """Windows a second."""
    start = now()
    their_sums(model, material, asked, answers, batch)
    return len(asked) / (now() - start)


def their_sums(
    model: PreTrainedModel, material: Material, asked: Tokens, answers: Tokens, batch: int
) -> list[list[float]]:
    """lm-eval's log-likelihood of every answer after every prompt."""
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns that a model object was given
    peer = HFLM(pretrained=model, tokenizer=material.tokenizer, batch_size=batch)
    # its cache needs a key a request; the text is one
    requests = [
        ((str(number), str(candidate)), list(prompt), list(answer))
        for number, prompt in enumerate(asked) for candidate, answer in enumerate(answers)
    ]
    found = [log_p for log_p, _ in peer._loglikelihood_tokens(requests, disable_tqdm=True)]
    return [found[start : start + len(answers)] for start in range(0, len(found), len(answers))]


def cut_alike(material: Material, asked: Tokens, answers: Tokens) -> float:
    """Share of (prompt, answer) that lm-eval would cut into the same tokens if it were given text."""
    from lm_eval.models.huggingface import HFLM

    peer = HFLM.__new__(HFLM)  # its cutting needs no model
    peer.tokenizer, peer.backend = material.tokenizer, "causal"
    peer.add_bos_token = peer.custom_prefix_token_id = None
    decode = material.tokenizer.decode
    same = [
        peer._encode_pair(decode(prompt), decode(answer)) == (list(prompt), list(answer))
        for prompt in asked for answer in answers
    ]
    return float(np.mean(same))
