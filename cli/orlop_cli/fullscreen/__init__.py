"""The full-screen view of `orlop top`.

`model` has the state and its changes, `keys` the effects of keys, and `view` the lines of a state. They do no I/O, so tests
need no terminal. `fetch` makes the requests in threads, and `loop` connects the parts with curses.
"""
