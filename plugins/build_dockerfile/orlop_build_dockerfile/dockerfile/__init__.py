"""Converts a Dockerfile to LLB. All functions are pure, without access to files or the network.

interface.py      what goes in, what is needed meanwhile, what comes out
frontend.py       `convert(request)`: reads the Dockerfile, one conversion a platform, answers subrequests
options.py        the client's options             context.py       the main context, named contexts
convert.py        one platform: stages, their bases, the result
stages.py         stages and what they need        builder.py       a stage while it is converted
convert_*.py      instructions to operations       image.py         the image's configuration
llb.py sources.py graphs of operations             variables.py     arguments that each build has

parser.py         text to lines and nodes          directives.py heredocs.py arguments.py flags.py
instructions.py   instructions as values           build_instructions.py mounts.py ports.py filemode.py
words.py          quotes and variables             patterns.py      patterns of `${name#pattern}`
lint.py checks.py Docker's rules, what they look for      outline.py subrequests.py   --call outline, targets, check
ignore.py         .dockerignore                    limits.py        what a Dockerfile may cost
goformat.py platforms.py references.py giturl.py signals.py suggest.py   values as Docker reads and prints them
together.py       conversions side by side
"""
