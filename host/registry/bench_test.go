package registry_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/sdk"
)

// Entry has the 17 columns that the ratios are measured with: about 246 bytes a row, two indexes.
type Entry struct {
	sdk.Owned
	Name     string  `starling:"name,required"`
	Ext      string  `starling:"extension"`
	Kind     int64   `starling:"kind"`
	Size     int64   `starling:"size"`
	Blocks   int64   `starling:"blocks"`
	Created  int64   `starling:"created_at"`
	Modified int64   `starling:"modified_at"`
	Accessed int64   `starling:"accessed_at"`
	Indexed  int64   `starling:"indexed_at"`
	Mode     int64   `starling:"mode"`
	UID      int64   `starling:"uid"`
	GID      int64   `starling:"gid"`
	Inode    int64   `starling:"inode"`
	Device   int64   `starling:"device"`
	Hash     string  `starling:"hash"`
	Parent   sdk.Ref `starling:"parent_id,ref=entry"`
}

func entries() sdk.Model[Entry] { return sdk.Model[Entry]{Name: "entry", Version: 1} }

// tree returns n entries; each of 50 after a folder lies in it.
func tree(n int) []*Entry {
	list := make([]*Entry, n)
	var folder sdk.RecordID
	for i := range list {
		e := &Entry{
			Owned: sdk.Owned{ID: sdk.NewRecordID()}, Name: fmt.Sprintf("a file with a name of usual length %d", i), Ext: "go", Kind: int64(i % 3),
			Size: int64(i) * 977, Blocks: int64(i), Created: 1_700_000_000_000_000 + int64(i), Modified: 1_700_000_000_000_001 + int64(i),
			Accessed: 1_700_000_000_000_002, Indexed: 1_700_000_000_000_003, Mode: 0o644, UID: 1000, GID: 1000, Inode: 1<<32 + int64(i), Device: 2049,
			Hash: strings.Repeat("0123456789abcdef", 4), Parent: sdk.Ref(folder),
		}
		if i%50 == 0 {
			folder = e.ID
		}
		list[i] = e
	}
	return list
}

const benchRows = 100_000

// pages returns the stream of a device with n entries in pages of about 1000 rows.
func pages(b *testing.B, n int) (list []page) {
	b.Helper()
	packer, err := entries().Packer()
	if err != nil {
		b.Fatal(err)
	}
	clock := hlc.New(1_700_000_000_000, 0)
	stream := history.Stream{Origin: deviceID(1), Kind: sdk.DeviceOwned}
	for i, e := range tree(n) {
		packer.Put(e)
		if (i+1)%1000 == 0 {
			batch := packer.Batch()
			from := clock
			batch.Rows, clock = stamped(&batch, clock)
			list = append(list, page{stream, from, clock, []sdk.Batch{batch}})
			packer, _ = entries().Packer()
		}
	}
	return list
}

func stamped(batch *sdk.Batch, clock hlc.Stamp) ([]byte, hlc.Stamp) {
	var rows []byte
	for row := range batch.StateRows() {
		clock++
		rows = sdk.AppendStateHeader(rows, row.ID, clock, len(batch.Columns))
		rows = append(rows, row.Values...)
	}
	return rows, clock
}

func BenchmarkApplyState(b *testing.B) {
	list := pages(b, benchRows)
	for b.Loop() {
		b.StopTimer()
		d := newFullDevice(b, 2, entries())
		b.StartTimer()
		for _, p := range list {
			d.apply(p)
		}
		b.StopTimer()
		d.close()
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N)*benchRows/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkApplyStatePrepare is the part that overlaps with the database in a host: the plugin and decoding.
func BenchmarkApplyStatePrepare(b *testing.B) {
	list := pages(b, benchRows)
	d := newFullDevice(b, 2, entries())
	for b.Loop() {
		for _, p := range list {
			if _, err := d.prepare(p); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.N)*benchRows/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkPlainInsert is what the others are compared with: the same rows without sync columns, by prepared statements of
// 50 rows, 1000 a transaction.
func BenchmarkPlainInsert(b *testing.B) {
	list := tree(benchRows)
	rows := make([][]any, len(list))
	for i, e := range list {
		var parent any
		if id := sdk.RecordID(e.Parent); !id.IsZero() {
			parent = id[:]
		}
		rows[i] = []any{e.ID[:], e.Name, e.Ext, e.Kind, e.Size, e.Blocks, e.Created, e.Modified, e.Accessed, e.Indexed, e.Mode, e.UID, e.GID, e.Inode, e.Device, e.Hash, parent}
	}
	for b.Loop() {
		b.StopTimer()
		db, err := sql.Open("sqlite", "file:"+filepath.Join(b.TempDir(), "plain.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=cache_size(-16384)&_pragma=wal_autocheckpoint(2000)")
		if err != nil {
			b.Fatal(err)
		}
		db.SetMaxOpenConns(1)
		for _, q := range []string{`CREATE TABLE entry (id BLOB NOT NULL PRIMARY KEY, name TEXT, extension TEXT, kind INTEGER, size INTEGER, blocks INTEGER,
			created_at INTEGER, modified_at INTEGER, accessed_at INTEGER, indexed_at INTEGER, mode INTEGER, uid INTEGER, gid INTEGER, inode INTEGER,
			device INTEGER, hash TEXT, parent_id BLOB) STRICT`, `CREATE INDEX parent ON entry (parent_id)`} {
			if _, err := db.Exec(q); err != nil {
				b.Fatal(err)
			}
		}
		values := "(?" + strings.Repeat(",?", 16) + ")"
		insert, err := db.Prepare("INSERT INTO entry VALUES " + values + strings.Repeat(","+values, 49))
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		plainInsert(b, db, insert, rows)
		b.StopTimer()
		_ = errors.Join(insert.Close(), db.Close()) //nolint:sqlclosecheck // outside the measured part
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N)*benchRows/b.Elapsed().Seconds(), "rows/s")
}

func plainInsert(b *testing.B, db *sql.DB, insert *sql.Stmt, rows [][]any) {
	b.Helper()
	args := make([]any, 0, 50*17)
	for from := 0; from < len(rows); from += 1000 {
		tx, err := db.Begin()
		if err != nil {
			b.Fatal(err)
		}
		stmt := tx.Stmt(insert) //nolint:sqlclosecheck // the commit closes it
		for at := from; at < from+1000; at += 50 {
			args = args[:0]
			for _, row := range rows[at : at+50] {
				args = append(args, row...)
			}
			if _, err := stmt.Exec(args...); err != nil {
				b.Fatal(err)
			}
		}
		if err := tx.Commit(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadState(b *testing.B) {
	d := newFullDevice(b, 2, entries())
	for _, p := range pages(b, benchRows) {
		d.apply(p)
	}
	stream := history.Stream{Origin: deviceID(1), Kind: sdk.DeviceOwned}
	for b.Loop() {
		for since, more := hlc.Stamp(0), true; more; {
			var p page
			p, more = d.read(stream, since, 256<<10)
			since = p.through
		}
	}
	b.ReportMetric(float64(b.N)*benchRows/b.Elapsed().Seconds(), "rows/s")
}

func BenchmarkDigest(b *testing.B) {
	d := newFullDevice(b, 2, entries())
	for _, p := range pages(b, benchRows) {
		d.apply(p)
	}
	for b.Loop() {
		d.digests()
	}
	b.ReportMetric(float64(b.N)*benchRows/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkApplyShared applies inserts and updates of labels in pages of 500 operations.
func BenchmarkApplyShared(b *testing.B) {
	const rows = 20_000
	src := newFullDevice(b, 1, labels())
	for range rows / 500 / 2 {
		packer, _ := labels().Packer()
		var made []*Label
		for i := range 500 {
			l := &Label{Shared: sdk.Shared{ID: sdk.NewRecordID()}, Name: fmt.Sprintf("label %d", i), Color: "red"}
			made = append(made, l)
			packer.Put(l)
		}
		src.share(packer.Batch())
		packer, _ = labels().Packer()
		for _, l := range made {
			l.Name += " renamed"
			if err := packer.Update(l, "name"); err != nil {
				b.Fatal(err)
			}
		}
		src.share(packer.Batch())
	}
	stream := history.Stream{Origin: src.id, Kind: sdk.SharedByAll}
	var list []page
	for since, more := hlc.Stamp(0), true; more; {
		var p page
		p, more = src.read(stream, since, 64<<10)
		since = p.through
		list = append(list, p)
	}
	for b.Loop() {
		b.StopTimer()
		d := newFullDevice(b, 2, labels())
		b.StartTimer()
		for _, p := range list {
			d.apply(p)
		}
		b.StopTimer()
		d.close()
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N)*rows/b.Elapsed().Seconds(), "ops/s")
}

// BenchmarkCommitDeviceOwned commits new entries, 100 at a time.
func BenchmarkCommitDeviceOwned(b *testing.B) {
	d := newFullDevice(b, 1, entries())
	list := tree(100 * 1000)
	at := 0
	for b.Loop() {
		packer, _ := entries().Packer()
		for range 100 {
			e := list[at%len(list)]
			e.Size++
			e.Parent = sdk.Ref{}
			packer.Put(e)
			at++
		}
		if _, err := d.manager.CommitDeviceOwned(context.Background(), packer.Batch()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*100/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkCommitShared commits new labels, 100 at a time.
func BenchmarkCommitShared(b *testing.B) {
	d := newFullDevice(b, 1, labels())
	for b.Loop() {
		packer, _ := labels().Packer()
		for i := range 100 {
			packer.Put(&Label{Name: fmt.Sprintf("label %d", i)})
		}
		if _, err := d.manager.CommitShared(context.Background(), packer.Batch()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*100/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkCounts counts what a million rows are, as metrics do in the background, and as many of them as a peer may be told to lack.
func BenchmarkCounts(b *testing.B) {
	const rows = 1_000_000
	d := newFullDevice(b, 2, entries())
	for _, p := range pages(b, rows) {
		d.apply(p)
	}
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			if c := d.counts("entry"); c.Visible != rows {
				b.Fatalf("%+v", c)
			}
		}
	})
	b.Run("behind", func(b *testing.B) {
		for b.Loop() {
			if n, err := d.registry.CountState(context.Background(), deviceID(1), 0, 10_000); n != 10_000 || err != nil {
				b.Fatal(n, err)
			}
		}
	})
}
