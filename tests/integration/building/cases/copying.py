"""COPY and ADD."""

from __future__ import annotations

from hashlib import sha256

from .case import SERVED, TREE, Case, Entry

__all__ = ["CASES"]

# So many files that a second process copies some of them
_MANY: dict[str, Entry] = {
    f"m/d{number % 8}/{number}": ("mode", (0o644, 0o755, 0o4711, 0o600)[number % 4], f"{number}\n" * (number % 50))
    for number in range(1600)
}

CASES: dict[str, Case] = {
    "copy-file": Case("FROM busybox\nCOPY top.md /\nCOPY top.md /x/y/\nCOPY top.md /z/renamed\n", TREE),
    "copy-dir": Case("FROM busybox\nCOPY dir /d\nCOPY dir/ /e/\n", TREE),
    "copy-thousands": Case(
        "FROM busybox\nRUN mkdir -p /x/d3/e; touch /x/d3/3 /x/d3/11\nCOPY m /x\n",
        {**_MANY, "m/d3/linked": ("hard", "m/d3/3"), "m/d4/link": ("link", "4")},
    ),
    "copy-thousands-chown": Case("FROM busybox\nCOPY --chown=7:8 --chmod=640 m /x\n", _MANY),
    "copy-dir-over": Case("FROM busybox\nRUN mkdir -m 711 -p /d/sub && chmod 711 /d && touch /d/a.txt\nCOPY dir /d\n", TREE),
    "copy-all": Case("FROM busybox\nCOPY . /all\n", {**TREE, ".dockerignore": "*.md\ndir/sub\n!dir/sub/b.txt\n"}),
    "copy-several": Case("FROM busybox\nCOPY top.md two.txt dir /s/\n", TREE),
    "copy-wildcard": Case("FROM busybox\nCOPY *.t?t dir/s* /w/\n", TREE),
    "copy-json": Case('FROM busybox\nCOPY ["a b.txt", "/c d/"]\n', TREE),
    "copy-missing": Case("FROM busybox\nCOPY none.txt /\n", TREE, fails=True),
    "copy-wildcard-missing": Case("FROM busybox\nCOPY none*.txt top.md /n/\n", TREE),
    "copy-chown": Case("FROM busybox\nCOPY --chown=12:34 dir /d\nCOPY --chown=55 top.md /one/two/\n", TREE),
    "copy-chown-name": Case(
        "FROM busybox\nRUN mkdir -p /etc; echo me:x:77:88::/:/bin/sh > /etc/passwd; echo us:x:99: > /etc/group\n"
        "COPY --chown=me top.md /a\nCOPY --chown=me:us top.md /b\nCOPY --chown=:us top.md /c\n",
        TREE,
    ),
    "copy-chown-no-passwd": Case("FROM busybox\nCOPY --chown=nobodyhere top.md /a\n", TREE),
    "copy-chown-unknown": Case(
        "FROM busybox\nRUN mkdir -p /etc; echo me:x:77:88::/:/bin/sh > /etc/passwd\nCOPY --chown=nobodyhere top.md /a\n",
        TREE,
    ),
    "copy-chmod": Case("FROM busybox\nCOPY --chmod=751 dir /d\nCOPY --chmod=0640 top.md /t\n", TREE),
    "copy-link": Case("FROM busybox\nCOPY --link top.md /l/t\nCOPY --link dir /l/d/\n", TREE),
    "copy-over-link": Case(
        "FROM busybox\nRUN mkdir /real && ln -s real /via && ln -s nowhere /t\nCOPY top.md /via/\nCOPY two.txt /t\n", TREE
    ),
    "copy-dir-over-link": Case(
        "FROM busybox\nRUN mkdir /real && ln -s /real /via\nCOPY dir /via\nCOPY dir /via/new\n", TREE
    ),
    "copy-link-source": Case("FROM busybox\nCOPY dir/link /followed\nCOPY dir/link /in/\n", TREE),
    "copy-file-over-dir": Case("FROM busybox\nRUN mkdir -p /d/top.md\nCOPY top.md /d/\n", TREE, fails=True),
    "copy-dir-over-file": Case("FROM busybox\nRUN touch /f\nCOPY dir /f\n", TREE, fails=True),
    "copy-hard": Case("FROM busybox\nCOPY d /d\n", {"d/a": "one", "d/b": ("hard", "d/a")}),
    "copy-from-stage": Case(
        "FROM busybox AS s\nRUN mkdir /o && echo 1 > /o/f && chown 5:6 /o/f && chmod 2755 /o\n"
        "RUN ln /o/f /o/g && ln -s f /o/l\n"
        "FROM busybox\nCOPY --from=s /o /copied\nCOPY --from=0 /o/f /single\nCOPY --from=s /o/l /l\n"
    ),
    "copy-from-image": Case("FROM scratch\nCOPY --from=busybox /bin/busybox /b\n"),
    "copy-heredoc": Case("FROM busybox\nCOPY <<EOF /h/file\nhello\nEOF\nCOPY --chmod=700 <<one <<two /h/\n1\none\n2\ntwo\n"),
    "add-tar": Case(
        "FROM busybox\nADD a.tar /t/\nADD b.tgz /u\n",
        {"a.tar": ("tar", {"x/y": "1", "z": "2"}), "b.tgz": ("tar", {"q": "3"}, "gz")},
    ),
    "add-not-tar": Case("FROM busybox\nADD x.tar y.gz /t/\n", {"x.tar": "no tar", "y.gz": b"\x1f\x8b\x08nothing"}),
    "add-file": Case("FROM busybox\nADD top.md dir /a/\n", TREE),
    "copy-parents-dir": Case("FROM busybox\nCOPY dir/sub/b.txt /deep/er/place/b\n", TREE),
    "copy-dot": Case("FROM busybox\nWORKDIR /w\nCOPY . .\nCOPY top.md .\nCOPY dir ./d/\n", TREE),
    "copy-rename-in": Case("FROM busybox\nRUN mkdir /x\nCOPY top.md /x\nCOPY dir /x\n", TREE),
    "copy-twice": Case("FROM busybox\nCOPY dir /d\nCOPY --chmod=600 top.md /d/a.txt\nCOPY dir/a.txt /d/\n", TREE),
    "copy-special-of-stage": Case(
        "FROM busybox AS s\nRUN mkdir /o; mkfifo -m 640 /o/p; mknod /o/n c 1 3\nFROM busybox\nCOPY --from=s /o /o\n"
    ),
    "copy-mode-of-stage": Case(
        "FROM busybox AS s\nRUN touch /f && chmod 4711 /f && chown 3:4 /f\nFROM busybox\nCOPY --from=s /f /g\n"
    ),
    "copy-chown-stage": Case(
        "FROM busybox AS s\nRUN mkdir -p /o/p && touch /o/p/q\nFROM busybox\nCOPY --from=s --chown=9:8 /o/ /n/\n"
    ),
    "copy-empty-file": Case("FROM busybox\nCOPY empty /\n", {"empty": ""}),
    "copy-many": Case("FROM busybox\nCOPY m /m\n", {f"m/{n % 7}/{n}": str(n) for n in range(200)}),
    "copy-names": Case(
        "FROM busybox\nCOPY n /n\n", {"n/größe ✓": "1", "n/ space ": "2", "n/-dash": "3", "n/[x]": "4", "n/a\\b": "5"}
    ),
    "copy-bracket-pattern": Case("FROM busybox\nCOPY [a-b].txt /x/\n", {"a.txt": "1", "b.txt": "2", "c.txt": "3"}),
    "copy-escaped-pattern": Case("FROM busybox\nCOPY \\[x\\].txt /x/\n", {"[x].txt": "1", "x.txt": "2"}),
    "copy-question": Case("FROM busybox\nCOPY ?.txt /x/\n", {"a.txt": "1", "bc.txt": "2"}),
    "copy-pattern-dirs": Case("FROM busybox\nCOPY */f /x/\n", {"a/f": "1", "b/g": "2"}),
    "copy-dot-files": Case("FROM busybox\nCOPY .a* /x/\nCOPY d/.b /y\nCOPY * /z/\n", {".a1": "1", "d/.b": "2", "c": "3"}),
    "copy-several-to-file": Case("FROM busybox\nCOPY top.md two.txt /one\n", TREE),
    "copy-above-context": Case("FROM busybox\nCOPY ../../etc/passwd /x\n", TREE, fails=True),
    "copy-absolute": Case("FROM busybox\nCOPY /top.md /dir/a.txt /x/\n", TREE),
    "copy-dots-in-path": Case("FROM busybox\nCOPY dir/../top.md ./two.txt /x/../y/\n", TREE),
    "copy-to-root": Case("FROM busybox\nCOPY dir/ /\nCOPY top.md .\n", TREE),
    "copy-chmod-octal": Case("FROM busybox\nCOPY --chmod=4755 top.md /a\nCOPY --chmod=0 top.md /b\n", TREE),
    "copy-chown-chmod": Case("FROM busybox\nCOPY --chown=1:2 --chmod=700 dir /new/place\n", TREE),
    "copy-chown-variable": Case("FROM busybox\nARG u=12\nCOPY --chown=$u:${u}3 top.md /x/\n", TREE),
    "copy-from-number": Case(
        "FROM busybox\nRUN touch /x\nFROM busybox AS b\nRUN touch /y\nFROM busybox\nCOPY --from=0 /x /\nCOPY --from=1 /y /\n"
    ),
    "copy-from-later": Case("FROM busybox\nCOPY --from=later /x /\nFROM busybox AS later\nRUN touch /x\n"),
    "copy-from-itself": Case("FROM busybox AS me\nCOPY --from=me /x /\n", fails=True),
    "copy-from-wildcard": Case(
        "FROM busybox AS s\nRUN mkdir /o && touch /o/a1 /o/a2 /o/b\nFROM busybox\nCOPY --from=s /o/a* /x/\n"
    ),
    "copy-from-link-dir": Case(
        "FROM busybox AS s\nRUN mkdir /r && touch /r/f && ln -s r /l\nFROM busybox\nCOPY --from=s /l /a\n"
        "COPY --from=s /l/ /b/\n"
    ),
    "copy-from-sticky": Case(
        "FROM busybox AS s\nRUN mkdir -m 1777 /o && mkdir -m 2750 /o/p\nFROM busybox\nCOPY --from=s /o /x\n"
    ),
    "copy-from-times": Case(
        "FROM busybox AS s\nRUN mkdir /o && touch -d @1000000 /o/f\nFROM busybox\nCOPY --from=s /o /x\n"
    ),
    "copy-link-chain": Case("FROM busybox\nCOPY l /l\n", {"l/a": ("link", "b"), "l/b": ("link", "c"), "l/c": "x"}),
    "copy-link-broken": Case("FROM busybox\nCOPY l /l\n", {"l/a": ("link", "nowhere")}),
    "copy-heredoc-variables": Case("FROM busybox\nARG a=1\nCOPY <<EOF <<'RAW' /h/\n$a ${b:-c} \\$d\nEOF\n$a\nRAW\n"),
    "copy-heredoc-and-file": Case("FROM busybox\nCOPY <<EOF top.md /h/\ntext\nEOF\n", TREE),
    "copy-heredoc-tabs": Case("FROM busybox\nCOPY <<-EOF /h\n\tone\n\t\ttwo\nEOF\n"),
    "copy-heredoc-chown": Case("FROM busybox\nCOPY --chown=3:4 --chmod=0600 <<EOF /h\nx\nEOF\n"),
    "copy-link-flag-new-dir": Case("FROM busybox\nCOPY --link --chown=1 top.md /n/e/w/\n", TREE),
    "copy-over-device": Case("FROM busybox\nRUN mknod /n c 1 3\nCOPY top.md /n\n", TREE),
    "copy-trailing-dot": Case("FROM busybox\nCOPY dir/. /x\nCOPY dir /y/.\n", TREE),
    "add-archives": Case(
        "FROM busybox\nADD a.tar.bz2 b.tar.xz /t/\n",
        {"a.tar.bz2": ("tar", {"x": "1"}, "bz2"), "b.tar.xz": ("tar", {"y": "2"}, "xz")},
    ),
    "add-archive-chown": Case("FROM busybox\nADD --chown=7:8 a.tar /t/\n", {"a.tar": ("tar", {"x/y": "1"})}),
    "add-archive-named": Case("FROM busybox\nADD data /t/\n", {"data": ("tar", {"x": "1"}, "gz")}),
    "add-archive-over": Case(
        "FROM busybox\nRUN mkdir /t && echo old > /t/x\nADD a.tar /t\n", {"a.tar": ("tar", {"x": "new"})}
    ),
    "add-archive-in-dir": Case("FROM busybox\nADD d /t/\n", {"d/a.tar": ("tar", {"x": "1"})}),
    "add-archive-to-file": Case("FROM busybox\nRUN touch /f\nADD a.tar /f\n", {"a.tar": ("tar", {"x": "1"})}, fails=True),
    "add-url": Case("FROM busybox\nADD @HTTP@/file.txt /u/\nADD @HTTP@/file.txt /named\n"),
    "add-url-chmod": Case("FROM busybox\nADD --chmod=755 --chown=3:4 @HTTP@/file.txt /u/\n"),
    "add-url-archive": Case("FROM busybox\nADD @HTTP@/a.tar /u/\n"),
    "add-url-query": Case("FROM busybox\nADD @HTTP@/file.txt?version=1 /u/\n"),
    "add-url-checksum": Case(
        f"FROM busybox\nADD --checksum=sha256:{sha256(SERVED['file.txt']).hexdigest()} @HTTP@/file.txt /u\n"
    ),
    "add-url-wrong-checksum": Case(f"FROM busybox\nADD --checksum=sha256:{'0' * 64} @HTTP@/file.txt /u\n", fails=True),
    "add-url-missing": Case("FROM busybox\nADD @HTTP@/none /u\n", fails=True),
    "add-url-directory": Case("FROM busybox\nADD @HTTP@/ /u/\n", fails=True),
    "add-git": Case("FROM busybox\nADD @HTTP@/git/repo.git /g\n"),
    "add-git-branch": Case("FROM busybox\nADD @HTTP@/git/repo.git#other:sub /g\n"),
    "add-git-missing-branch": Case("FROM busybox\nADD @HTTP@/git/repo.git#none /g\n", fails=True),
}
