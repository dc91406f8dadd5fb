"""Names of what is not on this machine: repositories of the Hugging Face Hub, web pages, buckets.

Nothing is ever downloaded; the message says what to type instead.
"""

from __future__ import annotations

import re

SERVERS = (
    "ws://HOST:PORT or wss://HOST:PORT of a server of openpi (--policy openpi), starVLA (--policy "
    "starvla), vla-eval (--policy vla_eval) or calvin-eval serve, http://HOST:PORT of X-VLA "
    "(--policy xvla), or tcp://HOST:PORT of GR00T (--policy gr00t); the client of any other server "
    "can be wrapped in a class and run as file.py:Class (docs/servers.md)"
)
"""Addresses of servers that are spoken to, and with which preset."""

_HUB_NAME = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
_HUB_PAGE = re.compile(rf"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?:models/)?({_HUB_NAME})")
_HUB_SCHEME = re.compile(rf"(?:hf|huggingface)://(?:models/)?({_HUB_NAME})")
_BUCKETS = {
    "gs": "gcloud storage cp -r", "s3": "aws s3 cp --recursive", "az": "azcopy copy --recursive",
}  # fmt: skip
_FILES = (".pt", ".pth", ".ckpt", ".pt2", ".npz", ".npy", ".safetensors", ".bin", ".py", ".json",
          ".yaml", ".pkl", ".onnx", ".zip", ".tar", ".gz")  # fmt: skip


def explain_elsewhere(ckpt: str) -> str | None:
    """What to say of a checkpoint that is named by an address of the web; None if it is none.

    Addresses of servers, such as `ws://HOST:PORT`, are none.
    """
    hub = _HUB_PAGE.match(ckpt) or _HUB_SCHEME.match(ckpt)
    if hub is not None:
        return f"{ckpt} is a repository of the Hugging Face Hub. {_fetch(hub[1])}"
    scheme, marked, rest = ckpt.partition("://")
    if not marked:
        return None
    if scheme in _BUCKETS:
        name = rest.rstrip("/").rpartition("/")[2] or "checkpoint"
        return (
            f"{ckpt} is in a bucket, and calvin-eval downloads nothing: copy it by "
            f"`{_BUCKETS[scheme]} {ckpt} {name}` and run --ckpt {name}"
        )
    server = "/" not in rest.rstrip("/") or rest.rstrip("/").endswith("/act")
    if scheme in ("http", "https") and not server:
        return (
            f"{ckpt} is a page or a file of the web, and calvin-eval downloads nothing: fetch it "
            "yourself and give its path to --ckpt"
        )
    return None


def explain_missing(ckpt: str) -> str | None:
    """What to say of a path that is not there, if it looks like a server or a name of the Hub."""
    if re.fullmatch(r"(?:[\w-]+(?:\.[\w-]+)*|\[[0-9a-fA-F:]+\]):\d{1,5}(?:/act)?", ckpt):
        return f"{ckpt} looks like the address of a server: expected {SERVERS}"
    if re.fullmatch(_HUB_NAME, ckpt) is None or ckpt.lower().endswith(_FILES):
        return None
    return f"there is no folder {ckpt} here. If it is a repository of the Hugging Face Hub: " + (
        _fetch(ckpt)
    )


def _fetch(name: str) -> str:
    folder = name.rpartition("/")[2]
    return (
        f"calvin-eval downloads nothing: fetch it by `hf download {name} --local-dir {folder}` and "
        f"run --ckpt {folder}"
    )
