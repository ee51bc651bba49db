-- The tables of Starling's own. Model tables are made by the registry.
--
-- _device     local numbers of devices
-- _name       local numbers of models' and fields' names
-- _columns    local numbers of column sets
-- _meta       single values: device, library, the clock's high-water mark
-- _model      the last description of each model
-- _tombstone  deletes of device-owned records, by (model, id)
-- _shadow     records that are not visible: deleted but with clocks (present 0), or waiting for others (present 1)
-- _waiting    what a shadow record waits for
-- _parked     changes to models that no plugin here serves now
-- _conflict   the conflict journal: values that lost to a write that had not seen them
-- _refused    remote changes that were not stored, and why
-- _log        the peer log: shared operations of every origin
-- _log_size   how much the log holds of each origin up to a stamp, so that only what came after is counted
-- _floor      up to where operations (or tombstones) of each stream have been pruned here
-- _watermark  up to where each stream is applied here, without a gap: a position for each branch of its history
-- _ack        up to where each peer has applied each stream, likewise
-- _epoch      epochs of streams, and the positions that each continues: 16 bytes epoch and 8 bytes stamp a position
-- _snapshot   where the snapshots stand that are being taken in; origin 0: of every device

CREATE TABLE IF NOT EXISTS _device (n INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS _name (n INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS _columns (n INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, version INTEGER NOT NULL, names TEXT NOT NULL,
    UNIQUE (model, version, names)) STRICT;
CREATE TABLE IF NOT EXISTS _meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _model (name TEXT PRIMARY KEY, version INTEGER NOT NULL, description TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _tombstone (model INTEGER NOT NULL, id BLOB NOT NULL, owner INTEGER NOT NULL, stamp INTEGER NOT NULL,
    PRIMARY KEY (model, id)) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS _tombstone_stream ON _tombstone (owner, stamp);
CREATE TABLE IF NOT EXISTS _shadow (n INTEGER PRIMARY KEY, model INTEGER NOT NULL, id BLOB NOT NULL, present INTEGER NOT NULL,
    owner INTEGER, stamp INTEGER, data BLOB NOT NULL, UNIQUE (model, id)) STRICT;
CREATE INDEX IF NOT EXISTS _shadow_stream ON _shadow (owner, stamp) WHERE owner IS NOT NULL;
CREATE TABLE IF NOT EXISTS _waiting (missing BLOB NOT NULL, model INTEGER NOT NULL, id BLOB NOT NULL,
    PRIMARY KEY (missing, model, id)) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS _waiting_record ON _waiting (model, id);
CREATE TABLE IF NOT EXISTS _parked (n INTEGER PRIMARY KEY, origin INTEGER NOT NULL, stamp INTEGER NOT NULL, model INTEGER NOT NULL, shared INTEGER NOT NULL,
    id BLOB NOT NULL, columns INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (origin, stamp)) STRICT;
CREATE INDEX IF NOT EXISTS _parked_record ON _parked (model, id);
CREATE TABLE IF NOT EXISTS _conflict (n INTEGER PRIMARY KEY AUTOINCREMENT, model INTEGER NOT NULL, id BLOB NOT NULL, field INTEGER NOT NULL, value BLOB NOT NULL,
    lost_stamp INTEGER NOT NULL, lost_device INTEGER NOT NULL, winner_stamp INTEGER NOT NULL, winner_device INTEGER NOT NULL,
    UNIQUE (model, id, field, lost_stamp, lost_device)) STRICT;
CREATE TABLE IF NOT EXISTS _refused (origin INTEGER NOT NULL, stamp INTEGER NOT NULL, model TEXT NOT NULL, id BLOB NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL,
    PRIMARY KEY (origin, stamp)) STRICT;
CREATE TABLE IF NOT EXISTS _log (origin INTEGER NOT NULL, stamp INTEGER NOT NULL, columns INTEGER NOT NULL, op BLOB NOT NULL,
    PRIMARY KEY (origin, stamp)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _log_size (origin INTEGER PRIMARY KEY, through INTEGER NOT NULL, ops INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS _floor (origin INTEGER NOT NULL, kind TEXT NOT NULL, stamp INTEGER NOT NULL,
    PRIMARY KEY (origin, kind)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _watermark (origin INTEGER NOT NULL, kind TEXT NOT NULL, epoch BLOB NOT NULL, stamp INTEGER NOT NULL,
    PRIMARY KEY (origin, kind, epoch)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _ack (peer INTEGER NOT NULL, origin INTEGER NOT NULL, kind TEXT NOT NULL, epoch BLOB NOT NULL, stamp INTEGER NOT NULL,
    PRIMARY KEY (peer, origin, kind, epoch)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _epoch (id BLOB NOT NULL PRIMARY KEY, origin INTEGER NOT NULL, kind TEXT NOT NULL, parents BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS _epoch_stream ON _epoch (origin, kind);
CREATE TABLE IF NOT EXISTS _snapshot (kind TEXT NOT NULL, origin INTEGER NOT NULL, vector BLOB NOT NULL, after_model TEXT NOT NULL, after_id BLOB NOT NULL,
    PRIMARY KEY (kind, origin)) STRICT, WITHOUT ROWID;
