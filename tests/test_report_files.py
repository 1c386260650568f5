"""Where a report goes: files, devices, what stdout is, and what is left when writing is refused or interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from projclean.commands.common import check_report_path, emit


def test_report_to_a_file(pair, run, tmp_path):
    suspect, base = pair
    ran = run("scan", suspect, "--base", base, "--no-probe", "--format", "json", "-o", tmp_path / "r.json")
    assert ran.out == ""
    assert json.loads((tmp_path / "r.json").read_text())["verdict"]["state"] == "inconclusive"
    text = run("scan", suspect, "--base", base, "--no-probe", "-o", tmp_path / "r.txt")
    assert text.code == 2
    assert "\x1b" not in (tmp_path / "r.txt").read_text()
    assert "cannot be written" in run("scan", suspect, "--base", base, "-o", tmp_path / "no" / "r").error_line


def test_a_report_into_what_is_no_file(tmp_path):
    """A device and a FIFO are written into and stay; a link stays too, and what it leads to is replaced."""
    for name in ("device", "link to it"):
        device = tmp_path / name
        device.symlink_to("/dev/null")
        check_report_path(str(device))
        emit("text", str(device))
        assert Path("/dev/null").is_char_device()
    os.mkfifo(tmp_path / "fifo")
    check_report_path(str(tmp_path / "fifo"))
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    emit("text", str(tmp_path / "fifo"))
    assert os.read(reader, 9) == b"text\n"
    os.close(reader)
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/r.txt")
    for text in ("first", "second"):
        check_report_path(str(tmp_path / "link"))
        emit(text, str(tmp_path / "link"))
        assert (tmp_path / "there" / "r.txt").read_text() == f"{text}\n"
    assert (tmp_path / "link").is_symlink()
    assert [file.name for file in (tmp_path / "there").iterdir()] == ["r.txt"]


@pytest.mark.skipif(not os.path.lexists("/proc/self/fd"), reason="Linux alone")
def test_a_report_to_what_stdout_is_goes_to_stdout(pair, tmp_path):
    suspect, base = pair
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")  # as /dev/stdout is, which a fault here would replace
    command = "import sys; from projclean.cli import main; main(sys.argv[1:])"
    arguments = ["scan", suspect, "--base", base, "--no-probe", "--format", "json", "-o", tmp_path / "stdout"]
    with (tmp_path / "log").open("w") as log:
        log.write("before\n")
        log.flush()
        subprocess.run([sys.executable, "-c", command, *map(str, arguments)], stdout=log, check=False)
    first, _, rest = (tmp_path / "log").read_text().partition("\n")
    assert first == "before"
    assert json.loads(rest)["kind"] == "scan"


@pytest.mark.parametrize("how", ["long", "loop", "folder", "no access"])
def test_a_report_path_that_cannot_be_looked_at_is_one_line(pair, run, tmp_path, monkeypatch, how):
    (tmp_path / "loop").symlink_to("loop")
    target = {"long": "x" * 300, "loop": "loop", "folder": "suspect", "no access": "locked/r.txt"}[how]
    look = Path.stat

    def stat(self, **options):
        if "locked" in self.parts:
            raise PermissionError(13, "Permission denied")
        return look(self, **options)

    monkeypatch.setattr(Path, "stat", stat)
    ran = run("scan", pair[0], "--base", pair[1], "--no-probe", "-o", tmp_path / target)
    assert ran.code == 2
    assert "cannot be written" in ran.error_line


def test_a_closed_standard_output_is_one_line(pair):
    suspect, base = pair
    words = [sys.executable, "-m", "projclean.cli", "scan", str(suspect), "--base", str(base), "--no-probe", "-q"]
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: standard output is closed; name a file with -o"]


def test_a_report_keeps_the_mode_of_the_file_it_replaces(pair, run, tmp_path):
    suspect, base = pair
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("")
    old.chmod(0o600)
    umask = os.umask(0o027)
    try:
        for file in (old, new):
            run("scan", suspect, "--base", base, "--no-probe", "--format", "json", "-o", file)
    finally:
        os.umask(umask)
    assert [file.stat().st_mode & 0o777 for file in (old, new)] == [0o600, 0o640]


def test_an_interrupt_after_the_model_was_written_says_where_it_is(pair, run, tmp_path, monkeypatch):
    suspect, base = pair

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("projclean.commands.repair.emit", interrupted)
    arguments = ("repair", suspect, "--base", base, "--method", "interpolate", "--strength", "0.5", "--out")
    ran = run(*arguments, tmp_path / "out")
    assert (ran.code, f"the model is at {tmp_path / 'out'}" in ran.error_line) == (2, True)
    assert (tmp_path / "out" / "config.json").exists()
    assert "nothing was written" in run(*arguments, tmp_path / "dry", "--dry-run").error_line
