"""Choice of the device and its precision."""

import pytest
import torch

from caption.device import allow_tf32, choose_device, choose_precision
from caption.errors import UserError


def test_tf32_is_allowed_on_a_gpu_only() -> None:
    allow_tf32(torch.device("cpu"))
    assert torch.get_float32_matmul_precision() == "highest"
    allow_tf32(torch.device("cuda"))
    assert torch.get_float32_matmul_precision() == "high"


def test_auto_precision_is_fp32_or_bf16_and_an_unknown_device_is_refused() -> None:
    assert choose_precision("auto", torch.device("cpu")) in ("fp32", "bf16")
    assert choose_precision("bf16", torch.device("cpu")) == "bf16"
    with pytest.raises(UserError, match="device 'abacus' is not available"):
        choose_device("abacus")


def test_a_gpu_with_an_index_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton starts its kernels on the current GPU, whatever the tensors' is."""
    current = []
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert [choose_device(name).index for name in ("cpu", "cuda", "cuda:1")] == [None, None, 1]
    assert current == [torch.device("cuda:1")]
