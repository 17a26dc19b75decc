"""What the vertices of a graph do: sources, commands, changes of files.

paths.py      paths inside a root            patterns.py   patterns of files to include or exclude
copying.py    copying trees                  actions.py    the actions of a file operation
modes.py      modes as chmod(1) takes them   archives.py   whether a file is an archive
"""
