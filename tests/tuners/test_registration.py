"""The methods are known to PEFT once the package is imported."""

from __future__ import annotations

import pickle

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType

import hycam
from hycam.tuners.registration import register


def test_the_enum_member_behaves_like_peft_s_own() -> None:
    assert PeftType.HYCAM == "HYCAM"
    assert PeftType("HYCAM") is PeftType.HYCAM
    assert PeftType["HYCAM"] in list(PeftType)
    assert pickle.loads(pickle.dumps(PeftType.HYCAM)) is PeftType.HYCAM


def test_registering_twice_changes_nothing() -> None:
    before, tuners = list(PeftType), dict(PEFT_TYPE_TO_TUNER_MAPPING)
    register(hycam.HyCAMConfig, hycam.HyCAMModel)
    assert list(PeftType) == before and tuners == PEFT_TYPE_TO_TUNER_MAPPING
