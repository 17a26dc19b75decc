"""Executes the vertices of a graph: sources, commands, changes of files.

source.py     images                          local.py        directories of the client
http_source.py, git_source.py                 execute.py      commands, with stepmounts.py, cachemounts.py
files.py      file operations                 produce.py      the cache around commands and file operations
views.py      snapshots as directories        owners.py       owners by name
paths.py      paths inside a root             patterns.py     patterns of files to include or exclude
layers.py     merge and diff, with changes.py nested.py       graphs that a graph has made
copying.py    copying trees                   actions.py      the actions of a file operation
modes.py      modes in the syntax of chmod(1) archives.py     detects archives
"""
