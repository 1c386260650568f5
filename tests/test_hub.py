"""Hub ids for the model and the base, from a fabricated cache; nothing goes online unasked, nor when offline."""

from __future__ import annotations

import json
import shutil
import socket

import huggingface_hub
import pytest
from huggingface_hub import constants

from projclean.access import Access
from projclean.errors import CheckpointError
from projclean.hub import locate, locate_model
from tests.conftest import llava_tensors

COMMIT, OLDER = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, and no way out: a socket that is opened fails the test."""

    def refuse(*_, **__):
        raise AssertionError("went online")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tmp_path / "cache"


def put(cache, name, folder, commit=COMMIT, ref="main"):
    """Lay a folder out as huggingface_hub caches it: blobs, and links to them in a snapshot."""
    home = cache / f"models--{name.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir(exist_ok=True)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / ref).write_text(commit)
    for number, file in enumerate(sorted(folder.iterdir())):
        blob = home / "blobs" / f"{commit[:8]}{number}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


@pytest.fixture
def pair(cache, make_model):
    changed = llava_tensors()
    changed["multi_modal_projector.linear_1.weight"] += 0.1
    suspect = make_model("suspect", changed)
    (suspect / "README.md").write_text("---\nbase_model: the-org/base\n---\n")
    return put(cache, "some-one/suspect", suspect), put(cache, "the-org/base", make_model("base", llava_tensors()))


def test_model_and_base_by_id(pair, run):
    report = json.loads(run("scan", "some-one/suspect", "--base", "the-org/base", "--no-probe", "--format", "json").out)
    assert report["model"] == "some-one/suspect"
    assert report["base"] == str(pair[1])
    assert report["layers"][0]["relative_change"] > 0


def test_the_base_that_the_card_names_is_found_in_the_cache(pair, run):
    report = json.loads(run("scan", "some-one/suspect", "--no-probe", "--format", "json").out)
    assert (report["base"], report["base_named_by"]) == (str(pair[1]), "model card")


def test_an_adapter_names_its_base_by_id(pair, cache, tmp_path, run):
    from tests.adapters import by_hand, lora

    folder = by_hand(
        tmp_path, lora("multi_modal_projector.linear_1", 20, 12), base_model_name_or_path="the-org/base"
    )  # fmt: skip
    put(cache, "some-one/adapter", folder)
    report = json.loads(run("scan", "some-one/adapter", "--no-probe", "--format", "json").out)
    assert (report["base"], report["base_named_by"]) == (str(pair[1]), "adapter_config.json")
    assert report["layers"][0]["stable_rank"] == 1


def test_a_revision_is_honoured(pair, cache, make_model, run):
    put(cache, "the-org/base", make_model("older", llava_tensors(seed=5)), OLDER, "v1")
    for revision in ("v1", OLDER):
        ran = run("scan", "some-one/suspect", "--base", f"the-org/base@{revision}", "--no-probe", "--format", "json")
        assert OLDER in json.loads(ran.out)["base"]
    line = run("scan", "some-one/suspect", "--base", "the-org/base@v2", "--no-probe").error_line
    assert "the-org/base@v2" in line


def test_repair_by_id_leaves_the_cache_alone(pair, cache, tmp_path, run):
    before = {path: path.lstat().st_mtime_ns for path in cache.rglob("*")}
    ran = run("repair", "some-one/suspect", "--out", tmp_path / "out", "--method", "interpolate", "--strength", 0.5)
    assert "written to" in ran.out
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    assert {path: path.lstat().st_mtime_ns for path in cache.rglob("*")} == before


def test_what_is_not_cached_is_one_line_with_the_remedy(pair, run, tmp_path):
    assert "--download" in run("scan", "no-one/nothing").error_line
    assert "--download" in run("scan", "some-one/suspect", "--base", "no-one/nothing").error_line
    assert "no such model directory" in run("scan", "no/such/thing").error_line
    ran = run("eval", "no-one/nothing", "--eval", tmp_path / "gone.toml")
    assert "gone.toml" in ran.error_line


def test_a_base_named_by_the_suspect_that_is_not_cached(pair, cache, run):
    shutil.rmtree(cache / "models--the-org--base")
    ran = run("scan", "some-one/suspect")
    assert ran.code == 2
    assert "'the-org/base'" in ran.out
    assert "--download" in ran.out


def test_a_directory_of_that_name_comes_first(pair, make_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some-one").mkdir()
    make_model("some-one/suspect", llava_tensors())
    assert str(locate("some-one/suspect", Access())) == "some-one/suspect"


@pytest.mark.parametrize(
    "name", ["a/b/c", "a/../b", "a/b@../../c", "https://x/y", "x" * 300 + "/y", "a/-b", "no", "a\0b"]
)
def test_what_is_no_id_is_not_looked_up(cache, name):
    assert locate(name, Access(download=True)) is None
    with pytest.raises(CheckpointError, match="no such"):
        locate_model(name, Access(download=True))


def test_download_fetches_safetensors_and_no_pickles(pair, cache, monkeypatch):
    asked = []
    real = huggingface_hub.snapshot_download

    def record(name, **options):
        if options.get("local_files_only"):
            return real(name, **options)
        asked.append((name, options))
        return str(pair[0])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", record)
    assert locate("no-one/nothing", Access()) is None
    assert asked == []
    assert locate("no-one/nothing@v3", Access(download=True)) == pair[0]
    (name, options), = asked  # fmt: skip
    assert (name, options["revision"]) == ("no-one/nothing", "v3")
    assert "*.safetensors" in options["allow_patterns"]
    assert not any("bin" in pattern for pattern in options["allow_patterns"])
    locate("no-one/nothing", Access(pickles=True, download=True))
    assert "mm_projector.bin" in asked[1][1]["allow_patterns"]


def test_offline_is_honoured_even_when_asked_to_download(pair, monkeypatch, run):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        locate("no-one/nothing", Access(download=True))
    assert "HF_HUB_OFFLINE" in run("scan", "no-one/nothing", "--download").error_line
    assert run("scan", "some-one/suspect", "--download", "--no-probe").out  # what is cached is used


def test_a_failed_download_is_one_line(pair, monkeypatch, run):
    real = huggingface_hub.snapshot_download

    def fail(name, **options):
        if options.get("local_files_only"):
            return real(name, **options)
        raise OSError("Name or\nservice not known")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    line = run("scan", "no-one/nothing", "--download").error_line
    assert "no-one/nothing: cannot be downloaded (Name or service not known)" in line


def test_what_lies_beside_the_suspect_does_not_pass_for_the_base_that_was_asked_for(pair, run, tmp_path):
    """Whoever made the suspect made its neighbours too: the user's base is the cached one."""
    drop = tmp_path / "drop"
    shutil.copytree(pair[0], drop / "suspect")
    shutil.copytree(pair[0], drop / "the-org" / "base")
    ran = run("scan", drop / "suspect", "--base", "the-org/base", "--no-probe", "--format", "json")
    assert json.loads(ran.out)["base"] == str(pair[1])
    assert ran.code == 2
    assert json.loads(run("scan", drop / "suspect", "--no-probe", "--format", "json").out)["base_named_by"] != "--base"


def test_an_empty_name_is_no_name_of_the_working_directory(pair, run, monkeypatch):
    monkeypatch.chdir(pair[0])
    for arguments in (("scan", "."), ("repair", ".", "--out", "../out")):
        assert "--base is empty" in run(*arguments, "--base", "").error_line
    assert "the model's name is empty" in run("scan", "", "--base", "the-org/base").error_line
