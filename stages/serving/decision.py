"""What an answer goes by: the likeliest first, or the rare ones' turn."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.common.errors import UserError
from stages.common.files import read_json
from stages.metrics.adjust import adjusted, tempered


@dataclass(frozen=True)
class Decision:
    """What an answer goes by: `tau` of logit adjustment orders the candidates, `temperature` moves probabilities."""

    tau: float = 0.0
    temperature: float = 1.0

    @classmethod
    def read(cls, name: str, metrics: Path) -> "Decision":
        """Decision `name` (plain, calibrated or adjusted) as stage `evaluate` chose it.

        Raises:
            UserError: the metrics are absent, or of another kind.
        """
        if name == "plain":
            return cls()
        try:
            found = read_json(metrics)[name]
            return cls(tau=found["tau"]) if name == "adjusted" else cls(temperature=found["temperature"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"--decision {name}: {metrics}: no metrics of stage evaluate; `dvc repro` writes them, and "
                            "--metrics names others") from None

    def columns(self, p: np.ndarray, share: np.ndarray) -> dict[str, np.ndarray]:
        """What is printed of candidates with probabilities `p` (C,), of the vocabulary's shares (V,); the last orders.

        `probability` is the model's at the temperature; with a τ `adjusted` stands beside it, the share of each
        candidate in p(y|x) / π(y)^τ.
        """
        with np.errstate(divide="ignore"):  # a candidate's probability may round to 0
            log_p = np.log(p)[None]
        if self.temperature != 1:
            p = np.exp(tempered(log_p, self.temperature))[0]
        if not self.tau:
            return {"probability": p}
        return {"probability": p, "adjusted": np.exp(adjusted(log_p, share, self.tau)[0].astype(np.float64))}


PLAIN = Decision()
