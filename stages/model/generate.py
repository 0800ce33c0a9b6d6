"""The untuned model answers everyday prompts: an auxiliary corpus that nobody has to download."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.common.console import track
from stages.prompts.conversations import chat_prompt

_BATCH = 24
_TEMPERATURE, _TOP_P = 0.7, 0.95


@torch.inference_mode()
def answer_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int, seed: int
) -> list[str]:
    """One sampled answer to each prompt, cut after its last whole sentence; an empty string where there is none.

    Batches have a fixed size and the seed is set once, so the answers depend on (prompts, seed, model) only.
    """
    torch.manual_seed(seed)
    tokenizer.padding_side = "left"
    answers: list[str] = []
    with track("answering everyday prompts", len(prompts)) as progress:
        for start in range(0, len(prompts), _BATCH):
            batch = [chat_prompt(tokenizer, [prompt]) for prompt in prompts[start : start + _BATCH]]
            inputs = tokenizer.pad({"input_ids": batch}, return_tensors="pt").to(model.device)
            tokens = model.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=True, temperature=_TEMPERATURE, top_p=_TOP_P,
                top_k=0, pad_token_id=tokenizer.pad_token_id,
            )
            answers += [
                _whole_sentences(text)
                for text in tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            ]
            progress.advance(len(batch))
    return answers


def _whole_sentences(text: str) -> str:
    end = max(text.rfind(mark) for mark in ".!?")
    return text[: end + 1].strip()
