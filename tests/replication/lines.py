"""The lines of the contract's sections 5 to 9, and those of 10 that need no network, by short names.

Under these tests and planted changes speak of them.

``7.R4`` is behaviour of the reference that must hold exactly, ``7.P4`` a place where walspool is better on purpose.
"""

from __future__ import annotations

LINES = {
    "5.R1": "append, read_since, read_since_shared (the very same payload objects), current_lsn, set_current_lsn "
    "(only forward), prune_through, oldest_lsn",
    "5.R2": "default capacity 100 000 records",
    "5.P2": "the capacity is real: the oldest records leave when it is full, also by a byte bound (256 MiB)",
    "5.P3": "lookup by LSN is a binary search",
    "6.R1": "encoded text is compact JSON, keys in alphabetical order, an empty optional left out, metadata null kept",
    "6.P1": "integers are exact; re-encoding changes the term and keeps what it does not know; one above 2**64-1 is "
    "the default; NaN, lone surrogates and nesting over 128 are errors",
    "6.R2": "on decode a wrong type counts as missing, a negative or missing integer is the default, a fraction is "
    "cut; rid null hides entity_id; hex may be upper case; a non-string in the refresh list, trailing bytes, bytes "
    "that are not UTF-8 are errors; the kind is kept as read, only encoding maps it: exact names, then "
    "kv, document, vector",
    "6.R3": "encoding writes rid and kind, decoding also accepts entity_id and entity_kind; defaults on decode; a "
    "missing or unknown operation, bad hex, a refresh_records_hex that is no list is an error",
    "6.R4": "kind is written in its public form",
    "6.P5": "range_id and ownership_epoch are kept when present, absent when absent",
    "7.R1": "stored as {'slots': [...]}, sorted by id, keys in alphabetical order, indented by two, by a temporary "
    "file, fsync and rename; absent options; what is skipped and what is filled in on load",
    "7.P1": "integers exact; a file that can't be parsed raises SlotStoreCorrupt, the previous good version is kept "
    "and named; an I/O error is raised, on load and on save",
    "7.R2": "registering a known slot returns its restart_lsn and refreshes last_seen; a new one starts with "
    "restart = confirmed = the given LSN",
    "7.R3": "advancing: invalid slots don't move, confirmed = max(confirmed, applied, durable), restart = max(restart, "
    "durable), last_seen refreshed; touching sets last_seen of valid slots only, back too",
    "7.P3": "the slot file may lag memory, never lead it; durable before every prune, on creation, drop, reset, "
    "invalidation and close, otherwise at most every 100 ms",
    "7.R4": "limits per valid slot in this order: horizon, idle-timeout; the list of (id, cause); differences saturate",
    "7.P4": "for a slot loaded from disk idle time counts from the opening until its replica is first seen again",
    "7.R5": "defaults: max_lag_lsn 100 000, idle_timeout_ms 86 400 000",
    "7.P5": "also max_retained_bytes (0 = off) and max_slots 64",
    "7.R6": "slot_rebootstrap_reason: unknown None; invalid its reason; oldest > max(restart, requested) + 1 makes it "
    "wal-removed, persisted; else None",
    "7.R7": "plan_replica_resume: a reason is FullRebootstrap, not counted; else PartialResync(max(requested, "
    "restart)), counted; requested 0 means from my slot",
    "7.P7": "an id without a slot is judged by the same gap rule",
    "7.P8": "where the oldest LSN is left out the question is floor < pruned_through; None says that the log is empty",
    "7.P9": "0 < requested < restart resumes at requested while retained, else wal-removed; a log empty below "
    "current_lsn is a gap",
    "7.P10": "a resume below a slot's restart_lsn never invalidates that slot",
    "7.P11": "explain_retention says who pins the log, and what a prune now would free",
    "7.P12": "explain_resume is the same decision without side effects, in words and numbers",
    "7.R8": "retention floor: smallest restart_lsn over valid slots; prune_retained_wal_through enforces, prunes spool "
    "and buffer through min(floor, archived), returns it; 0 prunes nothing",
    "7.P13": "the floor used is that of the positions on disk",
    "7.P14": "drop_slot, reset_slot (an LSN that is not retained is refused), wal_status, retained bytes",
    "8.R1": "register_replica returns the slot's restart_lsn; new: three LSNs start there, the epoch goes up; known: "
    "progress kept, last_seen refreshed, region replaced only by a given one, the epoch stays",
    "8.R2": "ensure_replica_registered: True only when it registered; unregister_replica: whether it was there, the "
    "epoch goes up, the waiter forgets it",
    "8.R3": "set_replica_rebootstrapping: whether the id is known; the epoch goes up only when the flag changes",
    "8.R4": "note_replica_pull: last_sent only forward, last_seen refreshed, slot touched",
    "8.R5": "ack_replica_lsn: slot advanced, every field forward, last_seen refreshed, the waiter is told durable "
    "after all locks are released; ack_replica: acked and durable forward, waiter told, slot neither moved nor touched",
    "8.R6": "unregistering keeps the slot; a pull touches the slot of an unregistered id; registering refreshes "
    "last_seen of an invalid slot; ensure of a known id refreshes nothing",
    "8.P7": "an ack from an id with neither registration nor slot raises UnknownReplica and counts for nothing; with a "
    "slot but no registration the replica is registered first",
    "8.R8": "in the process an acknowledged LSN beyond current_lsn is accepted",
    "8.R9": "progress: lag = max(sent) - min(acked), saturating; safe replay = min(durable); None without replicas",
    "8.R10": "append_logical_record feeds buffer and spool and wakes waiters; wait_for_logical_lsn_after; "
    "current_logical_lsn is the spool's, or the buffer's without a data path",
    "8.P10": "the spool comes first and its errors are raised, also those of opening it; the buffer never holds what "
    "the disk does not",
    "9.R1": "CommitWaiter: record_replica_ack (forward only), drop_replica, snapshot (sorted), commit_watermark(n), "
    "await_acks; target 0 is reached at once; counters",
    "9.P1": "only acknowledgements count, a registration is no copy",
    "9.R2": "policies local, remote_wal, ack_n=N, quorum; async, sync(n) 5 s, regions(set) 10 s; too few replicas and "
    "missing regions fail at once, a late one with QuorumTimeout that lists the regions that answered; the record is "
    "locally durable and the error says so",
    "9.P2": "any other policy, also the empty string, is a ValueError",
    "9.R3": "flow control: soft lag target against the slowest durable LSN of the replicas in the quorum; above it "
    "Throttled, at or below it Granted; 0 is off; others never throttle",
    "10.P6": "a primary that meets a newer term stops accepting appends (StaleTermError, kept in .state)",
    "10.P7": "a slot that bootstraps is exempt from horizon and idle limits, up to bootstrap_timeout (1 h)",
}
