"""How much each comparison does in a round. Rates do not depend on it; noise and patience do."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Sizes:
    """Ours and theirs get what keeps each busy for seconds: both are rates, and theirs shares nothing between samples.

    Attributes:
        rounds: of each side, in turn.
        sft_targets, sft_windows: labelled targets of ours, windows of theirs, in a round of training.
        batches: windows or pairs a forward pass that theirs may choose from.
        accuracy_seconds, accuracy_windows: of training on either side, and validation windows afterwards.
        score_windows, their_score_windows: windows weighed in a round.
        score_batches: requests a forward pass that theirs may choose from.
        exact_windows: windows whose log-probabilities are compared in float32.
        pairs, their_pairs: preference pairs in a round.
        predictions, their_predictions: predictions in a round.
        rows, ingest_rounds: of raw log, for ingest and windowing, which pandas takes minutes for.
    """

    rounds: int
    sft_targets: int
    sft_windows: int
    batches: tuple[int, ...]
    accuracy_seconds: float
    accuracy_windows: int
    score_windows: int
    their_score_windows: int
    score_batches: tuple[int, ...]
    exact_windows: int
    pairs: int
    their_pairs: int
    predictions: int
    their_predictions: int
    rows: tuple[int, ...]
    ingest_rounds: int = 1


FULL = Sizes(
    rounds=3, sft_targets=800, sft_windows=16, batches=(1, 4, 8), accuracy_seconds=150, accuracy_windows=120,
    score_windows=96, their_score_windows=2, score_batches=(1, 4, 8, 16), exact_windows=2, pairs=32, their_pairs=8,
    predictions=300, their_predictions=12, rows=(5_000_000, 50_000_000),
)
QUICK = Sizes(
    rounds=2, sft_targets=400, sft_windows=8, batches=(1, 4), accuracy_seconds=45, accuracy_windows=40,
    score_windows=48, their_score_windows=1, score_batches=(1, 8), exact_windows=1, pairs=16, their_pairs=8,
    predictions=100, their_predictions=4, rows=(500_000,),
)


def on_gpu(sizes: Sizes) -> Sizes:
    """The same for an accelerator, which does in a blink what keeps two cores busy for seconds."""
    return replace(
        sizes, sft_targets=20 * sizes.sft_targets, sft_windows=32 * sizes.sft_windows, batches=(8, 32),
        accuracy_seconds=sizes.accuracy_seconds / 3, accuracy_windows=4 * sizes.accuracy_windows,
        score_windows=20 * sizes.score_windows, their_score_windows=16 * sizes.their_score_windows,
        score_batches=(16, 64), pairs=16 * sizes.pairs, their_pairs=16 * sizes.their_pairs,
        predictions=5 * sizes.predictions, their_predictions=5 * sizes.their_predictions,
    )
