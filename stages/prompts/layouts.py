"""The layouts that `prompt.layout` may name. A new one is a file like its neighbours and a line here."""

from transformers import PreTrainedTokenizerBase

from stages.prompts.layout import Layout
from stages.prompts.log import EventLog
from stages.prompts.settings import Prompt, PromptParams
from stages.prompts.stream import StreamLayout
from stages.prompts.window import WindowLayout

LAYOUTS: dict[str, type[Layout]] = {"stream": StreamLayout, "window": WindowLayout}


def make_layout(
    tokenizer: PreTrainedTokenizerBase, log: EventLog, prompt: Prompt, history: int, min_history: int, seed: int
) -> Layout:
    """The layout that `prompt.layout` names; for the other arguments see `Layout`."""
    return LAYOUTS[prompt.layout](tokenizer, log, prompt, history, min_history, seed)


def layout_of(tokenizer: PreTrainedTokenizerBase, log: EventLog, params: PromptParams) -> Layout:
    """The layout of these params, which every stage and command makes its prompts with."""
    windowing = params.windowing
    return make_layout(tokenizer, log, params.prompt, windowing.history, windowing.min_history, params.data_seed)
