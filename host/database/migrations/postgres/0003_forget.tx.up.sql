-- Deleted records and old conflicts are found by age, to be forgotten. _shadow.stamp is of a shared record that does not
-- exist (present 0) its greatest stamp; of one whose insert has not arrived, the form of data begins with four zeros.

CREATE INDEX IF NOT EXISTS _shadow_forget ON _shadow (stamp, model) WHERE present = 0;
CREATE INDEX IF NOT EXISTS _shadow_not_inserted ON _shadow (model) WHERE present = 0 AND substr(data, 1, 5) = '\x0100000000'::bytea;
CREATE INDEX IF NOT EXISTS _conflict_age ON _conflict (winner_stamp);
CREATE INDEX IF NOT EXISTS _seen_age ON _seen (stamp);
