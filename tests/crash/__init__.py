"""Killing Orlop at every system call that changes something, and looking at what the next daemon makes of it.

tracer      counts a process's state-changing system calls, and kills it at the entry of the n-th
host        what is on the host: an independent look, with names where ids and addresses would be
operations  what is interrupted: how to prepare it, do it, and undo it
harness     one point: prepare, kill, start again, judge, repeat, undo; and learning what states may be found
__main__    `./dev crash`: all points, or those asked for
"""
