"""How much each comparison does in a round."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Sizes:
    """Ours and the baseline get what keeps each busy for seconds; rates do not depend on it, noise and patience do."""

    rounds: int  # of each side, in turn
    sft_targets: int  # labelled targets of ours, and windows of the baseline
    sft_windows: int
    batches: tuple[int, ...]  # windows a forward pass that the baseline may choose from
    accuracy_seconds: float  # of training on either side, and validation windows afterwards
    accuracy_windows: int
    score_windows: int
    baseline_score_windows: int
    score_batches: tuple[int, ...]  # requests a forward pass that the baseline may choose from
    exact_windows: int  # whose log-probabilities are compared in float32
    pairs: int
    baseline_pairs: int
    predictions: int
    baseline_predictions: int
    rows: tuple[int, ...]  # of raw log, for ingest and windowing, which pandas takes minutes for
    ingest_rounds: int = 1


FULL = Sizes(
    rounds=3, sft_targets=800, sft_windows=16, batches=(1, 4, 8), accuracy_seconds=150, accuracy_windows=120,
    score_windows=96, baseline_score_windows=2, score_batches=(1, 4, 8, 16), exact_windows=2, pairs=32,
    baseline_pairs=8, predictions=300, baseline_predictions=12, rows=(5_000_000, 50_000_000),
)
QUICK = Sizes(
    rounds=2, sft_targets=400, sft_windows=8, batches=(1, 4), accuracy_seconds=45, accuracy_windows=40,
    score_windows=48, baseline_score_windows=1, score_batches=(1, 8), exact_windows=1, pairs=16,
    baseline_pairs=8, predictions=100, baseline_predictions=4, rows=(500_000,),
)
# An accelerator does in a blink what keeps two cores busy for seconds.
_ON_GPU = {
    "sft_targets": 20, "sft_windows": 32, "accuracy_seconds": 1 / 3, "accuracy_windows": 4, "score_windows": 20,
    "baseline_score_windows": 16, "pairs": 16, "baseline_pairs": 16, "predictions": 5, "baseline_predictions": 5,
}


def on_gpu(sizes: Sizes) -> Sizes:
    """As many times as much for an accelerator, in its batches."""
    more = {name: times * getattr(sizes, name) for name, times in _ON_GPU.items()}
    return replace(sizes, batches=(8, 32), score_batches=(16, 64), **more)
