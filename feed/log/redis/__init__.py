"""The log that several nodes share: one stream on one Redis (7 or newer, or Valkey).

An entry an event; the stream numbers them 1, 2, 3 … (`XADD … 0-*`), in scripts that look after the epochs, idempotency
keys and retention in the same step. A node has one connection that appends, one that follows, and few that read.

**What Redis may do to us.** It forgets: flushed, restarted from an older file, or a failover that lost the tail. Its
replication id tells that it may have, and the record of epochs from where on; a node that knows of events that are not
there any more says so in the record, so that all nodes tell their readers (`LogLost`). A Redis that comes back with
everything is a new epoch, and no loss. That is looked at on every new connection, at least once a second, and by every
append itself.
"""
