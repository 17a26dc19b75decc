"""Lines, continuations, comments, heredocs and forms of arguments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_build_dockerfile.dockerfile.build_instructions import read_stages
from orlop_build_dockerfile.dockerfile.directives import find_syntax, read_directives
from orlop_build_dockerfile.dockerfile.interface import DockerfileError
from orlop_build_dockerfile.dockerfile.limits import Budget
from orlop_build_dockerfile.dockerfile.parser import Node, parse


def _tree(text: str) -> list[str]:
    return [_shown(node) for node in parse(text, Budget()).nodes]


def _shown(node: Node) -> str:
    """The instruction as text: LINES NAME FLAGS, then WORDS or PAIRS, then heredocs."""
    found = node.arguments
    parts = [f"{node.lines.start}-{node.lines.end}", node.name, *node.flags]
    parts += ["json"] if found.json else []
    parts += [repr(word) for word in found.words]
    parts += [f"{pair.name}{' ' if pair.legacy else '='}{pair.value!r}" for pair in found.pairs]
    parts += [f"<<{doc.name}{'' if doc.expand else '!'} {doc.content!r}" for doc in node.heredocs]
    return " ".join(parts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a\nRUN b\n", ["1-1 FROM 'a'", "2-2 RUN 'b'"]),
        ("FROM a", ["1-1 FROM 'a'"]),
        ("\n\n  FROM   a  AS   b  \n", ["3-3 FROM 'a' 'AS' 'b'"]),
        ("\ufeffFROM a\n", ["1-1 FROM 'a'"]),
        ("FROM a\r\nRUN b \\\r\n c\r\n", ["1-1 FROM 'a'", "2-3 RUN 'b  c'"]),
        ("RUN a \\\n# c\n b\\\n  # d\n  c\n", ["1-5 RUN 'a  b  c'"]),
        ("RUN a \\  \n b\n", ["1-2 RUN 'a  b'"]),
        ("RUN a \\\\\nRUN b\n", ["1-1 RUN 'a \\\\\\\\'", "2-2 RUN 'b'"]),
        ("# escape=`\nRUN a `\n b\nRUN c\\\n", ["2-3 RUN 'a  b'", "4-4 RUN 'c\\\\'"]),
        ("# x\n# escape=`\nRUN a `\nRUN b\n", ["3-3 RUN 'a `'", "4-4 RUN 'b'"]),
        ("run --mount=type=bind --x='a b' c\n", ["1-1 run --mount=type=bind --x=a b 'c'"]),
        ("RUN -- --a\n", ["1-1 RUN '--a'"]),
        ("RUN --a=b\\ c d\n", ["1-1 RUN --a=b c 'd'"]),
        ('CMD ["a", "b c"]\n', ["1-1 CMD json 'a' 'b c'"]),
        ("CMD [a]\n", ["1-1 CMD '[a]'"]),
        ("CMD ['a']\n", ["1-1 CMD \"['a']\""]),
        ('CMD ["a"] b\n', ["1-1 CMD '[\"a\"] b'"]),
        ("CMD []\n", ["1-1 CMD json"]),
        ('COPY ["a b", "c"]\n', ["1-1 COPY json 'a b' 'c'"]),
        ("COPY a  b\tc\n", ["1-1 COPY 'a' 'b' 'c'"]),
        ("ENV a=b c=\"d e\" f='g' h=i\\ j\n", ["1-1 ENV a='b' c='\"d e\"' f=\"'g'\" h='i\\\\ j'"]),
        ("ENV a  b c\n", ["1-1 ENV a 'b c'"]),
        ("ENV a=\n", ["1-1 ENV a=''"]),
        ('LABEL "a b"=c d=e\n', ["1-1 LABEL \"a b\"='c' d='e'"]),
        ("ARG a b=c d='e f'\n", ["1-1 ARG 'a' 'b=c' \"d='e f'\""]),
        ('HEALTHCHECK --interval=5s CMD ["a"]\n', ["1-1 HEALTHCHECK --interval=5s json 'CMD' 'a'"]),
        ("HEALTHCHECK CMD a b\n", ["1-1 HEALTHCHECK 'CMD' 'a b'"]),
        ("ONBUILD COPY a b\n", ["1-1 ONBUILD 'COPY' 'a' 'b'"]),
        ("MAINTAINER a b\n", ["1-1 MAINTAINER 'a b'"]),
        ("EXPOSE 1 2\n", ["1-1 EXPOSE '1' '2'"]),
        ("FOO a b\n", ["1-1 FOO"]),
        ("RUN <<A\nx\n\ny\nA\nRUN b\n", ["1-5 RUN '<<A' <<A 'x\\n\\ny\\n'", "6-6 RUN 'b'"]),
        ("RUN <<A\n# c\n\\\nA\n", ["1-4 RUN '<<A' <<A '# c\\n\\\\\\n'"]),
        ("RUN <<\"A\" <<'B' <<C\nA\nB\nC\n", ["1-4 RUN '<<\"A\" <<\\'B\\' <<C' <<A! '' <<B! '' <<C ''"]),
        ("RUN <<-A\n\tx\n\tA\n", ["1-3 RUN '<<-A' <<A '\\tx\\n'"]),
        ("RUN 3<<A cat\nx\nA\n", ["1-3 RUN '3<<A cat' <<A 'x\\n'"]),
        ("RUN a << A\n", ["1-1 RUN 'a << A'"]),
        ("RUN a<<A\n", ["1-1 RUN 'a<<A'"]),
        ("RUN '<<A'\n", ["1-1 RUN \"'<<A'\""]),
        ("RUN <<A \\\n b\nx\nA\n", ["1-4 RUN '<<A  b' <<A 'x\\n'"]),
        ("COPY <<a <<b /c\n1\na\n2\nb\n", ["1-5 COPY '<<a' '<<b' '/c' <<a '1\\n' <<b '2\\n'"]),
        ("USER <<A\nUSER b\n", ["1-1 USER '<<A'", "2-2 USER 'b'"]),
        ("ONBUILD RUN <<A\nx\nA\n", ["1-3 ONBUILD 'RUN' '<<A' <<A 'x\\n'"]),
        ("CMD <<A\nCMD b\n", ["1-1 CMD '<<A'", "2-2 CMD 'b'"]),
    ],
)
def test_lines_of_a_dockerfile_are_parsed_to_instructions(text: str, expected: list[str]) -> None:
    assert _tree(text) == expected


def test_comments_belong_to_the_next_instruction() -> None:
    nodes = parse("# syntax=x\n# a\n# b\nFROM x\n# c\n\nRUN a\n# d\n#\n# e\nRUN b\n", Budget()).nodes
    assert [node.comments for node in nodes] == [("a", "b"), (), ("e",)]


def test_parser_directives_are_read_from_the_first_comments() -> None:
    found = read_directives("#!/bin/x\n#Syntax = a b \n#check=skip=all\n# escape=`\n# other=1\n# syntax=late\n")
    assert {name: (item.value, item.line) for name, item in found.items()} == {
        "syntax": ("a b", 2),
        "check": ("skip=all", 3),
        "escape": ("`", 4),
    }
    assert read_directives("\n# syntax=a\n") == {}
    assert read_directives("# comment\n# syntax=a\n") == {}


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("# syntax=a\n", "a"),
        ("// syntax=a\n", "a"),
        ('{"syntax": "a"}', "a"),
        ("{}", ""),
        ("FROM a\n", ""),
        ('{"syntax": 1}', ""),
    ],
)
def test_frontend_image_is_read_from_the_syntax_directive(text: str, image: str) -> None:
    found = find_syntax(text)
    assert (found.value if found else "") == image


@given(st.lists(st.text(alphabet="abRUN #\\`<>=\"'$[]{},-\t\n", max_size=12), max_size=12).map("\n".join))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    budget = Budget()
    try:
        parsed = parse("FROM x\n" + text, budget)
        read_stages(parsed.nodes, budget)
    except DockerfileError as error:
        assert error.message
        assert all(1 <= item.start.line <= text.count("\n") + 2 for item in error.ranges)


@given(st.lists(st.text(alphabet="abc xyz", min_size=1, max_size=8), min_size=1, max_size=6))
def test_continued_lines_are_joined(parts: list[str]) -> None:
    (node,) = parse("RUN a" + "\\\n".join(parts) + "b\n", Budget()).nodes
    assert node.arguments.words == ("a" + "".join(parts) + "b",)
