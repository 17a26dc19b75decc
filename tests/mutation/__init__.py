"""Mutation testing: changes the code of guards, one place at a time, and counts how many changes make a unit test fail.

areas.py        the code that is changed, and the tests that must fail because of a change
mutants.py      the changes
runner.py       collects the tests once, and tries each change in a forked process
confinement.py  keeps changed code from the machine's files and processes
forks.py patching.py coverage.py    what the runner needs
results.txt     the number of changes that made a test fail, and a list of the others
"""
