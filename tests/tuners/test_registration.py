"""The methods are known to PEFT once the package is imported."""

from __future__ import annotations

import pickle

from peft import PeftConfig, get_peft_config
from peft.utils import PeftType

import hycam
from hycam.tuners.registration import register


def test_the_enum_member_behaves_like_peft_s_own() -> None:
    assert PeftType.HYCAM == "HYCAM"
    assert PeftType("HYCAM") is PeftType.HYCAM
    assert PeftType["HYCAM"] in list(PeftType)
    assert pickle.loads(pickle.dumps(PeftType.HYCAM)) is PeftType.HYCAM


def test_registering_twice_changes_nothing() -> None:
    before = list(PeftType)
    register()
    assert list(PeftType) == before


def test_a_configuration_survives_the_way_to_disk_and_back(tmp_path) -> None:
    config = hycam.HyCAMConfig(num_specialized=3, r=7, alpha=16, target_modules=["self_attn"], task_type="CAUSAL_LM")
    config.save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path) == config
    assert get_peft_config({"peft_type": "HYCAM", "r": 7}).r == 7
