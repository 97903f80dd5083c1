"""A whole training step of HyCAM on a GPU, over one of the frozen backbone and over one of PEFT's LoRA.

Llama-2-7B's shape with random bfloat16 weights, and as many of its 32 layers as fit beside their activations and two
adapters; the number is printed and part of the results' names. 2 rows of 1,200 tokens, all labelled. The step is
forward, backward and AdamW; that of the frozen backbone is forward, and backward to the embeddings, without a gradient
of any weight. By the multiplications alone HyCAM's is 1.14 of it. LoRA is PEFT's own, r = 64 on all linear layers.
Adapters are held in three ways, the same on both sides:

    autocast         PEFT's default, adapters in float32, under torch.autocast, as a trainer with bf16=True runs them
    bfloat16         the adapters in bfloat16 too (``autocast_adapter_dtype=False``)
    float32          PEFT's default without autocast, so that every product of an adapter is one in float32

The results are of the first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from hycam.ops import Dense, LowRank, Modulation, Router, balance_loss, gumbel_noise, modulate, routing_sums

from .interleaved import DEVICE, Effort, Ratio, interleave
from .training_models import adapter_step, frozen_step, sharing_weights

WAYS = {  # of holding the adapter: its type, whether the step runs under autocast
    "autocast": (torch.float32, True),
    "bfloat16": (torch.bfloat16, False),
    "float32": (torch.float32, False),
}
LLAMA_2_7B = LlamaConfig(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
)
TINY = LlamaConfig(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
BYTES_A_LAYER = 1.5e9  # weights, activations of 2 x 1,200 tokens, and both adapters with their optimizer's states


def measure(effort: Effort, tiny: bool, with_peft: bool) -> None:
    """Prints the times and saves ``gpu_step_vs_frozen`` and, with PEFT, ``gpu_step_vs_lora``."""
    torch.manual_seed(2333)
    config, length = (TINY, 7) if tiny else (LLAMA_2_7B, 1200)
    if DEVICE == "cuda":
        fitting = int((torch.cuda.mem_get_info()[0] - 4e9) / BYTES_A_LAYER)
        config.num_hidden_layers = max(1, min(config.num_hidden_layers, fitting))
    layers = config.num_hidden_layers
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(DEVICE):
        backbone = LlamaForCausalLM(config).requires_grad_(False).train()
    torch.set_default_dtype(torch.float32)
    ids = torch.randint(config.vocab_size, (2, length), device=DEVICE)
    if not with_peft:
        print("Without PEFT the rows over LoRA are left out.")
    for way in WAYS:
        rows = _measure_way(way, backbone, ids, effort, with_peft)
        effort.save({f"{name}/{layers} layers/{way}": ratio for name, ratio in rows.items()})
        if way == "autocast":
            effort.save(rows)


def _measure_way(way: str, backbone: PreTrainedModel, ids: Tensor, effort: Effort, with_peft: bool) -> dict[str, Ratio]:
    dtype, autocast = WAYS[way]
    models = _with_peft(backbone, dtype) if with_peft else {"hycam": WithoutPeft(backbone, dtype)}
    steps = {name: adapter_step(model, ids, autocast) for name, model in models.items()}
    over_frozen = interleave({"frozen": frozen_step(backbone, ids), **steps}, effort)
    milliseconds = 1000 * over_frozen["frozen"].seconds
    print(f"training step, {len(backbone.model.layers)} layers, adapter {way}: frozen {milliseconds:.1f} ms")
    print(f"  HyCAM / frozen {over_frozen['hycam']}")
    rows: dict[str, Ratio] = {"gpu_step_vs_frozen": over_frozen["hycam"]}
    if with_peft:
        rows["gpu_step_vs_lora"] = interleave(steps, effort)["hycam"]
        print(f"  LoRA / frozen  {over_frozen['lora']}\n  HyCAM / LoRA   {rows['gpu_step_vs_lora']}")
    return rows


def _with_peft(backbone: PreTrainedModel, dtype: torch.dtype) -> dict[str, nn.Module]:
    from .peft_adapters import ADAPTERS, adapted

    return {name: adapted(backbone, config, dtype == torch.float32) for name, config in ADAPTERS.items()}


class WithoutPeft(nn.Module):
    """HyCAM on a Llama where PEFT is missing: the paper's variant, in training, with noise and balance loss.

    Args:
        backbone: frozen; its weights are shared.
        dtype: the type of the adapter's weights.
    """

    def __init__(self, backbone: PreTrainedModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone = sharing_weights(backbone)
        self.routing: list[tuple[Tensor, Tensor]] = []
        for layer in self.backbone.model.layers:
            layer.self_attn = ModulatedAttention(layer.self_attn, backbone.config.hidden_size, dtype, self.routing)

    def forward(self, input_ids: Tensor, labels: Tensor) -> object:
        outputs = self.backbone(input_ids=input_ids, labels=labels)
        sums = torch.stack([routing_sums(p, logits, None) for p, logits in self.routing])
        self.routing.clear()
        outputs.loss = outputs.loss + 0.1 * balance_loss(sums, input_ids.numel())
        return outputs


class ModulatedAttention(nn.Module):
    """The attention module with its output modulated (N_s = 5, r = 64); leaves p and logits in ``routing``."""

    def __init__(self, attention: nn.Module, d: int, dtype: torch.dtype, routing: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()

        def weight(*sizes: int) -> nn.Parameter:
            drawn = torch.empty(sizes, dtype=dtype, device=DEVICE)
            return nn.Parameter(drawn.uniform_(-1 / math.sqrt(sizes[-1]), 1 / math.sqrt(sizes[-1])))

        self.attention, self.routing = attention, routing
        self.shared, self.router = weight(d, d), weight(5, d)
        self.A, self.N, self.B = weight(5, 64, d), weight(5, 64, 64), weight(5, d, 64)

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> tuple[object, ...]:
        a, *rest = self.attention(hidden_states, *args, **kwargs)
        weights = Modulation(Dense(self.shared), LowRank(self.A, self.N, self.B), Router(self.router))
        noise = gumbel_noise(torch.Size((*hidden_states.shape[:-1], 5)), hidden_states.device)
        output, routing = modulate(hidden_states, a, weights, noise)
        assert routing is not None
        self.routing.append(routing)
        return (output, *rest)
