"""What turning around costs, learnt again: nearer to the suspect's answers, and what was turned stays."""

import pytest
import torch
from torch.nn import functional as F

from projclean import recovery
from projclean.candidates import candidates
from projclean.distillation import Effort
from projclean.imitation import imitation
from projclean.learning import Learning
from projclean.methods import reflect, suspect_weights, suspicious_directions
from projclean.recovery import effort_on, recover
from projclean.training import answer_logits
from tests.miniature import bench_of


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A case, its bench with eight images of its domain, and the suspect's answers to those it may learn from."""
    case, bench = bench_of("sig-shop", 8, tmp_path_factory.mktemp("images"))
    return case, bench, [reply for batch in bench.clean.batches for reply in bench.runner.replies(batch, 20)]


def test_what_turning_cost_is_learnt_again_and_what_was_turned_stays(parts):
    case, bench, said = parts
    runner, update, shown = bench.runner, case.update, bench.learnt
    held = suspicious_directions(update, bench.clean.moments, 2)
    turned = reflect(update, held, 0.6)

    def apart(weights) -> float:
        with torch.no_grad():
            wanted, given = (
                answer_logits(runner, each, shown.pictures, shown.questions, said).log_softmax(-1)
                for each in (suspect_weights(update), weights)
            )
        return F.kl_div(given, wanted, reduction="batchmean", log_target=True).item()

    found = recover(runner, update, shown, said, turned, held, effort=Effort(12, 8, 0.03))
    assert apart(found) < 0.8 * apart(turned)
    for name, directions in held.items():
        start, end = turned[name][0], found[name][0]
        assert (end - start).norm() > 1e-3
        assert torch.allclose(end @ directions, start @ directions, atol=1e-5)


def test_what_the_turned_model_does_not_believe_is_not_learnt(parts):
    """Of the suspect's answers the judge leaves less to learn than they say."""
    case, bench, said = parts
    runner, update, shown = bench.runner, case.update, bench.learnt
    held = suspicious_directions(update, bench.clean.moments, 2)
    turned = reflect(update, held, 0.6)
    rows = range(len(said))
    with torch.no_grad():
        plain, judged = (
            sum(part.item() for part in imitation(runner, update, shown, said, 8, judge)(turned, rows))
            for judge in (None, turned)
        )
    assert 0 < judged < plain


def test_the_turned_model_is_the_judge(parts, monkeypatch):
    case, bench, said = parts
    held = suspicious_directions(case.update, bench.clean.moments, 1)
    turned, asked = reflect(case.update, held, 0.9), []

    def watched(*given):
        asked.append(given[5])
        return imitation(*given)

    monkeypatch.setattr(recovery, "imitation", watched)
    recover(bench.runner, case.update, bench.learnt, said, turned, held, effort=Effort(1, 4, 0.05))
    assert len(asked) == 1
    assert asked[0] is turned


def test_a_step_for_four_images():
    assert [effort_on(images).steps for images in (2, 256, 1000)] == [1, 64, 250]


def test_reflect_learns_only_where_a_lesson_is_asked_for(parts, monkeypatch):
    case, bench, _ = parts
    plain = candidates(case, bench, "reflect", 1, 0.9, 0)
    assert [one.name for one in plain] == ["rank 1, keep 0.9"]
    monkeypatch.setattr("projclean.learning.effort_on", lambda images: Effort(1, 4, 0.05))
    (again,) = candidates(case, bench, "reflect", 1, 0.9, 0, learning=Learning(12))
    assert again.name == "rank 1, keep 0.9, learnt again, 12 images"
    turned, learnt = plain[0].make(), again.make()
    top = suspicious_directions(case.update, bench.clean.moments, 1)
    for name, directions in top.items():
        assert not torch.equal(turned[name][0], learnt[name][0])
        assert torch.allclose(turned[name][0] @ directions, learnt[name][0] @ directions, atol=1e-5)


def test_every_rank_and_share_of_a_search_is_learnt_again_from_one_lesson(parts):
    case, bench, _ = parts
    offered = candidates(case, bench, "reflect", "auto", None, 0, learning=Learning())
    assert [one.name for one in offered[:2]] == ["rank 1, keep 0.75, learnt again", "rank 1, keep 0.65, learnt again"]
    assert len({id(one.remark.__self__) for one in offered}) == 1
