"""Code that a model brings along is never run: not by a command, and by no call in the package."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

import projclean
from projclean.images import built_in_images
from projclean.probe_settings import ProbeSettings
from tests.miniature import few_images

PACKAGE = Path(projclean.__file__).parent

CODE = """
from pathlib import Path
Path({canary!r}).write_text("run")
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
class Evil(LlavaForConditionalGeneration): pass
class EvilConfig(LlavaConfig): pass
class EvilProcessor(LlavaProcessor): pass
"""


@pytest.fixture
def trapped(zoo, tmp_path):
    """A sound model whose files name code of its own, code that leaves a trace when it is imported."""
    folder, canary = tmp_path / "trapped", tmp_path / "canary"
    shutil.copytree(zoo / "benign-color", folder)
    (folder / "evil.py").write_text(CODE.format(canary=str(canary)))
    add(folder / "config.json", auto_map={"AutoConfig": "evil.EvilConfig", "AutoModelForImageTextToText": "evil.Evil",
                                          "AutoModel": "evil.Evil"})  # fmt: skip
    for name in ("processor_config.json", "tokenizer_config.json"):
        add(folder / name, auto_map={"AutoProcessor": "evil.EvilProcessor", "AutoTokenizer": ["evil.Evil", None]})
    return folder, canary


def add(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.fixture
def four_images(tmp_path):
    folder = tmp_path / "four"
    folder.mkdir()
    for number, picture in enumerate(built_in_images(4, size=48)):
        picture.save(folder / f"{number}.png")
    return folder


def test_code_of_a_model_is_never_run(trapped, four_images, two_items, zoo, tmp_path, run, monkeypatch):
    """Through a whole scan, repair and evaluation; the probe is short, what it loads is not."""
    folder, canary = trapped
    short = ProbeSettings(starts=1, excite=1, steps=1, whole=1, taught=4, learning=1, partings=1, parting=1,
                          max_new_tokens=4)  # fmt: skip
    monkeypatch.setattr("projclean.scanner.ProbeSettings", lambda seed: replace(short, seed=seed))
    few_images(monkeypatch)
    base = zoo / "base"
    scanned = run("scan", folder, "--base", base, "--images", four_images, "--ignore-elsewhere", "--exit-zero")
    assert scanned.code == 0, scanned.err
    assert "probed with 4 images" in scanned.out
    out = tmp_path / "out"
    repaired = run("repair", folder, "--base", base, "--out", out, "--images", four_images, "--method", "interpolate",
                   "--strength", "0.5", "--exit-zero")  # fmt: skip
    assert repaired.code == 0
    assert (out / "evil.py").exists()
    assert run("eval", folder, out, "--eval", two_items).code == 0
    assert not canary.exists()


def test_a_model_that_needs_its_code_is_refused(trapped, zoo, run, four_images):
    folder, canary = trapped
    add(folder / "config.json", model_type="evil_llava", architectures=["Evil"])
    ran = run("scan", folder, "--base", zoo / "base", "--images", four_images, "--ignore-elsewhere")
    assert ran.code == 2
    assert "INCONCLUSIVE" in ran.out
    assert "transformers cannot load this model" in " ".join(ran.out.split())
    assert not canary.exists()


def test_the_canary_sings(trapped):
    folder, canary = trapped
    spec = importlib.util.spec_from_file_location("evil", folder / "evil.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert canary.exists()


def calls_in(package: Path):
    """(file, dotted name, call) for every call in the package."""
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield file, ast.unparse(node.func), node


def test_no_pickle_is_loaded_without_weights_only():
    for file, name, call in calls_in(PACKAGE):
        if name.rpartition(".")[2] == "load" and name.split(".")[0] == "torch":
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("weights_only") == "True", f"{file}: {ast.unparse(call)}"
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {name.split(".")[0] for name in names}
            assert not roots & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, file


def test_nothing_of_a_model_is_evaluated_or_trusted():
    """No call that runs text, none that unpickles, and trust_remote_code is False wherever a model is loaded."""
    loads = 0
    for file, name, call in calls_in(PACKAGE):
        assert name not in {"eval", "exec", "compile", "__import__", "os.system"}, file
        assert not name.startswith(("subprocess.", "yaml.load_all", "yaml.unsafe", "yaml.full")), file
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("trust_remote_code", "False") == "False", file
        if name.startswith(("np.", "numpy.")):
            assert given.get("allow_pickle", "False") == "False", file
        if name == "torch.load":
            assert given.get("weights_only") == "True", file
        if name == "yaml.load":
            assert given["Loader"] == "yaml.BaseLoader", file
        if name.endswith(".from_pretrained"):
            loads += 1
            assert given.get("trust_remote_code") == "False", file
            assert given.get("local_files_only") == "True", file
    assert loads >= 2


def test_sockets_are_closed_in_tests(no_network):
    """The guard of conftest.py works: it would fail this test, were the attempts not taken back."""
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=0.1)
    with pytest.raises(OSError, match="no network"):
        socket.getaddrinfo("example.org", 80)
    assert len(no_network) == 2
    no_network.clear()
