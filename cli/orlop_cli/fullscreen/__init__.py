"""The full-screen view of `orlop top`.

`model` defines the state and its changes, `keys` maps a key to its effects, and `view` renders a state as lines. These
modules do no I/O, so their tests need no terminal. `fetch` makes the requests in threads, and `loop` connects the parts with
curses.
"""
