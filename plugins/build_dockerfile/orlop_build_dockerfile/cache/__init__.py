"""The build cache: what steps have made, found again by keys.

   file.py      the SQLite file             records.py  records in memory, leases, keys
   filters.py   filters of du and prune     collect.py  what to remove: prune and garbage collection
   content.py   digests of files

A record is written after its snapshot has been committed, so a crash leaves at most a snapshot without a record, which the
next start removes. A record whose snapshot is gone is dropped. The file is not synced at each write: a power cut loses the
newest records, and their steps run again.
"""
