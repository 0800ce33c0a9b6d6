"""A checkout that does not ask for the outputs of baselines that have never run.

The baselines' pipeline stands beside the main one and need not run, but `dvc checkout`, `dvc exp apply` and Git's hooks
put back the outputs of all pipelines, and fail where some are missing. Those of baselines are left out, unless named.
"""

from functools import wraps

BASELINES = "stages/baselines/dvc.yaml"


def wrapped(original):
    """`dvc.repo.checkout.checkout`, without errors for baselines whose outputs are missing."""

    @wraps(original)
    def checkout(repo, targets=None, **options):
        from dvc.exceptions import CheckoutError
        from dvc.utils import relpath

        try:
            return original(repo, targets, **options)
        except CheckoutError as error:
            if targets:
                raise
            optional = {relpath(out.fs_path) for out in repo.index.outs if out.stage.path_in_repo == BASELINES}
            failed = [path for path in error.target_infos if path not in optional]
            if failed:
                raise CheckoutError(failed, {**error.result, "failed": failed}) from None
            return {name: value for name, value in error.result.items() if name != "failed"}

    return checkout
