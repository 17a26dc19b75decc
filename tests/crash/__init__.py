"""Crash tests: kill Orlop at every system call that changes something, and check the state after the next start.

tracer      counts a process's state-changing system calls, and kills it at the entry of the n-th
host        the state of the host, determined independently of Orlop, with names instead of ids and addresses
operations  the interrupted operations: how to prepare, do and undo each
harness     one point: prepare, kill, restart, compare, repeat, undo; and learning the permitted states
__main__    `./dev crash`: all points, or a selection
"""
