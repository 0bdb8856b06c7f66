"""Precision "auto" is what the device multiplies natively, decided by its flags; other formats train nearly as float32 does."""

from dataclasses import replace

import pytest
import torch

from nin.data import ImageData, load
from nin.model import build_model
from nin.precision import (
    best_precision,
    choose_precision,
    cpu_formats,
    cuda_formats,
    native_formats,
    precision_on,
    slow_precision,
)
from nin.spec import DataSpec, ModelSpec, TrainSpec
from nin.train import train

AVX512 = {"avx512_f": True, "avx512_vnni": True, "avx512_bf16": False}
BF16 = AVX512 | {"avx512_bf16": True}
AMX = BF16 | {"amx_tile": True, "amx_bf16": True}


@pytest.mark.parametrize(
    ("native", "precision"),
    [
        pytest.param(cpu_formats({"avx2": True}), "float32", id="a processor with AVX2"),
        pytest.param(cpu_formats(AVX512), "float32", id="a processor with AVX-512 but not its bf16"),
        pytest.param(cpu_formats(BF16), "bf16", id="a processor with avx512_bf16"),
        pytest.param(cpu_formats(AMX), "bf16", id="a processor with AMX"),
        pytest.param(cpu_formats(AMX, "AVX512_CORE"), "float32", id="AMX that oneDNN may not use"),
        pytest.param(cpu_formats(AMX, "avx512_core_bf16"), "bf16", id="AMX off, avx512_bf16 on"),
        pytest.param(cpu_formats({"neon": True}), "float32", id="an ARM processor"),
        pytest.param(cpu_formats({"neon": True, "bf16": True}), "bf16", id="an ARM processor with bf16"),
        pytest.param(cpu_formats({"bf16": True}, has_onednn=False), "float32", id="bf16 without oneDNN, as on macOS"),
        pytest.param(cuda_formats((6, 1)), "float32", id="Pascal"),
        pytest.param(cuda_formats((7, 0)), "float16", id="V100"),
        pytest.param(cuda_formats((7, 5)), "float16", id="T4"),
        pytest.param(cuda_formats((8, 0)), "bf16", id="A100"),
        pytest.param(cuda_formats((9, 0)), "bf16", id="H100"),
        pytest.param(cuda_formats((9, 0), is_rocm=True), "bf16", id="MI200"),
        pytest.param(native_formats(torch.device("mps")), "float32", id="Apple's GPUs"),
        pytest.param(native_formats(torch.device("xpu")), "float32", id="an Intel GPU that is not there"),
        pytest.param(native_formats(torch.device("meta")), "float32", id="no device"),
    ],
)
def test_auto_takes_what_a_device_multiplies_natively(native: frozenset[str], precision: str) -> None:
    assert best_precision(native).precision == precision


def test_auto_says_why() -> None:
    reasons = {best_precision(native).reason for native in (frozenset(), {"float16"}, {"bf16"})}
    assert len(reasons) == 3


def test_only_auto_is_decided_by_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nin.precision.native_formats", lambda device: frozenset({"bf16"}))
    assert [precision_on("cpu", asked) for asked in ("auto", "float32", "float16")] == ["bf16", "float32", "float16"]


@pytest.mark.parametrize(
    ("native", "asked", "advice"),
    [
        (frozenset(), "bf16", "float32 (train.precision=auto) is faster"),
        (frozenset({"bf16"}), "float16", "bf16 (train.precision=auto) is faster"),
        (frozenset({"bf16"}), "bf16", ""),
        (frozenset(), "auto", ""),
        (frozenset(), "float32", ""),
    ],
)
def test_a_format_that_is_emulated_is_advised_against(
    monkeypatch: pytest.MonkeyPatch, native: frozenset[str], asked: str, advice: str
) -> None:
    monkeypatch.setattr("nin.precision.native_formats", lambda device: native)
    said = slow_precision("cpu", asked)
    assert advice in said
    assert bool(said) == bool(advice)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param({"architecture": "x86_64"} | AVX512, "faster: expect 2 to 3 times its time", id="AVX-512"),
        pytest.param({"architecture": "x86_64"}, "faster: expect 9 to 12 times its time", id="AVX2"),
        pytest.param({"architecture": "x86_64", "avx_ne_convert": True}, "faster", id="AVX2 with bf16 conversion"),
        pytest.param({"architecture": "aarch64"}, "faster", id="ARM"),
    ],
)
def test_the_advice_says_how_slow_emulated_bf16_is_on_such_a_processor(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, object], expected: str
) -> None:
    monkeypatch.setattr("nin.precision.native_formats", lambda device: frozenset())
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: flags)
    assert slow_precision("cpu", "bf16").endswith(expected)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load(DataSpec(name="synthetic", train_examples=200, val_examples=100, test_examples=100))


def losses(data: ImageData, precision: str, **changes: object) -> list[float]:
    spec = TrainSpec(epochs=3, batch_size=32, lr=0.02, momentum=0.9, precision=precision)
    model = ModelSpec(layout="small", width=1 / 12, init="kaiming", dropout=0.2, class_block="wide")
    network = build_model(model, data.in_shape, data.num_classes)
    return [point.train_loss for point in train(network, data, replace(spec, **changes)).curve]  # type: ignore[arg-type]


@pytest.mark.slow  # float16 is emulated on a CPU
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_float16_with_scaled_losses_trains_nearly_as_float32(data: ImageData, optimizer: str) -> None:
    """Within 5 % at each point of the curve, as for bf16."""
    changes = {"optimizer": optimizer, "lr": {"sgd": 0.02, "adamw": 0.003}[optimizer]}
    float32, float16 = (losses(data, precision, **changes) for precision in ("float32", "float16"))
    assert float16 != float32
    assert float16 == pytest.approx(float32, rel=0.05)


@pytest.mark.slow
def test_a_step_whose_gradients_overflow_is_left_out(monkeypatch: pytest.MonkeyPatch, data: ImageData) -> None:
    """As at the start, where the scale is found: weights stay finite and training goes on."""
    scales = []

    class Scaler(torch.amp.GradScaler):
        def __init__(self, device: str, init_scale: float, enabled: bool) -> None:
            super().__init__(device, 2.0**40, enabled=enabled)

        def update(self, new_scale: float | torch.Tensor | None = None) -> None:
            super().update(new_scale)
            scales.append(self.get_scale())

    monkeypatch.setattr("nin.train.GradScaler", Scaler)
    curve = losses(data, "float16", epochs=6)
    assert scales[0] == 2.0**39
    assert scales[-1] == scales[-2] < 2.0**39  # found
    assert curve[-1] < curve[0]


def test_auto_trains_as_what_it_stands_for(data: ImageData) -> None:
    assert losses(data, "auto") == losses(data, choose_precision("cpu").precision)
