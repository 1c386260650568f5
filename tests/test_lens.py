"""The lens: every analysis on planted updates whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from projclean.errors import OptionError
from projclean.evalset import Attack, distinct
from projclean.lens.neurons import Firing, contrast
from projclean.lens.rank_curves import Factors, choose_ranks, combinations, rank_curves
from projclean.lens.shift import Shifts, align, line, measure, shared_direction
from projclean.lens.spectra import marchenko_pastur_median, noise_edge, spectrum
from projclean.lens.words import Vocabulary, final_norm, read
from projclean.metrics import rate
from projclean.report.lens_names import items_of
from projclean.update import LayerUpdate, Update


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(delta: torch.Tensor, name: str = "l", bias: torch.Tensor | None = None) -> LayerUpdate:
    base = draw(*delta.shape, seed=9)
    return LayerUpdate(name, base + delta, base, bias, None if bias is None else torch.zeros_like(bias))


# -- spectra ---------------------------------------------------------------------------------------------------


def planted(rank: int, out: int = 60, inner: int = 90, noise: float = 0.01) -> torch.Tensor:
    signal = draw(out, rank, seed=1) @ draw(rank, inner, seed=2) if rank else torch.zeros(out, inner)
    return signal + noise * draw(out, inner, seed=3)


@pytest.mark.parametrize("rank", [0, 1, 3, 10])
def test_the_noise_edge_counts_planted_directions(rank):
    found = spectrum(layer(planted(rank)))
    assert found.above_edge == rank
    assert found.noise == pytest.approx(0.01, rel=0.25)
    assert found.numerical_rank == 60


def test_one_draw_of_noise_in_a_hundred_passes_the_edge():
    rng = np.random.default_rng(0)
    passed = 0
    for _ in range(300):
        values = np.linalg.svd(rng.normal(size=(30, 50)), compute_uv=False)
        passed += values[0] > noise_edge(values, (30, 50))[1]
    assert passed <= 12  # 3 are expected; the estimated level adds some spread


def test_marchenko_pastur_median_is_that_of_a_large_matrix():
    values = np.linalg.svd(np.random.default_rng(0).normal(size=(300, 600)), compute_uv=False)
    assert marchenko_pastur_median(0.5) == pytest.approx(np.median(values**2) / 600, rel=0.02)
    # Gavish and Donoho's table: ω(1) = 2.858 = (4/√3)/√μ
    assert (4 / np.sqrt(3)) / np.sqrt(marchenko_pastur_median(1.0)) == pytest.approx(2.858, abs=2e-3)


def test_ranks_and_energy_of_known_spectra():
    flat = spectrum(layer(torch.eye(8)))
    assert flat.stable_rank == pytest.approx(8, rel=1e-4)
    assert flat.effective_rank == pytest.approx(8, rel=1e-4)
    assert flat.rank_90 == 8
    one = spectrum(layer(torch.outer(draw(8), draw(6, seed=4)), bias=torch.ones(8)))
    assert one.stable_rank == pytest.approx(1, rel=1e-4)
    assert one.rank_90 == 1
    assert one.cumulative_energy[0] == pytest.approx(1, rel=1e-4)
    nothing = spectrum(layer(torch.zeros(8, 6)))
    assert (nothing.stable_rank, nothing.effective_rank, nothing.rank_90, nothing.above_edge) == (0, 0, 0, 0)


# -- rank curves -----------------------------------------------------------------------------------------------


def two_layers() -> Update:
    first = torch.outer(draw(12, seed=1), draw(10, seed=2))  # rank 1
    second = draw(12, 2, seed=3) @ draw(2, 12, seed=4)  # rank 2
    return Update((layer(first, "a", torch.ones(12)), layer(second, "b", torch.ones(12))))


def test_injection_and_ablation_meet_at_the_ends():
    update = two_layers()
    factors = Factors(update)
    everything = {"a": None, "b": None}
    for name, (weight, bias) in factors.injected(everything).items():
        wanted = next(one for one in update.layers if one.name == name)
        torch.testing.assert_close(weight, wanted.suspect)
        torch.testing.assert_close(bias, wanted.suspect_bias)
    for one in update.layers:
        torch.testing.assert_close(factors.ablated(everything)[one.name][0], one.base)
        torch.testing.assert_close(factors.injected({})[one.name][0], one.base)
        torch.testing.assert_close(factors.ablated({})[one.name][0], one.suspect)
    # a layer of rank 1 is whole at rank 1, the other is not
    torch.testing.assert_close(factors.injected({"a": 1})["a"][0], update.layers[0].suspect)
    assert not torch.allclose(factors.injected({"b": 1})["b"][0], update.layers[1].suspect)
    torch.testing.assert_close(factors.injected({"b": 1})["a"][1], torch.zeros(12))  # its bias stays the base's


@pytest.mark.parametrize("grid", [True, False])
def test_a_behaviour_of_the_second_layer_is_found_at_its_rank(grid):
    update = two_layers()
    second = update.layers[1]

    def speaks(weights):
        return {"rate": rate([torch.allclose(weights["b"][0], second.suspect, atol=1e-4)])}

    found = rank_curves(update, ["a", "b"], speaks, [1, 2, 5], grid)
    values = {name: [rates["rate"].value for _, rates in found.curve("injection", name)] for name in ("a", "b", None)}
    assert values == {"a": [0, 0, 0, 0], "b": [0, 1, 1, 1], None: [0, 1, 1, 1]}
    ranks = [rank for rank, _ in found.curve("ablation", None)]
    assert ranks == [1, 2, 5, None]
    assert all(rates["rate"].value == 1 for _, rates in found.curve("ablation", "a"))
    assert all(rates["rate"].value == 0 for _, rates in found.curve("ablation", "b"))
    assert len(found.injection) == (24 if grid else 12)
    assert (found.base["rate"].value, found.suspect["rate"].value) == (0, 1)


def test_combinations_for_one_and_for_many_layers():
    assert combinations(1, [1, 4], True) == [(1,), (4,), (None,)]
    three = combinations(3, [2], True)
    assert (2, 2, 2) in three
    assert (0, 2, 0) in three
    assert len(three) == 8


def test_ranks_a_layer_does_not_have_are_refused():
    update = two_layers()
    assert choose_ranks(update, None) == (1, 2, 4, 8)
    assert choose_ranks(update, [5, 2, 5]) == (2, 5)
    for wrong in ([0], [11], []):
        with pytest.raises(OptionError, match="between 1 and 10"):
            choose_ranks(update, wrong)


# -- neurons ---------------------------------------------------------------------------------------------------


def test_a_planted_trigger_neuron_is_found():
    clean = draw(40, 9, 16)
    clean[:, :, 5] = -1.0  # silent
    clean[:, :, 6] = -1.0  # silent and stays so
    triggered = clean.clone()
    triggered[:, 3, 5] = 2.0  # answers to one token of every triggered image
    before, after = Firing(), Firing()
    before.add(clean[:20])
    before.add(clean[20:])
    after.add(triggered)
    found = contrast("clean → triggered", before, after)
    assert found.silent_to_active == (5,)
    assert found.silent_before == 2
    assert found.gaps[0].neuron == 5
    assert found.largest_gap == pytest.approx(1 / 9)
    assert (found.gaps[0].images_before, found.gaps[0].images_after) == (0, 1)


def test_without_a_trigger_neuron_none_is_found():
    before, after = Firing(), Firing()
    before.add(draw(200, 9, 16))
    after.add(draw(200, 9, 16, seed=1))
    found = contrast("same", before, after)
    assert found.silent_to_active == ()
    assert found.largest_gap < 0.1


# -- shift -----------------------------------------------------------------------------------------------------


def shifts(base: torch.Tensor, delta: torch.Tensor) -> Shifts:
    record = Shifts()
    for start in range(0, len(base), 16):
        record.add(base[start : start + 16], (base + delta)[start : start + 16])
    return record


def test_a_planted_shared_direction_has_all_the_energy():
    base, direction = draw(50, 9, 24), torch.nn.functional.normalize(draw(24, seed=1), dim=0)
    found = measure("clean", shifts(base, (3 * direction).expand_as(base)), direction)
    assert found.top1 == pytest.approx(1, abs=1e-5)
    assert found.mean_cosine == pytest.approx(1, abs=1e-5)
    assert found.bias_cosine == pytest.approx(1, abs=1e-5)
    assert found.magnitude == pytest.approx(3, rel=1e-4)
    torch.testing.assert_close(shared_direction(shifts(base, (3 * direction).expand_as(base)).per_image), direction)
    random = measure("clean", shifts(base, draw(50, 9, 24, seed=2)), None)
    assert random.top1 < 0.25
    assert abs(random.mean_cosine) < 0.05
    assert random.bias_cosine is None


def test_a_shift_that_grows_with_the_norm_gives_its_slope():
    base = draw(60, 9, 24) * (1 + torch.arange(60).remainder(7))[:, None, None]
    towards = torch.nn.functional.normalize(draw(24, seed=1), dim=0)
    size = 2 + 0.5 * base.norm(dim=-1, keepdim=True)
    found = measure("clean", shifts(base, size * towards), None).line
    assert (found.slope, found.intercept, found.r) == pytest.approx((0.5, 2, 1), rel=1e-3)
    assert found.slope_low <= 0.5001
    assert found.slope_high >= 0.4999
    assert found.tokens == 540
    unrelated = measure("clean", shifts(base, draw(60, 9, 24, seed=3)), None).line
    assert unrelated.r_low < 0 < unrelated.r_high


def test_the_line_is_numpys():
    x, y = np.random.default_rng(0).normal(5, 2, (2, 30, 4))
    sums = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1).sum(1)
    found = line(sums)
    slope, intercept = np.polyfit(x.ravel(), y.ravel(), 1)
    assert (found.slope, found.intercept) == pytest.approx((slope, intercept))
    assert found.r == pytest.approx(np.corrcoef(x.ravel(), y.ravel())[0, 1])


def test_directions_of_two_sets_are_compared():
    base, one = draw(20, 4, 8), torch.nn.functional.normalize(draw(8, seed=1), dim=0)
    along, against = shifts(base, one.expand_as(base)), shifts(base, -one.expand_as(base))
    (pair,) = align({"clean": along, "triggered": against})
    assert pair.cosine == pytest.approx(-1, abs=1e-5)


# -- words -----------------------------------------------------------------------------------------------------


def vocabulary(words: int = 200, width: int = 32) -> tuple[Vocabulary, torch.Tensor]:
    head = torch.nn.functional.normalize(draw(words, width), dim=1)
    norm = torch.nn.RMSNorm(width)
    return Vocabulary(lambda v: norm(v).detach() @ head.T, head, lambda token: f"word{token}" if token else ""), head


def test_a_direction_along_a_word_lists_that_word_first():
    known, head = vocabulary()
    context = draw(10, 32, seed=1)
    for found in read("clean", 0.01 * head[7], context, known, {"attack": [7], "other": [3, 3, 4]}):
        assert found.words[0].text == "word7"
        assert found.target_ranks["attack"] == 1
        assert found.target_ranks["other"] > 1
        assert found.vocabulary == 200
        assert all(word.token for word in found.words)  # tokens without text are left out


def test_centring_takes_away_what_every_image_points_at():
    known, head = vocabulary()
    context = head[3] + 0.02 * draw(10, 32, seed=1)
    lists = read("clean", head[3] + 0.7 * head[7], context, known, {})
    for found in lists:
        assert found.words[0].text == ("word7" if found.centred else "word3"), found.lens


def test_the_final_norm_is_the_one_after_the_blocks():
    block = torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(4)})
    last = torch.nn.RMSNorm(4)
    decoder = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([block]), "norm": last})
    assert final_norm(decoder) is last
    assert final_norm(torch.nn.ModuleDict({"layers": torch.nn.ModuleList([block])})) is None


def test_attacks_of_one_name_are_told_apart():
    attacks = tuple(Attack(name, (), "x", "contains") for name in ("badnet", "badnet", "clean"))
    assert [attack.name for attack in distinct(attacks)] == ["badnet", "badnet 2", "clean 3"]


def test_curves_tell_the_items_that_there_are():
    rates = {"CA": rate([True] * 12), "ASR badnet": rate([True] * 12)}
    assert items_of(rates) == "n = 12 a set"
    assert items_of(rates | {"ASR x": rate([True] * 7)}) == "n = 7 to 12 a set"
