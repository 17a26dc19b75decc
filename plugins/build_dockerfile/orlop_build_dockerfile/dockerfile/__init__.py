"""From a Dockerfile to LLB: pure functions, without files or network.

interface.py   what goes in, what is needed meanwhile, what comes out
frontend.py    `convert(request)`: reads the Dockerfile, chooses stages and platforms, answers subrequests
"""
