"""What tests of the two training stages share: what to compare, and a kill in the middle."""

from contextlib import contextmanager

import torch
from peft import get_peft_model_state_dict

from stages.training import trainer as training
from stages.training.trainer import Checkpoints, ShowProgress


def weights_of(trainer):
    """The adapter's weights in one vector."""
    state = get_peft_model_state_dict(trainer.model, adapter_name="default")
    return torch.cat([state[name].detach().flatten() for name in sorted(state)])


def logged(trainer, key):
    """What was logged under `key`, by step."""
    return {entry["step"]: float(entry[key]) for entry in trainer.state.log_history if key in entry}


def same(one, other, tolerance=1e-5):
    """Assert that two runs ended with the same adapter."""
    torch.testing.assert_close(weights_of(one), weights_of(other), atol=tolerance, rtol=0)


@contextmanager
def killed_at(monkeypatch, step):
    """A checkpoint after every optimizer step, and the run ends as by Ctrl-C when it has taken `step` of them."""
    with monkeypatch.context() as patch:
        patch.setattr(training, "_SECONDS_BETWEEN_CHECKPOINTS", 0)

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise KeyboardInterrupt

        patch.setattr(ShowProgress, "on_step_end", on_step_end)
        try:
            yield
        except KeyboardInterrupt:
            return
    raise AssertionError(f"the run took fewer than {step} steps")


def checkpoints_in(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def latest_in(folder):
    return Checkpoints(folder).latest()
