"""A stage as `python -m` runs it, for tests/common/test_processes.py: small batches, and a fault where one is wanted.

    python launched.py scoring --fault user ...
"""

import os
import sys
from importlib import import_module
from itertools import count

from stages.common import launch
from stages.common.errors import UserError
from stages.model import likelihood

name, fault = sys.argv.pop(1), sys.argv.pop(1)
stage = import_module(f"stages.{name}")
likelihood._TOKENS_A_BATCH = 150  # so that there are several batches to share

if name == "dpo":  # a validation that finds every adapter better than the one before: the last is kept
    make, better = stage.validation, count()

    def validation(*given):
        validate = make(*given)
        return lambda model: validate(model) | {"overall": float(next(better))}

    stage.validation = validation

if fault != "none":
    launch._SECONDS_BEFORE_FAILING = 8.0  # long enough for a first process that starts as soon as the second does

if fault != "none" and os.environ.get("RANK") == "1":
    def read_tree(*given):
        raise UserError("the second fails") if fault == "user" else ArithmeticError("the second has a defect")

    likelihood.read_tree = read_tree

stage.STAGE.run()
