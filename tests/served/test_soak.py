"""Protects the soak: it counts what it claims to, and a short run loses nothing."""

import json
import runpy
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from adafv.demo.server import Server

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serving" / "soak.py"
PIECE = b'data: {"choices": [{"delta": {"content": "red"}}]}\n\n'
ENDINGS = {
    "whole": (200, PIECE * 5 + b"data: [DONE]\n\n", "answered"),
    "cut off": (200, PIECE * 5, "cut off"),
    "failed": (200, PIECE + b'data: {"error": {"code": 500}}\n\ndata: [DONE]\n\n', "error"),
    "bad": (400, b"{}", "refused"),
    "broken": (500, b"{}", "500"),
}


@pytest.fixture(scope="module")
def soak():
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("name", ENDINGS)
def test_how_a_request_ended(soak, name):
    """An answer that ends without its end is lost; a client that hangs up is not."""
    status, body, expected = ENDINGS[name]

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as listener:
        Thread(target=listener.serve_forever, daemon=True).start()
        server = Server(f"http://127.0.0.1:{listener.server_port}", 0)
        ttft, ended = soak["ask"](server, {}, leaves=False)
        left = soak["ask"](server, {}, leaves=True)[1]
        listener.shutdown()
    assert ended == expected
    assert (ttft is not None) == (status == 200)
    # two pieces are enough for who hangs up
    assert left == ("answered" if body.count(PIECE) > 2 else expected)


def test_nobody_answers(soak):
    assert soak["ask"](Server("http://127.0.0.1:9", 0), {}, leaves=False) == (None, "URLError")


def test_rows(soak):
    """Requests belong to the slice in which they began, the last of them to the last slice."""
    load = soak["Load"](Server("", 0), ours=True, seed=0)
    one = soak["Asked"]
    load.asked = [one("new", 0.5, 0.1, False), one("bad", 0.6, None, False)]
    load.asked += [one("new", 99.0, 0.3, False), one("text", 101.0, None, True)]
    load.memory = [(i + 0.5, (300 + i // 50) << 20) for i in range(100)]
    rows = load.rows("adafv", 100)
    assert [row.requests for row in rows] == [2, *[0] * 8, 2]
    assert [row.lost for row in rows] == [*[0] * 9, 1]
    assert rows[0].refused == 1
    assert (rows[0].ttft_p99_ms, rows[-1].ttft_p99_ms) == (100.0, 300.0)
    assert soak["growth"](rows) == 1


def test_another_question_is_about_an_image_that_was_sent(soak):
    """None is sent with what is to be refused; the first of all is new."""
    load = soak["Load"](Server("", 0), ours=False, seed=0)
    sent = []
    kinds = []
    for _ in range(400):
        kind, body = load._next()
        kinds.append(kind)
        parts = body["messages"][0]["content"]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        if kind == "again" and sent:
            assert urls == sent[-1:]
        elif kind == "bad":
            assert urls == ["data:image/png;base64,no image"]
        else:
            assert not set(urls) & set(sent)
            sent += urls
    assert set(kinds) == set(soak["KINDS"])


def test_the_committed_page_is_of_the_committed_results(soak, tmp_path):
    """Its load is of the last 15 of 60 minutes, and says so."""
    folder = SCRIPT.with_name("soak")
    found = json.loads((folder / "results.json").read_text())
    rows = [soak["Row"](**row) for row in found["rows"]]
    soak["write_page"](tmp_path, found["meta"], rows)
    page = (tmp_path / "README.md").read_text()
    assert page == (folder / "README.md").read_text()
    assert "over the last 15 minutes on average 20.6 programs" in page


@pytest.mark.engines
def test_two_minutes(tmp_path):
    """Nothing is lost, on a full disk neither; a killed engine ends its server, not its client."""
    words = [sys.executable, str(SCRIPT), "--minutes", "2", "--out", str(tmp_path)]
    subprocess.run(words, check=True, timeout=3000)
    found = json.loads((tmp_path / "results.json").read_text())
    assert {row["engine"] for row in found["rows"]} == {"adafv", "stock"}
    assert all(row["lost"] == 0 for row in found["rows"])
    meta = found["meta"]
    assert meta["disk_full_lost"] == 0
    assert meta["engine_killed"]["client_got"] not in ("answered", "cut off")
    assert meta["engine_killed"]["client_told_s"] < 60
    assert meta["engine_killed"]["server_exit"] != "still there"
    assert "| adafv |" in (tmp_path / "README.md").read_text()
