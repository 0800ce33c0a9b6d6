"""Decoders of the Llama family (Llama, SmolLM2, Qwen2) on a CPU: the model's own weights in fewer, larger steps."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from peft.tuners.lora import Linear as LoraLayer
from transformers import PretrainedConfig

from stages.model.attention import Attend, attend_segments
from stages.model.fused import LoraLinear, RmsNorm, SwiGlu
from stages.model.kv_cache import KeysAndValues
from stages.model.reader import Reader, Segment

_FAMILY = {"llama", "qwen2"}


class UnsupportedModel(Exception):
    """Says what it is that this decoder cannot read."""


class LlamaDecoder(Reader):
    """Reads tokens as `model.get_decoder()` does, up to rounding: with gradients for adapters, and through past tokens.

    Weights that read the same input are laid side by side once, and the model's own become views of them, so nothing is
    held twice. Made anew for a model whose modules changed, which costs next to nothing.
    """

    def __init__(self, model: torch.nn.Module, few_tokens: bool = False):
        """Of a causal language model, with LoRA adapters or without.

        Args:
            few_tokens: keep a second copy of bf16 weights without adapters, in the order in which products with a few
                dozen tokens are fastest.

        Raises:
            UnsupportedModel: another architecture, another device, weights that train, adapters of another kind.
        """
        if any(each.is_prompt_learning for each in getattr(model, "peft_config", {}).values()):
            raise UnsupportedModel("tokens that are tuned and stand in front of every prompt")
        self.decoder = model.get_decoder()
        config = self.config = self.decoder.config
        _check_supported(config, self.decoder)
        self.heads, self.kv = config.num_attention_heads, config.num_key_value_heads
        self.layers = [_Layer(layer, few_tokens) for layer in self.decoder.layers]

    def read(
        self, ids: torch.Tensor, positions: torch.Tensor, past: KeysAndValues | None = None,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, KeysAndValues]:
        with torch.autocast(ids.device.type, enabled=False):
            batch, size = ids.shape
            hidden = self.decoder.embed_tokens(ids)
            cos, sin = self.decoder.rotary_emb(hidden, positions)
            hidden = hidden.view(batch * size, -1)
            kept = []
            for number, layer in enumerate(self.layers):
                before = past[number] if past else (None, None)
                qkv = layer.project(hidden).view(batch, size, -1)
                mixed, keys, values = Attend.apply(qkv, cos, sin, *before, mask, self.heads, self.kv)
                hidden = layer.finish(hidden, mixed.view(batch * size, -1))
                kept.append((keys, values))
            return _norm(hidden, self.decoder.norm).view(batch, size, -1), kept

    def extend(self, ids: torch.Tensor, positions: torch.Tensor, segments: Sequence[Segment]) -> torch.Tensor:
        if torch.is_grad_enabled():
            return super().extend(ids, positions, segments)
        for segment in segments:
            segment.cache.reserve(segment.tokens)
        with torch.autocast(ids.device.type, enabled=False):
            hidden = self.decoder.embed_tokens(ids)
            cos, sin = (angle[0] for angle in self.decoder.rotary_emb(hidden, positions[None]))
            for number, layer in enumerate(self.layers):
                each = [(*one.cache.layers[number], one.cache.size, one.tokens, one.mask) for one in segments]
                mixed = attend_segments(layer.project(hidden), cos, sin, each, self.heads, self.kv)
                hidden = layer.finish(hidden, mixed)
            for segment in segments:
                segment.cache.size += segment.tokens
            return _norm(hidden, self.decoder.norm)


class JoinedLinear:
    """Linear layers with the same input as one, their adapters included."""

    def __init__(self, modules: list[torch.nn.Module], few_tokens: bool = False):
        """`few_tokens`: keep bf16 weights in oneDNN's own order too, else it reorders them at each product."""
        self.modules = modules
        self.bases = [getattr(module, "base_layer", module) for module in modules]
        self.adapted = self.modules != self.bases
        self.weight = _join_rows([base.weight for base in self.bases])
        biases = [base.bias for base in self.bases]
        self.bias = None if biases[0] is None else _join_rows(biases)
        self.reordered: torch.Tensor | None = None
        on_cpu = self.weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        if few_tokens and on_cpu and self.weight.dtype == torch.bfloat16 and not self.adapted:
            self.reordered = torch.ops.mkldnn._reorder_linear_weight(self.weight, 32)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.reordered is not None and not torch.is_grad_enabled():
            return torch.ops.mkldnn._linear_pointwise(x, self.reordered, self.bias, "none", [], "")
        return LoraLinear.apply(x, self.weight, self.bias, *self._adapters())

    def _adapters(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """A (r, in) of all side by side, and B (out, r) block by block, scaled; gradients reach each adapter's own."""
        down, up = [], []
        for module, base in zip(self.modules, self.bases, strict=True):
            names = [] if module is base or module.disable_adapters else module.active_adapters
            names = [name for name in names if name in module.lora_A]
            down += [module.lora_A[name].weight for name in names]
            blocks = [module.lora_B[name].weight * module.scaling[name] for name in names]
            up.append(torch.cat(blocks, dim=1) if blocks else self.weight.new_empty(len(base.weight), 0))
        if not down:
            return None, None
        dtype = self.weight.dtype
        return torch.cat(down).to(dtype), torch.block_diag(*(block.to(dtype) for block in up))


def _join_rows(parts: list[torch.nn.Parameter]) -> torch.Tensor:
    """All rows as one tensor, of which the parts are views from now on."""
    storage, starts = parts[0].untyped_storage().data_ptr(), accumulate((part.nbytes for part in parts), initial=0)
    joined = [(storage, parts[0].data_ptr() + start) for start in starts][:-1]
    if [(part.untyped_storage().data_ptr(), part.data_ptr()) for part in parts] == joined:
        rows = sum(len(part) for part in parts)
        return parts[0].detach().as_strided((rows, *parts[0].shape[1:]), parts[0].stride())
    with torch.inference_mode(False), torch.no_grad():  # a tensor made in inference mode could never be trained through
        whole = torch.cat([part.detach() for part in parts])
    for part, rows in zip(parts, whole.split([len(part) for part in parts]), strict=True):
        part.data = rows
    return whole


class _Layer:
    def __init__(self, layer: torch.nn.Module, few_tokens: bool):
        attention, mlp = layer.self_attn, layer.mlp
        self.norm_in, self.norm_mid = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = JoinedLinear([attention.q_proj, attention.k_proj, attention.v_proj], few_tokens)
        self.out = JoinedLinear([attention.o_proj], few_tokens)
        self.gate_up = JoinedLinear([mlp.gate_proj, mlp.up_proj], few_tokens)
        self.down = JoinedLinear([mlp.down_proj], few_tokens)

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values side by side."""
        return self.qkv(_norm(hidden, self.norm_in))

    def finish(self, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """What the layer makes of its input and of the attention's mix."""
        hidden = hidden + self.out(mixed)
        return hidden + self.down(SwiGlu.apply(self.gate_up(_norm(hidden, self.norm_mid))))


def _norm(hidden: torch.Tensor, norm: torch.nn.Module) -> torch.Tensor:
    return RmsNorm.apply(hidden, norm.weight, norm.variance_epsilon)


def _check_supported(config: PretrainedConfig, decoder: torch.nn.Module) -> None:
    if config.model_type not in _FAMILY:
        raise UnsupportedModel(f"model type {config.model_type}")
    if decoder.embed_tokens.weight.device.type != "cpu":
        raise UnsupportedModel("not on the CPU")
    if config.hidden_act != "silu" or config.attention_dropout or getattr(config, "use_sliding_window", False):
        raise UnsupportedModel("activation, attention dropout or sliding window")
    joined = {part for layer in decoder.layers for part in (*layer.self_attn.children(), *layer.mlp.children())}
    for name, module in decoder.named_modules():
        if not hasattr(module, "base_layer"):
            continue
        if type(module) is not LoraLayer or module not in joined:
            raise UnsupportedModel(f"{name}: an adapter other than LoRA on a linear layer")
        plain = all(isinstance(dropout, torch.nn.Identity) for dropout in module.lora_dropout.values())
        if not plain or module.merged or module.lora_variant or any(module.lora_bias.values()):
            raise UnsupportedModel(f"{name}: LoRA with dropout, bias, DoRA, or merged already")
    if torch.is_grad_enabled() and any(p.requires_grad and "lora_" not in n for n, p in decoder.named_parameters()):
        raise UnsupportedModel("weights that train")
