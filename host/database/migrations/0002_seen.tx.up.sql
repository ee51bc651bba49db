-- _seen  values that an operation had replaced before they were known here: they lost to nobody

CREATE TABLE IF NOT EXISTS _seen (model INTEGER NOT NULL, id BLOB NOT NULL, field INTEGER NOT NULL, stamp INTEGER NOT NULL,
    PRIMARY KEY (model, id, field, stamp)) STRICT, WITHOUT ROWID;
