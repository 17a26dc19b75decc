"""The URLs that an import accepts."""

from __future__ import annotations

import pytest

from orlop_engine.images.urls import check_url
from orlop_sdk import InvalidParameter


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://h",
            "https://h/",
            "HTTP://H:80/x?y=z://#a",
            "http://1.2.3.4:1/",
            "http://[::1]:80/x",
            "http://[fe80::1%25e]/",
        ),
        *("http://u:p@h:1/x", "http://\u00e9.example/", "http://a_b.example:/x", "https://h/a b"),
    ],
)
def test_valid_import_urls_are_accepted(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("foo://x", 'Get "foo://x": unsupported protocol scheme "foo"'),
        ("file:///etc/passwd", 'Get "file:///etc/passwd": unsupported protocol scheme "file"'),
        ("unix:///run/docker.sock", "unsupported protocol scheme"),
        ("http:x", 'unsupported protocol scheme "http:x"'),
        ("http://", 'Get "http://": http: no Host in request URL'),
        ("http:///x", 'Get "http:///x": http: no Host in request URL'),
        ("http://u@/x", "no Host in request URL"),
        ("http://a\nb/", 'parse "http://a\\nb/": net/url: invalid control character in URL'),
        ("http://\x00", "invalid control character"),
        ("http://[", "invalid host or port"),
        ("http://[::1/", "invalid host or port"),
        ("http://a b/", "invalid host or port"),
        ("http://mailto:x", "invalid host or port"),
        ("http://::1/", "invalid host or port"),
        ("http://h:0/", "has no valid port"),
        ("http://h:99999/", "has no valid port"),
        ("http://h:-1/", "invalid host or port"),
    ],
)
def test_invalid_import_urls_are_refused(url: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_url(url)
    assert message in str(caught.value)
