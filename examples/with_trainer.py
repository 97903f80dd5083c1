"""HyCAM under `transformers.Trainer`: the usual script, with one changed line.  python examples/with_trainer.py"""

import sys

import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

from hycam import HyCAMConfig, last_stats
from hycam.backbones import SHORT_NAMES

backbone = sys.argv[1] if len(sys.argv) > 1 else SHORT_NAMES["smollm2-135m"].folder()
tokenizer = AutoTokenizer.from_pretrained(backbone)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
base = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.float32)

model = get_peft_model(base, HyCAMConfig(task_type="CAUSAL_LM"))  # was: LoraConfig(...)
model.print_trainable_parameters()


def encode(question: str, answer: str) -> dict[str, list[int]]:
    prompt = tokenizer(f"Question: {question}\nAnswer:")["input_ids"]
    response = tokenizer(f" {answer}", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return {"input_ids": prompt + response, "labels": [-100] * len(prompt) + response}


rows = [encode(f"What is {a} plus {b}?", f"{a + b}.") for a in range(4) for b in range(4)]
arguments = TrainingArguments(
    "runs/example-trainer", max_steps=4, learning_rate=3e-3, report_to="none", use_cpu=True, bf16=False,
    save_strategy="no",
)  # fmt: skip
collator = DataCollatorForSeq2Seq(tokenizer)
Trainer(model, arguments, train_dataset=Dataset.from_list(rows), data_collator=collator).train()
print("balance loss:", last_stats(model).balance_loss.item())
model.save_pretrained("runs/example-trainer/adapter")
