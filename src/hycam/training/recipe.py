"""The recipe: every setting of a run, as typed dataclasses. ``--help`` shows their docstrings.

Libraries are imported where they are needed, so that help and a misspelt field take no seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from hycam.data.recipe import DataRecipe
from hycam.errors import HycamError, unknown

MYPY = False  # but true for mypy. What stands under TYPE_CHECKING jsonargparse imports for the dataclasses' types.
if MYPY:
    import torch

    from hycam.methods import Method
    from hycam.optim import OptimizerSettings


@dataclass
class OptimizerRecipe:
    """How the weights are stepped, where it is not the method's own way.

    Args:
        name: ``adamw``, or ``riemannian`` for AdamW on preconditioned gradients (low-rank products only); null takes
            the method's own.
        damping: Of the riemannian optimizer.
        multipliers: Learning rates over that of the other weights, by the name of the adapter's weight, such as
            ``{multilora_scaling: 10}`` or ``{moelora_gate: 0.1}``.
    """

    name: Literal["adamw", "riemannian"] | None = None
    damping: float | None = None
    multipliers: dict[str, float] = field(default_factory=dict)


@dataclass
class MethodRecipe:
    """What is trained.

    Args:
        name: A method's name; ``hycam methods`` lists them. ``peft`` is any other method of PEFT.
        config: Fields of the method's PEFT configuration, over the method's own settings; with ``peft`` its
            ``peft_type`` too.
        optimizer: How its weights are stepped.
    """

    name: str = "hycam"
    config: dict[str, Any] = field(default_factory=dict)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)

    def settings(self) -> OptimizerSettings:
        """The optimizer, resolved; raises HycamError for a method, a setting or an optimizer that does not work."""
        return _method(self.name).optimizer_settings(self.config, **vars(self.optimizer))


@dataclass
class DistributedRecipe:
    """How several processes share the work; their number is given when they are started.

    Args:
        strategy: ``ddp``: each has the whole model, and they average their gradients. ``fsdp`` (PyTorch's FSDP2): each
            has a part of every weight, gradient and optimizer state. ``zero2`` (DeepSpeed): each has a part of the
            gradients and optimizer states. ``zero3``: of the weights too.
    """

    strategy: Literal["ddp", "fsdp", "zero2", "zero3"] = "ddp"


@dataclass
class TrainingRecipe:
    """How it is trained. The defaults are the paper's where the paper states one.

    Args:
        learning_rate: Peak learning rate; null takes the method's own default.
        epochs: Passes over the training rows, unless max_steps is set.
        max_steps: Optimizer steps; null trains for ``epochs``.
        batch_size: Rows in a micro-batch, of each process.
        gradient_accumulation: Micro-batches in an optimizer step.
        weight_decay: AdamW's weight decay.
        scheduler: Learning-rate schedule, as transformers names it.
        warmup_ratio: Share of the steps over which the learning rate rises from zero.
        max_grad_norm: Gradients are clipped to this norm.
        precision: Type of the frozen backbone; the adapter is float32 in any case. ``auto`` is bfloat16 on a GPU that
            has it and float32 elsewhere. Full fine-tuning keeps its weights in float32 and computes in this type.
        device: Where to train; ``auto`` takes a GPU where there is one.
        gradient_checkpointing: Recompute activations in the backward pass, for less memory.
        backend: What computes HyCAM's modulation. ``auto`` is ``triton`` on a GPU and ``eager`` elsewhere;
            ``recompute`` keeps little for the backward pass and computes it again there; ``reference`` is the plain
            formula.
        optimizer_states: AdamW's two moments of a weight in 32 or 8 bits each; ``8bit`` needs bitsandbytes, on a CPU or
            a GPU (``hycam[quantization]``), and is not for the riemannian optimizer.
        use_liger_kernel: Liger's kernels for the backbone's norms, feed-forward networks and rotary embedding; needs
            a GPU and liger-kernel (``hycam[liger]``).
        torch_compile: Compile the blocks of the adapted backbone, for some minutes at the start. On a CPU it needs a
            C++ compiler.
        on_divergence: What to do about a step whose loss or gradient is not finite, or whose loss has exploded:
            ``stop`` before it is taken (for an exploded loss, at the fifth step in a row), or ``skip`` it, so that the
            weights, the optimizer and the schedule stay as they were. Five skipped in a row end training too.
        divergence_margin: A loss has exploded when it is so much (nats per token) above what was usual, which is the
            lowest median of 50 steps so far; null checks for non-finite numbers only.
        max_skipped_steps: More skipped steps than this in all end training.
        evaluate_every: Steps between two passes over the validation parts; null validates at the end only.
        early_stopping_patience: Stop after so many validations without a better loss; null never stops early.
        save_every: Steps between two checkpoints; null keeps none.
        log_every: Steps between two lines of metrics.
        distributed: How several processes share the work (``hycam train RECIPE --launch 2``).
        seed: Seeds the adapter, the order of the rows and the noise.
        report_to: Trackers that accelerate knows, such as tensorboard, trackio and wandb.
        extra: Settings of transformers.TrainingArguments that no field above covers, such as ``{adam_beta2: 0.95}``;
            an unknown one, or one that training does not use, is refused by name.
    """

    learning_rate: float | None = None
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 2
    gradient_accumulation: int = 2
    weight_decay: float = 0.05
    scheduler: str = "cosine"
    warmup_ratio: float = 0.0
    max_grad_norm: float = 1.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gradient_checkpointing: bool = False
    backend: str = "auto"
    optimizer_states: Literal["32bit", "8bit"] = "32bit"
    use_liger_kernel: bool = False
    torch_compile: bool = False
    on_divergence: Literal["stop", "skip"] = "stop"
    divergence_margin: float | None = 6.0
    max_skipped_steps: int = 100
    evaluate_every: int | None = None
    early_stopping_patience: int | None = None
    save_every: int | None = None
    log_every: int = 10
    distributed: DistributedRecipe = field(default_factory=DistributedRecipe)
    seed: int = 2333
    report_to: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.backend == "lean":  # the former name
            self.backend = "recompute"
        if self.backend != "auto":
            from hycam.ops import BACKENDS

            if self.backend not in BACKENDS:
                raise unknown("training.backend", self.backend, ["auto", *BACKENDS])
        for name in ("batch_size", "gradient_accumulation", "log_every", "max_steps", "evaluate_every", "save_every",
                     "early_stopping_patience", "max_skipped_steps"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise HycamError(f"training.{name} is {value}: a number above 0 was expected.")
        for name in ("learning_rate", "epochs", "divergence_margin"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise HycamError(f"training.{name} is {value}: a number above 0 was expected.")
        if self.early_stopping_patience is not None and self.evaluate_every is None:
            raise HycamError("training.early_stopping_patience needs training.evaluate_every: it counts validations.")

    def torch_device(self) -> torch.device:
        """Where to train; raises HycamError if that is a GPU and there is none."""
        import torch

        is_there = torch.cuda.is_available()
        if self.device == "cuda" and not is_there:
            raise HycamError("training.device is cuda, but PyTorch sees no GPU here. Use cpu or auto.")
        return torch.device(("cuda" if is_there else "cpu") if self.device == "auto" else self.device)

    def torch_dtype(self) -> torch.dtype:
        """The type of the frozen backbone."""
        import torch

        precision = self.precision
        if precision == "auto":
            has_it = self.torch_device().type == "cuda" and torch.cuda.is_bf16_supported()
            precision = "bfloat16" if has_it else "float32"
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


@dataclass
class EvaluationRecipe:
    """How a run is evaluated.

    Args:
        part: Which part of the data; settings are chosen on ``validation`` and reported on ``test``.
        batch_size: Rows in a batch.
        max_new_tokens: Most tokens in an answer; decoding is greedy and stops at the end token.
        generate_rows: Answer the first so many rows of each task; null answers all, 0 none.
        config: Fields of the method's PEFT configuration that are other than in training, such as
            ``{routing: hard}``; only such that do not change what weights there are.
    """

    part: Literal["test", "validation"] = "test"
    batch_size: int = 8
    max_new_tokens: int = 256
    generate_rows: int | None = None
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("max_new_tokens", 1), ("generate_rows", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise HycamError(f"evaluation.{name} is {value}: at least {least} was expected.")


@dataclass
class Recipe:
    """A run: one backbone, one method, the data, and how to train and evaluate.

    Args:
        backbone: A short name (smollm2-135m), a folder, or a hub id.
        trust_remote_code: Whether Python code that comes with the backbone may run; look at it first.
        quantization: Hold the weights of the backbone's linear layers in ``8bit`` (LLM.int8) or ``4bit`` (NF4, as
            QLoRA does), for adapters; needs bitsandbytes (``hycam[quantization]``).
        output: The run folder.
        method: Which adapter is trained.
        data: What to train, validate and test on.
        training: How it is trained.
        evaluation: How it is evaluated.
    """

    backbone: str = "smollm2-135m"
    trust_remote_code: bool = False
    quantization: Literal["8bit", "4bit"] | None = None
    output: str = "runs/hycam"
    method: MethodRecipe = field(default_factory=MethodRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)

    def learning_rate(self) -> float:
        """The recipe's, or the method's own; raises HycamError where neither has one."""
        rate = self.training.learning_rate or _method(self.method.name).learning_rate
        if rate is None:
            raise HycamError(
                f"The method {self.method.name} has no learning rate of its own: set training.learning_rate."
            )
        return rate

    def uses_autocast(self) -> bool:
        """Whether float32 weights are trained in bfloat16; a step is often less than bfloat16 weights could tell."""
        import torch

        return _method(self.method.name).trains_backbone and self.training.torch_dtype() == torch.bfloat16


def _method(name: str) -> Method:
    from hycam.methods import method

    return method(name)
