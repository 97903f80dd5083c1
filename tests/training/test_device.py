"""Device and precision are explicit."""

from __future__ import annotations

import pytest
import torch

from hycam.errors import HycamError
from hycam.training.device import torch_device, torch_dtype


def test_precision_auto_is_float32_on_a_cpu() -> None:
    assert torch_dtype("auto", torch.device("cpu")) == torch.float32
    assert torch_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_an_error_and_auto_goes_without() -> None:
    assert torch_device("auto") == torch.device("cpu")
    with pytest.raises(HycamError, match="sees no GPU"):
        torch_device("cuda")
