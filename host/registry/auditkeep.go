package registry

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// keptKey names what KeepAudit stores; the number at its end is that of the form in which records are summed.
const keptKey = "audit1"

// keptAudits is what KeepAudit stores.
type keptAudits struct {
	Since  int                         `json:"since"` // audit.since
	Models map[sdk.ModelName]keptAudit `json:"models"`
}

// keptAudit is audited.
type keptAudit struct {
	Kind    sdk.Ownership `json:"kind"`
	Ranges  []byte        `json:"ranges"`            // 32 bytes each: until, digest
	Changed []byte        `json:"changed,omitempty"` // 16 bytes an id
}

// KeepAudit stores the digests of ranges, so that the first audit after the next start need not read all records. It is for
// the end of a run: the next New removes what is stored, as does whatever is written here after all. So it is never
// older than the tables, and after a crash there is none, and all is read. It blocks while digests are computed.
func (r *Registry) KeepAudit(ctx context.Context) error {
	select {
	case r.audit.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.audit.turn }()
	err := r.db.Write(ctx, func(tx *database.Tx) error {
		value, err := json.Marshal(r.audit.keep())
		if err != nil {
			return err
		}
		_, err = tx.Exec("INSERT INTO _meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", keptKey, value)
		return err
	})
	if err != nil {
		return fmt.Errorf("keep the digests of audits: %w", err)
	}
	return nil
}

// keep returns what is to be stored, within a transaction: none is under way that changes records, and each that comes takes
// away what is stored.
func (a *audit) keep() keptAudits {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kept = true
	kept := keptAudits{Since: a.since, Models: make(map[sdk.ModelName]keptAudit)}
	for model, one := range a.models {
		if len(one.ranges) == 0 || one.changed.all || a.pending[model] != nil {
			continue
		}
		k := keptAudit{Kind: one.digests.Kind}
		for _, found := range one.ranges {
			k.Ranges = append(append(k.Ranges, found.Until[:]...), found.Digest[:]...)
		}
		for _, id := range one.changed.ids {
			k.Changed = append(k.Changed, id[:]...)
		}
		kept.Models[model] = k
	}
	return kept
}

func forgetKept(tx *database.Tx) error {
	_, err := tx.Exec("DELETE FROM _meta WHERE key = ?", keptKey)
	return err
}

// takeKept takes what KeepAudit stored, if it did. What can not be read is as good as none.
func (a *audit) takeKept(tx *database.Tx) error {
	var value []byte
	found, err := tx.One("SELECT value FROM _meta WHERE key = ?", []any{keptKey}, &value)
	if err != nil || !found {
		return err
	}
	if err := forgetKept(tx); err != nil {
		return err
	}
	var kept keptAudits
	if json.Unmarshal(value, &kept) != nil {
		return nil //nolint:nilerr // as good as none
	}
	a.since = kept.Since
	for model, k := range kept.Models {
		one := new(audited)
		for rest := k.Ranges; len(rest) >= 32; rest = rest[32:] {
			one.ranges = append(one.ranges, RangeDigest{Until: sdk.RecordID(rest[:16]), Digest: AuditDigest(rest[16:32])})
		}
		for rest := k.Changed; len(rest) >= 16; rest = rest[16:] {
			one.changed.ids = append(one.changed.ids, sdk.RecordID(rest[:16]))
		}
		if n := len(one.ranges); n > 0 && one.ranges[n-1].Until == lastID {
			one.digests = digestsOf(model, k.Kind, one.ranges)
			a.models[model] = one
		}
	}
	return nil
}
