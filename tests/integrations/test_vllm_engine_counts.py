"""Protects what an engine tells its server: the counts arrive once, and nothing stays behind."""

import errno
import os
from pathlib import Path

import pytest

from adafv.integrations.vllm import engine_counts
from adafv.integrations.vllm.engine_counts import ROOM, EngineCounts, EngineCountsReader, name_run


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(engine_counts.RUN, "of a program around")
    monkeypatch.setattr(engine_counts.tempfile, "gettempdir", lambda: str(tmp_path))
    name_run.cache_clear()
    name_run()
    return tmp_path


def test_a_server_reads_what_its_engine_did_since(folder):
    """In another mapping of the same file, which is gone as soon as both have it."""
    engine = EngineCounts(0, shared=True)
    # what memory is measured with nobody asked for
    engine.add_images(5, 5)
    engine.add_selection(1.0)
    [file] = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    server = EngineCountsReader(0)
    assert not list(folder.iterdir())
    assert server.read() == (0, 0, [])
    engine.add_images(2, 1)
    engine.add_selection(0.25)
    engine.add_selection(0.002)
    assert server.read() == (2, 1, [0.25, 0.002])
    assert server.read() == (0, 0, [])


def test_engines_are_told_apart():
    first, second = EngineCounts(0, shared=True), EngineCounts(1, shared=True)
    readers = EngineCountsReader(0), EngineCountsReader(1)
    first.add_images(1, 0)
    second.add_images(0, 3)
    assert [reader.read()[:2] for reader in readers] == [(1, 0), (0, 3)]


def test_only_the_newest_selections_are_known_where_nobody_reads():
    engine = EngineCounts(0, shared=True)
    server = EngineCountsReader(0)
    for i in range(ROOM + 10):
        engine.add_selection(i)
    assert server.read()[2] == list(range(10, ROOM + 10))


def test_a_full_disk_is_no_reason_not_to_serve(folder, monkeypatch):
    """Nor is one that another has written to: nothing that is there already is opened."""

    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(engine_counts.os, "open", full)
        engine = EngineCounts(0, shared=True)
    engine.add_images(1, 1)
    assert EngineCountsReader(0).read() == (0, 0, [])
    # it was created, and there was no room for what is in it
    engine_counts._path(0).touch()
    assert EngineCountsReader(0).read() == (0, 0, [])

    target = folder / "precious"
    target.write_bytes(b"x" * 1000)
    engine_counts._path(1).symlink_to(target)
    EngineCounts(1, shared=True).add_images(1, 1)
    assert target.read_bytes() == b"x" * 1000


def test_other_ranks_write_nothing(folder):
    EngineCounts(0, shared=False).add_images(1, 1)
    assert not list(folder.iterdir())


def test_engines_have_the_name_of_their_servers_run(monkeypatch):
    """And a server one of its own; vLLM registers plugins more than once in a process."""
    name = os.environ[engine_counts.RUN]
    assert len(name) == 32
    name_run()
    assert os.environ[engine_counts.RUN] == name
    name_run.cache_clear()
    monkeypatch.setattr(engine_counts.multiprocessing, "parent_process", object)
    name_run()
    assert os.environ[engine_counts.RUN] == name
