"""Variables: ARG and ENV, their scopes, and the operators of their expansion."""

from __future__ import annotations

from .case import TREE, Case

__all__ = ["CASES"]


def _expanded(*words: str, before: str = "ENV set=value empty=\n") -> Case:
    """An image with an environment variable for each word."""
    lines = [f"ENV w{number}=<{word}>\n" for number, word in enumerate(words)]
    return Case(f"FROM busybox\n{before}{''.join(lines)}")


CASES: dict[str, Case] = {
    "expand-default": _expanded("${set:-w}", "${empty:-w}", "${none:-w}", "${set-w}", "${empty-w}", "${none-w}"),
    "expand-alternative": _expanded("${set:+w}", "${empty:+w}", "${none:+w}", "${set+w}", "${empty+w}", "${none+w}"),
    "expand-required": _expanded("${set:?no}", "${set?no}", "${empty?no}"),
    "expand-required-fails": Case("FROM busybox\nENV a=${none?is not set}\n", fails=True),
    "expand-required-empty-fails": Case("FROM busybox\nENV e=\nENV a=${e:?is empty}\n", fails=True),
    "expand-prefix": _expanded("${p#*/}", "${p##*/}", "${p#b}", "${p#?/}", "${p##nothing}", before="ENV p=a/b/c.tar.gz\n"),
    "expand-suffix": _expanded("${p%.*}", "${p%%.*}", "${p%/*}", "${p%%/*}", before="ENV p=a/b/c.tar.gz\n"),
    "expand-replace": _expanded("${p/b/X}", "${p//b/X}", "${p//[ac]/-}", "${p/none/x}", "${p//b/}", before="ENV p=abcabc\n"),
    "expand-nested": _expanded("${none:-${set:-x}}", "${none:-${empty:-deep}}", "$set$set", "${set}${empty}."),
    "expand-quotes": Case(
        "FROM busybox\nENV a=1\nENV single='$a' double=\"$a ${a}\" none=$a escaped=\\$a mixed='x'\"$a\"y \\\n  space=a\\ b\n"
    ),
    "expand-escape-directive": Case("# escape=`\nFROM busybox\nENV a=1\nENV b=`$a c=$a `\n  d=\\e\nRUN echo `\n  x > /x\n"),
    "expand-unset": _expanded("$none", "${none}", "a${none}b", "$$", "$set-$none"),
    "expand-invalid": Case("FROM busybox\nENV a=${b\n", fails=True),
    "expand-unknown-operator": Case("FROM busybox\nENV a=${b@x}\n", fails=True),
    "env-one": Case("FROM busybox\nENV a b c  d\nENV e=f\n"),
    "env-several": Case("FROM busybox\nENV a=1 b=\"two words\" c=three\\ words d='four'\n"),
    "env-own-line": Case("FROM busybox\nENV a=1\nENV a=2 b=$a\nENV c=$a$b\n"),
    "env-path": Case("FROM busybox\nENV PATH=/own:$PATH\nRUN echo $PATH > /path\n"),
    "env-without-value": Case("FROM busybox\nENV a\n", fails=True),
    "env-over-arg": Case("FROM busybox\nARG a=arg\nENV a=env\nRUN echo $a > /a\n"),
    "arg-option": Case(
        "FROM busybox\nARG a=1\nARG b\nRUN echo $a $b > /v\n", {}, "--build-arg", "a=9", "--build-arg", "b=8"
    ),
    "arg-of-stages": Case(
        "ARG g=global\nFROM busybox AS one\nARG g\nARG o=one\nRUN echo $g $o > /v\nFROM busybox\nARG g=own\n"
        "RUN echo $g ${o:-unset} > /w\nCOPY --from=one /v /v\n"
    ),
    "arg-in-from": Case("ARG image=busybox\nARG tag=latest\nFROM ${image}:${tag}\nRUN touch /x\n"),
    "arg-in-from-option": Case("ARG image=none\nFROM $image AS x\nRUN touch /x\n", {}, "--build-arg", "image=busybox"),
    "arg-uses-arg": Case("ARG a=1\nARG b=${a}2\nFROM busybox\nARG b\nARG c=${b}3\nENV d=$c\n"),
    "arg-quotes": Case("FROM busybox\nARG a=\"x y\" \nARG b='z'\nENV c=$a d=$b\n"),
    "arg-several": Case("FROM busybox\nARG a=1 b=2 c\nENV d=$a$b$c\n"),
    "arg-empty-option": Case("FROM busybox\nARG a=1\nENV b=<$a>\n", {}, "--build-arg", "a="),
    "arg-platforms": Case(
        "FROM --platform=$BUILDPLATFORM busybox\nARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT BUILDOS BUILDARCH\n"
        "ENV a=$TARGETPLATFORM b=$TARGETOS c=$TARGETARCH d=$TARGETVARIANT e=$BUILDOS f=$BUILDARCH\n"
    ),
    "arg-proxy": Case(
        "FROM busybox\nRUN echo $HTTP_PROXY $http_proxy $NO_PROXY > /proxy\n",
        {},
        *("--build-arg", "HTTP_PROXY=http://192.0.2.1:3128", "--build-arg", "no_proxy=example.com"),
    ),
    "arg-unused": Case("FROM busybox\nRUN touch /x\n", {}, "--build-arg", "nobody=1"),
    "arg-in-copy": Case(
        "FROM busybox\nARG from=top.md\nARG to=/somewhere\nCOPY ${from} $to/${from%.md}.txt\nADD $from ${to}/\n", TREE
    ),
    "arg-in-metadata": Case(
        "FROM busybox\nARG v=7\nLABEL a=$v b='$v' $v=name\nEXPOSE $v ${v}1/udp\nVOLUME /v$v\nUSER $v:${v}1\nSTOPSIGNAL $v\n"
        'WORKDIR /w$v\nCMD echo $v\nENTRYPOINT ["$v"]\nONBUILD RUN echo $v\nHEALTHCHECK CMD echo $v\n'
    ),
    "arg-in-stage-name": Case("ARG n=two\nFROM busybox AS two\nRUN touch /x\nFROM $n\nRUN touch /y\n"),
}
