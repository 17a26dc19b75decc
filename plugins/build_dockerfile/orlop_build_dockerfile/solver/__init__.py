"""The solver: executes graphs of operations (LLB), and shares work and results between builds.

definition.py  a graph, decoded and checked      job.py        the graphs of one build
core.py        what all builds share             tasks.py      work that several wait for
values.py      what vertices give                broadcast.py  progress of shared work
frontends.py   from a client's options to a graph
service.py     `open_solver`: implements `contracts.Solver`
"""

from .service import open_solver

__all__ = ["open_solver"]
