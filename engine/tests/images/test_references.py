"""Image references: Docker's grammar, normalising and familiar form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_engine.images.references import Reference, image_id, parse, parse_digest, with_tag_or_digest
from orlop_sdk import InvalidParameter

HEX = "04789418b4e38276409d21680a3f4128de2931dc32ac36be9792a6dc819f5672"
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("alpine", "docker.io/library/alpine", "alpine"),
        ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
        ("library/alpine", "docker.io/library/alpine", "alpine"),
        ("index.docker.io/alpine", "docker.io/library/alpine", "alpine"),
        ("docker.io/library/alpine:x", "docker.io/library/alpine:x", "alpine:x"),
        ("grafana/loki", "docker.io/grafana/loki", "grafana/loki"),
        ("library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/a", "localhost/a", "localhost/a"),
        ("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b:c"),
        ("Foo/bar", "Foo/bar", "Foo/bar"),
        ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
        (f"ghcr.io/a/b@{DIGEST}", f"ghcr.io/a/b@{DIGEST}", f"ghcr.io/a/b@{DIGEST}"),
        (f"a:b@{DIGEST}", f"docker.io/library/a:b@{DIGEST}", f"a:b@{DIGEST}"),
        ("a__b/c--d.e", "docker.io/a__b/c--d.e", "a__b/c--d.e"),
    ],
)
def test_references_are_normalized_and_shortened(text: str, full: str, familiar: str) -> None:
    reference = parse(text)
    assert str(reference) == full
    assert reference.familiar == familiar


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        (HEX, f"invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
        ("Nope", "invalid reference format: repository name (library/Nope) must be lowercase"),
        ("foo/Foo", "invalid reference format: repository name (foo/Foo) must be lowercase"),
        ("a:-b", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("a\n", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("a/../b", "invalid reference format"),
        ("a:" + "b" * 129, "invalid reference format"),
        ("a@sha256:abc", "invalid reference format"),
        ("a@sha512:" + "a" * 128, "unsupported digest algorithm"),
        ("a@sha256:" + "a" * 63, "invalid checksum digest length"),
        ("é", "invalid reference format"),
        ("a" * 256, "repository name must not be more than 255 characters"),
        ("x" * 100_000, "invalid reference format"),
    ],
)
def test_invalid_references_are_refused_with_dockers_messages(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(text)
    assert str(caught.value) == message


COMPONENT = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,6}){0,2}", fullmatch=True)
DOMAIN = st.one_of(
    st.just("docker.io"),
    st.just("localhost"),
    st.from_regex(r"[a-z]{1,5}\.[a-z]{2,3}(:[0-9]{1,5})?", fullmatch=True),
    st.from_regex(r"localhost:[0-9]{1,5}", fullmatch=True),
)
TAG = st.one_of(st.just(""), st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True))


@given(DOMAIN, st.lists(COMPONENT, min_size=1, max_size=4), TAG, st.booleans())
def test_full_and_familiar_forms_are_parsed_as_the_same_reference(
    domain: str, parts: list[str], tag: str, digested: bool
) -> None:
    """Both forms are references to the same image."""
    path = "/".join(parts)
    if domain == "docker.io" and len(parts) == 1:
        path = f"library/{path}"
    if len(path.removeprefix("library/")) == 64:
        return  # the last part may be 64 hex digits, which would be parsed as an ID
    reference = Reference(domain, path, tag, DIGEST if digested else "")
    assert parse(str(reference)) == reference
    assert parse(reference.familiar) == reference
    assert len(reference.familiar) <= len(str(reference))


@given(st.text(max_size=80))
def test_any_text_is_parsed_as_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse(text)
    except InvalidParameter:
        return
    assert parse(str(reference)) == reference


def test_default_tag_is_added_only_without_tag_and_digest() -> None:
    assert parse("a").with_default_tag().familiar == "a:latest"
    assert parse("a:b").with_default_tag().familiar == "a:b"
    assert parse(f"a@{DIGEST}").with_default_tag().familiar == f"a@{DIGEST}"


def test_image_name_and_tag_parameter_are_combined() -> None:
    assert with_tag_or_digest("a", "b").familiar == "a:b"
    assert with_tag_or_digest("a:", "").is_name_only
    assert with_tag_or_digest("a:x", "b").familiar == "a:b"
    assert with_tag_or_digest("a", DIGEST).familiar == f"a@{DIGEST}"
    assert with_tag_or_digest(f"a:b@{DIGEST}", "").familiar == f"a@{DIGEST}"
    with pytest.raises(InvalidParameter, match=r"^invalid tag format$"):
        with_tag_or_digest("a", "bad:tag")


def test_ids_and_digests_are_parsed() -> None:
    assert image_id(HEX) == image_id(DIGEST) == DIGEST
    assert image_id(HEX[:12]) is None
    assert parse_digest(DIGEST) == DIGEST
    with pytest.raises(InvalidParameter, match="invalid checksum digest format"):
        parse_digest("sha256")
    with pytest.raises(InvalidParameter, match="invalid checksum digest format"):
        parse_digest("sha256:" + "A" * 64)
