"""The log that several nodes share: one stream on one Redis (7 or newer, or Valkey).

Each event is one entry. The stream numbers its entries 1, 2, 3 … (`XADD … 0-*`), in scripts that look after epochs,
idempotency keys and retention in the same step. A node has one connection that appends, one that follows, and a few
that read.

**What can go wrong with Redis.** Redis may forget: it was flushed, restarted from an older file, or a failover lost the
newest events. Its replication id tells that it may have; the record of epochs tells from where on. A node that knows of
events which are missing now notes that in the record, so that all nodes tell their readers (`LogLost`). A Redis that
comes back with everything gets a new epoch, and nothing is lost. All this is checked on every new connection, at least
once a second, and by every append.
"""
