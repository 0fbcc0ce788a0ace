"""`GET /`: the chat page, one file of this package, under a policy that lets run nothing but what is in it."""

import base64
import functools
import hashlib
import re
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from jaxpt.serving.served import ServedModel

ELSEWHERE = "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def policy(page: str) -> str:
    """Returns a Content-Security-Policy: the page's own scripts and styles by their SHA-256, requests to this server.

    Args:
        page: HTML, with its `<script>` and `<style>` inline.
    """
    sources = [f"{name}-src {_hashes(name, page)}" for name in ("script", "style")]
    return "; ".join(["default-src 'none'", *sources, ELSEWHERE])


def _hashes(name: str, page: str) -> str:
    contents = re.findall(rf"<{name}>(.*?)</{name}>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in contents]
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"


@functools.cache
def _page() -> str:
    return resources.files("jaxpt.serving").joinpath("chat.html").read_text(encoding="utf-8")


async def chat_page(served: ServedModel, request: Request) -> Response:
    """Answers with the page."""
    headers = {
        "content-security-policy": policy(_page()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return Response(_page(), headers=headers, media_type="text/html")
