"""Choice of the device, its precision, and copies to it."""

import pathlib
import sys
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import Tensor

from benchmarks import measure, train_step
from caption import device
from caption.config import TrainingConfig
from caption.config.inference import EvaluationConfig
from caption.device import Precision, choose_device, choose_precision, set_tf32, to_device, tune
from caption.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_fp32_is_one_thing_for_products_and_convolutions_and_on_a_gpu_only() -> None:
    def settings() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = settings()
    set_tf32(CPU, allowed=True)
    assert settings() == before
    set_tf32(GPU, allowed=False)
    assert settings() == ("highest", False)
    set_tf32(GPU, allowed=True)
    assert settings() == ("high", True)


def test_cudnn_tries_its_algorithms_where_a_gpu_is_tuned() -> None:
    tune(CPU)
    assert not torch.backends.cudnn.benchmark
    tune(GPU)
    assert torch.backends.cudnn.benchmark


def test_auto_precision_is_fp32_or_bf16_and_an_unknown_device_is_refused() -> None:
    assert choose_precision("auto", CPU) in ("fp32", "bf16")
    assert choose_precision("bf16", CPU) == "bf16"
    with pytest.raises(UserError, match="device 'abacus' is not available"):
        choose_device("abacus")


@pytest.mark.parametrize(
    ("features", "auto", "emulated"),
    [({"avx2", "fma"}, "fp32", ["bf16", "fp16"]), ({"avx512f", "avx512_bf16"}, "bf16", ["fp16"]),
     ({"amx_bf16", "amx_fp16"}, "bf16", []), ({"asimd", "bf16", "asimdhp"}, "bf16", []),
     (set(), "fp32", ["bf16", "fp16"])],
)  # fmt: skip
def test_the_processor_is_asked_for_half_precision_and_its_emulation_is_said_in_one_line(
    features: set[str],
    auto: str,
    emulated: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(device, "cpu_features", lambda: features)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(Tensor, "__matmul__", None)  # nothing is measured: emulated products took seconds
    assert choose_precision("auto", CPU) == auto and choose_precision("fp32", CPU) == "fp32"
    assert not capsys.readouterr().err
    for name in ("bf16", "fp16"):
        assert choose_precision(name, CPU) == name
        lines = capsys.readouterr().err
        assert lines.count("\n") == (name in emulated) == (f"precision {name}: this processor has no" in lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("processor\t: 0\nmodel name\t: x\nflags\t\t: fpu avx2\n\nflags\t\t: fpu\n", {"fpu", "avx2"}),
     ("processor\t: 0\nFeatures\t: asimd bf16\n", {"asimd", "bf16"}), ("", set()), (None, set())],
)  # fmt: skip
def test_features_of_x86_of_arm_and_of_a_system_that_does_not_tell(
    text: str | None, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: pathlib.Path, errors: str) -> str:
        if text is None:  # macOS, Windows
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(pathlib.Path, "read_text", read)
    assert device.cpu_features.__wrapped__() == expected


def test_benchmarks_leave_out_what_is_emulated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[list[str]] = []
    monkeypatch.setattr(sys, "argv", ["train_step", "--width", "512", "--device", "cpu"])
    monkeypatch.setattr(
        train_step, "measure_width", lambda width, modes, precisions, *_: measured.append(precisions + modes)
    )
    monkeypatch.setattr(measure, "is_emulated", lambda precision, device: precision == "bf16")
    train_step.main()
    assert measured == [["fp32", "fp32 reference", "fp32", "fp32 hard"]]
    assert "bf16 is left out" in capsys.readouterr().out


def test_a_gpu_with_an_index_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton starts its kernels on the current GPU, whatever the tensors' is."""
    current = []
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert [choose_device(name).index for name in ("cpu", "cuda", "cuda:1")] == [None, None, 1]
    assert current == [torch.device("cuda:1")]


@pytest.mark.parametrize(
    ("gpu", "capability", "bfloat16", "expected"),
    [("A100", (8, 0), True, "bf16"), ("T4", (7, 5), False, "fp16"), ("V100", (7, 0), False, "fp16"),
     ("GTX 1080", (6, 1), False, "fp32")],
)  # fmt: skip
def test_auto_takes_the_fastest_precision_of_a_gpu(
    gpu: str, capability: tuple[int, int], bfloat16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", GPU) == expected


def test_every_flag_offers_the_same_precisions() -> None:
    for config in (TrainingConfig, EvaluationConfig):
        assert get_args(get_type_hints(config)["precision"]) == get_args(Precision)


@pytest.mark.parametrize(
    ("device", "pinned", "expected"),
    [("mps", False, [("to", False)]), ("cpu", False, [("to", False)]), ("cuda", True, [("to", True)]),
     ("cuda", False, ["pin", ("to", True)])],
)  # fmt: skip
def test_only_copies_from_pinned_memory_to_a_gpu_run_in_the_background(
    device: str, pinned: bool, expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(Tensor, "is_pinned", lambda self: pinned)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: calls.append("pin") or self)
    monkeypatch.setattr(Tensor, "to", lambda self, device, non_blocking=False: calls.append(("to", non_blocking)))
    to_device(torch.ones(2), torch.device(device))
    assert calls == expected
