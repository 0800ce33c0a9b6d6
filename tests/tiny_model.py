"""A language model small enough for tests: random weights, a tokenizer of its own, ChatML like the embedded model's."""

from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# what the pieces of the tokenizer are learned from: prompts in miniature, so that they do not fall into single bytes
LINES = (
    "You predict what a person does next. These are the behaviors to choose from:",
    "Answer with exactly one of the candidate behaviors, and nothing else.",
    "Monday 08, at home: Watching video", "Tuesday 12, at the office: Online shopping",
    "Wednesday 18, in a restaurant: Taking a taxi", "Thursday 21, on the way: Listening to music",
    "Friday 23, in the city: Reading the news", "Saturday 09, at a station: Checking in at work",
    "Sunday 15, outdoors: Sending a message", "What would you like to do tomorrow? I do not know yet.",
    "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23",
)


def build(folder: Path, seed: int = 0) -> Path:
    """Write a Llama of two layers and 64 dimensions, with its tokenizer, as safetensors into `folder`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    pieces.train_from_iterator(LINES, trainers.BpeTrainer(
        vocab_size=640, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>",
        pad_token="<|im_end|>", chat_template=CHAT_TEMPLATE, model_max_length=2048, clean_up_tokenization_spaces=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
