"""Every format of every report: well formed, the same twice, narrow, and unharmed by hostile text."""

from __future__ import annotations

import html.parser
import json
import os
import pty
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from projclean import report
from projclean.metrics import paired_difference
from projclean.printable import printable
from projclean.report import FORMATS, render
from projclean.report.places import place
from projclean.report.saved import schema
from tests.samples import (
    HOSTILE,
    RESULTS,
    eval_result,
    repair_result,
    scan_result,
    score,
)

EVERY = pytest.mark.parametrize("name", RESULTS)


@EVERY
@pytest.mark.parametrize("form", FORMATS)
def test_nothing_can_reach_a_terminal_and_the_same_result_reads_the_same(name, form):
    document = render(RESULTS[name](), form, plain=True)
    assert document == render(RESULTS[name](), form, plain=True)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", document)
    document.encode("utf-8")


@EVERY
@pytest.mark.parametrize("columns", [60, 80])
def test_text_fits_the_terminal(name, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = render(RESULTS[name](), "text").splitlines()
    assert max(map(len, lines)) <= columns
    assert all(line == line.rstrip() for line in lines)


def test_narrow_text_loses_nothing(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    narrow = render(scan_result("you have been hacked by somebody"), "text")
    assert "\nyou have been hacked by somebody\n" in narrow
    assert "score 0.75" in narrow
    assert "…" not in narrow + render(repair_result(), "text")


def test_every_figure_of_an_evaluation_has_its_interval_where_there_is_room(monkeypatch):
    result = repair_result()
    written = {form: render(result, form) for form in ("markdown", "html")}
    monkeypatch.setenv("COLUMNS", "120")
    for document in (*written.values(), render(result, "text")):
        assert "0.01 [0.00, 0.05]" in document  # ASR
        assert "0.00 [0.00, 0.03]" in document  # RA, and the base's ASR
        assert re.search(r"92% \[8\d%, 9\d%\]", document)  # gain retained
    asr = paired_difference(result.scores[1].attacks[0].hits, result.scores[2].attacks[0].hits)
    for document in written.values():
        assert f"{asr.value:+.2f} [{asr.low:+.2f}, {asr.high:+.2f}]" in document
        assert f"{asr.p:.2g}" in document
    monkeypatch.setenv("COLUMNS", "80")
    narrow = render(result, "text")
    assert "0.00 [0.00, 0.03]  0.00 " in narrow
    assert re.search(r" 92%$", narrow, re.M)


def test_an_attack_that_counts_fewer_items_says_so():
    result = eval_result()
    assert "n = 120 a set, 95 % intervals in brackets, greedy answers up to 16 tokens" in render(result, "text")
    fewer = tuple(replace(one, attacks=score(one.model, 0, 1, n=7).attacks) for one in result.scores)
    assert "n = 120 clean, 7 of badnet" in render(replace(result, scores=fewer), "text")


def test_text_keeps_markup_as_text():
    assert "[bold red]b[/]" in render(scan_result(HOSTILE), "text").replace("\n", " ")


# JSON


def closed(part):
    """The schema with every object closed: a field that it does not describe is an error."""
    if isinstance(part, list):
        return [closed(item) for item in part]
    if not isinstance(part, dict):
        return part
    part = {key: closed(value) for key, value in part.items()}
    if "properties" in part and "$defs" not in part and "const" not in part["properties"].get("kind", {}):
        part.setdefault("additionalProperties", False)
    return part


@EVERY
def test_json_is_as_the_schema_says_and_the_schema_tells_every_field(name):
    from jsonschema import Draft202012Validator

    document = json.loads(render(RESULTS[name](), "json"))
    Draft202012Validator.check_schema(schema())
    Draft202012Validator(schema(), format_checker=Draft202012Validator.FORMAT_CHECKER).validate(document)
    kind = closed(schema()["$defs"])[document["kind"]]
    own = {key: value for key, value in document.items() if key not in ("schema_version", "kind", "versions")}
    Draft202012Validator(kind | {"$defs": closed(schema()["$defs"])}).validate(own)


def test_schema_refuses_what_is_not_a_report():
    from jsonschema import Draft202012Validator

    check = Draft202012Validator(schema())
    good = json.loads(render(scan_result(), "json"))
    assert check.is_valid(good)
    bad_state = good | {"verdict": good["verdict"] | {"state": "fine"}}
    missing = {key: value for key, value in good.items() if key != "probe"}
    for bad in ([], {}, good | {"kind": "poem"}, good | {"schema_version": 2}, bad_state, missing):
        assert not check.is_valid(bad)


def test_json_keeps_hostile_strings_as_they_are():
    document = json.loads(render(scan_result(HOSTILE), "json"))
    assert document["probe"]["utterances"][0]["text"] == HOSTILE


# SARIF

# Markdown and HTML


class Tags(html.parser.HTMLParser):
    """What a page is made of: tags with their attributes, and its text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@EVERY
def test_markdown_is_only_what_we_wrote(name):
    from markdown_it import MarkdownIt

    document = render(RESULTS[name](), "markdown")
    page = Tags(MarkdownIt("commonmark", {"html": True}).enable("table").render(document))
    allowed = {"h2", "p", "ul", "li", "strong", "code", "table", "thead", "tbody", "tr", "th", "td"}
    assert {tag for tag, _ in page.tags} <= allowed
    assert len(page.named("h2")) == 1
    outside = re.sub(r"<code>.*?</code>", "", document)
    assert "@everyone" not in outside
    assert "http://" not in outside
    if name == "scan-hostile":
        assert printable(HOSTILE).split("{{")[0] in page.text
        rows = [len(re.findall(r"(?<!\\)\|", line)) for line in document.splitlines() if line.startswith("| ")]
        assert rows == [7] * 4 + [6] * 3


@EVERY
def test_html_is_one_page_that_asks_for_nothing(name):
    page = Tags(render(RESULTS[name](), "html"))
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "iframe", "img", "object", "embed", "form", "input"}
    for _, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("src", "href", "xlink:href", "action"):
            assert not attributes.get(key) or attributes[key].startswith(("#", "data:"))
    assert page.named("html")[0]["lang"] == "en"
    assert {"header", "main", "footer", "h1"} <= names
    assert all(attributes["scope"] in ("col", "row") for attributes in page.named("th"))
    assert len(page.named("caption")) == len(page.named("table"))
    for svg in page.named("svg"):
        assert svg["role"] == "img"
        assert len(svg["aria-label"]) > 40
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert bool(page.named("svg")) == (name not in ("no-base", "no-base-hostile", "quiet", "series", "series-hostile"))
    assert bool(page.named("table")) == ("no-base" not in name)
    assert "url(http" not in page.text


def test_html_shows_what_was_found():
    text = Tags(render(scan_result(), "html")).text
    for expected in ("SUSPICIOUS", "you have been hacked", "multi_modal_projector.linear_1", "models/base"):
        assert expected in text
    text = Tags(render(repair_result(), "html")).text
    for expected in ("rank 2 ← chosen", "interpolation 0.9", "models/repaired", "does not prove", "What was tried"):
        assert expected in text


def test_html_without_matplotlib_says_what_to_install_before_any_work(run, monkeypatch):
    monkeypatch.setattr(report, "find_spec", lambda _: None)
    for command in (["scan", "no-such-model"], ["eval", "no-such-model", "--eval", "no.toml"]):
        ran = run(*command, "--format", "html")
        assert ran.code == 2
        assert "pip install 'projclean[html]'" in ran.error_line


def test_unknown_things_are_refused():
    with pytest.raises(ValueError, match="unknown format"):
        render(scan_result(), "poem")
    for form in FORMATS:
        if form != "json":
            with pytest.raises(TypeError):
                render({"not": "a result"}, form)


def test_a_hub_snapshot_is_named_not_located():
    path = "/home/me/.cache/huggingface/hub/models--llava-hf--llava-1.5-7b-hf/snapshots/0123456789abcdef"
    assert place(path) == "llava-hf/llava-1.5-7b-hf (revision 0123456)"
    assert place("models/base") == "models/base"


# Through the command line


@pytest.mark.parametrize("form", FORMATS)
def test_a_report_file_is_there_whole_or_not_at_all(pair, run, tmp_path, form):
    suspect, base = pair
    out = tmp_path / "reports"
    out.mkdir()
    ran = run("scan", suspect, "--base", base, "--no-probe", "--format", form, "-o", out / "r")
    assert (ran.code, ran.out) == (2, "")
    assert [file.name for file in out.iterdir()] == ["r"]
    (out / "r").write_text("before")
    out.chmod(0o500)
    try:
        if not os.access(out, os.W_OK):  # root writes anyway
            assert run("scan", suspect, "--base", base, "--no-probe", "--format", form, "-o", out / "r").code == 2
            assert (out / "r").read_text() == "before"
    finally:
        out.chmod(0o700)


def test_pipes_and_narrow_terminals_get_clean_output(pair):
    suspect, base = pair
    scan = [sys.executable, "-m", "projclean.cli", "scan", str(suspect), "--base", str(base), "--no-probe", "-q"]
    piped = subprocess.run(
        [*scan, "--format", "json"], capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert piped.stderr == b""
    tool = subprocess.run([sys.executable, "-m", "json.tool"], input=piped.stdout, capture_output=True, check=True)
    assert json.loads(tool.stdout) == json.loads(piped.stdout)
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        scan,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "60", "TERM": "xterm-256color"},
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            block = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        seen += block
    os.close(ours)
    assert child.wait() == 2
    text = seen.decode().replace("\r\n", "\n")
    assert "INCONCLUSIVE" in text
    assert "\x1b" not in text
    assert max(map(len, text.split("\n"))) <= 60


def test_what_was_said_stays_in_its_place_in_a_picture():
    """A text that looks like the style of a picture must not be taken for it."""
    page = render(scan_result("say font: 'now"), "html")
    assert "font: &#39;now" in page or "font: 'now" in page
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(picture.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))
