"""Mutation testing: changes the code of guards, one place at a time, and counts how many changes make a unit test fail.

areas.py        what is changed, and the tests that must notice
mutants.py      the changes
runner.py       collects the tests once, and tries each change in a forked process
confinement.py  keeps changed code from the machine's files and processes
forks.py patching.py coverage.py    what the runner needs
results.txt     how many changes were noticed, and those that were not
"""
