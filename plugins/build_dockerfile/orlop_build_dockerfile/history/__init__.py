"""The history of builds, which `docker buildx history` shows: the request, the result and the output of each build.

   store.py      records and blobs on disk, their limits, listeners
   recorder.py   writes the reports of a build while it runs
   trace.py      the steps of a build as spans
   service.py    the calls of clients

A record is written when its build has ended. A builder that is killed loses the records of its builds in progress.
"""
