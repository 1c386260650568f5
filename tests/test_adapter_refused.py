"""Adapters that are not understood, do not fit or lie: one line, or listed; random ones too."""

from __future__ import annotations

import contextlib
import math
import random
import shutil

import pytest
import torch

from projclean import methods
from projclean.access import Access
from projclean.adapter import open_adapter
from projclean.case import open_case
from projclean.checkpoint import open_checkpoint
from projclean.elsewhere import changes_elsewhere
from projclean.errors import CheckpointError, MismatchError, ProjcleanError
from projclean.storing import check_writable, rounded, stored_tensors
from projclean.writer import write_model
from tests.adapters import ONE, PROJECTOR, TEXT, by_hand, lora, write_base

pytestmark = pytest.mark.filterwarnings("ignore:Adapter 'default'", "ignore:`is_gradient_checkpointing`")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("models") / "base")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"peft_type": "IA3"}, "IA3 adapter"),
        ({"peft_type": None}, "only LORA"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"use_qalora": True}, "use_qalora"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"use_dora": True}, "incomplete"),
        ({"r": 3}, "rank 3"),
        ({"r": "two"}, "no sensible number"),
        ({"r": 10**400}, "no sensible number"),
        ({"lora_alpha": math.inf}, "no sensible number"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "too intricate"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_adapters_that_are_refused_in_one_line(base, tmp_path, run, config, named):
    folder = by_hand(tmp_path, lora(ONE), **config)
    line = run("scan", folder, "--base", base, "--no-probe").error_line
    assert named in line
    assert str(folder) in line


def test_adapters_that_do_not_fit(base, tmp_path, run):
    folder = by_hand(tmp_path, lora(ONE, out=TEXT + 1))
    assert "pass the base" in run("scan", folder, "--base", base, "--no-probe").error_line
    folder = by_hand(tmp_path, lora("model.some.where"))
    assert "pass the base" in run("scan", folder, "--base", base, "--no-probe").error_line
    folder = by_hand(tmp_path, {**lora(ONE), **lora(ONE.removeprefix("model."))})
    with pytest.raises(MismatchError, match="two names"):
        open_case(folder, str(base))
    for key, tensor in (("lora_magnitude_vector", torch.ones(3)), ("lora_B.bias", torch.ones(3))):
        wrong = {**lora(ONE), f"base_model.model.{ONE}.{key}": tensor}
        folder = by_hand(tmp_path, wrong, use_dora="magnitude" in key, lora_bias="bias" in key)
        assert "pass the base" in run("scan", folder, "--base", base, "--no-probe").error_line
    half = lora(ONE)
    half.pop(next(iter(half)))
    with pytest.raises(CheckpointError, match="incomplete"):
        open_adapter(by_hand(tmp_path, half), Access())
    folder = by_hand(tmp_path, {key: value * math.nan for key, value in lora(ONE).items()})
    line = run("scan", folder, "--base", base, "--no-probe").error_line
    assert "NaN" in line
    assert "adapter_model.safetensors" in line
    (folder / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors" in run("scan", folder, "--base", base).error_line


def test_what_is_not_understood_is_listed(base, tmp_path):
    strange = {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2, 2)}
    case = open_case(by_hand(tmp_path, {**lora(ONE), **strange}), str(base))
    assert any("trainable_tokens_delta: not understood" in line
               for line in changes_elsewhere(case.suspect, case.base, case.keys))  # fmt: skip


def test_names_of_older_layouts_find_their_place(base, tmp_path):
    update = [open_case(by_hand(tmp_path, lora(name)), str(base)).update.layers[0].suspect
              for name in (ONE, f"{PROJECTOR}.linear_1", "model.mm_projector.0")]  # fmt: skip
    assert torch.equal(update[0], update[1])
    assert torch.equal(update[0], update[2])


def test_a_model_with_an_adapter_beside_it_is_refused(base, tmp_path, run):
    both = by_hand(tmp_path, lora(ONE))
    for file in base.iterdir():
        shutil.copy(file, both)
    assert "a directory of its own" in run("scan", both, "--base", base).error_line
    (both / "adapter_model.safetensors").unlink()  # the config alone names a base
    assert open_checkpoint(both).model_type == "llava"
    assert run("scan", both, "--base", base, "--no-probe", "--ignore-elsewhere").code == 0


def test_files_beside_an_adapter_are_compared(base, tmp_path):
    folder = by_hand(tmp_path, lora(ONE))
    (folder / "optimizer.pt").write_bytes(b"x")
    (folder / "checkpoint-1").mkdir()
    for name in ("mm_projector.bin", "spiece.model", "checkpoint-1/adapter_model.safetensors"):
        (folder / name).write_bytes(b"x")
    case = open_case(folder, str(base))
    assert [line for line in changes_elsewhere(case.suspect, case.base, case.keys) if line.startswith("file")] == [
        "file checkpoint-1/adapter_model.safetensors: only in the suspect",
        "file mm_projector.bin: only in the suspect",
        "file spiece.model: only in the suspect",
    ]


VALUES = [None, 0, 1, 2, -1, 1.5, 1e308, 10**400, math.nan, True, "", "pissa", "a", [], [1], {}, {"a": 1}, {".*": 2}]
NAMES = [ONE, f"model.{PROJECTOR}", "model.language_model.layers.0.mlp.up_proj", "", ".", "lora_A", "\n\x00é"]
LEAVES = ["lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector", "lora_embedding_A", "weight",
          "bias", "base_layer.weight", "modules_to_save.weight", "lora_A.default.weight", "lora_C", ""]  # fmt: skip
SHAPES = [(), (0,), (1,), (48,), (2, 32), (48, 2), (48, 32), (32, 48), (2, 0), (2, 32, 1, 1), (48, 2, 1, 1)]
DTYPES = [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool, torch.float64]


@pytest.mark.parametrize("seed", range(100))
def test_a_random_adapter_is_read_or_refused_in_one_line(base, tmp_path, seed):
    draw = random.Random(seed)
    usual = {"r": 2, "lora_alpha": 4, "use_dora": False, "lora_bias": False, "rank_pattern": {}, "alpha_pattern": {}}
    config = {key: draw.choice(VALUES) if draw.random() < 0.1 else value for key, value in usual.items()}
    tensors = lora(ONE) if draw.random() < 0.7 else {}
    for _ in range(draw.randrange(4)):
        key = f"base_model.model.{draw.choice(NAMES)}.{draw.choice(LEAVES)}"
        tensors[key] = torch.ones(draw.choice(SHAPES)).to(draw.choice(DTYPES))
    folder = by_hand(tmp_path, tensors, **config)
    with contextlib.suppress(ProjcleanError):  # anything else is a fault
        case = open_case(folder, str(base))
        changes_elsewhere(case.suspect, case.base, case.keys)
        check_writable(case)
        halved = methods.interpolate(case.update, 0.5)
        rounded(case, halved)
        write_model(case.target.files, stored_tensors(case, halved), tmp_path / "out", "", force=False)
        open_case(tmp_path / "out", str(base))


def test_an_adapter_is_no_base(base, tmp_path, run):
    assert "is an adapter" in run("scan", base, "--base", by_hand(tmp_path, lora(ONE))).error_line


def test_without_a_base_the_verdict_says_so(tmp_path, run):
    ran = run("scan", by_hand(tmp_path, lora(ONE), base_model_name_or_path="some/where"))
    assert ran.code == 2
    assert "some/where" in ran.out
