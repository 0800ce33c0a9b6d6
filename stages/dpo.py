"""Stage `dpo`: the SFT adapter goes on learning from pairs of its own mistakes (the paper's B-Tuning, 3.3 and Eq. 4).

Runs on several devices by `torchrun -m stages.dpo ...`; an interrupted run goes on where it was.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from datasets import Dataset
from trl import DPOConfig

from stages.common import launch
from stages.common.draws import first_of_each, stream
from stages.common.errors import UserError
from stages.common.params import Seed
from stages.common.stage import COUNTS, Stage, optional, place, table
from stages.model.likelihood import score
from stages.model.load import adapter_folder, load_adapter, load_tokenizer
from stages.model.prior import told
from stages.prompts.layout import Layout, prompts
from stages.prompts.layouts import layout_of
from stages.prompts.log import EventLog
from stages.prompts.settings import PromptParams
from stages.training.dpo_trainer import MICRO_BATCH, PairCollator, PairTrainer
from stages.training.settings import Dpo
from stages.training.trainer import arguments, fit, history_csv, micro_batch_option, outputs


class Params(PromptParams):
    seed: Seed
    dpo: Dpo


def dpo(
    events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, pairs: pl.DataFrame, params: Params,
    model: Path, scratch: Path, micro_batch: int = MICRO_BATCH, history: Path | None = None,
    prior: pl.DataFrame | None = None,
) -> tuple[PairTrainer, dict]:
    """Tune the adapter in `model` on `pairs`; returns the trainer, its model at the best validation, and the counts.

    A validation is the mean over behaviours of the accuracy on validation windows, the SFT adapter's being the first.

    Raises:
        UserError: `prompt.prior` is logits, which pairs know nothing of.
    """
    if params.prompt.prior == "logits":
        raise UserError("prompt.prior: logits: DPO learns from a model's own answers, to which no prior is added; run "
                        "`dvc repro evaluate@sft`, or set it to none or vector")
    tokenizer = load_tokenizer(model)
    log = EventLog.from_tables(events, vocabulary)
    layout = layout_of(tokenizer, log, params)
    samples = pair_tokens(pairs, layout, vocabulary)
    policy = load_adapter(model)
    told(policy.get_base_model(), tokenizer, vocabulary, prior, params.prompt.prior, [])
    config = DPOConfig(**arguments(params.dpo, len(samples), scratch, params.seed, micro_batch))
    # a prefix read by itself is a second forward pass, which gradient synchronisation between devices does not allow
    collator = PairCollator(policy.dtype, share_prefix=launch.count() == 1)
    trainer, found = fit(
        lambda callbacks: PairTrainer(
            model=policy, args=config, train_dataset=samples, eval_dataset=samples.select([0]),
            processing_class=tokenizer, data_collator=collator, callbacks=callbacks,
            schedule=params.dpo, validate=validation(events, windows, log, layout, params.dpo, params.seed),
        ),
        f"DPO ({params.dpo.objective})", scratch, "eval_overall", greater_is_better=True,
        patience=params.dpo.patience, history=history,
    )
    counts = {"pairs": len(samples), "objective": params.dpo.objective, "events_dropped": layout.dropped}
    return trainer, counts | found


def pair_tokens(pairs: pl.DataFrame, layout: Layout, vocabulary: pl.DataFrame) -> Dataset:
    """Token ids of prompt, chosen and rejected answer.

    Raises:
        UserError: a pair's two answers are the same, or one is not in the vocabulary.
    """
    answers = dict(zip(vocabulary["behavior"].to_list(), layout.answers, strict=True))
    rows: dict[str, list] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for row, chosen, rejected in pairs.sort("row").select("row", "chosen", "rejected").iter_rows():
        if unknown := {chosen, rejected} - answers.keys():
            raise UserError(f"pairs: row {row}: {unknown.pop()!r} is not in the vocabulary; run `dvc repro`")
        if chosen == rejected:
            raise UserError(f"pairs: row {row}: chosen and rejected are both {chosen!r}; such a pair has no gradient")
        rows["prompt_ids"].append(layout.prompt(row))
        rows["chosen_ids"].append(answers[chosen])
        rows["rejected_ids"].append(answers[rejected])
    return Dataset.from_dict(rows)


def validation(
    events: pl.DataFrame, windows: pl.DataFrame, log: EventLog, layout: Layout, params: Dpo, seed: int
) -> Callable[[Any], dict[str, float]]:
    """A function from a model to its accuracy and its log-loss on validation windows, means over behaviours.

    The windows are a seeded choice of at most `valid_per_behavior` a behaviour.
    """
    valid = windows.filter(pl.col("split") == "valid").select("row").sort("row")
    rows, behavior = valid["row"].to_numpy(), log.behavior[valid["row"].to_numpy()]
    if not len(rows):
        raise UserError("windows: none of split valid; the log has too few users, or too short ones")
    order = stream(seed, "dpo validation").permutation(len(rows))
    chosen = np.sort(order[first_of_each(behavior[order], params.valid_per_behavior)])
    rows, behavior = rows[chosen], behavior[chosen]
    tokens = prompts(layout, rows)

    def validate(model: Any) -> dict[str, float]:
        log_p = score(model.get_base_model(), tokens, layout.answers, "validation").log_p
        right = log_p.argmax(axis=1) == behavior
        loss = -log_p[np.arange(len(rows)), behavior]
        return {"overall": _mean_over(right, behavior), "log_loss": _mean_over(loss, behavior)}

    return validate


def _mean_over(values: np.ndarray, behavior: np.ndarray) -> float:
    return float(np.mean([values[behavior == b].mean() for b in np.unique(behavior)]))


def compute(model: Path, **given: Any) -> tuple:
    trainer, counts = dpo(model=model, **given)
    return outputs(trainer.accelerator.unwrap_model(trainer.model), trainer.state.log_history, counts, model)


STAGE = Stage(
    "dpo", __doc__, compute, Params,
    reads={name: table(name) for name in ("events", "windows", "vocabulary", "pairs")}
    | {"prior": optional(table("prior")), "model": place("folder of the SFT adapter")},
    writes={"out": adapter_folder("folder for the DPO adapter"), "history": history_csv(), "counts": COUNTS},
    options={"micro_batch": micro_batch_option(MICRO_BATCH, "pairs")}, resumes=True, shares=True,
    message=lambda args, adapter, history, counts: "DPO ({objective}): validation accuracy, mean over behaviours, "
        "{first_validation:.3f} -> {best_validation:.3f} at step {best_step} of {steps}".format(**counts),
)

if __name__ == "__main__":
    STAGE.run()
