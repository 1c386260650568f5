"""Float8 with and without scales is computed; any other quantised projector is named and refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from projclean.case import open_case
from projclean.checkpoint import open_checkpoint, read_tensor
from projclean.errors import CheckpointError
from projclean.quantised import plain_view
from projclean.storing import rounded, stored_tensors
from projclean.writer import write_model
from tests.conftest import llava_tensors

ONE, TWO = "multi_modal_projector.linear_1", "multi_modal_projector.linear_2"
BIG = {"vision": 40, "text": 48}


def with_scales(how, tensors, dtype=torch.float8_e4m3fn):
    """Tensors with the first projector matrix in float8 beside its scale, the value they stand for, and the config."""
    weight, result = tensors[f"{ONE}.weight"], dict(tensors)
    if how == "block":
        tall = torch.nn.functional.pad(weight, (0, 8, 0, 0)).reshape(3, 16, 3, 16)
        scale = tall.abs().amax((1, 3)) / 400
        spread = scale.repeat_interleave(16, 0).repeat_interleave(16, 1)[:48, :40]
    elif how == "row":
        scale = spread = weight.abs().amax(1, keepdim=True) / 400
    else:
        scale = spread = weight.abs().max() / 400
    result[f"{ONE}.weight"] = (weight / spread).to(dtype)
    result[f"{ONE}.weight_scale" + ("_inv" if how == "block" else "")] = scale
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 16] if how == "block" else None}}
    return result, result[f"{ONE}.weight"].float() * spread, config


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("how", ["tensor", "row", "block"])
def test_float8_with_scales(make_model, tmp_path, how, dtype):
    tensors, value, config = with_scales(how, llava_tensors(**BIG), dtype)
    suspect, base = make_model("s", tensors, **config), make_model("b", llava_tensors(**BIG))
    case = open_case(suspect, str(base))
    assert case.update.other_changes == ()
    first, second = case.update.layers
    torch.testing.assert_close(first.suspect, value, rtol=0, atol=1e-6)
    assert not second.changed
    # Halfway back to the base, written in the same float8 with the same scale.
    wanted = {name: (layer.base + layer.delta / 2, layer.suspect_bias) for name, layer in
              ((layer.name, layer) for layer in case.update.layers)}  # fmt: skip
    kept = rounded(case, wanted)
    step = 0.07 if dtype == torch.float8_e4m3fn else 0.13
    assert ((kept[ONE][0] - wanted[ONE][0]).abs() <= step * wanted[ONE][0].abs() + 1e-3).all()
    write_model(case.target.files, stored_tensors(case, wanted), tmp_path / "out", "## Note", force=False)
    out, source = load_file(tmp_path / "out" / "model.safetensors"), load_file(suspect / "model.safetensors")
    assert {key: value.dtype for key, value in out.items()} == {key: value.dtype for key, value in source.items()}
    again = open_case(tmp_path / "out", str(base))
    assert torch.equal(again.update.layers[0].suspect, kept[ONE][0])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16], ids=str)
def test_narrow_dtypes_without_scales(make_model, dtype):
    tensors = {key: value.to(dtype) for key, value in llava_tensors().items()}
    case = open_case(make_model("s", tensors), str(make_model("b", llava_tensors())))
    assert torch.equal(case.update.layers[0].suspect, tensors[f"{ONE}.weight"].float())
    huge = {layer.name: (layer.suspect * 1e6, layer.suspect_bias) for layer in case.update.layers}
    assert all(torch.isfinite(weight).all() for weight, _ in rounded(case, huge).values())


def test_a_scale_that_does_not_fit(make_model):
    tensors, _, config = with_scales("tensor", llava_tensors())
    tensors[f"{ONE}.weight_scale"] = torch.ones(3)
    with pytest.raises(CheckpointError, match="weight_scale"):
        plain_view(open_checkpoint(make_model("s", tensors, **config)))


def i8(*shape):
    return torch.ones(*shape, dtype=torch.int8)


SCHEMES = {
    "bitsandbytes 4-bit": ({f"{ONE}.weight": torch.ones(120, 1, dtype=torch.uint8), f"{ONE}.weight.absmax":
                            torch.ones(4), f"{ONE}.weight.quant_state.bitsandbytes__nf4": i8(9).view(torch.uint8)}, {}),
    "bitsandbytes 8-bit": ({f"{ONE}.weight": i8(20, 12), f"{ONE}.SCB": torch.ones(20)}, {}),
    "bitsandbytes": ({f"{ONE}.weight": i8(20, 12)}, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "gptq": ({f"{ONE}.qweight": torch.ones(2, 20, dtype=torch.int32), f"{ONE}.qzeros":
              torch.ones(1, 3, dtype=torch.int32), f"{ONE}.scales": torch.ones(1, 20)}, {"quant_method": "gptq"}),
    "GPTQ or AWQ": ({f"{ONE}.qweight": torch.ones(12, 3, dtype=torch.int32)}, {}),
    "awq": ({f"{ONE}.qweight": torch.ones(12, 3, dtype=torch.int32)}, {"quant_method": "awq"}),
    "compressed-tensors": ({f"{ONE}.weight_packed": torch.ones(20, 2, dtype=torch.int32), f"{ONE}.weight_scale":
                            torch.ones(20, 1), f"{ONE}.weight_shape": torch.tensor([20, 12])}, {}),
    "stored as F8_E4M3": ({f"{ONE}.weight": torch.ones(20, 12).to(torch.float8_e4m3fn), f"{ONE}.weight_scale":
                           torch.ones(1)}, {}),
    "fbgemm_fp8": ({f"{ONE}.weight": torch.ones(20, 12).to(torch.float8_e4m3fn)}, {"quant_method": "fbgemm_fp8"}),
    "stored as I8": ({f"{ONE}.weight": i8(20, 12)}, {}),
}  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("nested", [False, True])
def test_a_quantised_projector_is_named_and_refused(make_model, run, scheme, nested):
    packed, settings = SCHEMES[scheme]
    tensors = {key: value for key, value in llava_tensors().items() if not key.startswith(f"{ONE}.weight")} | packed
    holder = {"quantization_config": settings} if settings else {}
    suspect = make_model("s", tensors, **({"text_config": holder} if nested else holder))
    base = make_model("b", llava_tensors())
    for arguments in (("scan", suspect, "--base", base), ("scan", base, "--base", suspect)):
        line = run(*arguments).error_line
        assert f"({scheme})" in line
        assert "dequantise" in line
        assert str(suspect) in line
        assert ONE in line


def test_a_quantised_language_model_does_not_stop_the_scan(make_model, run):
    packed = {
        "language_model.layers.0.weight": torch.ones(200, 1, dtype=torch.uint8),
        "language_model.layers.0.weight.absmax": torch.ones(4),
    }
    settings = {"quant_method": "bitsandbytes", "llm_int8_skip_modules": ["multi_modal_projector"]}
    changed = llava_tensors() | packed
    changed[f"{TWO}.weight"] = changed[f"{TWO}.weight"] + 0.1
    base = make_model("b", llava_tensors() | packed, quantization_config=settings)
    ran = run(
        "scan", make_model("s", changed, quantization_config=settings), "--base", base, "--no-probe", "--format", "json"
    )
    report = json.loads(ran.out)
    assert report["elsewhere"] == []
    assert report["layers"][1]["relative_change"] > 0
    assert read_tensor(open_checkpoint(base), f"{ONE}.weight").dtype == torch.float32
