"""Killed, starved and disturbed repairs leave a complete output or none; the long run is `python -m eval.faults`."""

from __future__ import annotations

from random import Random

import pytest

from eval.faults import calls, changes, disks, kills
from eval.faults.scene import COMPLETE, SMALL, Torn, hash_tree, make_scene
from projclean import staging, writer


def nothing() -> None:
    """No progress bar."""


def test_kill_after_a_random_time(tmp_path):
    found = kills.kills_at_random(tmp_path, Random(1), 6, nothing)
    assert found["kills"] == 6


def test_kill_before_a_system_call(tmp_path):
    """The first run's calls, thinned out: before the first of them and on, all through the run."""
    found = kills.kills_at_every_call(tmp_path, 70, nothing)
    assert found["kills"] >= 10
    assert found["left a hidden directory"] > 0
    assert found["absent"] > 0
    assert found["old"] > 0


def test_writing_that_fails(tmp_path):
    found = disks.failing_calls(tmp_path, 9, nothing)
    assert found["absent"] > 0
    assert found["old"] > 0


def test_limited_file_sizes(tmp_path):
    found = disks.file_size_limits(tmp_path, 5, nothing)
    assert found["absent"] > 0
    assert found["complete"] > 0


def test_full_disk(tmp_path):
    found = disks.full_disks(tmp_path, 5, nothing)
    if not found:
        pytest.skip("this process may not mount")
    assert found["absent"] > 0
    assert found["complete"] > 0


def test_read_only_places(tmp_path):
    assert disks.read_only_places(tmp_path, nothing)["absent"] >= 1


def test_inputs_that_change(tmp_path):
    found = changes.changing_inputs(tmp_path, Random(2), 24, nothing)
    assert found["refused"] > 0
    assert found["finished"] > 0


def test_runs_at_one_output(tmp_path):
    assert kills.runs_at_once(tmp_path, 4, nothing) == {"without": 2, "with --force": 2}


def test_a_disk_too_small_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    scene = make_scene(tmp_path, SMALL)
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(writer.OutputError, match="GB are free"):
        scene.repair(force=False)
    assert not scene.leftovers()


def test_the_suite_notices_an_output_written_in_place(tmp_path, monkeypatch):
    """Against a writer that works where the output is to be, the first kill that matters is noticed."""
    scene = make_scene(tmp_path, SMALL)

    def work_in_place(out):
        out.mkdir(exist_ok=True)
        return staging.contextlib.nullcontext(out)

    monkeypatch.setattr(writer, "check_output", lambda *_: None)
    monkeypatch.setattr(writer, "staging", work_in_place)
    monkeypatch.setattr(writer, "put_in_place", lambda *_: None)
    total = calls.run(lambda: scene.repair(force=True), None, nothing)
    assert scene.state() == COMPLETE
    import shutil

    shutil.rmtree(scene.out)
    with pytest.raises(RuntimeError, match="stopped"):
        calls.run(lambda: scene.repair(force=True), total // 2, stop)
    with pytest.raises(Torn):
        scene.state()
    assert hash_tree(scene.source.path) == scene.source_hash


def stop() -> None:
    raise RuntimeError("stopped")
