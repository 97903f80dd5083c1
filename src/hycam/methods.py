"""The table of methods: a name, the adapter, the optimizer and its groups, the learning rate, and the source.

Recipes, the command line, the budgets and the contract tests all take their methods from here. An adapter that PEFT
does not have is a folder of :mod:`hycam.tuners` as well. :mod:`hycam.adapt` puts one of them on a backbone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

from peft import LoraConfig, PeftConfig, TaskType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType

from hycam.errors import HycamError, nearest, unknown
from hycam.optim.groups import OptimizerSettings
from hycam.optim.riemannian import FACTORS
from hycam.tuners.base import Tuner
from hycam.tuners.hycam import HyCAMConfig
from hycam.tuners.moelora import MoeLoraConfig
from hycam.tuners.multilora import MultiLoraConfig


@dataclass(frozen=True)
class Method:
    """One way to adapt a backbone.

    Attributes:
        name: what recipes and the command line call it.
        summary: one line on what is trained.
        source: where it is described.
        config_class: the PEFT configuration; None where there is no adapter (``full``) or the settings name it
            (``peft``).
        settings: what this method sets in it; a recipe's own settings go on top.
        learning_rate: what a recipe without a learning rate uses; None where no one value would do.
        optimizer: what its optimizer has beyond AdamW.
        same_size_as: the method whose number of trainable parameters on the backbone its rank comes nearest to.
        rank: the setting that is this rank.
        alpha_follows_rank: the setting that takes the value of a rank that a recipe gives (or that is found that way),
            so that the factor stays 1 as it is for the others.
    """

    name: str
    summary: str
    source: str
    config_class: type[PeftConfig] | None
    learning_rate: float | None
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    same_size_as: str | None = None
    rank: str = "r"
    alpha_follows_rank: str | None = None

    @property
    def trains_backbone(self) -> bool:
        """Whether the backbone's own weights are trained, with no adapter beside them."""
        return self.name == FULL

    def config(self, settings: Mapping[str, Any] | None = None) -> PeftConfig | None:
        """The PEFT configuration, with ``settings`` over the method's own; None for full fine-tuning.

        Raises:
            HycamError: a setting that the method does not have (the nearest is named), or a value it refuses.
        """
        given = dict(settings or {})
        if self.trains_backbone:
            if given:
                raise HycamError(
                    f'The method {self.name} has no settings: it trains every weight. Drop "{next(iter(given))}".'
                )
            return None
        config_class = self.config_class or _config_class(given)
        given = given if self.config_class else {key: value for key, value in given.items() if key != "peft_type"}
        known = {entry.name for entry in fields(config_class) if entry.init} - _NOT_SETTINGS
        for name in given:
            if name not in known:
                raise HycamError(f'The method {self.name} has no setting "{name}".{nearest(name, known)}')
        if self.same_size_as and self.rank in given:
            raise HycamError(
                f"The method {self.name} finds its rank itself; with an {self.rank} of your own it is "
                f"{self.name.removesuffix('-matched')}."
            )
        chosen = {**self.settings, **given}
        if self.alpha_follows_rank and "r" in given and self.alpha_follows_rank not in given:
            chosen[self.alpha_follows_rank] = given["r"]
        if isinstance(chosen.get("modules_to_save"), str):  # PEFT would match its characters
            chosen["modules_to_save"] = [chosen["modules_to_save"]]
        try:
            if self.config_class and "r" in chosen and chosen["r"] < 1:  # PEFT's own methods would fail later
                raise ValueError(f"r must be at least 1, not {chosen['r']}.")
            return config_class(task_type=TaskType.CAUSAL_LM, **chosen)
        except (TypeError, ValueError, ImportError) as error:
            raise HycamError(f"The settings of the method {self.name} do not work: {error}") from error

    def optimizer_settings(
        self,
        settings: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        damping: float | None = None,
        multipliers: Mapping[str, float] | None = None,
    ) -> OptimizerSettings:
        """The method's optimizer, with a recipe's settings over it.

        Args:
            settings: the recipe's settings of the adapter.
            name: ``"adamw"`` or ``"riemannian"``; None for the method's own.
            damping: of the Riemannian preconditioner.
            multipliers: learning rates over that of the other weights, by the name of an adapter's weight.

        Raises:
            HycamError: preconditioning for a method without factors, a damping without preconditioning, or a
                multiplier for a weight that the method does not have.
        """
        config = self.config(settings)
        weights = _weights(config)
        preconditioned = self.optimizer.preconditioned if name is None else name == "riemannian"
        # AdaLoRA has factors of these names too, but its product has a third one.
        is_product = config is not None and config.peft_type in (PeftType.LORA, PeftType("MOELORA"))
        if preconditioned and not (is_product and set(FACTORS) & set(weights)):
            raise HycamError(
                f"The method {self.name} has no factors for the riemannian optimizer: it preconditions the A and B of "
                "a product B A, which lora, moe-lora and riemoe-lora have. Leave method.optimizer.name at adamw."
            )
        if damping is not None and not preconditioned:
            raise HycamError("method.optimizer.damping belongs to the riemannian optimizer; adamw has none.")
        if damping is not None and not damping >= 0:
            raise HycamError(f"method.optimizer.damping is {damping}: it must not be negative.")
        for weight, value in (multipliers or {}).items():
            if weight not in weights:
                raise HycamError(
                    f'The method {self.name} has no weights called "{weight}" to give a learning rate of their own.'
                    f"{nearest(weight, weights)}"
                )
            if not value > 0:
                raise HycamError(f"method.optimizer.multipliers.{weight} is {value}: a number above 0 was expected.")
        return replace(
            self.optimizer,
            preconditioned=preconditioned,
            damping=self.optimizer.damping if damping is None else damping,
            multipliers={**self.optimizer.multipliers, **(multipliers or {})},
        )


def _peft_types() -> list[str]:
    """The methods of PEFT that ``name: peft`` takes: those that put layers into the backbone.

    Prompt learning moves the positions that the trainer reads, Poly and Shadow need a forward of their own, and
    trainable tokens need a list of tokens.
    """
    unusable = {"POLY", "SHADOW", "TRAINABLE_TOKENS"}
    return [
        str(kind.value)
        for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()
        if hasattr(tuner, "tuner_layer_cls") and not issubclass(tuner, Tuner) and kind.value not in unusable
    ]


def _config_class(settings: Mapping[str, Any]) -> type[PeftConfig]:
    """The class of ``name: peft, config: {peft_type: ...}``."""
    known = _peft_types()
    if "peft_type" not in settings:
        raise HycamError(
            f"The method peft needs to know which one: set method.config.peft_type, one of {', '.join(known)}."
        )
    name = str(settings["peft_type"]).upper()
    if name not in known:
        raise HycamError(f'"{name}" is not a method of PEFT that can be trained here.{nearest(name, known)}')
    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name)]


def _weights(config: PeftConfig | None) -> tuple[str, ...]:
    """The names of the weights that an adapter of this configuration has in a layer."""
    if config is None:
        return ()
    return PEFT_TYPE_TO_TUNER_MAPPING[PeftType(config.peft_type)].tuner_layer_cls.adapter_layer_names


# Set by the table and by training, not by a recipe.
_NOT_SETTINGS = {"peft_type", "task_type", "inference_mode"}
FULL = "full"
PEFT = "peft"
_HYCAM = "HyCAM (CIKM 2025)"
_RIEMOE = "RieMoE-LoRA (arXiv 2502.15828)"
_SCALING = OptimizerSettings(multipliers={"multilora_scaling": 10.0}, no_decay=("multilora_scaling",))
_LORA = {"r": 64, "lora_alpha": 64, "target_modules": "all-linear"}
_RELEASED = {
    "modulation_target": "residual_stream",
    "routing": "hard",
    "noise": "always",
    "train_router": False,
    "router_bias": True,
    "train_norms": True,
    "use_bias": True,
    "alpha": 32,
    "balance_weight": 0.0,
}
# The learning rates come from `hycam study recipes/sweep-lr.yaml` (validation part).
_ALL = [
    Method(FULL, "full fine-tuning: every weight of the backbone", "AdamW", None, 1e-4),
    Method("lora", "LoRA, rank 64 on every linear layer", "LoRA (ICLR 2022), PEFT", LoraConfig, 1e-3, _LORA,
           alpha_follows_rank="lora_alpha"),
    Method("multilora", "MultiLoRA: five parallel branches of rank 64 on every linear layer",
           "MultiLoRA (arXiv 2311.11501)", MultiLoraConfig, 1e-3, optimizer=_SCALING),
    Method("moe-lora", "MoE-LoRA: five experts of rank 64 behind a gate on every linear layer", _RIEMOE,
           MoeLoraConfig, 1e-3),
    Method("riemoe-lora", "RieMoE-LoRA: the same with rescaled gates and preconditioned gradients", _RIEMOE,
           MoeLoraConfig, 1e-3, {"rescale_gate": True}, OptimizerSettings(preconditioned=True)),
    Method("hycam", "HyCAM: a full shared module and five of rank 64 behind a router", _HYCAM, HyCAMConfig, 3e-3),
    Method("hycam-shared-only", "ablation Shared-CAM-Only: the shared module alone", _HYCAM, HyCAMConfig, 3e-3,
           {"specialized": "none"}),
    Method("hycam-fullspec", "ablation FullSpec: five full specialised modules", _HYCAM, HyCAMConfig, 1e-3,
           {"specialized": "full"}),
    Method("hycam-speconly", "ablation SpecOnly: no shared module", _HYCAM, HyCAMConfig, 3e-3, {"shared": "none"}),
    Method("hycam-inverse-peft", "ablation InversePEFT: a low-rank shared module, full specialised ones", _HYCAM,
           HyCAMConfig, 3e-3, {"shared": "low_rank", "specialized": "full"}),
    Method("hycam-released", "what the released code computes: the residual stream modulated, random hard routing",
           "the code released with HyCAM", HyCAMConfig, 3e-4, _RELEASED),
    Method("hycam-ffn", "the shared module alone, and LoRA of rank 62 on the feed-forward layers", "HyCAM with LoRA",
           HyCAMConfig, 1e-3, {"specialized": "none", "ffn_r": 62}, rank="ffn_r"),
]  # fmt: skip


def _matched(entry: Method, learning_rate: float, to: str = "hycam") -> Method:
    """The same method at another's number of trainable parameters, which the published comparison does not have."""
    return replace(
        entry,
        name=f"{entry.name}-matched",
        summary=f"{entry.name} at the rank whose size is nearest to that of {to}",
        settings={key: value for key, value in entry.settings.items() if key not in (entry.rank, "lora_alpha")},
        learning_rate=learning_rate,
        same_size_as=to,
    )


METHODS: dict[str, Method] = {entry.name: entry for entry in _ALL}
_RATES = {"lora": 1e-3, "multilora": 1e-3, "moe-lora": 3e-3, "riemoe-lora": 3e-3}
METHODS |= {f"{name}-matched": _matched(METHODS[name], rate) for name, rate in _RATES.items()}
METHODS["hycam-ffn-matched"] = _matched(METHODS["hycam-ffn"], 1e-3, to="lora")
_ANY_PEFT = Method(PEFT, "any other method of PEFT, by its configuration", "PEFT", None, None)


def method(name: str) -> Method:
    """The method of that name; a misspelt one is an error that names the nearest."""
    if name == PEFT:
        return _ANY_PEFT
    if name not in METHODS:
        raise unknown("method", name, [*METHODS, PEFT])
    return METHODS[name]
