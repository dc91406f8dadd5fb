"""Download of one file whose hash is known beforehand: resumed, retried, checked, bounded."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from calvin_eval.errors import AssetError
from calvin_eval.sim.assets.manifest import ManifestFile, file_sha256

_BLOCK = 1 << 16
_PASSING = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses that are worth another try."""
_LONGEST_WAIT = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """How patient a download is.

    Attributes:
        timeout: seconds without a byte before a connection counts as dead.
        attempts: tries per file, at least 1.
        backoff: seconds before the second try; doubled before each further one.
    """

    timeout: float = 30.0
    attempts: int = 5
    backoff: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError for options that could never succeed or never end."""
        if self.timeout <= 0 or self.attempts < 1 or self.backoff < 0:
            raise ValueError(f"expected timeout > 0, attempts >= 1 and backoff >= 0: {self}")


class _PassingError(Exception):
    """Something that another try may cure; `wait` is how long the server asks for, if it does."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


class _AlteredError(Exception):
    """The server gave other bytes than the manifest promises."""


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, but never from https to anything less, nor off the web."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        allowed = ("https",) if req.full_url.startswith("https:") else ("https", "http")
        if urlsplit(newurl).scheme not in allowed:
            raise AssetError(
                f"expected {req.full_url} to stay on {' or '.join(allowed)}, found a redirect "
                f"to {newurl}. Choose another server with --base-url."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(
    url: str,
    target: Path,
    entry: ManifestFile,
    options: DownloadOptions,
    on_bytes: Callable[[int], None],
) -> None:
    """Fetch one file; `target` exists afterwards with the right hash, or not at all.

    What arrives is collected in `target` + `.part`; such a file is continued if it is there.

    Args:
        url: http or https.
        target: file to write; its folder exists.
        entry: the size and hash to expect.
        options: patience.
        on_bytes: called with the number of bytes of the file that are here so far.

    Raises:
        AssetError: the server refuses, gives other bytes, or stays out of reach.
    """
    part = target.with_name(target.name + ".part")
    wait, trouble = 0.0, ""
    for attempt in range(options.attempts):
        if attempt:
            pause = max(wait, options.backoff * 2 ** (attempt - 1))
            time.sleep(min(pause, _LONGEST_WAIT))
        resumed = part.exists()
        try:
            _transfer(url, part, entry, options.timeout, on_bytes)
            if file_sha256(part) != entry.sha256:
                raise _AlteredError(f"found SHA-256 {file_sha256(part)}")
            os.replace(part, target)
            return
        except _PassingError as error:
            wait, trouble = error.wait, str(error)
        except _AlteredError as error:
            part.unlink(missing_ok=True)
            if not resumed:
                raise AssetError(
                    f"{url}: expected {entry.size} bytes with SHA-256 {entry.sha256}, {error}. "
                    "The file was refused. Choose another server with --base-url, or run "
                    "`calvin-eval assets import PATH` on a checkout of mees/calvin."
                ) from error
            wait, trouble = 0.0, f"the continued file was wrong: {error}"
        _log.info("%s: attempt %d of %d: %s", url, attempt + 1, options.attempts, trouble)
    raise AssetError(
        f"cannot download {url} after {options.attempts} attempts: {trouble}. Run "
        "`calvin-eval assets pull` again to continue, or `calvin-eval assets import PATH`."
    )


def _transfer(
    url: str, part: Path, entry: ManifestFile, timeout: float, on_bytes: Callable[[int], None]
) -> None:
    """Bring `part` to its full size."""
    have = part.stat().st_size if part.exists() else 0
    if have == entry.size > 0:
        return
    if have > entry.size:
        raise _AlteredError(f"found {have} bytes in an earlier partial download")
    with _open(url, have, timeout) as response:
        start = _start(response, have)
        promised = response.headers.get("Content-Length")
        with open(part, "r+b" if start else "wb") as file:
            file.seek(start)
            got = start
            while block := _read(response):
                got += len(block)
                if got > entry.size:
                    raise _AlteredError("found more bytes than that")
                file.write(block)
                on_bytes(got)
    if got < entry.size:
        if promised == str(got - start):
            raise _AlteredError(f"found a whole file of {got} bytes")
        raise _PassingError(f"the connection ended after {got} of {entry.size} bytes")


def _open(url: str, have: int, timeout: float) -> HTTPResponse:
    headers = {"User-Agent": "calvin-eval", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response: HTTPResponse = build_opener(_Redirects()).open(
            Request(url, headers=headers), timeout=timeout
        )
    except HTTPError as error:
        error.close()
        if error.code == 416:  # the part is no beginning of the server's file
            raise _AlteredError("found a shorter file") from error
        if error.code in _PASSING:
            asked = error.headers.get("Retry-After") or ""
            wait = float(asked) if re.fullmatch(r"\d{1,5}", asked) else 0.0
            raise _PassingError(f"HTTP {error.code} {error.reason}", wait) from error
        raise AssetError(
            f"expected a file at {url}, found HTTP {error.code} {error.reason}. Check --base-url, "
            "or run `calvin-eval assets import PATH` on a checkout of mees/calvin."
        ) from error
    except (OSError, HTTPException) as error:
        raise _PassingError(str(getattr(error, "reason", None) or error)) from error
    return response


def _start(response: HTTPResponse, have: int) -> int:
    """Offset at which the body begins: 0 where the server does not do ranges."""
    if response.status != 206:
        return 0
    if not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
        raise _AlteredError("found another range than the one asked for")
    return have


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read(_BLOCK)
    except (OSError, HTTPException) as error:
        raise _PassingError(f"the connection broke: {error}") from error
