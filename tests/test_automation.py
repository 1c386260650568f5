"""What runs projclean for others: the GitHub Action, the pre-commit hook, shell completion, and every example."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from projclean import cli
from projclean.report import FORMATS
from projclean.report.saved import schema
from tests.conftest import llava_tensors

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))


def command(name):
    found = cli.cli.get_command(click.Context(cli.cli), name)
    assert found is not None, name
    return found


def options(name):
    return {flag for parameter in command(name).params for flag in parameter.opts + parameter.secondary_opts}


def parse(line):
    """Parse a command line as click would, without running it."""
    words = shlex.split(line, comments=True)
    for stop in ("|", ">", "&&"):
        words = words[: words.index(stop)] if stop in words else words
    program, name, *arguments = words
    assert program == "projclean"
    if name not in ("--help", "--version"):
        command(name).make_context(name, arguments)


@pytest.fixture(scope="module")
def action():
    return yaml.safe_load((ROOT / "action.yml").read_text())


def test_action_names_only_inputs_and_options_that_exist(action):
    steps = action["runs"]["steps"]
    assert action["runs"]["using"] == "composite"
    assert all(step["shell"] == "bash" for step in steps)
    assert all(entry["description"] for entry in [*action["inputs"].values(), *action["outputs"].values()])
    used = set(re.findall(r"\$\{\{ inputs\.([\w-]+) \}\}", (ROOT / "action.yml").read_text()))
    assert used == set(action["inputs"])
    scan = next(step for step in steps if step.get("id") == "scan")
    assert "${{" not in "".join(step["run"] for step in steps)  # no input is ever part of a script
    assert set(re.findall(r"--[a-z][a-z-]+", scan["run"])) <= options("scan")
    assert action["inputs"]["format"]["default"] in FORMATS
    assert set(re.findall(r"steps\.scan\.outputs\.([\w-]+)", str(action["outputs"]))) == set(action["outputs"])
    assert all(f"{name}=" in scan["run"] for name in action["outputs"])


@pytest.fixture
def act(action, tmp_path):
    """Run the action's scan step as the runner would."""
    shim = tmp_path / "bin" / "projclean"
    shim.parent.mkdir()
    shim.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -m projclean.cli "$@"\n'
    )
    shim.chmod(0o755)
    scan = next(step for step in action["runs"]["steps"] if step.get("id") == "scan")

    def run(**inputs):
        names = {name: f"${{{{ inputs.{name} }}}}" for name in action["inputs"]}
        values = {
            name: str(inputs.get(name.replace("-", "_"), action["inputs"][name].get("default", ""))) for name in names
        }
        env = {key: next(values[name] for name in names if names[name] == value) for key, value in scan["env"].items()}
        env |= {"PATH": f"{shim.parent}:/usr/bin:/bin", "GITHUB_OUTPUT": str(tmp_path / "out"), "HOME": str(tmp_path)}
        (tmp_path / "out").write_text("")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", scan["run"]], env=env, cwd=tmp_path,
            capture_output=True, text=True,
        )  # fmt: skip
        return done, dict(line.split("=", 1) for line in (tmp_path / "out").read_text().splitlines())

    return run


def test_action_gates_and_leaves_its_report(act, make_model, tmp_path):
    model = make_model("a model", llava_tensors())
    done, out = act(model=model, output="my report.sarif")
    assert done.returncode == 2, done.stderr  # no base: inconclusive
    assert out == {"report": "my report.sarif", "exit-code": "2"}
    assert '"exitCode": 2' in (tmp_path / "my report.sarif").read_text()
    for mildest in ("suspicious", "never"):
        done, out = act(model=model, output="my report.sarif", fail_on=mildest)
        assert (done.returncode, out["exit-code"]) == (0, "2"), done.stderr  # let pass, and told all the same
    (tmp_path / "taken").mkdir()
    done, out = act(model=model, output="taken", fail_on="never")
    assert (done.returncode, out) == (2, {"exit-code": "2"})
    assert act(model=model, fail_on="maybe")[0].returncode == 2
    done, out = act(model=model, base=model, output="my report.sarif", fail_on="suspicious", format="markdown")
    assert (done.returncode, out["exit-code"]) == (0, "0"), done.stderr
    assert "**CLEAN**" in (tmp_path / "my report.sarif").read_text()
    (tmp_path / "own.json").write_text('{"foreign": {"suspicious": 0.9, "clean": 0.8}}')
    done, out = act(model=model, base=model, format="json", thresholds="own.json", fail_on="suspicious")
    assert (done.returncode, out["exit-code"]) == (0, "0"), done.stderr
    assert json.loads((tmp_path / "projclean-report").read_text())["thresholds"]["suspicious"] == 0.9


def test_action_does_not_run_its_inputs_nor_pass_on_an_old_report(act, tmp_path):
    (tmp_path / "projclean-report").write_text("old")
    done, out = act(model='$(touch owned); "; touch owned; --exit-zero', fail_on="never")
    assert done.returncode == 2
    assert out == {"exit-code": "2"}
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "projclean-report").exists()


def test_example_workflow_uses_the_action_as_it_is(action):
    workflow = yaml.safe_load((ROOT / "docs/examples/scan.yml").read_text())
    step = next(step for step in workflow["jobs"]["projclean"]["steps"] if step.get("id") == "projclean")
    assert set(step["with"]) <= set(action["inputs"])
    assert step["with"]["format"] in FORMATS
    named = set(re.findall(r"steps\.projclean\.outputs\.([\w-]+)", str(workflow)))
    assert named <= set(action["outputs"])


def test_pre_commit_hook_is_a_command_that_exists():
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["pass_filenames"] is False
    assert re.search(hook["files"], "models/suspect/model-00001-of-00002.safetensors")
    parse(hook["entry"] + " models/suspect --base models/base")
    shown = re.search(r"args: \[(.*)\]", (ROOT / "docs/automation.md").read_text())
    parse(hook["entry"] + " " + shown[1].replace(",", ""))


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_help_with_an_example_that_parses(name, run):
    shown = run(name, "--help").out
    assert all(parameter.help for parameter in command(name).params if isinstance(parameter, click.Option))
    example = re.sub(r"\\\n\s*", "", shown.split("Example:")[1])  # lines that go on
    lines = re.findall(r"^ +(projclean .*)$", example, re.MULTILINE)
    assert any(line.startswith(f"projclean {name} ") for line in lines)
    for line in lines:
        parse(line)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_every_command_in_the_documentation_parses(page):
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("projclean "):
                parse(line)


def test_every_field_of_the_json_reports_is_in_the_documentation():
    page = (ROOT / "docs/formats.md").read_text()
    fields = set(schema()["properties"]) | {
        name for kind in ("scan", "series", "repair", "eval") for name in schema()["$defs"][kind]["properties"]
    }
    assert {name for name in fields if f"`{name}`" not in page} == set()


def test_documentation_links_and_navigation_lead_somewhere():
    listed = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed)) > 5
    for name in listed:
        text = (ROOT / "docs" / name).read_text()
        for target in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (ROOT / "docs" / target).exists(), f"{name}: {target}"


def test_completion_is_quick_and_knows_commands_options_values_and_paths(tmp_path):
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('heavy', {'torch', 'transformers', 'numpy'} & set(sys.modules)))\n"
        "sys.argv[0] = 'projclean'; from projclean.cli import main; main()"
    )

    def complete(words, instruction="bash_complete"):
        env = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1), "_PROJCLEAN_COMPLETE": instruction,
               "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=tmp_path)
        lines = done.stdout.splitlines()
        assert lines.pop() == "heavy set()", done.stdout + done.stderr
        return lines

    assert "_projclean_completion" in "\n".join(complete("projclean", "bash_source"))
    assert complete("projclean ") == [f"plain,{name}" for name in cli.COMMANDS]
    assert complete("projclean scan --fo") == ["plain,--format"]
    assert complete("projclean scan --format h") == ["plain,html"]
    assert complete("projclean scan mod") == ["file,mod"]
