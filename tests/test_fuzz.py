"""Hostile inputs end in a result or in a documented error; the long run is `python -m eval.fuzz`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.fuzz import inputs, many
from eval.fuzz.one import RESULT, scan_and_render, try_input
from projclean.checkpoint import INDEX, SINGLE, open_checkpoint, read_tensor
from projclean.errors import CheckpointError, ProjcleanError
from projclean.printable import error_line, printable

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F4", "U8", "F128"]),
        "shape": st.lists(st.integers(-1, 6) | st.integers(), max_size=3),
        "data_offsets": st.lists(st.integers(-1, 64) | st.integers(), max_size=3),
    }
)
HEADERS = st.dictionaries(st.text() | st.just("a.weight"), FIELDS | JSON, max_size=4)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("kind", list(inputs.KINDS))
def test_a_sample_of_every_kind(kind, place):
    for number in range(30):
        assert try_input(kind, f"ci:{number}", place / "at")[0] in {RESULT, *many.DOCUMENTED}


def test_a_campaign():
    """Forked and watched: some inputs get through, some are refused, nothing else happens."""
    tally = many.campaign(90, 5, 1, list(inputs.KINDS))
    assert tally.failures == []
    assert tally.total([RESULT]) > 10
    assert tally.total(many.DOCUMENTED) > 10
    assert tally.total(many.OUTCOMES) == 90
    assert tally.written > 0
    assert tally.by_command_line > 0


@QUICK
@given(HEADERS, st.integers(0, 80))
def test_any_header(place, value, size):
    """Refused in one line, or read in full and as the format's own library reads it."""
    from safetensors import safe_open

    file = place / "any.safetensors"
    file.write_bytes(inputs.packed(value, bytes(size)))
    try:
        checkpoint = open_checkpoint(file)
    except CheckpointError as error:
        check_message(error)
        return
    with safe_open(file, framework="pt") as handle:
        assert set(handle.keys()) == set(checkpoint.tensors)
        for name, entry in checkpoint.tensors.items():
            assert tuple(handle.get_slice(name).get_shape()) == entry.shape
            assert read_tensor(checkpoint, name).nbytes == entry.place.stop - entry.place.start


@QUICK
@given(JSON)
def test_any_config(place, value):
    refused_or_scanned(place, inputs.good_files(1), "config.json", value)


@QUICK
@given(st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(), st.text() | st.just(SINGLE))}) | JSON)
def test_any_index(place, value):
    refused_or_scanned(place, inputs.good_files(3), INDEX, value)


@QUICK
@given(st.fixed_dictionaries({"base_model_name_or_path": JSON | st.text()}) | JSON)
def test_any_adapter_config(place, value):
    refused_or_scanned(place, inputs.good_files(1), "adapter_config.json", value)


@QUICK
@given(st.text() | st.binary())
def test_any_model_card(place, text):
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    refused_or_scanned(place, inputs.good_files(1), "README.md", b"---\nbase_model: " + data + b"\n---\n")


def refused_or_scanned(place: Path, files: dict[str, bytes], name: str, value: object) -> None:
    folder = place / "any"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    inputs.write(folder, files | {name: value if isinstance(value, bytes) else json.dumps(value).encode()})
    try:
        scan_and_render(folder, None, "text")
    except ProjcleanError as error:
        check_message(error)


def check_message(error: ProjcleanError) -> None:
    line = error_line(str(error))
    assert line
    assert "\n" not in line
    assert all(char.isprintable() or char.isspace() for char in line)


@QUICK
@given(st.text())
def test_printable_text_prints(text):
    assert all(char.isprintable() or char.isspace() for char in printable(text))
    assert printable(printable(text)) == printable(text)
    printable(text).encode("utf-8")
    assert len(error_line(text * 50).splitlines()) <= 1


def test_the_harness_sees_crashes_hangs_and_memory(monkeypatch):
    """A campaign against a program that breaks every promise: each break is counted, and the rest goes on."""
    monkeypatch.setattr(many, "SECONDS_LIMIT", 1.0)
    monkeypatch.setattr(many, "WAITING_LIMIT", 2.0)
    by_kind = {
        "header": broken_by_error,
        "index": broken_by_death,
        "config": broken_by_hang,
        "adapter": broken_by_memory,
    }

    def feed(kind, seed, workplace):
        by_kind[kind](seed)
        return RESULT, False, False

    tally = many.campaign(8, 3, 1, list(by_kind), feed=feed)
    assert {kind: dict(counter) for kind, counter in tally.counts.items()} == {
        "header": {"crash": 1, "result": 1},
        "index": {"crash": 1, "result": 1},
        "config": {"hang": 1, "result": 1},
        "adapter": {"crash": 1, "result": 1},
    }
    assert len(tally.failures) == 4


def first_round(seed: str) -> bool:
    return int(seed.partition(":")[2]) < 4


def broken_by_error(seed: str) -> None:
    if first_round(seed):
        raise KeyError("not documented")


def broken_by_death(seed: str) -> None:
    if first_round(seed):
        os.kill(os.getpid(), 9)


def broken_by_hang(seed: str) -> None:
    if first_round(seed):
        time.sleep(60)


def broken_by_memory(seed: str) -> None:
    if first_round(seed):
        bytearray(many.MEMORY_LIMIT + (1 << 28))
