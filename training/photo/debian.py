"""Download packages of Debian and unpack them into the cache folder; nothing is installed."""

import subprocess

from training.photo.cache import CACHE

__all__ = ["DEBIAN", "unpack"]

DEBIAN = CACHE / "debian"


def unpack(*packages: str) -> None:
    """Unpack packages into `DEBIAN`, unless that was done.

    Raises:
        SystemExit: a package cannot be had.
    """
    DEBIAN.mkdir(parents=True, exist_ok=True)
    for package in packages:
        done = DEBIAN / f"{package}.unpacked"
        if done.is_file():
            continue
        try:
            subprocess.run(["apt-get", "download", package], cwd=DEBIAN, check=True)
            [archive] = DEBIAN.glob(f"{package}_*.deb")
            subprocess.run(["dpkg-deb", "-x", archive, DEBIAN], check=True)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"{package} cannot be had ({error}): training needs a Debian or Ubuntu with apt"
            ) from None
        # last, so that a package is unpacked whole or again
        done.touch()
