"""Training data on HTTP(S), S3 and whatever else fsspec opens, through a bounded cache.

``published`` lists a folder's files with checksums, ``fetching`` asks a server for bytes,
``folder`` is such a folder on a server, ``block_cache`` keeps blocks of its files on the local
disk, ``reading`` reads ranges through that and fetches what is needed next.
"""
