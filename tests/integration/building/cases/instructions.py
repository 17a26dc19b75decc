"""Other instructions, stages and targets."""

from __future__ import annotations

from .case import TREE, Case

__all__ = ["CASES"]

CASES: dict[str, Case] = {
    "workdir": Case("FROM busybox\nWORKDIR /a/b\nRUN touch c\nWORKDIR d\nRUN pwd > /pwd\n"),
    "workdir-user": Case("FROM busybox\nUSER 7\nWORKDIR /home/seven\nRUN stat -c %u:%g . > /tmp/o || true\n"),
    "scratch": Case("FROM scratch\nCOPY dir /\n", TREE),
    "metadata": Case(
        'FROM busybox\nLABEL a=1 b="x y"\nEXPOSE 80 81/udp\nVOLUME /v /w\nUSER me\n'
        'ENTRYPOINT ["/x"]\nCMD ["a", "b"]\nSTOPSIGNAL 9\n'
        "ONBUILD RUN true\nMAINTAINER me\n"
    ),
    "metadata-only": Case("FROM busybox\nENV A=b\nCMD sh\n"),
    "target": Case("FROM busybox AS one\nRUN touch /one\nFROM busybox AS two\nRUN touch /two\n", {}, "--target", "one"),
    "stage-base": Case("FROM busybox AS a\nENV X=1\nRUN touch /a\nFROM a\nRUN echo $X > /b\n"),
    "user-group": Case("FROM busybox\nRUN mkdir -p /tmp && chmod 1777 /tmp\nUSER 3:4\nRUN id -u > /tmp/id\n"),
    "onbuild": Case("FROM busybox AS b\nONBUILD RUN touch /onbuild\nFROM b\nRUN touch /after\n"),
    "labels-option": Case("FROM busybox\nLABEL a=1\n", {}, "--label", "b=2", "--label", "a=3"),
    "healthcheck": Case(
        "FROM busybox\nHEALTHCHECK --interval=5s --timeout=3s --start-period=1m --retries=4 CMD test -f /x || exit 1\n"
    ),
    "healthcheck-json": Case('FROM busybox\nHEALTHCHECK --start-interval=2s CMD ["/bin/true", "x"]\n'),
    "healthcheck-none": Case("FROM busybox AS a\nHEALTHCHECK CMD true\nFROM a\nHEALTHCHECK NONE\n"),
    "shell-forms": Case(
        'FROM busybox\nCMD a b\nENTRYPOINT c d\nSHELL ["/bin/sh", "-c", "-e"]\nENTRYPOINT e "f g"\nCMD h | i\n'
        "HEALTHCHECK CMD j\n"
    ),
    "entrypoint-resets-cmd": Case("FROM busybox AS a\nCMD old\nFROM a\nENTRYPOINT new\n"),
    "cmd-after-entrypoint": Case('FROM busybox\nENTRYPOINT ["a"]\nCMD ["b"]\nENTRYPOINT ["c"]\n'),
    "cmd-not-json": Case("FROM busybox\nCMD ['single', 'quotes']\nENTRYPOINT [ \"a\", b ]\n"),
    "cmd-empty": Case("FROM busybox\nCMD []\nENTRYPOINT []\n"),
    "expose": Case("FROM busybox\nEXPOSE 80 443/tcp 53/UDP 8000-8003 9/sctp\n"),
    "expose-again": Case("FROM busybox AS a\nEXPOSE 80\nFROM a\nEXPOSE 80/tcp 81\n"),
    "volume": Case('FROM busybox\nVOLUME /a\nVOLUME ["/b", "/c d"]\nVOLUME /e /f\nRUN mkdir -p /a/x\n'),
    "label": Case("FROM busybox\nLABEL a.b=c \"d e\"='f g' h=i\\\nj k=\nLABEL l m n\n"),
    "label-again": Case("FROM busybox AS a\nLABEL x=1 y=2\nFROM a\nLABEL y=3\n"),
    "stopsignal": Case("FROM busybox\nSTOPSIGNAL SIGUSR1\n"),
    "user-forms": Case("FROM busybox\nUSER daemon\nUSER 1000\nUSER a:b\n"),
    "maintainer": Case("FROM busybox\nMAINTAINER Some One <x@example.com>\n"),
    "onbuild-kinds": Case(
        "FROM busybox\nONBUILD COPY . /app\nONBUILD ENV a=b\nONBUILD WORKDIR /app\nONBUILD  RUN   make \\\n  all\n"
        'ONBUILD CMD ["x"]\n'
    ),
    "onbuild-runs": Case(
        "FROM busybox AS b\nARG v=1\nONBUILD ENV a=b\nONBUILD COPY top.md /onbuild/\nONBUILD WORKDIR /onbuild\n"
        "ONBUILD RUN pwd > pwd\nFROM b AS c\nRUN ls > /ls\nFROM c\nRUN touch /last\n",
        TREE,
    ),
    "lower-case": Case("from busybox as x\nrun touch /x\nfrom busybox\nenv a=b\ncopy --from=x /x /y\ncmd sh\nlabel a=b\n"),
    "comments": Case(
        "# one\n\n   # two\nFROM busybox\n  # three\nRUN echo a \\\n# inside\n\n  # more\n   b > /x # no comment\n"
    ),
    "continuations": Case("FROM busybox\nRUN touch /a && \\  \n  touch /b && \\\n\\\n  touch /c\nENV x=1 \\\n    y=2\n"),
    "crlf": Case('FROM busybox\r\nENV a=b\r\nRUN touch /x\r\nCMD ["sh"]\r\n'),
    "byte-order-mark": Case("\ufeffFROM busybox\nENV a=b\n"),
    "no-newline-at-end": Case("FROM busybox\nRUN touch /x"),
    "stages-unused": Case("FROM busybox AS a\nRUN exit 1\nFROM busybox AS b\nRUN touch /b\nFROM b\nRUN touch /c\n"),
    "stages-many": Case(
        "".join(f"FROM {'busybox' if not n else f's{n - 1}'} AS s{n}\nRUN echo {n} >> /n\n" for n in range(8))
    ),
    "stages-same-name": Case("FROM busybox AS a\nRUN touch /1\nFROM busybox AS a\nRUN touch /2\nFROM a\nRUN touch /3\n"),
    "target-case": Case("FROM busybox AS One\nRUN touch /0\nFROM busybox\nRUN touch /1\n", {}, "--target", "ONE"),
    "from-platform": Case("FROM --platform=linux/amd64 busybox\nRUN touch /x\n"),
    "from-scratch-stage": Case("FROM scratch AS s\nCOPY top.md /\nFROM s\nCOPY two.txt /\n", TREE),
    "workdir-relative": Case("FROM busybox\nWORKDIR a/./b/../c\nWORKDIR ..\nWORKDIR ./d/\nRUN pwd > p\n"),
    "workdir-exists": Case("FROM busybox\nRUN mkdir -m 700 /w && chown 3:4 /w\nWORKDIR /w\nRUN touch x\n"),
    "workdir-link": Case("FROM busybox\nRUN mkdir /real && ln -s /real /via\nWORKDIR /via/in\nRUN touch x\n"),
}
