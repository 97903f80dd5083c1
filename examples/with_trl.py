"""HyCAM under TRL's `SFTTrainer`: pass it as the PEFT configuration.  python examples/with_trl.py"""

import sys

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from hycam import HyCAMConfig, last_stats
from hycam.backbones import SHORT_NAMES

backbone = sys.argv[1] if len(sys.argv) > 1 else SHORT_NAMES["smollm2-135m"].folder()
rows = [
    {"prompt": f"What is {a} plus {b}?", "completion": f" {a + b}."}
    for a in range(4)
    for b in range(4)
]  # fmt: skip
arguments = SFTConfig(
    "runs/example-trl", max_steps=4, learning_rate=3e-3, report_to="none", use_cpu=True, bf16=False,
    save_strategy="no", model_init_kwargs={"dtype": "float32"},
)  # fmt: skip
trainer = SFTTrainer(
    str(backbone),
    args=arguments,
    train_dataset=Dataset.from_list(rows),
    peft_config=HyCAMConfig(task_type="CAUSAL_LM"),  # was: LoraConfig(...)
)
trainer.train()
print("balance loss:", last_stats(trainer.model).balance_loss.item())
trainer.save_model("runs/example-trl/adapter")
