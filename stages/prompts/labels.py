"""Labels are checked once, when the vocabulary meets a tokenizer: what passes here is unambiguous in every prompt."""

from collections.abc import Iterable, Sequence

from stages.common.errors import UserError
from stages.common.names import case_twins, check_printable


def check_labels(labels: Sequence[str], special_tokens: Iterable[str] = ()) -> None:
    """Refuse labels that a prompt could not hold, or that a model could not distinguish.

    Commas, quotes, parentheses and letters of any script are ordinary.

    Raises:
        UserError: a label is empty, has a newline, another control character or a special token of the model, or equals
            another after case-folding. The message names the label.
    """
    special = [token for token in special_tokens if token]
    for label in labels:
        if not label.strip():
            raise UserError("a behaviour's name is empty; give it one, by a taxonomy for instance")
        check_printable(label, "behaviour")
        if token := next((t for t in special if t in label), None):
            raise UserError(f"behaviour {label!r}: holds {token!r}, a control token of the model; rename it by a "
                            "taxonomy")
    if twins := case_twins(labels):
        first, second = (labels[place] for place in twins)
        raise UserError(f"behaviours {first!r} and {second!r} differ in case only; merge them by a taxonomy")


def check_places(places: Iterable[str], special_tokens: Sequence[str]) -> None:
    """Refuse places that hold a control token of the model.

    Raises:
        UserError: the message names the place.
    """
    for place in places:
        if token := next((token for token in special_tokens if token in place), None):
            raise UserError(f"place {place!r}: holds {token!r}, a control token of the model; rename it in the log")
