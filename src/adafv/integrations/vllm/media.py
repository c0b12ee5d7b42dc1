"""Read images of a request as everywhere in this library, or refuse them in one sentence.

vLLM takes this reader instead of its own where `VLLM_MEDIA_CONNECTOR=adafv` is set, as
`adafv serve` does.
"""

from contextvars import ContextVar
from io import BytesIO
from typing import Any

import pybase64
from PIL import Image, UnidentifiedImageError
from vllm import envs
from vllm.exceptions import VLLMError
from vllm.multimodal.image import normalize_image, open_image
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector, MediaWithBytes
from vllm.multimodal.media.image import ImageMediaIO

from adafv.models.images import check_image, to_rgb

__all__ = ["MAX_PIXELS", "NOWHERE", "PIXELS", "Connector"]

NOWHERE = "(none)"
"""The one allowed domain of a server that fetches nothing; no host has this name."""
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Of all images of a request together: half a GiB once they are decoded."""
PIXELS: ContextVar[list[int] | None] = ContextVar("pixels", default=None)
"""How many each image of this request has, as far as they are read."""
LONGEST_NAME = 80  # characters of an address in an error


@MEDIA_CONNECTOR_REGISTRY.register("adafv")
class Connector(MediaConnector):
    """vLLM's reader of images, which fetches nothing that was not allowed.

    It refuses with a `ValueError`, which vLLM passes on as a bad request.
    """

    async def fetch_image_async(self, image_url: str, *, image_mode: str | None = "RGB") -> Any:
        """Return the image at a data URL, or at an address that the server may read.

        Raises:
            ValueError: an address that is not allowed or answers nothing; an image that
                `adafv.models.images.open_image` would refuse; more than `MAX_PIXELS` pixels in one
                request.
        """
        self._check(image_url)
        name = "the image" if image_url[:5].lower() == "data:" else _short(image_url)
        options = {"image_mode": image_mode} | self.media_io_kwargs.get("image", {})
        # vLLM counts what a request decodes from 0.33 on
        budget = getattr(self, "decoded_budget", None)
        reader = RequestImage(name, PIXELS.get(), budget, **options)
        try:
            return await self.load_from_url_async(
                image_url, reader, fetch_timeout=envs.VLLM_IMAGE_FETCH_TIMEOUT
            )
        except (ValueError, VLLMError):
            # said already, by us or by vLLM
            raise
        # whatever a network, a host or a file system comes up with
        except Exception as error:
            raise ValueError(
                f"{name} cannot be read ({_reason(error)}): send the image as a data URL"
            ) from None

    def _check(self, url: str) -> None:
        """Raise a `ValueError` if the server was not allowed to read from an address."""
        scheme, _, rest = url.partition(":")
        match scheme.lower():
            case "data":
                head, comma, _ = rest.partition(",")
                if not comma or not head.lower().endswith(";base64"):
                    raise ValueError(
                        "the image's data URL is not base64: send data:image/png;base64,…"
                    )
            case "http" | "https":
                if self.allowed_media_domains == [NOWHERE]:
                    raise ValueError(
                        f"{_short(url)} is not fetched: send the image as a data URL, "
                        "or start the server with --allowed-media-domains HOST"
                    )
            case "file":
                if self.allowed_local_media_path is None:
                    raise ValueError(
                        f"{_short(url)} is not read: send the image as a data URL, "
                        "or start the server with --allowed-local-media-path FOLDER"
                    )
            case _:
                raise ValueError(
                    f"{_short(url)!r} is no address of an image: send data:image/png;base64,…"
                )


class RequestImage(ImageMediaIO):
    """One image of a request.

    Args:
        name: what errors call it.
        pixels: of the images of the same request; this one is added.
        budget: vLLM's own, of the bytes that a request may decode.
    """

    def __init__(
        self, name: str, pixels: list[int] | None, budget: Any = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.name = name
        self.pixels = pixels
        self.budget = budget

    def load_base64(self, media_type: str, data: str) -> Any:
        """Return the image in base64."""
        try:
            content = pybase64.b64decode(data, validate=True)
        except ValueError:
            raise ValueError(
                f"{self.name} is not valid base64: encode the file's bytes again"
            ) from None
        return self.load_bytes(content)

    def load_bytes(self, data: bytes) -> Any:
        """Return the image in a file's bytes, as 8-bit RGB."""
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
        if self.budget is not None:
            self.budget.charge(4 * image.width * image.height)

        # decode; as `open_image` does unless the request wants something else
        try:
            image.load()
            image = normalize_image(image)
            plain = self.image_mode == "RGB" and not self.kwargs
            rgb = to_rgb(image) if plain else self._convert_image_mode(image)
        # decoders raise whatever a broken file makes of them
        except Exception as error:
            raise ValueError(self._broken(error)) from None
        return MediaWithBytes(rgb, data)

    def _count(self, count: int) -> None:
        """Add an image's pixels to the request's, and raise a `ValueError` if they are too many."""
        if count > (Image.MAX_IMAGE_PIXELS or count):
            raise ValueError(self._too_large())
        # None outside a request, as when the server warms up
        if self.pixels is None:
            return
        self.pixels.append(count)
        if sum(self.pixels) > MAX_PIXELS:
            raise ValueError(
                f"the images have more than {MAX_PIXELS:,} pixels together: make them smaller first"
            )

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


def _short(url: str) -> str:
    return url if len(url) <= LONGEST_NAME else f"{url[:LONGEST_NAME]}…"


def _reason(error: Exception) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
