"""HyCAM in a plain PyTorch loop, saved, and loaded again.  python examples/with_a_plain_loop.py"""

import sys

import torch
from peft import AutoPeftModelForCausalLM, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from hycam import HyCAMConfig, last_stats
from hycam.backbones import SHORT_NAMES

backbone = str(sys.argv[1] if len(sys.argv) > 1 else SHORT_NAMES["smollm2-135m"].folder())
tokenizer = AutoTokenizer.from_pretrained(backbone)
base = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.float32)
model = get_peft_model(base, HyCAMConfig(task_type="CAUSAL_LM")).train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)

text = tokenizer("The attention output is scaled, channel by channel, by what the block reads.", return_tensors="pt")
for step in range(4):
    loss = model(**text, labels=text["input_ids"]).loss  # task loss plus the weighted balance loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    stats = last_stats(model)
    print(f"step {step}: task loss {stats.task_loss:.3f}, balance loss {stats.balance_loss:.3f}")

model.save_pretrained("runs/example-loop/adapter")
loaded = AutoPeftModelForCausalLM.from_pretrained("runs/example-loop/adapter", dtype=torch.float32).eval()
with torch.no_grad():
    assert torch.equal(loaded(**text).logits, model.eval()(**text).logits)
print("loaded again with the same logits")
