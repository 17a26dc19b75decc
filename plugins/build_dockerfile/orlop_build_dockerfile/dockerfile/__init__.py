"""Converts a Dockerfile to LLB. All functions are pure, without access to files or the network.

interface.py            the input, the requests for data during the conversion, the result
frontend.py             `convert(request)`: reads the Dockerfile, converts it for each platform, answers subrequests
options.py              the client's options
context.py              the main context, named contexts
convert.py              the conversion for one platform: stages, their bases, the result
stages.py, builder.py   a stage and the stages that it needs; a stage while it is converted
convert_*.py            convert instructions to operations
image.py                the image's configuration
llb.py, sources.py      graphs of operations
variables.py            the arguments of every build

parser.py               parses the text to lines and nodes, with directives.py, heredocs.py, arguments.py, flags.py
instructions.py         instructions as values, with build_instructions.py, mounts.py, ports.py, filemode.py
words.py, patterns.py   quotes and variables; patterns of `${name#pattern}`
lint.py, checks.py      Docker's lint rules, and their checks
outline.py, subrequests.py   --call outline, targets, check
ignore.py               .dockerignore
limits.py               limits for the work that a Dockerfile causes
goformat.py, platforms.py, references.py, giturl.py, signals.py, suggest.py   values in the syntax of Docker and Go
together.py             runs conversions concurrently
"""
