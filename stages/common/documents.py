"""YAML files that people write besides `params.yaml`, read and checked so that all faults are named at once."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.common.errors import UserError
from stages.common.params import Section

Checked = TypeVar("Checked", bound=Section)


def read_yaml(path: Path) -> Any:
    """What stands in a YAML 1.2 file.

    Raises:
        UserError: the file is absent or no YAML.
    """
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the repository's root") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None


def checked(content: Any, kind: type[Checked], path: Path, *keys: str) -> Checked:
    """`content`, which stands under `keys` in the file `path`, as a section.

    Raises:
        UserError: a key is unknown, missing or out of its range; all faults are named.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, (*keys, *fault['loc'])))}: {fault['msg'].removeprefix('Value error, ')}"
                  for fault in error.errors()]
        raise UserError(f"{path}: " + "\n".join(faults)) from None
