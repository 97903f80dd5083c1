"""HyCAM: contextual attention modulation for adapting one frozen language model to several tasks.

Importing the package registers its methods with PEFT, so that ``get_peft_model``, ``PeftModel.from_pretrained`` and
``AutoPeftModelForCausalLM`` know them. Only the command ``hycam`` puts that off until a verb runs, since its help needs
neither PyTorch nor PEFT.
"""

import logging
import sys

# Where bitsandbytes is installed PEFT imports it, and on a CPU it then says that a 4-bit kernel failed to load, which
# nothing here asks for.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

if not getattr(sys.modules.get("hycam_command"), "is_running", False):
    from hycam.ops import set_backend
    from hycam.tuners.hycam import HyCAMConfig, HyCAMModel, TrainingStats, last_stats, packed
    from hycam.tuners.moelora import MoeLoraConfig, MoeLoraModel
    from hycam.tuners.multilora import MultiLoraConfig, MultiLoraModel

__version__ = "0.1.0"
__all__ = [
    "HyCAMConfig",
    "HyCAMModel",
    "MoeLoraConfig",
    "MoeLoraModel",
    "MultiLoraConfig",
    "MultiLoraModel",
    "TrainingStats",
    "__version__",
    "last_stats",
    "packed",
    "set_backend",
]
