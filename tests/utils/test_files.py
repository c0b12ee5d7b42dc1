"""Files that others read meanwhile: links, file systems without locks, two processes, odd text."""

import errno
import fcntl
import json
import os
import stat
from pathlib import Path

import pytest

from adafv.utils.files import (
    Lines,
    UnlockedWarning,
    atomic,
    check_own,
    check_unread,
    write_text,
)
from adafv.utils.records import RunLog, write_json


def test_a_link_stays_one(tmp_path):
    """What it leads to is replaced, and the file beside which the temporary one stands is that."""
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "out.jsonl"
    target.write_text('{"id": 1}\n')
    link = tmp_path / "out.jsonl"
    link.symlink_to(target)
    with Lines(link, "another OUT") as lines:
        lines.rewrite([{"id": 2}])
        lines.append([{"id": 3}])
    assert link.is_symlink()
    assert target.read_text() == '{"id": 2}\n{"id": 3}\n'
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"rows": [{"a": 1}]}'])
def test_what_another_command_has_written_is_not_overwritten(tmp_path, content):
    """Nor what no command can have written."""
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="would overwrite it: pass another --out"):
        check_own(path, ["b"], "adafv eval")


@pytest.mark.parametrize("content", ["", "[" * 100_000])
def test_a_damaged_log_is_named(tmp_path, content):
    """Its settings, and a line of it."""
    log = tmp_path / "answers.jsonl"
    RunLog(log, {"seed": 0}).close()
    log.write_text(content + "\n")
    with pytest.raises(ValueError, match="is damaged in line 1: delete that line"):
        RunLog(log, {"seed": 0})
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(ValueError, match=r"settings\.json is damaged: pass another --out"):
        RunLog(log, {"seed": 0})


def test_temporary_files_of_two_containers_have_two_names(tmp_path):
    """Both may be process 1; and others may read what is written, as the umask says."""
    path = tmp_path / "a.png"
    with atomic(path) as one, atomic(path) as other:
        assert one != other
        assert {one.parent, other.parent} == {tmp_path}
        assert one.suffix == other.suffix == ".png"
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_written_with_a_warning(tmp_path, monkeypatch, code):
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UnlockedWarning, match=f"in {tmp_path} cannot be locked"):
        lines = Lines(tmp_path / "a.jsonl", "another --out")
    with lines:
        lines.append([{"id": 1}])
    assert (tmp_path / "a.jsonl").read_text() == '{"id": 1}\n'


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EACCES])
def test_a_file_that_another_process_holds_is_in_use(tmp_path, monkeypatch, code):
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ValueError, match="another run: wait for it, or pass another --out"):
        Lines(tmp_path / "a.jsonl", "another --out")


def test_nothing_is_appended_to_a_file_that_was_replaced(tmp_path, monkeypatch):
    """Opened just before another process renames its own over it, locked just after."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1}\n')
    flock = fcntl.flock

    def late(file: object, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        write_text(path, '{"id": 2}\n')
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with Lines(path, "another --out") as lines:
        assert lines.before == [b'{"id": 2}']
        lines.append([{"id": 3}])
    assert path.read_text() == '{"id": 2}\n{"id": 3}\n'


def test_results_hold_what_utf8_does_not(tmp_path):
    """Half a character of JSON, and bytes of a command that are no UTF-8."""
    content = {"type": "a\ud800", "command": "adafv eval --out " + os.fsdecode(b"\xff")}
    write_json(tmp_path / "results.json", content)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == content


def test_what_is_read_is_not_overwritten(tmp_path):
    """By its name, by a link, or by a second name."""
    image = tmp_path / "a.png"
    image.touch()
    (tmp_path / "link.png").symlink_to(image)
    os.link(image, tmp_path / "second.png")
    for out in (image, tmp_path / "link.png", tmp_path / "second.png"):
        with pytest.raises(ValueError, match="is read here, and would be overwritten"):
            check_unread(out, [str(image)])
    (tmp_path / "b.png").touch()
    check_unread(tmp_path / "b.png", [image, Path("-")])
    check_unread(tmp_path / "new.png", [image])
