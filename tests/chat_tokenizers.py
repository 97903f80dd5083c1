"""Small tokenizers of the kinds that chat models have: byte-level, and SentencePiece's with its mark before a word."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "What is the answer to this question? The answer is two, said the user to the assistant.\n\nA system that is kind.",
    "user\nassistant\nsystem\nmodel\n\nUSER: ASSISTANT: [INST] [/INST] <<SYS>> <</SYS>> Tell me the weather in Paris.",
    'name: arguments: {"city": "Paris", "unit": "C"} 17 degrees and 3.5 more\n\n\nfunction call tool <think> </think>',
] * 4
LEGACY, FIRST, ALWAYS = "legacy", "first", "always"
KINDS = ("bytes", "lines", LEGACY, FIRST, ALWAYS)
"""Byte-level as GPT-2 and as Qwen split texts, Llama 2's mark before every stretch, and Metaspace's two ways."""
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def chat_tokenizer(
    kind: str, template: str, special: tuple[str, ...] = (), begin: bool = True, swallows: bool = False
) -> PreTrainedTokenizerFast:
    """A tokenizer of one of the ``KINDS``, which puts ``<s>`` before a text where ``begin`` says so.

    Where it ``swallows``, the special tokens take up the white space behind them, as Phi-3's do.
    """
    raw = Tokenizer.from_str(_trained(kind))
    if begin:
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
    added = [AddedToken(token, rstrip=swallows, special=True) for token in special]
    tokenizer.add_special_tokens({"additional_special_tokens": added})
    tokenizer.chat_template = template
    return tokenizer


@cache
def _trained(kind: str) -> str:
    special = ["<unk>", "<s>", "</s>"]
    if kind in ("bytes", "lines"):
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if kind == "lines":
            raw.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(QWEN), "isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        raw.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        raw.train_from_iterator(
            CORPUS, trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
        )
        return raw.to_str()
    taught = Tokenizer(models.BPE())
    taught.pre_tokenizer = pre_tokenizers.Metaspace()
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    words = [text.replace("\n", " ") for text in CORPUS]  # a line end is a byte, as it is in SentencePiece's models
    taught.train_from_iterator(words, trainers.BpeTrainer(vocab_size=700, special_tokens=[*special, *fallback]))
    found = json.loads(taught.to_str())["model"]
    merges = [tuple(merge) for merge in found["merges"]]
    raw = Tokenizer(models.BPE(found["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if kind == LEGACY:
        raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return raw.to_str()
