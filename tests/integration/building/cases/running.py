"""RUN: forms, mounts, networks, and the files in its layers."""

from __future__ import annotations

from .case import TREE, Case

__all__ = ["CASES"]

CASES: dict[str, Case] = {
    "run": Case("FROM busybox\nRUN echo hello > /hello\nRUN mkdir -p /a/b && chmod 700 /a && rm /hello\n"),
    "run-exec": Case('FROM busybox\nRUN ["touch", "/made"]\n'),
    "run-shell": Case('FROM busybox\nSHELL ["/bin/sh", "-ec"]\nRUN false || true; touch /x\n'),
    "run-fails": Case("FROM busybox\nRUN exit 3\n", fails=True),
    "run-user": Case(
        "FROM busybox\nRUN chmod 777 /tmp || mkdir -m 777 /tmp\nUSER 5:6\nRUN id -u > /tmp/u; id -g > /tmp/g\n"
    ),
    "run-env": Case("FROM busybox\nARG A=1\nENV B=${A}2\nRUN echo $A $B > /env\n"),
    "run-heredoc": Case("FROM busybox\nRUN <<EOF\necho one > /one\necho two > /two\nEOF\n"),
    "run-cache-mount": Case("FROM busybox\nRUN --mount=type=cache,target=/c touch /c/x && touch /done\n"),
    "run-tmpfs": Case("FROM busybox\nRUN --mount=type=tmpfs,target=/t touch /t/x && touch /done\n"),
    "run-bind": Case("FROM busybox\nRUN --mount=type=bind,target=/src cp /src/top.md /copied\n", TREE),
    "run-bind-stage": Case(
        "FROM busybox AS s\nRUN mkdir /d && echo x > /d/f\nFROM busybox\nRUN --mount=from=s,source=/d,target=/m cp /m/f /f\n"
    ),
    "run-bind-write": Case("FROM busybox\nRUN --mount=type=bind,target=/src,rw touch /src/new && touch /done\n", TREE),
    "run-replaced": Case("FROM busybox\nRUN mkdir -p /v/w && touch /v/w/x\nRUN rm -r /v && touch /v\n"),
    "run-device": Case("FROM busybox\nRUN mknod /dev0 c 1 3; mkfifo /fifo; ln -s /nowhere /link; ln /fifo /fifo2\n"),
    "run-hosts": Case("FROM busybox\nRUN grep -c 10.1.2.3 /etc/hosts > /n\n", {}, "--add-host", "h:10.1.2.3"),
    "run-network-none": Case("FROM busybox\nRUN --network=none ls /sys/class/net > /net\n"),
    "run-args-stages": Case("ARG V=7\nFROM busybox AS one\nFROM one\nARG W=${V}8\nRUN echo $V $W > /v\n"),
    "run-fails-heredoc": Case("FROM busybox\nRUN <<EOF\nset -e\nfalse\nEOF\n", fails=True),
    "run-no-such-command": Case('FROM busybox\nRUN ["/none"]\n', fails=True),
    "run-cd": Case("FROM busybox\nWORKDIR /one\nWORKDIR two\nRUN touch here ../there\n"),
    "run-changes": Case("FROM busybox\nRUN mkdir /q && touch /q/1\nRUN rm /q/1\nRUN touch /q/1\n"),
    "secret-missing": Case("FROM busybox\nRUN --mount=type=secret,id=none,required=true true\n", fails=True),
    "secret-optional": Case("FROM busybox\nRUN --mount=type=secret,id=none ls /run > /ls 2>&1; true\n"),
    "shm": Case("FROM busybox\nRUN grep /dev/shm /proc/mounts | grep -o size=[0-9k]* > /shm\n", {}, "--shm-size", "32m"),
    "ulimit": Case("FROM busybox\nRUN ulimit -n > /n\n", {}, "--ulimit", "nofile=321:321"),
    "run-cache-shared-between-steps": Case(
        "FROM busybox\nRUN --mount=type=cache,target=/c,id=parity-steps echo one > /c/x\n"
        "RUN --mount=type=cache,target=/c,id=parity-steps cp /c/x /x\n"
    ),
    "run-cache-owner": Case(
        "FROM busybox\n"
        "RUN --mount=type=cache,target=/c,id=parity-owner,uid=7,gid=8,mode=0750 stat -c '%u %g %a' /c > /stat\n"
    ),
    "run-cache-from": Case(
        "FROM busybox AS s\nRUN mkdir /d && echo x > /d/f\nFROM busybox\n"
        "RUN --mount=type=cache,target=/c,id=parity-from,from=s,source=/d,sharing=private cp /c/f /f\n"
    ),
    "run-cache-locked": Case("FROM busybox\nRUN --mount=type=cache,target=/c,id=parity-lock,sharing=locked touch /c/x /y\n"),
    "run-cache-read-only": Case(
        "FROM busybox\nRUN --mount=type=cache,target=/c,id=parity-ro,ro touch /c/x 2>/dev/null || touch /refused\n"
    ),
    "run-tmpfs-size": Case(
        "FROM busybox\nRUN --mount=type=tmpfs,target=/t,size=1m df -k /t | tail -1 | awk '{print $2}' > /s\n"
    ),
    "run-bind-image": Case(
        "FROM busybox\nRUN --mount=type=bind,from=busybox,source=/bin,target=/other ls /other/sh > /ls\n"
    ),
    "run-bind-read-only": Case("FROM busybox\nRUN --mount=target=/src touch /src/x 2>/dev/null || touch /refused\n", TREE),
    "run-bind-file": Case("FROM busybox\nRUN --mount=source=top.md,target=/t.md cat /t.md > /copied\n", TREE),
    "run-bind-missing": Case("FROM busybox\nRUN --mount=source=none,target=/t true\n", TREE, fails=True),
    "run-mounts-nested": Case(
        "FROM busybox\nRUN --mount=type=tmpfs,target=/a --mount=source=dir,target=/a/b --mount=type=cache,target=/a/b/empty "
        "ls -R /a > /ls\n",
        TREE,
    ),
    "run-mount-variable": Case("FROM busybox\nARG d=dir\nRUN --mount=source=${d},target=/m$d ls /m$d > /ls\n", TREE),
    "run-secret": Case(
        "FROM busybox\nRUN --mount=type=secret,id=s,target=/s,mode=0444,uid=5,gid=6 stat -c '%u %g %a %s' /s > /stat\n",
        TREE,
        "--secret",
        "id=s,src=@CONTEXT@/top.md",
    ),
    "run-secret-default": Case(
        "FROM busybox\nRUN --mount=type=secret,id=s ls -l /run/secrets/s | cut -c1-10 > /ls\n"
        "RUN ls /run 2>&1 | wc -l > /after\n",
        TREE,
        "--secret",
        "id=s,src=@CONTEXT@/top.md",
    ),
    "run-ssh-missing": Case("FROM busybox\nRUN --mount=type=ssh,required true\n", fails=True),
    "run-ssh-optional": Case("FROM busybox\nRUN --mount=type=ssh echo ${SSH_AUTH_SOCK:-none} > /s\n"),
    "run-heredoc-interpreter": Case("FROM busybox\nRUN <<EOF\n#!/bin/busybox sh\necho $0 > /dev/null; echo y > /y\nEOF\n"),
    "run-heredoc-quoted": Case("FROM busybox\nARG a=1\nRUN <<'EOF'\necho \"$a ${b:-c}\" > /x\nEOF\n"),
    "run-heredoc-tabs": Case("FROM busybox\nRUN <<-EOF\n\t\techo one > /x\n\techo two >> /x\nEOF\n"),
    "run-heredoc-command": Case("FROM busybox\nRUN cat <<EOF > /x && cat <<OTHER >> /x\none $PATH\nEOF\ntwo\nOTHER\n"),
    "run-heredoc-exec": Case('FROM busybox\nRUN ["/bin/sh", "-c", "echo <<EOF > /x"]\n'),
    "run-exec-no-expansion": Case('FROM busybox\nENV a=b\nRUN ["/bin/sh", "-c", "echo $a > /x"]\nRUN ["touch", "/$a"]\n'),
    "run-empty-lines": Case("FROM busybox\nRUN true && \\\n\n\n  touch /x\n"),
    "run-quotes": Case("FROM busybox\nRUN echo \"a  'b'  \\\"c\\\"\" > /x; echo 'd  $e' >> /x\n"),
    "run-unicode": Case("FROM busybox\nRUN echo 'größe ✓' > '/naïve ✓'\n"),
    "run-long-line": Case(f"FROM busybox\nRUN echo {'x' * 20000} | wc -c > /n\n"),
    "run-exit-code": Case("FROM busybox\nRUN echo out; echo err >&2; exit 42\n", fails=True),
    "run-not-executable": Case('FROM busybox\nRUN touch /f\nRUN ["/f"]\n', fails=True),
    "run-user-unknown": Case("FROM busybox\nUSER nobodyhere\nRUN true\n", fails=True),
    "run-workdir-file": Case("FROM busybox\nRUN touch /f\nWORKDIR /f\n", fails=True),
    "run-network-host-refused": Case("FROM busybox\nRUN --network=host true\n", fails=True, lines=False),
    "run-background": Case("FROM busybox\nRUN sleep 100 & touch /x\n"),
    "run-permissions": Case("FROM busybox\nRUN umask > /u; id > /id; pwd >> /u; grep Cap /proc/self/status > /caps\n"),
    "run-hostname": Case("FROM busybox\nRUN hostname > /h\n"),
    "run-deletes-base": Case("FROM busybox\nRUN rm -rf /bin/wget /home /etc/group\n"),
    "run-renames-dir": Case("FROM busybox\nRUN mkdir -p /d/e && touch /d/e/f\nRUN mv /d /new\n"),
    "run-hard-links": Case("FROM busybox\nRUN echo x > /a && ln /a /b && ln /a /c && rm /a\nRUN ln /b /d\n"),
    "run-changes-mode": Case("FROM busybox\nRUN touch /f && mkdir /d\nRUN chmod 600 /f && chmod 1777 /d && chown 9 /f\n"),
    "run-nothing": Case("FROM busybox\nRUN true\nRUN :\n"),
    "run-times": Case(
        "FROM busybox\nRUN touch -d @1000000 /old && mkdir /d && touch -h -d @2000000 /d 2>/dev/null; ln -s x /l\n"
    ),
    "run-sparse": Case("FROM busybox\nRUN dd if=/dev/zero of=/s bs=1 count=1 seek=1000000 2>/dev/null\n"),
    "extra-hosts": Case(
        "FROM busybox\nRUN grep '10.9' /etc/hosts > /h\n", {}, "--add-host", "a:10.9.0.1", "--add-host", "b:10.9.0.2"
    ),
    "network-option-none": Case("FROM busybox\nRUN ls /sys/class/net > /n\n", {}, "--network", "none"),
    "no-cache": Case("FROM busybox\nRUN touch /x\n", {}, "--no-cache"),
    "cgroup-parent": Case("FROM busybox\nRUN touch /x\n", {}, "--cgroup-parent", "/orlop-parity"),
}
