"""How other tools reach the projectors of the same model types. Writes eval/results/projector-peers.json.

    pip install peft && pip download --no-deps mergekit
    python -m eval.peers mergekit-0.1.5-py3-none-any.whl

PEFT is asked for a LoRA on each tiny model, with its default targets and with "all-linear". mergekit's definitions of
architectures are read from its wheel: those that name the projector as a module of its own.
"""

from __future__ import annotations

import json
import zipfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from eval.architectures import architectures, build, layer_parameters

RESULTS = Path(__file__).parent / "results" / "projector-peers.json"
PROJECTOR = "multi_modal_projector"  # mergekit's name for the module


def reached_by_lora(model_type: str, **targets: str) -> tuple[int, int] | None:
    """How many of the projector's weights a LoRA of PEFT lands on, and of how many; None when PEFT has no targets."""
    peft: Any = import_module("peft")
    model = build(model_type)
    wanted = set(layer_parameters(model, model_type))
    try:
        adapted: Any = peft.get_peft_model(model, peft.LoraConfig(r=2, **targets))
    except (ValueError, NotImplementedError):  # no default targets, none of them here, or a model it cannot adapt
        return None
    hit = {f"{module}.weight" for module in adapted.targeted_module_names}
    return len(hit & wanted), len(wanted)


def named_by_mergekit(wheel: Path) -> list[str]:
    """Model types whose projector a definition in mergekit's wheel names."""
    found = []
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("mergekit/_data/architectures/") and name.endswith(".json"):
                definition = json.loads(archive.read(name))
                if PROJECTOR in definition.get("modules", {}):
                    found.append(definition["model_type"])
    return sorted(set(found) & set(architectures()))


@click.command()
@click.argument("wheel", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(wheel: Path) -> None:
    """Count what PEFT and mergekit, by its WHEEL, know of the projectors."""
    default = {name: reached_by_lora(name) for name in architectures()}
    linear = {name: reached_by_lora(name, target_modules="all-linear") for name in architectures()}
    counts = {
        "types": len(architectures()),
        "peft": version("peft"),
        "peft_default_targets": sum(reach is not None for reach in default.values()),
        "peft_default_whole_projector": sum(reach is not None and reach[0] == reach[1] for reach in default.values()),
        "peft_all_linear_whole_projector": sum(reach is not None and reach[0] == reach[1] for reach in linear.values()),
        "peft_all_linear_none": sum(reach is None or reach[0] == 0 for reach in linear.values()),
        "mergekit": wheel.name.split("-")[1],
        "mergekit_named": named_by_mergekit(wheel),
    }
    RESULTS.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(counts, indent=1))


if __name__ == "__main__":
    main()
