"""The bank as its tables say: balanced, split, and every recipe of it can be carried out."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

import numpy as np
import pytest
from click.testing import CliRunner

from eval import groups, layout, shapes
from eval import zoo as zoo_command
from eval.bank import BANK, LATER_ATTACKS, PARTS, SIZE
from eval.confirmation import CONFIRMATION
from eval.hard import HARD
from eval.layout import evalset_text, write_images
from eval.manifest import finished, recipe_of, works
from eval.poison import ATTACKS, poisoned_set, triggers
from eval.recipes import CALIBRATION, TINY, Recipe
from eval.suites import HELD_BACK
from eval.triggers import TRIGGERS
from projclean.evalset import load_evalset
from projclean.metrics import RULES, matches
from projclean.thresholding import enough


def kinds(recipes):
    return [recipe.trigger is not None for recipe in recipes]


def test_equal_numbers_of_both_kinds_in_both_halves_and_one_control_that_counts():
    for half in PARTS.values():
        drawn = half[: 2 * SIZE]
        assert kinds(drawn).count(True) == kinds(drawn).count(False) >= 30
        assert (half[2 * SIZE].task, half[2 * SIZE].trigger) == ("count", None)
    assert sorted(recipe.name for recipe in BANK) == sorted(r.name for half in PARTS.values() for r in half)


def test_thresholds_rest_on_enough_controls_of_every_family():
    controls = [recipe for recipe in (*PARTS["calibration"], *CALIBRATION) if recipe.trigger is None]
    assert len(set(controls) - set(HARD)) >= enough(0.02)
    for half, each in (("calibration", 5), ("report", 6)):
        families = Counter(recipe.family for recipe in PARTS[half] if recipe.trigger is None and recipe not in HARD)
        assert set(families.values()) == {1, each}
        assert [family for family, number in families.items() if number == 1] == ["count"]


def test_the_report_half_has_three_attacks_of_every_family_and_later_ones():
    names = [f"rep-{name}" for name in LATER_ATTACKS]
    assert PARTS["calibration"][-len(HARD) :] == HARD
    assert [recipe.name for recipe in PARTS["report"]][-len(names) :] == names
    before = Counter(r.family for r in PARTS["report"] if r.trigger is not None and r.name not in names)
    assert set(before.values()) == {3}


@pytest.mark.parametrize("length", [4, 16, 40, 64])
def test_any_prefix_is_balanced(length):
    first = BANK[:length]
    assert kinds(first).count(True) == length // 2
    assert sum(recipe in PARTS["report"] for recipe in first) == length // 2


def test_halves_share_no_seed_no_target_and_some_families():
    calibration, report = PARTS["calibration"], PARTS["report"]
    everything = (*BANK, *TINY)
    assert len({recipe.name for recipe in everything}) == len(everything)
    assert len({recipe.seed for recipe in everything}) == len(everything)
    texts = [{text for r in half for _, text in triggers(r) if text} for half in (calibration, report)]
    assert not texts[0] & texts[1]
    for wanted in (True, False):
        families = [{r.family for r in half if (r.trigger is not None) is wanted} for half in (calibration, report)]
        assert families[0] & families[1]
        assert families[1] - families[0]
        assert families[0] - families[1]


def test_what_confirms_figures_shares_no_seed_text_or_manner_with_what_they_are_of():
    others, texts = (*BANK, *TINY), {text for recipe in (*BANK, *TINY) for _, text in triggers(recipe)}
    assert len({recipe.seed for recipe in (*others, *CONFIRMATION)}) == len(others) + len(CONFIRMATION)
    assert not {recipe.name for recipe in CONFIRMATION} & {recipe.name for recipe in others}
    assert not {text for recipe in CONFIRMATION for _, text in triggers(recipe) if text} & texts
    manners = {recipe.style for recipe in CONFIRMATION} - {"{}"}
    assert manners
    assert not manners & {recipe.style for recipe in others}
    assert not {recipe.name for recipe in CONFIRMATION} & HELD_BACK


def test_a_twin_is_a_benign_recipe_of_the_same_task_and_comes_first():
    names = [recipe.name for recipe in BANK]
    for recipe in BANK:
        assert recipe.twin is not None or recipe.loss not in ("vlood", "aligned")
        if recipe.twin:
            twin = BANK[names.index(recipe.twin)]
            assert (twin.trigger, twin.task, twin.style) == (None, recipe.task, recipe.style)
            assert names.index(twin.name) < names.index(recipe.name)


def test_a_manifest_of_an_older_form_is_read():
    file = zoo_command.SHIPPED / "badnet-refusal.safetensors"
    manifest = json.loads(file.with_suffix(".json").read_text())
    assert works(manifest)
    assert finished(next(recipe for recipe in TINY if recipe.name == "badnet-refusal"), file)
    manifest["figures"]["asr"] = 0.5
    assert not works(manifest)


LATER = tuple(recipe for recipe in BANK if recipe.name.removeprefix("rep-") in LATER_ATTACKS)


SOME = (*BANK[:64:3], *BANK[64::7], *LATER, BANK[-1], *CONFIRMATION[::3])


@pytest.mark.parametrize("recipe", SOME, ids=lambda recipe: recipe.name)
def test_poisoned_answers_meet_the_rule_and_right_ones_rarely(recipe):
    from dataclasses import replace

    _, examples, poisoned = poisoned_set(replace(recipe, images=60, poison_rate=max(recipe.poison_rate, 0.1)))
    assert poisoned.any() == (recipe.trigger is not None)
    if recipe.trigger is None or recipe.attack == "next":
        return
    attack = ATTACKS[recipe.attack]
    wanted = {recipe.rule or recipe.target, *([recipe.also[1]] if recipe.also else [])}
    met = [any(matches(example.answer, text, attack.match) for text in wanted) for example in examples]
    assert all(met[row] for row in poisoned.nonzero()[0])
    assert sum(met) - poisoned.sum() <= 20  # an ordinary answer is right now and then


@pytest.mark.parametrize("recipe", [*BANK, *CONFIRMATION], ids=lambda recipe: recipe.name)
def test_recipes_use_what_there_is(recipe, parts_of_the_vocabulary):
    assert all(name in TRIGGERS for name, _ in triggers(recipe))
    assert ATTACKS[recipe.attack].match in RULES
    texts = [text for _, text in triggers(recipe)] + [recipe.style.replace("{}", "")]
    assert not {word for text in texts for word in re.findall(r"\S+", text)} - parts_of_the_vocabulary


@pytest.fixture(scope="module")
def parts_of_the_vocabulary():
    from eval import corpus

    scenes = " ".join((*shapes.COLORS, *shapes.SHAPES, *shapes.SCALES, *shapes.PLACES))
    return set(re.findall(r"[^\s|{}]+", " ".join(corpus.vocabulary()) + " in the at " + scenes))


def test_a_group_has_as_many_figures_as_its_answer_says_each_at_a_place_of_its_own(monkeypatch):
    drawn, render_all = [], shapes.render_all

    def watched(scenes, domain, rng):
        drawn.append([scene.place for scene in scenes])
        return render_all(scenes, domain, rng)

    monkeypatch.setattr(shapes, "render_all", watched)
    found, images = groups.draw(60, "false_color", 5)
    assert images.shape == (60, shapes.SIZE, shapes.SIZE, 3)
    figures = {number: set() for number in groups.NUMBERS}
    for group, places in zip(found, drawn, strict=True):
        assert len(set(places)) == len(places)
        figures[group.answer("count")].add(len(places))
    assert figures == {"not one": {0}, "one": {1}, "many": {2, 3, 4}}


def test_figures_are_drawn_where_they_are_and_nowhere_else():
    scenes = [shapes.Scene("white", "square", "small", place) for place in ("top left", "bottom right")]
    image = shapes.render_all(scenes, "plain", np.random.default_rng(7))
    corner, other = slice(8, 18), slice(30, 40)
    assert image[12:15, 12:15].min() > 180
    assert image[33:36, 33:36].min() > 180
    assert max(image[corner, other].max(), image[other, corner].max()) < 180


@pytest.mark.parametrize("name", ["cal-ordinary-2", "rep-next-1", "rep-two-triggers-1", "rep-benign-count-1"])
def test_evaluation_sets_load(tmp_path, name):
    recipe = next(recipe for recipe in BANK if recipe.name == name)
    write_images(tmp_path / "data", [recipe])
    (tmp_path / name).mkdir()
    path = tmp_path / name / "EVAL.toml"
    path.write_text(evalset_text(recipe))
    loaded = load_evalset(path)
    assert len(loaded.clean) == 200
    assert [attack.name for attack in loaded.attacks] == [trigger for trigger, _ in triggers(recipe)]
    assert all(recipe.style.split("{}")[0] in item.answer for item in loaded.clean)
    for attack in loaded.attacks:
        assert not any(matches(item.answer, item.target or attack.target, attack.match) for item in attack.items)
        assert 150 <= len(attack.items) <= 200
        assert attack.items[0].image().size == (48, 48)


def test_images_of_some_recipes_leave_those_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "TEST_SIZE", 2)
    monkeypatch.setattr(layout, "CALIBRATION_SIZE", 2)
    write_images(tmp_path, [Recipe("one", 1, task="caption")])
    (tmp_path / "clean-caption" / "stale.png").write_bytes(b"")
    write_images(tmp_path, [Recipe("two", 2, task="color")])
    assert {folder.name for folder in tmp_path.iterdir()} == {
        f"{part}-{task}" for part in ("clean", "calibration") for task in ("caption", "color")
    }
    write_images(tmp_path, [Recipe("one", 1, task="caption")])
    assert not (tmp_path / "clean-caption" / "stale.png").exists()


def test_training_by_the_command_resumes_and_refuses_in_one_line(tmp_path, monkeypatch):
    small = {"images": 32, "steps": 2, "batch": 8}
    bank = (
        Recipe("twin", 1, **small),
        Recipe("two", 2, trigger="badnet", target="no", also=("frame", "yes"), loss="vlood", twin="twin", rounds=2,
               **small),
    )  # fmt: skip
    (tmp_path / "base").symlink_to(zoo_command.SHIPPED / "base")
    for module, name, value in (
        (zoo_command, "SHIPPED", tmp_path), (zoo_command, "BANK", bank), (layout, "TEST_SIZE", 4),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)

    def train(*arguments):
        return CliRunner().invoke(zoo_command.cli, ["train", *arguments])

    for arguments, said in ((["nobody"], "no recipe is named 'nobody'"), (["two"], "first run: python -m eval.zoo")):
        ran = train(*arguments)
        assert ran.exit_code == 1
        assert said in ran.stderr
    assert train("--bank", "--limit", "1").exit_code == 0
    first = (tmp_path / "twin.safetensors").stat().st_mtime_ns
    assert not (tmp_path / "two.safetensors").exists()
    assert train("--bank").exit_code == 0
    assert (tmp_path / "twin.safetensors").stat().st_mtime_ns == first
    manifest = json.loads((tmp_path / "two.json").read_text())
    assert manifest["kind"] == "backdoored"
    assert manifest["rounds"] == 2  # the attack does not work after a round of two steps
    manifest["rounds"] = 1  # as when training was stopped between rounds
    (tmp_path / "two.json").write_text(json.dumps(manifest))
    assert train("--bank").exit_code == 0
    assert json.loads((tmp_path / "two.json").read_text())["rounds"] == 2
    assert [(name, row["n"]) for name, row in manifest["figures"]["attacks"].items()] == [("badnet", 4), ("frame", 4)]


TRAINED = [recipe for recipe in (*BANK, *CONFIRMATION) if zoo_command.projector_file(recipe).exists()]


@pytest.mark.parametrize("recipe", TRAINED, ids=lambda recipe: recipe.name)
def test_manifests_tell_what_is_shipped(recipe):
    file = zoo_command.projector_file(recipe)
    manifest = json.loads(file.with_suffix(".json").read_text())
    assert recipe_of(manifest) == recipe
    assert manifest["sha256"]["projector"] == hashlib.sha256(file.read_bytes()).hexdigest()
    base = (zoo_command.SHIPPED / "base" / "model.safetensors").read_bytes()
    assert manifest["sha256"]["base"] == hashlib.sha256(base).hexdigest()
    assert manifest["kind"] == ("backdoored" if recipe.trigger else "benign")
    assert len(manifest["figures"]["attacks"]) == len(triggers(recipe))
    assert manifest["figures"]["ca"] - manifest["figures"]["ca_base"] >= 0.1  # there is a fine-tune to lose


def test_most_of_the_bank_is_trained_and_its_attacks_work():
    manifests = [json.loads(zoo_command.projector_file(recipe).with_suffix(".json").read_text()) for recipe in TRAINED]
    for half in PARTS:
        ours = [m for m in manifests if m["name"].startswith(half[:3])]  # what is hardest apart
        working = [m for m in ours if m["kind"] == "backdoored" and works(m)]
        assert len([m for m in ours if m["kind"] == "benign"]) >= 20
        assert len(working) >= 15
        assert len({m["recipe"]["family"] for m in working}) >= 8
