"""The solver: executes graphs of operations (LLB), and shares work and results between builds.

definition.py   decodes and checks a graph
job.py          executes the graphs of one build
core.py         resources that all builds share
tasks.py        work that several tasks wait for
values.py       the results of vertices
broadcast.py    the progress of shared work
frontends.py    make a graph from a client's options
service.py      `open_solver`: implements `contracts.Solver`
"""

from .service import open_solver

__all__ = ["open_solver"]
