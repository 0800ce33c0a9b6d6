"""Stage `selection`: few, hard, diverse windows of each behaviour become preference pairs (paper 3.3, 2.2 and 2.3).

Difficulty is computed here and not in `scoring`: another λ costs no forward pass. The rules stand in `stages/pairs`.
"""

import numpy as np
import polars as pl

from stages.common.draws import stream
from stages.common.errors import UserError
from stages.common.params import Section, Seed
from stages.common.stage import COUNTS, Stage, table
from stages.pairs.rules import RULES, Selection, difficulty


class Params(Section):
    seed: Seed
    selection: Selection


def selection(
    scores: pl.DataFrame, vocabulary: pl.DataFrame, params: Selection, seed: int
) -> tuple[pl.DataFrame, dict]:
    """Table `pairs` and the counts.

    Of each anchor F = `per_behavior` windows are kept, of each tail behaviour F · `tail_factor`, rounded to an even
    number where it lies halfway; all where there are fewer.

    chosen is the true behaviour; rejected the prediction, or the most likely wrong candidate where the prediction was
    right, since a pair of equals has no gradient. The result does not depend on the order of `scores`.

    Raises:
        UserError: the rule keeps no window at all, or a scored behaviour is not in the vocabulary.
    """
    if not len(scores):
        raise UserError("scores: no window is scored, so none can be selected; run `dvc repro scoring`")
    sizes = sizes_of(scores, vocabulary, params)
    scores = scores.sort("row").with_columns(difficulty=pl.Series(difficulty(scores.sort("row"), params)))
    rule, kept = RULES[params.method], []
    for number, group in enumerate(scores.sort("behavior", "row").partition_by("behavior", maintain_order=True)):
        size = sizes[group["behavior"][0]]
        kept.append(group[np.sort(rule(group, size, stream(seed, "selection", number)))])
    chosen = pl.concat(kept).sort("row")
    if not len(chosen):
        raise UserError(f"selection.method: {params.method}: keeps no window; the model makes no mistake of that kind")
    right = pl.col("predicted") == pl.col("behavior")
    pairs = chosen.select(
        "row", chosen="behavior", rejected=pl.when(right).then("runner_up").otherwise("predicted"),
        difficulty="difficulty",
    )
    found = chosen.group_by("behavior").len()["len"]
    return pairs, {
        "pairs": len(pairs), "behaviors": len(found), "fewest": int(found.min()), "most": int(found.max()),
        "mispredicted": float((chosen["predicted"] != chosen["behavior"]).mean()),
        "mean_difficulty": float(chosen["difficulty"].mean()),
        "pool_mean_difficulty": float(scores["difficulty"].mean()),
    }


def sizes_of(scores: pl.DataFrame, vocabulary: pl.DataFrame, params: Selection) -> dict[str, int]:
    """Windows to keep of each behaviour in the vocabulary, at most.

    Raises:
        UserError: a behaviour of `scores` is not among them.
    """
    tail = round(params.per_behavior * params.tail_factor)
    anchors = vocabulary.select("behavior", "is_anchor").iter_rows()
    sizes = {behavior: params.per_behavior if is_anchor else tail for behavior, is_anchor in anchors}
    if unknown := sorted(set(scores["behavior"]) - sizes.keys()):
        raise UserError(
            f"scores: {', '.join(map(repr, unknown[:3]))}{', …' if len(unknown) > 3 else ''}: not in the vocabulary; "
            "both must come from the same log: run `dvc repro`"
        )
    return sizes


STAGE = Stage(
    "selection", __doc__,
    lambda scores, vocabulary, params: selection(scores, vocabulary, params.selection, params.seed), Params,
    reads={"scores": table("scores"), "vocabulary": table("vocabulary")},
    writes={"out": table("pairs"), "counts": COUNTS},
    message=lambda args, pairs, counts:
        f"selected {counts['pairs']:,} pairs, {counts['mispredicted']:.0%} of them mistakes of the model",
)

if __name__ == "__main__":
    STAGE.run()
