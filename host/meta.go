package main

import (
	"context"
	"path/filepath"

	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/membership"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/host/source"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
)

// metaStore implements membership.Meta in the peer log's database, and the data folder.
type metaStore struct {
	dir     string
	db      *database.DB
	journal *peerlog.Log
}

func (m *metaStore) Meta(ctx context.Context, key string) ([]byte, error) {
	return m.journal.Meta(ctx, key)
}

func (m *metaStore) SetMeta(ctx context.Context, key string, value []byte) error {
	return m.db.Write(ctx, func(tx *database.Tx) error { return m.journal.SetMeta(tx, key, value) })
}

// Mark implements membership.Meta.
func (m *metaStore) Mark(library membership.Library) error {
	return membership.WriteMark(m.dir, membership.Mark{LibraryID: library.ID, Library: library.Name, Store: m.db.Where()})
}

// stranger is why a database that knows nothing of this device is not its own: nil where the device has been in no library, so
// that there is nothing to miss.
func stranger(c *config.Config) error {
	mark, ok, err := membership.ReadMark(c.Device.DataDir)
	if err != nil || !ok {
		return err
	}
	right := "Bring the file back from a backup"
	if c.Store.Kind == "postgres" {
		right = "Correct the dsn or the schema, or bring the database back from a backup"
	}
	file := filepath.Join(c.Device.DataDir, membership.MarkFile)
	anew := "remove " + file + " and start this host, then let it join again: starling join CODE"
	if !c.Library.Join {
		anew = "remove " + file + ", write library { join = true } in its configuration, so that it founds no other library, and start this host, then let it join again: starling join CODE"
	}
	return sdk.Errorf(sdk.CodeInvalid, "this device belongs to the library %q, and there is nothing of it here; its database was %s. Nothing was changed here. "+
		"%s. Or, to have this device begin with an empty database: %s", mark.Library, mark.Store, right, anew)
}

// memberRecords implements membership.Records: the members are records of the library's own model.
type memberRecords struct {
	registry *registry.Registry
	manager  *transaction.Manager
}

func (m *memberRecords) ListMembers(ctx context.Context, each func(id sdk.RecordID, names []string, values []any) error) error {
	return m.registry.List(ctx, membership.MemberModel, registry.Filter{}, func(row registry.Row) error {
		names, values := make([]string, len(row.Fields)), make([]any, len(row.Fields))
		for i, f := range row.Fields {
			names[i], values[i] = f.Name, f.Value
		}
		return each(row.ID, names, values)
	})
}

func (m *memberRecords) CommitMembers(ctx context.Context, batch sdk.Batch) ([]sdk.Refusal, error) {
	result, err := m.manager.CommitShared(ctx, batch)
	return plainRefusals(result.Refused), err
}

// plainRefusals are the refusals of a request of one batch.
func plainRefusals(refused []transaction.Refusal) []sdk.Refusal {
	var plain []sdk.Refusal
	for _, r := range refused {
		plain = append(plain, r.Refusal)
	}
	return plain
}

func (m *memberRecords) WatchMembers() (changed <-chan struct{}, cancel func()) {
	return source.Signals(m.registry.Watch).Watch(membership.MemberModel)
}
