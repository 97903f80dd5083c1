"""The configuration of a HyCAM adapter."""

from __future__ import annotations

from dataclasses import dataclass

from peft.utils import PeftType

from hycam.tuners.config import AdapterConfig, factor

_CHOICES: dict[str, tuple[str, ...]] = {
    "shared": ("full", "low_rank", "none"),
    "specialized": ("low_rank", "full", "none"),
    "routing": ("soft", "hard"),
    "noise": ("train", "always", "never"),
    "balance_scope": ("layer", "pooled"),
    "modulation_target": ("attention_output", "residual_stream"),
}


@dataclass
class HyCAMConfig(AdapterConfig):
    """HyCAM (Hybrid Contextual Attention Modulation, CIKM 2025): scales the attention output of every block by
    ``1 + SiLU(h W_shared) + sum_k p_k SiLU(h A_k N_k B_k)``, h being what the attention module receives.

    The defaults are the paper's settings. The four ablations of the paper are values of ``shared`` and
    ``specialized``: Shared-CAM-Only (``full``, ``none``), FullSpec (``full``, ``full``), SpecOnly (``none``,
    ``low_rank``), InversePEFT (``low_rank``, ``full``). The code released with the paper computes something else:
    ``modulation_target="residual_stream"``, ``train_router=False`` and ``train_norms=True``, with ``routing="hard"``,
    ``noise="always"``, ``alpha=32``, both kinds of biases and ``balance_weight=0``.

    Args:
        num_specialized: N_s, how many specialised modules the router chooses among. The paper's 5 matches its five
            tasks; more modules than tasks do no harm.
        r: rank of a specialised module. Its cost grows as ``num_specialized * r * (2 d + r)`` parameters a layer.
        shared: ``"full"`` (one d x d map), ``"low_rank"`` or ``"none"``.
        shared_r: rank of a low-rank shared module; None takes ``r``.
        specialized: ``"low_rank"``, ``"full"`` or ``"none"`` (then there is no router either).
        routing: ``"soft"`` mixes all modules by Gumbel-softmax; ``"hard"`` takes one per token (straight-through).
        temperature: tau of the Gumbel-softmax. Lower is closer to a choice of one module.
        noise: when Gumbel noise is drawn: ``"train"`` (in training mode and with gradients on, so that answers that
            a trainer generates have none), ``"always"`` (evaluation becomes random, as in the authors' code) or
            ``"never"``.
        balance_weight: weight of the load-balancing loss (Eq. 10) that training with ``labels`` adds to the task loss.
            The released code adds none. Beside ``train_router=False`` it only acts through what the layers below make
            of the router's input, so 0 is the sensible value there; the loss is reported all the same.
        balance_scope: ``"layer"`` averages Eq. 10 over layers; ``"pooled"`` pools the tokens of all layers first.
        alpha: None for the paper's factor 1, or a number: low-rank modules are multiplied by ``alpha`` over their rank
            inside their SiLU.
        ffn_r: rank of LoRA on the linear layers of the feed-forward networks beside the modulation, in the blocks whose
            attention is adapted; None (the paper) has none. ``exclude_modules`` leaves some out. Mixtures of experts
            are refused.
        ffn_alpha: None for the factor 1, or a number: those updates are multiplied by ``ffn_alpha / ffn_r``.
        use_bias: biases on the shared map and on A, N and B.
        router_bias: a bias on the router.
        modulation_target: ``"attention_output"`` (the paper, Eq. 12), or ``"residual_stream"`` (the released code): the
            factor scales the sum of the residual stream and the attention output. The latter is for the families of the
            released code, Llama, Mistral and Qwen2; others are refused.
        train_router: True (the paper) trains the router. False (the released code) leaves it as it is drawn, its
            weights normal with the backbone's ``initializer_range`` and its bias zero, and saves it with the adapter.
            Without specialised modules there is no router, and this has no effect.
        train_inner: True (the paper) trains the inner map N of a low-rank module. False fixes it at the identity, so
            that a module is ``B_k A_k`` as in LoRA, and saves it with the adapter.
        train_norms: True (the released code) also trains a copy of each norm of the adapted blocks, not the final
            norm, and saves it with the adapter; the names are added to ``modules_to_save``. False (the paper) trains
            none.
        target_modules: attention modules to adapt; None finds them all. HyCAM adapts attention modules and nothing
            else, so ``"all-linear"`` or the name of a linear layer is refused.
        init_weights: True starts at the identity (shared and B at zero). False draws everything at random, which only
            tests need.
        **kwargs: see :class:`hycam.tuners.config.AdapterConfig`.

    Raises:
        ValueError: a value outside its range, with the value.
    """

    num_specialized: int = 5
    shared: str = "full"
    shared_r: int | None = None
    specialized: str = "low_rank"
    routing: str = "soft"
    temperature: float = 0.5
    noise: str = "train"
    balance_weight: float = 0.1
    balance_scope: str = "layer"
    use_bias: bool = False
    router_bias: bool = False
    modulation_target: str = "attention_output"
    train_router: bool = True
    train_inner: bool = True
    train_norms: bool = False
    ffn_r: int | None = None
    ffn_alpha: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("HYCAM")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}.")
        self.check_positive("num_specialized")
        for name in ("shared_r", "ffn_r"):
            if getattr(self, name) is not None:
                self.check_positive(name)
        self.check_alpha("ffn_alpha")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature!r}.")
        if not self.balance_weight >= 0:
            raise ValueError(f"balance_weight must not be negative, not {self.balance_weight!r}.")
        if self.shared == "none" and self.specialized == "none":
            raise ValueError('shared and specialized are both "none": nothing would be modulated.')

    @property
    def shared_scale(self) -> float:
        """The factor of a low-rank shared module's output."""
        return factor(self.alpha, self.shared_r or self.r)

    @property
    def ffn_scale(self) -> float:
        """The factor of the feed-forward updates."""
        return 1.0 if self.ffn_r is None else factor(self.ffn_alpha, self.ffn_r)
