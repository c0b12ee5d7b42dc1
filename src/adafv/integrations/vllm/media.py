"""Read images and videos of a request as everywhere in this library, or refuse them in a sentence.

vLLM takes this reader instead of its own where `VLLM_MEDIA_CONNECTOR=adafv` is set, as
`adafv serve` does.
"""

from contextvars import ContextVar
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pybase64
from PIL import Image, UnidentifiedImageError
from vllm import envs
from vllm.exceptions import VLLMError
from vllm.multimodal.image import normalize_image, open_image
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector, MediaWithBytes
from vllm.multimodal.media.base import MediaIO
from vllm.multimodal.media.image import ImageMediaIO

from adafv.integrations.vllm.bounded_cache import ENTRY, BoundedCache
from adafv.integrations.vllm.counters import COUNTERS
from adafv.models.images import check_image, tiny_image, to_rgb
from adafv.models.videos import FRAMES, MAX_BYTES, open_video

__all__ = ["DECODED", "MAX_PIXELS", "NOWHERE", "PIXELS", "REMARKS", "Connector"]

NOWHERE = "(none)"
"""The one allowed domain of a server that fetches nothing; no host has this name."""
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Of all images and frames of a request together: half a GiB once they are decoded."""
PIXELS: ContextVar[list[int] | None] = ContextVar("pixels", default=None)
"""How many each image and each video of this request has, as far as they are read."""
REMARKS: ContextVar[list[str] | None] = ContextVar("remarks", default=None)
"""What is to be said of the images of this request, which is answered all the same."""
BYTES_PER_PIXEL = 4  # of RGB, as Pillow has it
BYTES_PER_FRAME_PIXEL = 3  # of RGB, as NumPy has it
DECODED: BoundedCache[Image.Image] = BoundedCache(0)
"""Images in 8-bit RGB, by the hash of their files; a processor says how much memory they have.

Nobody changes their pixels: several requests may read one of them at once.
"""
EXAMPLES = {"image": "data:image/png;base64,…", "video": "data:video/mp4;base64,…"}
LONGEST_NAME = 80  # characters of an address in an error
# ICO, CUR, ICNS, EPS (twice) and WMF.
REFUSED_BEGINNINGS = (
    b"\0\0\1\0",
    b"\0\0\2\0",
    b"icns",
    b"%!PS",
    b"\xc5\xd0\xd3\xc6",
    b"\xd7\xcd\xc6\x9a",
)


@MEDIA_CONNECTOR_REGISTRY.register("adafv")
class Connector(MediaConnector):
    """vLLM's reader of images and videos, which fetches nothing that was not allowed.

    It refuses with a `ValueError`, which vLLM passes on as a bad request.
    """

    async def fetch_image_async(self, image_url: str, *, image_mode: str | None = "RGB") -> Any:
        """Return the image at a data URL, or at an address that the server may read.

        Raises:
            ValueError: an address that is not allowed or answers nothing; an image that
                `adafv.models.images.open_image` would refuse; more than `MAX_PIXELS` pixels in one
                request.
        """
        options = {"image_mode": image_mode} | self.media_io_kwargs.get("image", {})
        with COUNTERS.refusals("media"):
            self._check(image_url, "image")
            name = _name(image_url, "image")
            reader = RequestImage(name, PIXELS.get(), self._budget, REMARKS.get(), **options)
            return await self._fetch(image_url, reader, "image", envs.VLLM_IMAGE_FETCH_TIMEOUT)

    async def fetch_video_async(
        self,
        video_url: str,
        *,
        image_mode: str | None = "RGB",
        video_processor: str | None = None,
    ) -> Any:
        """Return frames of the video at a data URL, or at an address that the server may read.

        They are `adafv.models.videos.FRAMES`, or as many as `num_frames` among vLLM's own options
        (`--media-io-kwargs`) says, evenly over its length.

        Args:
            video_url: of a file. Frames by themselves are not read.
            image_mode, video_processor: vLLM's; every video is read in RGB, with PyAV.

        Raises:
            ValueError: an address that is not allowed or answers nothing; a video that
                `adafv.models.videos.open_video` would refuse; more than `MAX_PIXELS` pixels in one
                request; another option.
        """
        options = dict(self.media_io_kwargs.get("video", {}))
        frames = options.pop("num_frames", FRAMES)
        with COUNTERS.refusals("media"):
            self._check(video_url, "video")
            if options:
                raise ValueError(
                    f"videos are read without {', '.join(options)}: leave it out of "
                    "media_io_kwargs, which may have num_frames"
                )
            reader = RequestVideo(_name(video_url, "video"), PIXELS.get(), frames, self._budget)
            return await self._fetch(video_url, reader, "video", envs.VLLM_VIDEO_FETCH_TIMEOUT)

    @property
    def _budget(self) -> Any:
        """Return vLLM's budget of the bytes that a request decodes, which it has from 0.33 on."""
        return getattr(self, "decoded_budget", None)

    async def _fetch(self, url: str, reader: MediaIO[Any], kind: str, timeout: int) -> Any:
        """Return what a reader makes of an address, or raise a `ValueError`."""
        try:
            return await self.load_from_url_async(url, reader, fetch_timeout=timeout)
        except (ValueError, VLLMError):
            # said already, by us or by vLLM
            raise
        # whatever a network, a host or a file system comes up with
        except Exception as error:
            raise ValueError(
                f"{_name(url, kind)} cannot be read ({_reason(error)}): send the {kind} as a data "
                "URL"
            ) from None

    def _check(self, url: str, kind: str) -> None:
        """Raise a `ValueError` if the server was not allowed to read from an address."""
        scheme, _, rest = url.partition(":")
        match scheme.lower():
            case "data":
                head, comma, _ = rest.partition(",")
                if not comma or not head.lower().endswith(";base64"):
                    raise ValueError(f"the {kind}'s data URL is not base64: send {EXAMPLES[kind]}")
            case "http" | "https":
                if self.allowed_media_domains == [NOWHERE]:
                    raise ValueError(
                        f"{_short(url)} is not fetched: send the {kind} as a data URL, "
                        "or start the server with --allowed-media-domains HOST"
                    )
            case "file":
                if self.allowed_local_media_path is None:
                    raise ValueError(
                        f"{_short(url)} is not read: send the {kind} as a data URL, "
                        "or start the server with --allowed-local-media-path FOLDER"
                    )
            case _:
                article = "an" if kind == "image" else "a"
                raise ValueError(
                    f"{_short(url)!r} is no address of {article} {kind}: send {EXAMPLES[kind]}"
                )


class RequestImage(ImageMediaIO):
    """One image of a request.

    Args:
        name: what errors call it.
        pixels: of the images of the same request; this one is added.
        budget: vLLM's own, of the bytes that a request may decode.
        remarks: on the images of the same request; one on this is added.
    """

    def __init__(
        self,
        name: str,
        pixels: list[int] | None,
        budget: Any = None,
        remarks: list[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.name = name
        self.pixels = pixels
        self.budget = budget
        self.remarks = remarks
        # as `open_image` reads it, unless the request wants something else
        self.plain = self.image_mode == "RGB" and not self.kwargs

    def load_base64(self, media_type: str, data: str) -> Any:
        """Return the image in base64."""
        return self.load_bytes(_decoded(data, self.name))

    def load_file(self, filepath: Path) -> Any:
        """Return the image in a file."""
        return self.load_bytes(filepath.read_bytes())

    def load_bytes(self, data: bytes) -> Any:
        """Return the image in a file's bytes, as 8-bit RGB."""
        loaded = self._load(data)
        # without its name, which a client chooses, since a header says it
        tiny = tiny_image(loaded.media, "an image")
        if tiny and self.remarks is not None and tiny not in self.remarks:
            self.remarks.append(tiny)
        return loaded

    def _load(self, data: bytes) -> MediaWithBytes[Image.Image]:
        """Return the image, decoded now or before."""
        if not (self.plain and DECODED.bytes):
            return MediaWithBytes(self._decode(data), data)

        digest = sha256(data).hexdigest()
        image = DECODED.find(digest)
        reused = image is not None
        if image is None:
            image = self._decode(data)
            size = image.width * image.height * BYTES_PER_PIXEL + ENTRY
            if size <= DECODED.bytes:
                # a copy has nothing but the pixels: a file may hold as much as it likes besides
                image = image.copy()
                image.info.clear()
                DECODED.put(digest, image, size)
        else:
            self._count(image.width * image.height)
        COUNTERS.count_images("decoded", int(not reused), int(reused))
        return MediaWithBytes(image, data)

    def _decode(self, data: bytes) -> Image.Image:
        """Return the image in a file's bytes in the mode that is asked for."""
        # icons are decoded before anyone knows their size, programs run
        if data.startswith(REFUSED_BEGINNINGS):
            raise ValueError(
                f"{self.name} is an icon or a program, not a picture: send a PNG, JPEG or WebP"
            )
        # read the header, which tells format and size
        try:
            image = open_image(BytesIO(data))
        except Image.DecompressionBombError:
            raise ValueError(self._too_large()) from None
        except UnidentifiedImageError:
            raise ValueError(
                f"{self.name} is not an image: send a PNG, JPEG, WebP or another file that "
                "Pillow reads"
            ) from None
        except Exception as error:
            raise ValueError(self._broken(error)) from None

        # count its pixels before they are decoded: a small file may hold billions
        check_image(image, self.name)
        self._count(image.width * image.height)

        try:
            image.load()
            image = normalize_image(image)
            return to_rgb(image) if self.plain else self._convert_image_mode(image)
        # decoders raise whatever a broken file makes of them
        except Exception as error:
            raise ValueError(self._broken(error)) from None

    def _count(self, count: int) -> None:
        """Add an image's pixels to the request's, and raise a `ValueError` if they are too many."""
        if count > (Image.MAX_IMAGE_PIXELS or count):
            raise ValueError(self._too_large())
        _add(count, self.pixels, "images")
        if self.budget is not None:
            self.budget.charge(BYTES_PER_PIXEL * count)

    def _too_large(self) -> str:
        return (
            f"{self.name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels, Pillow's limit: "
            "make it smaller first"
        )

    def _broken(self, error: Exception) -> str:
        return (
            f"{self.name} cannot be read as an image ({_reason(error)}): "
            "save it again as PNG or JPEG"
        )


class RequestVideo(MediaIO[Any]):
    """One video of a request.

    Args:
        name: what errors call it.
        pixels: of the images and videos of the same request; those of its frames are added.
        frames: how many are read.
        budget: vLLM's own, of the bytes that a request may decode.
    """

    def __init__(
        self, name: str, pixels: list[int] | None, frames: int, budget: Any = None
    ) -> None:
        super().__init__()
        self.name = name
        self.pixels = pixels
        self.frames = frames
        self.budget = budget

    def get_max_bytes(self) -> int:
        """Return the largest file that is fetched."""
        return MAX_BYTES

    def load_base64(self, media_type: str, data: str) -> Any:
        """Return the frames of the video in base64, and its metadata."""
        return self.load_bytes(_decoded(data, self.name))

    def load_file(self, filepath: Path) -> Any:
        """Return the frames of a file, and its metadata."""
        return self.load_bytes(filepath.read_bytes())

    def load_bytes(self, data: bytes) -> Any:
        """Return the frames of the video in a file's bytes, and its metadata."""
        video = open_video(data, self.frames, name=self.name, admit=self._admit)
        # the frames are chosen, and no processor is to choose among them
        metadata = video.metadata | {"do_sample_frames": False, "video_backend": "pyav"}
        return MediaWithBytes((video.frames, metadata), data)

    def _admit(self, count: int) -> None:
        """Add the frames' pixels to the request's, and raise a `ValueError` if too many."""
        _add(count, self.pixels, "frames and images")
        if self.budget is not None:
            self.budget.charge(BYTES_PER_FRAME_PIXEL * count)


def _add(count: int, pixels: list[int] | None, what: str) -> None:
    """Add pixels to those of a request, and raise a `ValueError` if they are too many."""
    # None outside a request, as when the server warms up
    if pixels is None:
        return
    pixels.append(count)
    if sum(pixels) > MAX_PIXELS:
        raise ValueError(
            f"the {what} have more than {MAX_PIXELS:,} pixels together: make them smaller first"
        )


def _decoded(data: str, name: str) -> bytes:
    """Return what base64 holds."""
    try:
        return pybase64.b64decode(data, validate=True)
    except ValueError:
        raise ValueError(f"{name} is not valid base64: encode the file's bytes again") from None


def _name(url: str, kind: str) -> str:
    """Return what errors call an image or a video at an address."""
    return f"the {kind}" if url[:5].lower() == "data:" else _short(url)


def _short(url: str) -> str:
    return url if len(url) <= LONGEST_NAME else f"{url[:LONGEST_NAME]}…"


def _reason(error: Exception) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
