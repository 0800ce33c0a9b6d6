"""Windows a second with all candidates scored: ours against lm-eval's Hugging Face `loglikelihood`.

Both get the same model object, prompts and answers in the default layout. lm-eval gets them as it would have cut them
itself (token by token, which spares it that work), with its own batching and its own cache of continuations that share
their logits, at the best batch of a trial. It shares nothing between windows, so a few of ours are enough to know its
rate. A second, smaller run in float32 compares the log-probabilities.
"""

import logging
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from stages.benchmarks import flops
from stages.benchmarks.data import Inputs
from stages.benchmarks.machine import installed, peak
from stages.benchmarks.sft import peak_rows
from stages.benchmarks.timing import Comparison, Row, alternate, rate
from stages.benchmarks.training import fastest
from stages.common.console import console
from stages.common.draws import stream
from stages.model.likelihood import score, shared_prefix
from stages.model.load import load_merged
from stages.prompts.layout import prompts

Tokens = list[list[int]]


def compare(inputs: Inputs, ours_only: bool = False) -> Comparison:
    """Windows a second of both sides, the share of the peak that ours uses, and how far the two are apart."""
    answers, asked, sizes = inputs.stream.answers, windows(inputs, inputs.sizes.score_windows), inputs.sizes
    few = asked[: sizes.baseline_score_windows]
    # a model each: neither finds what the other may have kept in it
    model, other = load_merged(inputs.model), load_merged(inputs.model)

    def baseline_rate(some: Tokens, batch: int) -> float:
        return rate(len(some), lambda: baseline_sums(other, inputs, some, batch))

    console.print(f"scoring: {len(answers)} candidates; warming up")
    score(model, asked[:8], answers, "scoring")
    sides = {"peak": lambda _: peak(),
             "ours": lambda _: rate(len(asked), lambda: score(model, asked, answers, "scoring"))}
    details: dict[str, Any] = {"candidates": len(answers), "our_windows": len(asked),
                               "tokens_a_prompt": float(np.mean([len(p) for p in asked]))}
    batch = None
    if not ours_only and installed("lm_eval"):
        batch, tried = fastest(sizes.score_batches, lambda size: baseline_rate(asked[:1], size), "lm-eval, batch")
        details |= {"baseline_windows": len(few), "baseline_batch": batch, "cut_alike": cut_alike(inputs, few),
                    "trials": tried}
    if batch is not None:
        sides["baseline"] = lambda _: baseline_rate(few, batch)
    results = alternate(sides, sizes.rounds)
    needed = flops.scoring(flops.Shape.of(model), shared_prefix(asked), [len(p) for p in asked], answers)
    shares, details["flops_a_window"] = peak_rows("scoring", needed, len(asked), results)
    rows = [Row(
        f"scoring, {len(answers)} candidates", "lm-eval HFLM loglikelihood", "windows/s", results["ours"],
        results.get("baseline", []), target=40, note=f"batch {batch}" if batch else "",
    )]
    if batch is not None:
        rows.append(exactness(inputs, asked[: sizes.exact_windows], min(sizes.score_batches)))
    return Comparison([*rows, *shares], details | {"peak_flops_a_second": results["peak"]})


def exactness(inputs: Inputs, asked: Tokens, batch: int) -> Row:
    """The largest difference of any candidate's log-probability between the two, both in float32."""
    ours = score(load_merged(inputs.model, torch.float32), asked, inputs.stream.answers, "float32").log_p
    sums = baseline_sums(load_merged(inputs.model, torch.float32), inputs, asked, batch)
    baseline = torch.tensor(sums).log_softmax(dim=-1).numpy()
    return Row(
        "scoring, float32", "the same", "largest difference of a log-probability",
        [float(np.abs(ours - baseline).max())], rule="at_most", target=1e-3, note=f"{len(asked)} windows",
    )


def windows(inputs: Inputs, count: int) -> Tokens:
    """Prompts of training windows, a seeded choice: what the stage `scoring` reads."""
    rows = stream(inputs.params.seed, "benchmark scoring windows").permutation(inputs.rows("train"))[:count]
    return prompts(inputs.stream, rows.tolist())


def baseline_sums(model: PreTrainedModel, inputs: Inputs, asked: Tokens, batch: int) -> list[list[float]]:
    """lm-eval's log-likelihood of every answer after every prompt."""
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns that a model object was given
    answers, harness = inputs.stream.answers, HFLM(pretrained=model, tokenizer=inputs.tokenizer, batch_size=batch)
    # its cache needs a key a request; the text is one
    requests = [
        ((str(number), str(candidate)), list(prompt), list(answer))
        for number, prompt in enumerate(asked) for candidate, answer in enumerate(answers)
    ]
    found = [log_p for log_p, _ in harness._loglikelihood_tokens(requests, disable_tqdm=True)]
    return [found[start : start + len(answers)] for start in range(0, len(found), len(answers))]


def cut_alike(inputs: Inputs, asked: Tokens) -> float:
    """Share of (prompt, answer) that lm-eval would cut into the same tokens if it were given text."""
    from lm_eval.models.huggingface import HFLM

    harness = HFLM.__new__(HFLM)  # its cutting needs no model
    harness.tokenizer, harness.backend = inputs.tokenizer, "causal"
    harness.add_bos_token = harness.custom_prefix_token_id = None
    decode = inputs.tokenizer.decode
    return float(np.mean([
        harness._encode_pair(decode(prompt), decode(answer)) == (list(prompt), list(answer))
        for prompt in asked for answer in inputs.stream.answers
    ]))
