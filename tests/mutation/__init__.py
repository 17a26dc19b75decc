"""Mutation testing: changes the code of guards, one place at a time, and counts how many changes make a unit test fail.

areas.py        what is changed, and the tests that must notice
mutants.py      the changes
runner.py       runs the tests against one change, in a forked process
survivors.txt   changes that no test notices, each with the reason why that is accepted
"""
