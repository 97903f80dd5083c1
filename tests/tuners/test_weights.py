"""The names of an adapter's weights: PEFT's in the model, the contract's in a file; older ones are still read."""

from __future__ import annotations

import copy
import io
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTuner
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from architectures import tiny, tokens
from byte_tokenizer import byte_tokenizer
from hycam import HyCAMConfig, MoeLoraConfig, MultiLoraConfig
from hycam.errors import HycamError
from hycam.tuners.weights import NAMES_ARE_OLDER

_HYCAM = {"task_type": "CAUSAL_LM", "r": 4, "init_weights": False, "noise": "never", "balance_weight": 0.0}
_OTHERS = {"task_type": "CAUSAL_LM", "r": 4, "init_weights": False}
CONFIGS: dict[str, Callable[[], PeftConfig]] = {
    "hycam": lambda: HyCAMConfig(**_HYCAM, use_bias=True, router_bias=True),
    "full specialised": lambda: HyCAMConfig(**_HYCAM, shared="low_rank", specialized="full"),
    "feed-forward": lambda: HyCAMConfig(**_HYCAM, ffn_r=3),
    "trained norms": lambda: HyCAMConfig(**_HYCAM, train_norms=True),
    "multilora": lambda: MultiLoraConfig(**_OTHERS),
    "moe-lora": lambda: MoeLoraConfig(**_OTHERS),
}
every_method = pytest.mark.parametrize("method", CONFIGS)


def model_of(method: str, seed: int = 0, **backbone: object) -> PeftModel:
    torch.manual_seed(seed)
    return get_peft_model(tiny(**backbone), CONFIGS[method]()).eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    return model(input_ids=tokens()).logits


def as_once(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a model under the names that its adapters' weights had before they were PEFT's."""
    own = re.compile(r"\.((hycam|multilora|moelora)_\w+\.default)\.weight$")
    linear = re.compile(r"(hycam_shared|hycam_router|moelora_gate)\.default\.weight$")
    return {name if linear.search(name) else own.sub(r".\1", name): value for name, value in state.items()}


@every_method
def test_a_whole_state_with_the_older_names_still_loads(method: str) -> None:
    model, other = model_of(method), model_of(method, seed=1)
    older = as_once(model.state_dict())
    assert older.keys() != dict(model.named_parameters()).keys()
    other.load_state_dict(older)
    assert torch.equal(logits(other), logits(model))


@every_method
def test_a_state_that_lacks_a_weight_or_has_one_too_many_is_refused_as_ever(method: str) -> None:
    model = model_of(method)
    older = as_once(model.state_dict())
    name = next(name for name in older if name.endswith("default"))
    with pytest.raises(RuntimeError, match=rf"Missing key.*{name}\.weight"):
        model.load_state_dict({key: value for key, value in older.items() if key != name})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*\.nobody"):
        model.load_state_dict(older | {name.replace("default", "nobody"): older[name]})


@every_method
def test_transformers_loads_a_saved_adapter_by_itself_and_saves_it_under_the_same_names(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tiny().save_pretrained(tmp_path / "backbone")
    model = model_of(method)
    for config in model.peft_config.values():
        config.base_model_name_or_path = str(tmp_path / "backbone")
    model.save_pretrained(tmp_path / "saved")
    if NAMES_ARE_OLDER and int(transformers.__version__.split(".")[0]) >= 5:
        with pytest.raises(
            (HycamError, ImportError), match=r"PEFT 0\.21|peft"
        ):  # with 0.18 transformers fails by itself
            AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
        return
    by_name = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(by_name.eval()), logits(model))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "backbone")
    for name in ("first", "second"):
        loaded.load_adapter(str(tmp_path / "saved"), adapter_name=name)
        loaded.set_adapter(name)
        assert torch.equal(logits(loaded.eval()), logits(model))
    by_name.save_pretrained(tmp_path / "again")
    files = [load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("saved", "again")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(value, files[1][name]) for name, value in files[0].items())


@every_method
@pytest.mark.skipif(
    not hasattr(BaseTuner, "_remove_adapter_name_from_key"), reason="PEFT before 0.21 has the last word"
)
def test_a_state_dictionary_gathered_by_parameter_names_is_saved_under_the_same_names(method: str) -> None:
    """DeepSpeed gathers so for `save_pretrained(state_dict=...)`, by each module's parameters."""
    model = model_of(method)
    saved = get_peft_model_state_dict(model)
    gathered = get_peft_model_state_dict(model, state_dict=dict(model.named_parameters()))
    assert saved.keys() == gathered.keys()
    assert model.state_dict().keys() == dict(model.named_parameters()).keys()


@every_method
def test_a_copy_and_a_pickle_have_the_same_names_and_read_the_older_ones_too(method: str) -> None:
    model = model_of(method)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert twin.state_dict().keys() == model.state_dict().keys()
        assert torch.equal(logits(twin), logits(model))
        twin.load_state_dict(as_once(model_of(method, seed=1).state_dict()))
        assert torch.equal(logits(twin), logits(model_of(method, seed=1)))
        assert not torch.equal(logits(twin), logits(model))


@pytest.mark.parametrize("method", ["trained norms", "multilora", "moe-lora"])
def test_the_first_step_of_dpo_on_a_trained_adapter_is_at_its_reference(method: str, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    rows = [{"prompt": "Name it: ", "chosen": " a bee", "rejected": " nothing at all"}] * 4
    arguments = trl.DPOConfig(
        str(tmp_path), max_steps=1, logging_steps=1, per_device_train_batch_size=2, use_cpu=True, bf16=False,
        report_to=[], save_strategy="no", gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model_of(method, vocab_size=300), args=arguments, train_dataset=Dataset.from_list(rows),
        processing_class=byte_tokenizer(),
    )  # fmt: skip
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/margins"] == 0
    assert first["grad_norm"] > 0
