-- _seen  values that an operation had replaced before they were known here: they lost to nobody

CREATE TABLE IF NOT EXISTS _seen (model BIGINT NOT NULL, id BYTEA NOT NULL, field BIGINT NOT NULL, stamp BIGINT NOT NULL,
    PRIMARY KEY (model, id, field, stamp));
