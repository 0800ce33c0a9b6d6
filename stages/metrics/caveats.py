"""What must be said beside figures: windows that nobody can get right, and users too few for an interval."""

from collections.abc import Mapping, Sequence
from typing import Any

FEW_USERS = 10
"""Below so many, intervals over users are unsure themselves."""


def caveats(evaluation: Mapping[str, Any]) -> list[str]:
    """Sentences without a full stop about what `measure` makes: the same for all models of the same windows."""
    natural, balanced = evaluation["natural"], evaluation["balanced"]
    said = of_outside([natural.get("outside_candidates", 0)], [natural["windows"]])
    return said + of_users({"natural": natural["users"], "balanced": balanced["users"]})


def sentence(said: str) -> str:
    """What is said, as it stands between others."""
    return f"{said[:1].upper()}{said[1:]}."


def of_outside(outside: Sequence[int], windows: Sequence[int]) -> list[str]:
    """Of natural windows that no candidate names, in one repetition or several; nothing where there are none."""
    if not sum(outside):
        return []
    shares = [part / whole for part, whole in zip(outside, windows, strict=True) if whole]
    low, high = (f"{100 * share:.1f}" for share in (min(shares), max(shares)))
    share = f"{low} %" if low == high else f"{low} to {high} %"
    return [f"{share} of the natural windows are of behaviours that neither a training user nor the person did before: "
            f"every model misses them, and natural accuracy can be {1 - max(shares):.3f} at most; log-loss is of the "
            "other windows"]


def of_users(users: Mapping[str, int]) -> list[str]:
    """Of the `users` of each test set that has any."""
    few = {name: count for name, count in users.items() if 0 < count < FEW_USERS}
    alone = [name for name, count in few.items() if count == 1]
    several = [f"{count} users in the {name} test set" for name, count in few.items() if count > 1]
    said = [f"one user in the {' and the '.join(alone)} test set: there is no interval over users"] if alone else []
    return said + ([f"intervals over {' and '.join(several)}: under {FEW_USERS} they are unsure"] if several else [])
