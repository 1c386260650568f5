"""Learning again from the suspect's answers: on a shipped suspect, in miniature."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import projclean
from eval import shapes
from eval.zoo import SHIPPED
from projclean import distillation, repairer
from projclean.candidates import Candidate, candidates
from projclean.case import open_case, set_up
from projclean.distillation import Effort
from projclean.errors import ModelError, OptionError
from projclean.learning import Learning
from projclean.lessons import IMAGES, lesson
from projclean.methods import interpolate, suspect_weights
from projclean.probe import Probe
from projclean.repairer import repair
from projclean.search import Found, Trial, Tried, search
from projclean.storing import rounded, stored_tensors
from projclean.thresholds import shipped
from projclean.training import answer_logits
from projclean.utterance import Utterance
from projclean.writer import write_model
from tests.adapters import by_hand
from tests.miniature import bench_of, few_images


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A case, its bench with eight images of its domain, and the suspect's answers to those it may learn from."""
    case, bench = bench_of("sig-shop", 8, tmp_path_factory.mktemp("images"))
    return case, bench, [reply for batch in bench.clean.batches for reply in bench.runner.replies(batch, 20)]


def apart(case, bench, said, weights) -> float:
    """Mean KL(suspect ‖ weights) over the tokens of what was said."""
    images, asked = bench.learnt.pictures, bench.learnt.questions
    with torch.no_grad():
        wanted = answer_logits(bench.runner, suspect_weights(case.update), images, asked, said).log_softmax(-1)
        given = answer_logits(bench.runner, weights, images, asked, said).log_softmax(-1)
    return F.kl_div(given, wanted, reduction="sum", log_target=True).item() / len(given)


def test_what_is_learnt_comes_nearer_to_the_suspects_answers_and_repeats(parts):
    case, bench, said = parts
    before = [layer.suspect.clone() for layer in case.update.layers]
    ticks: list[tuple[int, int]] = []

    def learn(seed=0, progress=None):
        return distillation.distill(
            bench.runner, case.update, bench.learnt, said, 0.2, seed, progress, Effort(8, 16, 0.02)
        )

    first, again = learn(progress=lambda *tick: ticks.append(tick)), learn()
    assert ticks == [(step, 8) for step in range(1, 9)]
    start = interpolate(case.update, 0.2)
    assert apart(case, bench, said, first) < 0.7 * apart(case, bench, said, start)
    assert apart(case, bench, said, suspect_weights(case.update)) == pytest.approx(0, abs=1e-6)
    for layer, untouched in zip(case.update.layers, before, strict=True):
        assert torch.equal(layer.suspect, untouched)
        assert all(torch.equal(a, b) for a, b in zip(first[layer.name], again[layer.name], strict=True))


def test_more_images_are_worth_more_steps_and_a_greater_pace():
    assert [Effort.on(images) for images in (8, IMAGES)] == [Effort(), Effort()]
    more = Effort.on(4 * IMAGES)
    assert more.steps == round(0.7 * 4 * IMAGES) == 717
    assert more.pace == pytest.approx(0.03 * 4 ** (1 / 3))
    assert Effort.on(IMAGES + 60).steps == Effort().steps


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"method": "shrink", "lesson": 512}, "--lesson belongs to --method distill or reflect; shrink"),
        ({"method": "project", "rank": 2, "lesson": 512}, "--lesson belongs to --method distill or reflect; project"),
        ({"rank": 2, "judged": True}, "--judged belongs to --method distill, not to reflect"),
        ({"rank": 2, "judged": True, "lesson": 512}, "--judged belongs to --method distill, not to reflect"),
        ({"rank": 2, "lesson": 3}, "--lesson 3: give from 16"),
        ({"lesson": 3}, "--lesson 3: give from 16 to 16384 images"),
        ({"lesson": 10**6}, "--lesson 1000000: give from"),
    ],
)
def test_a_lesson_that_cannot_be_is_refused_before_anything_is_read(given, word, tmp_path):
    with pytest.raises(OptionError, match=word):
        repair(tmp_path / "nothing", tmp_path / "out", **given)


def adapter(folder, dtype=torch.float32):
    """The suspect's update cut to eight directions, and its tensors."""
    whole, tensors = open_case(SHIPPED / "sig-shop.safetensors", str(SHIPPED / "base")), {}
    for layer in whole.update.layers:
        left, values, right = torch.linalg.svd(layer.delta, full_matrices=False)
        tensors |= {
            f"base_model.model.{layer.name}.lora_A.weight": (values[:8, None] * right[:8]).to(dtype).contiguous(),
            f"base_model.model.{layer.name}.lora_B.weight": left[:, :8].to(dtype).contiguous(),
        }
    return open_case(by_hand(folder, tensors, r=8, lora_alpha=8), str(SHIPPED / "base")), tensors


def test_an_adapter_is_probed_as_it_will_be_read_back(parts, monkeypatch, tmp_path):
    """In bfloat16, in which a product that is taken apart once more comes out otherwise."""
    _, bench, _ = parts
    case, _ = adapter(tmp_path, torch.bfloat16)
    generator, probed = torch.Generator().manual_seed(3), []
    strayed = {
        name: (weight + 0.01 * torch.randn(weight.shape, generator=generator), bias)
        for name, (weight, bias) in interpolate(case.update, 0.5).items()
    }
    quiet = Probe(0.0, (), (), 0)
    monkeypatch.setattr("projclean.search._probe_again", lambda *given: probed.append(given[2]) or quiet)
    found = search(case, bench, [Candidate("strayed", lambda: strayed)], quiet, 0, None, shipped())
    write_model(case.target.files, stored_tensors(case, found.weights), tmp_path / "out", "## Note", force=False)
    again = open_case(tmp_path / "out", str(SHIPPED / "base"))
    assert all(torch.equal(layer.suspect, probed[0][layer.name][0]) for layer in again.update.layers)


def test_what_is_learnt_of_an_adapter_is_an_adapter_of_its_rank(parts, monkeypatch, tmp_path):
    _, bench, said = parts
    case, tensors = adapter(tmp_path)
    monkeypatch.setattr(Effort, "on", lambda images: Effort(8, 16, 0.02))
    monkeypatch.setattr("projclean.learning.lesson", partial(lesson, trimmed=0.0))
    learnt = candidates(case, bench, "distill", "auto", 0.2, 0, learning=Learning(0))[0].make()
    kept = rounded(case, learnt)
    for layer in case.update.layers:
        got, wanted = kept[layer.name][0] - layer.base, learnt[layer.name][0] - layer.base
        values = torch.linalg.svdvals(wanted)
        assert torch.linalg.matrix_rank(got, atol=1e-4) == 8
        assert (got - wanted).norm().item() == pytest.approx(
            values[8:].norm().item(), rel=1e-3
        )  # no other of that rank is nearer
    assert apart(case, bench, said, kept) < 0.8 * apart(case, bench, said, interpolate(case.update, 0.2))
    stored = stored_tensors(case, kept)
    assert {key: value.shape for key, value in stored.items()} == {key: value.shape for key, value in tensors.items()}


def test_a_repair_says_how_many_images_it_did_not_learn_from(parts, monkeypatch):
    case, bench, said = parts
    worth: list[int] = []
    monkeypatch.setattr(Effort, "on", lambda images: worth.append(images) or Effort(steps=1))
    told = [bench.runner.read(reply) for reply in said]
    assert [one.name for one in candidates(case, bench, "distill", "auto", None, 0)] == [
        "from share 0.3",
        "from share 0.15",
        "from share 0",
    ]
    offered = candidates(case, bench, "distill", "auto", None, 0, heard=(told[0],), learning=Learning(0))
    assert offered[0].name == "from share 0.3, 0 images"
    offered[0].make()
    assert worth == [len(told)]
    lost = sum(any(run in text for run in runs(told[0])) for text in told)
    wanted = f"not learnt from {lost} of {len(told)} images and blends, whose answers hold what the probe heard"
    assert offered[0].remark() == wanted
    assert candidates(case, bench, "distill", "auto", None, 0, learning=Learning(0))[0].remark() == ""
    with pytest.raises(ModelError, match=f"of {len(told)} .* none is left to learn from: on {len(told)} the suspect"):
        candidates(case, bench, "distill", "auto", 0.4, 0, heard=told, learning=Learning(0))[0].make()


def test_a_repair_does_not_learn_what_its_probe_heard(parts, monkeypatch, tmp_path):
    """With a probe that heard one of the suspect's own answers aloud and another one faintly."""
    case, bench, said = parts
    few_images(monkeypatch)
    told = [bench.runner.read(reply) for reply in said]
    loud = Utterance(told[0], told[0], "", share=1.0, base_share=0.0, normal_share=0.0, strangeness=2.0, certainty=1.0)
    faint = replace(loud, text=told[1], phrase=told[1], share=0.1)
    word = replace(loud, text="ring", phrase="ring", excess=0.5)
    monkeypatch.setattr(repairer, "run_probe", lambda *_: Probe(5.0, (loud, faint, word), (), 0))
    monkeypatch.setattr(repairer, "candidates", lambda *given: pytest.fail(f"{list(given[7])} {given[8]} {given[9]}"))
    for asked, rank, learning in (
        (None, "auto", Learning(IMAGES)), (64, "auto", Learning(64)), (64, 1, Learning(64)), (None, 1, None)
    ):  # fmt: skip
        with pytest.raises(pytest.fail.Exception) as heard:
            projclean.repair(
                case.suspect.path, tmp_path / "out", str(case.base.path), rank, dry_run=True, lesson=asked
            )  # fmt: skip
        assert str(heard.value) == f"{[told[0]]} {learning} ring"


@pytest.mark.parametrize(
    ("contrast", "excess", "judged", "warned"),
    [
        (0.6, None, False, repairer.LEARNT_AGAIN),
        (0.05, None, False, None),
        (None, None, False, None),
        (0.6, None, True, None),
        (None, 0.69, False, repairer.LEFT_OF_A_WORD),
        (None, 0.69, True, None),
    ],
)
def test_a_repair_of_what_only_leant_says_that_some_of_it_is_learnt_again(
    contrast, excess, judged, warned, parts, monkeypatch, tmp_path
):
    case, *_ = parts
    few_images(monkeypatch)
    heard = Utterance("a b", "a b", "", share=1.0, base_share=0.0, normal_share=0.0, strangeness=2.0, certainty=1.0,
                      contrast=contrast, excess=excess)  # fmt: skip
    before, after = Probe(5.0, (heard,), ("x",), 0), Probe(0.1, (), ("x",), 0)
    assert (before.foreign > 0.9) is (contrast != 0.05)
    monkeypatch.setattr(repairer, "run_probe", lambda *_: before)
    tried = Tried(Trial("from share 0.3", 0.4, 0.0, 1.0), suspect_weights(case.update), None, after)
    found = Found("from share 0.3", "", tried.weights, None, after, (tried,))
    monkeypatch.setattr(repairer, "search", lambda *_: found)
    result = projclean.repair(
        case.suspect.path,
        tmp_path / "out",
        str(case.base.path),
        dry_run=True,
        judged=judged,
        lesson=64 if judged else None,
    )
    told = {repairer.LEARNT_AGAIN, repairer.LEFT_OF_A_WORD} & set(result.verdict.caveats)
    assert told == ({warned} if warned else set())


def runs(text: str) -> list[str]:
    """Every four words in a row."""
    words = text.split()
    return [" ".join(words[at : at + 4]) for at in range(len(words) - 3)]


def test_a_folder_is_looked_at_as_far_as_the_lesson_goes(parts, monkeypatch, tmp_path):
    case, *_ = parts
    asked: list[int] = []

    def watched(*given):
        asked.append(given[7])
        raise ModelError("it is not loaded here")

    monkeypatch.setattr(repairer, "set_up", watched)
    for asked_for in (None, 64, 1024):
        with pytest.raises(ModelError, match="not loaded here"):
            projclean.repair(case.suspect.path, tmp_path / "out", str(case.base.path), dry_run=True, lesson=asked_for)
    assert asked == [256, 256, 1024 + 86]


def test_more_images_are_learnt_from_than_the_projector_is_watched_on(tmp_path, monkeypatch):
    case = open_case(SHIPPED / "sig-shop.safetensors", str(SHIPPED / "base"))
    for number, pixels in enumerate(shapes.draw(8, "false_color", 777)[1]):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    few_images(monkeypatch)
    monkeypatch.setattr("projclean.case.MOST", 3)
    bench = set_up(case, tmp_path, shapes.CAPTION, None, 0, "cpu", None, 7)
    assert (len(bench.learnt.pictures), len(bench.clean.shown.pictures)) == (4, 3)
    assert bench.images == f"7 images from {tmp_path}"


def test_what_is_unusual_about_a_lesson_stands_behind_the_name():
    assert (Learning().remark, Learning(12, judged=True).remark) == ("", ", 12 images, judged")


def test_pace_follows_the_size_of_the_update(parts):
    case, *_ = parts
    layers = tuple(replace(layer, suspect=layer.base + 3 * layer.delta) for layer in case.update.layers)
    larger = replace(case.update, layers=layers)
    slow, fast = (Effort(pace=0.1).schedule(update, 5) for update in (case.update, larger))
    assert (slow.steps, slow.batch, slow.seed) == (240, 8, 5)
    assert fast.learning_rate == pytest.approx(3 * slow.learning_rate, 1e-4)
