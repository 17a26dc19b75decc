"""The build cache: the results of steps, which are found again by keys.

   file.py      the SQLite file             records.py  records in memory, leases, keys
   filters.py   filters of du and prune     collect.py  removes records: prune and garbage collection
   content.py   digests of files

A record is written after its snapshot has been committed. So a crash leaves at most a snapshot without a record, which the
next builder process removes. A record without its snapshot is dropped. The file is not synced at each write, so a power cut
loses the newest records, and their steps run again.
"""
