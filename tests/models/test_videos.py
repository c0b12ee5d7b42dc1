"""Videos from files: the frames that a player shows, or one sentence."""

import struct

import numpy as np
import pytest

from adafv.models import videos
from adafv.models.videos import Video, is_video, open_video

MP4_HEAD = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2"
LEVEL = 6  # by so much a frame is brighter than the one before


def write(path, count=40, size=(64, 48), codec="mpeg4", rate=10, gop=12, **options):
    """A video whose frames get brighter, and whose left half is red."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = gop
        # no key frame but those
        stream.options = {"sc_threshold": "1000000000"}
        for i in range(count):
            pixels = np.full((size[1], size[0], 3), LEVEL * i, np.uint8)
            pixels[:, : size[0] // 2, 0] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi", "a.mpg"])
def test_frames_are_spread_evenly(tmp_path, name):
    """The middle of each quarter, in every container, and their times."""
    codec = "mpeg1video" if name == "a.mpg" else "mpeg4"
    rate = 25 if name == "a.mpg" else 10
    video = open_video(write(tmp_path / name, codec=codec, rate=rate), 4)
    assert video.indices == (5, 15, 25, 35)
    assert video.frames.shape == (4, 48, 64, 3)
    levels = video.frames[:, 10:-10, 42:-5].mean((1, 2, 3)) / LEVEL
    np.testing.assert_allclose(levels, video.indices, atol=1.5)
    assert video.metadata["duration"] == pytest.approx(40 / rate, rel=0.05)
    assert video.metadata["frames_indices"] == [5, 15, 25, 35]


def test_a_video_that_is_work_for_nothing_is_refused(tmp_path, monkeypatch):
    """Of one key frame all frames up to the last chosen one are decoded; of many, a few each."""
    one = write(tmp_path / "one.mkv", gop=40)
    many = write(tmp_path / "many.mkv", gop=3)
    monkeypatch.setattr(videos, "MOST_DECODED", 8 * 64 * 48)
    with pytest.raises(ValueError, match=r"one.mkv has too few key frames, 36 frames .* for 4"):
        open_video(one, 4)
    assert open_video(many, 4).frames.shape == (4, 48, 64, 3)


def test_a_time_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    """FFmpeg takes what stands before a colon for one."""
    write(tmp_path / "a.mp4").rename(tmp_path / "2024-01-01T12:30:00.mp4")
    monkeypatch.chdir(tmp_path)
    assert open_video("2024-01-01T12:30:00.mp4", 2).frames.shape[0] == 2


def cut(path, start):
    """As ffmpeg -ss START -c copy does: an edit list leaves out what stands before START."""
    av = pytest.importorskip("av")
    target = path.with_name(f"cut-{path.name}")
    with av.open(str(path)) as whole, av.open(str(target), "w") as part:
        stream = whole.streams.video[0]
        copied = part.add_stream_from_template(stream)
        shift = round(start / stream.time_base)
        for packet in whole.demux(stream):
            if packet.dts is not None:
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = copied
                part.mux(packet)
    return target


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
@pytest.mark.parametrize("first", [24, 27, 1])
def test_a_video_that_was_cut_without_encoding_it_anew(tmp_path, name, first):
    """Frames before the cut are in the file, from the key frame on, and no player shows them."""
    path = cut(write(tmp_path / name), first / 10)
    video = open_video(path, 4)
    assert video.total == 40 - first
    assert video.fps == pytest.approx(10, rel=0.05)
    levels = video.frames[:, 10:-10, 42:-5].mean((1, 2, 3)) / LEVEL
    np.testing.assert_allclose(levels - first, video.indices, atol=1.5)


def test_what_a_cut_leaves_out_is_work_all_the_same(tmp_path, monkeypatch):
    """It is decoded, and then dropped."""
    path = cut(write(tmp_path / "a.mp4", gop=40), 3.8)
    monkeypatch.setattr(videos, "MOST_DECODED", 8 * 64 * 48)
    with pytest.raises(ValueError, match=r"too few key frames, 40 frames .* for 2"):
        open_video(path)


def test_a_short_video_gives_all_its_frames(tmp_path):
    """Three of eight."""
    assert open_video(write(tmp_path / "a.mp4", count=3)).indices == (0, 1, 2)


def test_a_video_that_was_taken_sideways_is_upright(tmp_path):
    """Phones store how to turn a video: a quarter clockwise, its red left half is on top."""
    path = write(tmp_path / "a.mp4", count=4)
    upright = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    track = path.read_bytes().rindex(upright)
    content = path.read_bytes()
    path.write_bytes(content[:track] + turned + content[track + len(turned) :])
    frames = open_video(path, 1).frames
    assert frames.shape == (1, 64, 48, 3)
    assert frames[0, :28, :, 0].mean() > 200
    assert frames[0, 36:, :, 0].mean() < 100


def test_what_is_cut_off_or_damaged_is_refused(tmp_path):
    """Nothing half-read."""
    path = write(tmp_path / "a.mp4", movflags="faststart")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"a\.mp4 is cut off, it holds \d+ of 40 frames"):
        open_video(path)
    path = write(tmp_path / "b.mp4")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"b\.mp4 cannot be read as a video .*: save it again"):
        open_video(path)


def test_sound_is_no_video(tmp_path):
    """One sentence."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 8000
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)
    with pytest.raises(ValueError, match="has no frames, perhaps it is sound"):
        open_video(tmp_path / "a.mp4")


def test_limits(tmp_path, monkeypatch):
    """An hour, a gigabyte, a wall of pixels: one sentence each, before anything is decoded."""
    path = write(tmp_path / "a.mp4")
    for name, limit, said in (
        ("MAX_SECONDS", 3, r"is 0 minutes long, more than 0: cut out"),
        ("MAX_PIXELS", 3000, r"frames of 64×48 pixels, more than 3,000: make it smaller"),
        ("MAX_BYTES", 100, r"more than 0: cut out"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(videos, name, limit)
            with pytest.raises(ValueError, match=said):
                open_video(path)
    assert videos.MAX_SECONDS < 3600
    assert videos.MAX_BYTES <= 2**30
    for frames in (0, 65):
        with pytest.raises(ValueError, match=f"frames={frames} .*pass 1 to 64"):
            open_video(path, frames)


def test_the_bytes_of_a_file_are_the_file(tmp_path):
    """What a request carries; whoever counts its pixels is asked before any frame is decoded."""
    path = write(tmp_path / "a.mp4")
    counted = []
    video = open_video(path.read_bytes(), 4, admit=counted.append)
    np.testing.assert_array_equal(video.frames, open_video(path, 4).frames)
    assert counted == [4 * 64 * 48]
    with pytest.raises(ValueError, match="too many"), pytest.MonkeyPatch.context() as patched:
        patched.setattr(videos, "_frame", None)
        open_video(path.read_bytes(), admit=_refuse)
    for content, said in ((b"", "the video is empty"), (b"GIF89a", "the video is a GIF")):
        with pytest.raises(ValueError, match=said):
            open_video(content)
    with pytest.raises(ValueError, match=r"clip 1 cannot be read as a video|clip 1 is cut off"):
        open_video(path.read_bytes()[:-300], name="clip 1")


def _refuse(pixels):
    raise ValueError("too many")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist: check the path of the video"),
        (b"", r"is empty \(0 bytes\)"),
        (b"GIF89a" + bytes(100), "is a GIF, whose frames are no video: convert it"),
        (b"#EXTM3U\nhttp://example.org/a.ts\n", "begins as no format of videos, or is damaged"),
        (bytes(500), "begins as no format of videos, or is damaged"),
    ],
)
def test_what_is_no_video(tmp_path, content, said):
    """One sentence, without PyAV."""
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        open_video(path)


def test_without_pyav(tmp_path, monkeypatch):
    """The extra is named."""
    (tmp_path / "a.mp4").write_bytes(MP4_HEAD + bytes(500))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs PyAV: pip install 'adafv\[video\]'"):
        open_video(tmp_path / "a.mp4")


def test_what_is_taken_for_a_video(tmp_path):
    """By name or by its first bytes; photos of phones are in the container of videos."""
    for name, content, expected in (
        ("a.mp4", b"", True),
        ("a.bin", MP4_HEAD, True),
        ("a.bin", b"\x1aE\xdf\xa3" + bytes(20), True),
        ("a.bin", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", False),
        ("a.bin", b"\x00\x00\x00\x18ftypavif\x00\x00\x00\x00avifmif1", False),
        ("a.gif", b"GIF89a", False),
        ("a.gif", (b"GIF89a" + bytes(182)) * 2, False),
        ("a.gif", (b"GIF89a" + bytes(182)) * 3, False),
        ("a.bin", (b"G" + bytes(187)) * 2, False),
        ("a.bin", (b"G" + bytes(187)) * 3, True),
        ("a.png", b"\x89PNG\r\n\x1a\n", False),
        ("a.bin", b"G", False),
    ):
        (tmp_path / name).write_bytes(content)
        assert is_video(str(tmp_path / name)) is expected, content
    assert not is_video(str(tmp_path / "missing.png"))


def test_metadata_tells_times():
    """What processors ask for."""
    video = Video(np.zeros((2, 4, 6, 3), np.uint8), (1, 3), 4, 2.0)
    assert video.metadata["duration"] == 2.0
    assert (video.metadata["width"], video.metadata["height"]) == (6, 4)
