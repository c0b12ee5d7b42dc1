"""Read frames of a video, evenly over its length, or say in one sentence why not."""

import importlib.util
import io
import mimetypes
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adafv.models.images import check_file, check_image, is_still
from adafv.utils.checks import checked

__all__ = ["FRAMES", "MAX_FRAMES", "Video", "is_video", "open_video"]

FRAMES = 8
"""Frames that are read where nothing is said."""
MAX_FRAMES = 64
MAX_BYTES = 10**9
MAX_SECONDS = 30 * 60
"""Of a longer video so few frames show next to nothing."""
MAX_PIXELS = 4096 * 2304
"""Of a frame."""
MOST_DECODED = 1.25e9
"""Pixels that are decoded for a frame that is kept: ten seconds of one core for eight, about."""

# how files of video begin: where, and with what
_BEGINNINGS = (
    (4, b"ftyp"),  # MP4, MOV, 3GP
    (4, b"moov"),  # MOV of old
    (4, b"mdat"),
    (0, b"\x1aE\xdf\xa3"),  # Matroska, WebM
    (8, b"AVI "),
    (0, b"\x00\x00\x01\xba"),  # MPEG
    (0, b"\x00\x00\x01\xb3"),
    (0, b"OggS"),
    (0, b"FLV"),
    (0, b"\x30\x26\xb2\x75"),  # WMV
)
_TS_PACKET = 188  # bytes; each begins with 0x47
_HEAD = 512  # bytes that tell a format
_CONVERT = "save it again, or convert it, e.g. ffmpeg -i IN -pix_fmt yuv420p OUT.mp4"
_CUT = "cut out what the question is about, e.g. ffmpeg -ss 0 -t 60 -i IN -c copy OUT.mp4"


@checked
@dataclass(frozen=True)
class Video:
    """Frames of a video, evenly over its length.

    Attributes:
        frames: (F, height, width, 3) uint8, RGB.
        indices: of each in the video.
        total: frames of the video.
        fps: frames of the video in a second.
    """

    frames: NDArray[np.uint8]
    indices: tuple[int, ...]
    total: int
    fps: float

    @property
    def metadata(self) -> dict[str, Any]:
        """Return what processors want to know, by which they tell the time of a frame."""
        _, height, width, _ = self.frames.shape
        return {
            "total_num_frames": self.total,
            "fps": self.fps,
            "duration": self.total / self.fps,
            "width": width,
            "height": height,
            "frames_indices": list(self.indices),
        }


@checked
def is_video(path: str) -> bool:
    """Return whether a file is named as a video, or begins as one.

    What cannot be read is none: who reads it says why.
    """
    kind, _ = mimetypes.guess_type(path)
    if kind is not None and kind.startswith("video/"):
        return True
    try:
        with open(path, "rb") as file:
            return _begins_as_video(file.read(_HEAD))
    except OSError:
        return False


@checked
def open_video(
    path: str | Path | bytes,
    frames: int = FRAMES,
    *,
    name: str = "the video",
    admit: Callable[[int], None] | None = None,
) -> Video:
    """Read frames of a video, evenly over its length, upright as a player shows them.

    A shorter video gives all its frames.

    Args:
        path: a local file in a format that PyAV reads: MP4, MOV, WebM, MKV, AVI, MPEG, …, or what
            such a file holds. Addresses are not fetched.
        frames: how many, 1 to `MAX_FRAMES`.
        name: what errors call a video that is no file.
        admit: told how many pixels all the frames have together before any is decoded, to raise
            an error where they are too many.

    Raises:
        ValueError: PyAV is not installed; the file is missing, empty, damaged, cut off, without
            frames, a GIF or no video; larger than `MAX_BYTES`, longer than `MAX_SECONDS`, or of
            frames that are larger than `MAX_PIXELS` or that `check_image` refuses.
    """
    if not 1 <= frames <= MAX_FRAMES:
        raise ValueError(f"frames={frames} of a video are not possible: pass 1 to {MAX_FRAMES}")
    if isinstance(path, bytes):
        if not path:
            raise ValueError(f"{name} is empty (0 bytes): send the bytes of a video")
        size = len(path)
        head = path[:_HEAD]
    else:
        name = str(path)
        check_file(name, "video")
        size = Path(name).stat().st_size
        with open(name, "rb") as file:
            head = file.read(_HEAD)
    if size > MAX_BYTES:
        raise ValueError(f"{name} has {size / 1e9:.1f} GB, more than {MAX_BYTES / 1e9:.0f}: {_CUT}")
    if head.startswith(b"GIF8"):
        raise ValueError(
            f"{name} is a GIF, whose frames are no video: convert it, e.g. ffmpeg -i IN.gif "
            "-pix_fmt yuv420p OUT.mp4, or ask about its first frame as an image"
        )
    # PyAV would try whatever it knows, lists of addresses among it
    if not _begins_as_video(head):
        raise ValueError(
            f"{name} begins as no format of videos, or is damaged: pass an MP4, MOV, WebM, MKV, "
            "AVI or MPEG file"
        )
    if importlib.util.find_spec("av") is None:
        raise ValueError("reading a video needs PyAV: pip install 'adafv[video]'")
    import av

    # an absolute path: FFmpeg takes what stands before a colon for a protocol
    source = io.BytesIO(path) if isinstance(path, bytes) else os.path.abspath(name)
    try:
        return _read(source, name, frames, admit)
    except av.FFmpegError as error:
        reason = " ".join(str(error.strerror).split())
        raise ValueError(f"{name} cannot be read as a video ({reason}): {_CONVERT}") from None


def _begins_as_video(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of a video."""
    # a GIF begins with the same byte as a packet
    if is_still(head) or head.startswith(b"GIF8"):
        return False
    if head[: 2 * _TS_PACKET + 1 : _TS_PACKET] == b"\x47" * 3:
        return True
    return any(head[at : at + len(begins)] == begins for at, begins in _BEGINNINGS)


def _read(
    source: str | io.BytesIO, name: str, count: int, admit: Callable[[int], None] | None
) -> Video:
    """Return `count` frames of a file."""
    import av

    # nothing that a file names is opened besides it
    options = {"protocol_whitelist": "file"}
    with av.open(source, "r", options=options, metadata_errors="ignore") as container:
        if not container.streams.video:
            if container.streams.audio:
                raise ValueError(f"{name} has no frames, perhaps it is sound: pass a video")
            raise ValueError(f"{name} has no frames: save or download it again")
        stream = container.streams.video[0]
        _check_size(name, stream.width, stream.height)
        if container.duration is not None:
            _check_length(name, container.duration / av.time_base)

        # when each frame is shown, from the packets: headers may lie, or not know
        times, of_packets, keys = _times(container, stream)  # (total,), (packets,), (keys,)
        if not len(times):
            raise ValueError(f"{name} has no frames: save or download it again")
        edited = len(times) < len(of_packets) or _is_shortened(stream)
        if len(times) < stream.frames and not edited:
            raise ValueError(
                f"{name} is cut off, it holds {len(times)} of {stream.frames} frames: save or "
                "download it again"
            )
        rate = float(stream.average_rate or 1)
        seconds = float((times[-1] - times[0]) * stream.time_base) + 1 / rate
        _check_length(name, seconds)

        # the middle frame of each of equal parts
        count = min(count, len(times))
        indices = ((np.arange(count) + 0.5) * len(times) / count).astype(int)  # (F,)
        if admit is not None:
            admit(count * stream.width * stream.height)
        chosen = times[indices]  # (F,)
        _check_work(name, of_packets, keys, chosen, stream.width * stream.height)
        frames = _decoded(name, container, stream, keys, chosen)

    check_image(Image.fromarray(frames[0]), name)
    return Video(np.stack(frames), tuple(indices.tolist()), len(times), len(times) / seconds)


def _check_work(
    name: str,
    times: NDArray[np.int64],
    keys: NDArray[np.int64],
    chosen: NDArray[np.int64],
    pixels: int,
) -> None:
    """Raise a `ValueError` if far more has to be decoded than is kept.

    Decoding begins at a key frame: a small file of one key frame may hold hours of work.

    Args:
        times: (packets,) of all frames, in order.
        keys: (keys,) of those from which decoding can begin.
        chosen: (F,) of those to keep.
        pixels: of a frame.
    """
    group = np.searchsorted(keys, chosen, side="right")  # (F,)
    decoded = 0
    for of_key in np.unique(group):
        start = keys[of_key - 1] if of_key else times[0]
        last = chosen[group == of_key].max()
        decoded += int(((times >= start) & (times <= last)).sum())
    if decoded * pixels > MOST_DECODED * len(chosen):
        raise ValueError(
            f"{name} has too few key frames, {decoded:,} frames would have to be decoded for "
            f"{len(chosen)}: convert it, e.g. ffmpeg -i IN -g 30 OUT.mp4"
        )


def _times(
    container: Any, stream: Any
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return when each frame is shown, in units of the stream's time base, in order.

    Returns:
        (total,) of the frames that a player shows, (packets,) also of those that an edit list
        leaves out, which are decoded and dropped, and (keys,) of those from which decoding can
        begin.
    """
    shown: list[int] = []
    found: list[int] = []
    keys: list[int] = []
    for packet in container.demux(stream):
        time = packet.dts if packet.pts is None else packet.pts
        # the last packet is empty
        if packet.size and time is not None:
            found.append(time)
            if not packet.is_discard:
                shown.append(time)
            if packet.is_keyframe:
                keys.append(time)
    return _in_order(shown), _in_order(found), _in_order(keys)


def _in_order(times: list[int]) -> NDArray[np.int64]:
    return np.sort(np.array(times, dtype=np.int64))


def _is_shortened(stream: Any) -> bool:
    """Return whether an edit list leaves frames out, of which no packet is read then."""
    if stream.duration is None or not stream.average_rate:
        return False
    frames = stream.duration * stream.time_base * stream.average_rate
    # a duration is rounded to less than half a frame
    return bool(frames < stream.frames - 0.5)


def _decoded(
    name: str, container: Any, stream: Any, keys: NDArray[np.int64], chosen: NDArray[np.int64]
) -> list[NDArray[np.uint8]]:
    """Return the frames (height, width, 3) that are shown at times (F,), upright."""
    frames: list[NDArray[np.uint8]] = []
    group = -1
    for time in chosen.tolist():
        # go to the nearest frame from which decoding can begin, unless it is decoded from there
        of_key = int(np.searchsorted(keys, time, side="right"))
        if of_key != group:
            container.seek(time, stream=stream)
            decoded = container.decode(stream)
            group = of_key
        frames.append(_frame(name, decoded, stream, time))
    return frames


def _frame(name: str, decoded: Iterator[Any], stream: Any, time: int) -> NDArray[np.uint8]:
    """Return the frame (height, width, 3) that is shown at a time, upright.

    Args:
        decoded: frames of the stream, from that time or earlier.
    """
    for frame in decoded:
        if frame.pts is not None and frame.pts >= time:
            # of the stream's size, whatever the frame's
            pixels = frame.to_ndarray(format="rgb24", width=stream.width, height=stream.height)
            return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
    seconds = float(time * stream.time_base)
    raise ValueError(f"{name} is damaged, it has no frame at {seconds:.1f} s: {_CONVERT}")


def _check_size(name: str, width: int, height: int) -> None:
    """Raise a `ValueError` if frames are too large, or have no pixels."""
    if min(width, height) < 1:
        raise ValueError(f"{name} doesn't say how large its frames are: {_CONVERT}")
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} has frames of {width}×{height} pixels, more than {MAX_PIXELS:,}: make it "
            "smaller, e.g. ffmpeg -i IN -vf scale=1280:-2 OUT.mp4"
        )


def _check_length(name: str, seconds: float) -> None:
    """Raise a `ValueError` if a video is too long."""
    if seconds > MAX_SECONDS:
        raise ValueError(
            f"{name} is {seconds / 60:.0f} minutes long, more than {MAX_SECONDS // 60}: {_CUT}"
        )
