-- An epoch's changes are after since; zero, of epochs from before this was kept: after what it continues.

ALTER TABLE _epoch ADD COLUMN IF NOT EXISTS since BIGINT NOT NULL DEFAULT 0;
