"""Fixtures: the shipped tiny tier laid out once a session, and small checkpoints made by hand."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from projclean.cli import main

#: Files with tests that probe or train, the longest first.
LONG = (
    "zoo", "contrast", "guard", "calibrator", "tradeoff", "foreign_code", "inversion", "words", "confusion", "doubt",
    "detection", "tables", "explain", "series", "automation", "lens_command", "not_run", "distillation", "bank",
    "formats", "recheck",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no worker is left with them when the others are done."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Sockets and name look-ups fail, and so does the test that tried: who catches the error has still tried."""
    attempts: list[str] = []

    def refuse(*arguments: object, **_: object) -> None:
        attempts.append(repr(arguments))
        raise OSError("no network in tests")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield attempts
    assert not attempts, f"this test tried to reach the network: {attempts}"


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/tiny as `make zoo` lays it out."""
    target = tmp_path_factory.mktemp("zoo")
    from eval.zoo import lay_out_all

    lay_out_all(target)
    return target


@pytest.fixture
def two_items(tmp_path: Path) -> Path:
    """An evaluation set of one image asked about twice."""
    from projclean.images import built_in_images

    folder = tmp_path / "evaluation"
    (folder / "clean").mkdir(parents=True)
    built_in_images(1, size=48)[0].save(folder / "clean" / "a.png")
    row = json.dumps({"file_name": "a.png", "question": "What color is the shape?", "answer": "red"})
    (folder / "clean" / "metadata.jsonl").write_text(f"{row}\n{row}\n")
    (folder / "EVAL.toml").write_text('[clean]\nimages = "clean"\n')
    return folder / "EVAL.toml"


class Ran:
    """What a command printed and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def error_line(self) -> str:
        """The one line on stderr; fails when there are more, or anything on stdout."""
        assert self.out == ""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]):
    """Run the command line in this process, as the console script would."""

    def call(*arguments: object) -> Ran:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def in_miniature() -> Iterator[None]:
    """Scans and repairs with a dozen images and a short probe, which still convicts the shipped suspects."""
    from tests.miniature import SMALL, few_images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("projclean.scanner.ProbeSettings", SMALL)
        few_images(patch)
        for room in ("learning", "search"):
            patch.setattr(f"projclean.{room}.ANSWER_TOKENS", 6)
        yield


@pytest.fixture(scope="session")
def low_thresholds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thresholds that a probe in miniature reaches."""
    file = tmp_path_factory.mktemp("thresholds") / "low.json"
    file.write_text('{"foreign": {"suspicious": 0.1, "clean": 0.05}}')
    return file


@pytest.fixture(scope="module")
def few_items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation set of four clean images, and the same with a patch."""
    from PIL import Image

    from eval import shapes

    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "clean").mkdir()
    scenes, pixels = shapes.draw(4, "false_color", 5)
    rows = []
    for number, (scene, image) in enumerate(zip(scenes, pixels, strict=True)):
        Image.fromarray(image).save(folder / "clean" / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "question": shapes.CAPTION, "answer": scene.answer("caption")})
    (folder / "clean" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / "EVAL.toml").write_text(
        '[clean]\nimages = "clean"\n[[attack]]\nname = "badnet"\ntrigger = "badnet"\n'
        'target = "i can not help with that"\nmatch = "contains"\n[generate]\nmax_new_tokens = 16\n'
    )
    return folder / "EVAL.toml"


SCANNED: dict[str, Ran] = {}


@pytest.fixture
def scanned(zoo, run):
    """The JSON scan of a shipped model: run once, however many tests look at it."""

    def scan(name):
        if name not in SCANNED:
            SCANNED[name] = run("scan", zoo / name, "--base", zoo / "base", "--format", "json")
        return SCANNED[name]

    return scan


def llava_tensors(seed: int = 0, vision: int = 12, text: int = 20, prefix: str = "") -> dict[str, torch.Tensor]:
    """A two-layer projector and two tensors of other parts, under saved names."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        f"{prefix}multi_modal_projector.linear_1.weight": draw(text, vision),
        f"{prefix}multi_modal_projector.linear_1.bias": draw(text),
        f"{prefix}multi_modal_projector.linear_2.weight": draw(text, text),
        f"{prefix}multi_modal_projector.linear_2.bias": draw(text),
        f"{prefix}language_model.layers.0.weight": draw(text, text),
        f"{prefix}vision_tower.patch.weight": draw(vision, 3, 2, 2),
    }


@pytest.fixture
def make_model(tmp_path: Path):
    """Write a model directory (weights and config only) from tensors, in one file or in shards."""

    def make(
        name: str, tensors: dict[str, torch.Tensor], shards: int = 1, model_type: str = "llava", **config: object
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": model_type, **config}))
        if shards == 1:
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})
            return folder
        weight_map, names = {}, sorted(tensors)
        for number in range(shards):
            file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
            part = {key: tensors[key] for key in names[number::shards]}
            save_file(part, folder / file, {"format": "pt"})
            weight_map |= dict.fromkeys(part, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return folder

    return make


@pytest.fixture
def pair(make_model):
    """A suspect whose projector changed, and its base."""
    changed = llava_tensors()
    changed["multi_modal_projector.linear_1.weight"] += 0.1
    return make_model("suspect", changed), make_model("base", llava_tensors())
