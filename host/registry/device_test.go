package registry_test

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
)

// File is device-owned and refers to its folder, a file too.
type File struct {
	sdk.Owned
	Name   string  `starling:"name,required"`
	Size   int64   `starling:"size"`
	Hidden *bool   `starling:"hidden"`
	Ratio  float64 `starling:"ratio"`
	Parent sdk.Ref `starling:"parent_id,ref=file"`
}

// FileV2 is a later version of File.
type FileV2 struct {
	sdk.Owned
	Name   string  `starling:"name,required"`
	Color  string  `starling:"color"`
	Size   int64   `starling:"size"`
	Hidden *bool   `starling:"hidden"`
	Ratio  float64 `starling:"ratio"`
	Parent sdk.Ref `starling:"parent_id,ref=file"`
	Label  sdk.Ref `starling:"label_id,ref=label"`
}

// Label is shared.
type Label struct {
	sdk.Shared
	Name   string  `starling:"name,required"`
	Color  string  `starling:"color"`
	Rank   int64   `starling:"rank,max"`
	Parent sdk.Ref `starling:"parent_id,ref=label"`
}

// Mark ties a label to any record.
type Mark struct {
	sdk.Shared
	Label  sdk.Ref    `starling:"label_id,ref=label,required,key"`
	Target sdk.AnyRef `starling:"target,required,key"`
}

// Pair needs a file and a label.
type Pair struct {
	sdk.Shared
	File  sdk.Ref `starling:"file_id,ref=file,required,key"`
	Label sdk.Ref `starling:"label_id,ref=label,required,key"`
}

func pairs() sdk.Model[Pair]     { return sdk.Model[Pair]{Name: "pair", Version: 1} }
func files() sdk.Model[File]     { return sdk.Model[File]{Name: "file", Version: 1} }
func filesV2() sdk.Model[FileV2] { return sdk.Model[FileV2]{Name: "file", Version: 2} }
func labels() sdk.Model[Label]   { return sdk.Model[Label]{Name: "label", Version: 1} }
func marks() sdk.Model[Mark]     { return sdk.Model[Mark]{Name: "mark", Version: 1} }

func allModels() []sdk.ModelServer { return []sdk.ModelServer{marks(), files(), labels()} }

// device is the storing half of a host.
type device struct {
	tb       testing.TB
	id       sdk.DeviceID
	db       *database.DB
	log      *peerlog.Log
	registry *registry.Registry
	manager  *transaction.Manager
	clock    *hlc.Clock
	wall     time.Time
	part     sdk.PartID
	told     []transaction.Committed
}

func deviceID(n byte) sdk.DeviceID { return sdk.DeviceID{0: 0xd0, 15: n} }

func newDevice(tb testing.TB, n byte, models ...sdk.ModelServer) *device {
	tb.Helper()
	return openDevice(tb, database.Options{Dir: tb.TempDir(), Durability: database.Normal, Readers: 1}, n, models...)
}

// newFullDevice is a device as a host runs it.
func newFullDevice(tb testing.TB, n byte, models ...sdk.ModelServer) *device {
	tb.Helper()
	return openDevice(tb, database.Options{Dir: tb.TempDir()}, n, models...)
}

// newQuickDevice has its database in memory, for tests that make many: its methods must not be called at once.
func newQuickDevice(tb testing.TB, n byte, models ...sdk.ModelServer) *device {
	tb.Helper()
	if databasetest.OnPostgres() {
		return newDevice(tb, n, models...)
	}
	db, err := database.OpenMemory(context.Background(), nil, nil)
	return startDevice(tb, db, err, n, models...)
}

func openDevice(tb testing.TB, options database.Options, n byte, models ...sdk.ModelServer) *device {
	tb.Helper()
	db, err := database.Open(context.Background(), databasetest.Options(tb, options))
	return startDevice(tb, db, err, n, models...)
}

func startDevice(tb testing.TB, db *database.DB, err error, n byte, models ...sdk.ModelServer) *device {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	ctx := context.Background()
	d := &device{tb: tb, id: deviceID(n), db: db, wall: time.UnixMilli(1_700_000_000_000 + int64(n)), part: sdk.NewPartID(rand.Uint64())}
	tb.Cleanup(d.close)
	d.log = peerlog.New(d.db)
	if d.registry, err = registry.New(ctx, registry.Options{DB: d.db, Self: d.id, Part: d.part}); err != nil {
		tb.Fatal(err)
	}
	mark, err := d.log.LoadClock(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	d.clock = hlc.NewClock(func() time.Time { return d.wall }, mark, 0)
	d.db.BeforeCommit(func(tx *database.Tx) error { return d.log.StoreClock(tx, d.clock.Last()) })
	d.manager = transaction.New(transaction.Options{
		DB: d.db, Self: d.id, Epoch: history.EpochID{n}, Next: d.clock.Now, Journal: d.log,
		Prepare: func(ctx context.Context, kind sdk.Ownership, batches []sdk.Batch) (transaction.Prepared, error) {
			return d.registry.PrepareLocal(ctx, kind, batches)
		},
		Announce: func(c transaction.Committed) { d.told = append(d.told, c) },
	})
	for _, model := range models {
		d.add(model)
	}
	return d
}

// close closes the database, so that its folder may go. Idempotent.
func (d *device) close() {
	if err := d.db.Close(); err != nil {
		d.tb.Errorf("close: %v", err)
	}
}

func (d *device) add(model sdk.ModelServer) {
	d.tb.Helper()
	if _, err := d.registry.Add(context.Background(), model); err != nil {
		d.tb.Fatal(err)
	}
}

// page is a run of a stream on its way.
type page struct {
	stream        history.Stream
	from, through hlc.Stamp
	batches       []sdk.Batch
}

// read returns the next page of a stream after since.
func (d *device) read(stream history.Stream, since hlc.Stamp, maxBytes int) (page, bool) {
	d.tb.Helper()
	read := d.registry.ReadState
	if stream.Kind == sdk.SharedByAll {
		read = d.log.Read
	}
	batches, through, more, err := read(context.Background(), stream.Origin, since, maxBytes)
	if err != nil {
		d.tb.Fatal(err)
	}
	return page{stream, since, through, batches}, more
}

// pages returns an own stream: as it was announced, or what is left of it in small pages.
func (d *device) pages(stream history.Stream, end hlc.Stamp, live bool) (list []page) {
	d.tb.Helper()
	if live {
		for _, c := range d.told {
			if c.Kind == stream.Kind {
				list = append(list, page{stream, c.From, c.Through, c.Batches})
			}
		}
		return list
	}
	for since, more := hlc.Stamp(0), true; more; {
		var p page
		if p, more = d.read(stream, since, 100); !more {
			p.through = end
		}
		list = append(list, p)
		since = p.through
	}
	return list
}

// apply applies a page and moves the watermark, as the host does.
func (d *device) apply(p page) registry.Outcome {
	d.tb.Helper()
	outcome, err := d.tryApply(p)
	if err != nil {
		d.tb.Fatalf("%s applies %s %s..%s: %v", d.id, p.stream.Kind, p.from, p.through, err)
	}
	return outcome
}

func (d *device) prepare(p page) (*registry.Prepared, error) {
	return d.registry.Prepare(context.Background(), registry.Incoming{
		Origin: p.stream.Origin, Kind: p.stream.Kind, From: p.from, Through: p.through, Batches: p.batches,
	})
}

func (d *device) tryApply(p page) (outcome registry.Outcome, err error) {
	ctx := context.Background()
	for {
		prepared, err := d.prepare(p)
		if err != nil {
			return outcome, err
		}
		if err := d.clock.Observe(p.through); err != nil {
			return outcome, err
		}
		err = d.db.Write(ctx, func(tx *database.Tx) (err error) {
			if outcome, err = prepared.Write(tx); err != nil {
				return err
			}
			if p.stream.Kind == sdk.SharedByAll {
				if err := d.log.Append(tx, p.stream.Origin, p.batches); err != nil {
					return err
				}
			}
			return d.log.SetHeads(tx, p.stream, history.At(history.EpochID{1}, p.through), nil)
		})
		if sdk.CodeOf(err) != sdk.CodeStale {
			return outcome, err
		}
	}
}

// vector returns up to where d has each stream; histories have no branches here.
func (d *device) vector() map[history.Stream]hlc.Stamp {
	d.tb.Helper()
	heads, err := d.log.Watermarks(context.Background())
	if err != nil {
		d.tb.Fatal(err)
	}
	vector := make(map[history.Stream]hlc.Stamp)
	for stream := range heads {
		vector[stream] = heads[stream].Top()
	}
	return vector
}

// pull brings everything that from has and d lacks, in pages of maxBytes.
func (d *device) pull(from *device, maxBytes int) {
	d.tb.Helper()
	mine, theirs := d.vector(), from.vector()
	for _, stream := range slices.SortedFunc(maps.Keys(theirs), func(a, b history.Stream) int {
		return 2*a.Origin.Compare(b.Origin) + len(a.Kind) - len(b.Kind)
	}) {
		for since, more := mine[stream], true; more && since < theirs[stream]; {
			var p page
			if p, more = from.read(stream, since, maxBytes); !more {
				p.through = theirs[stream]
			}
			d.apply(p)
			since = p.through
		}
	}
}

func packed[T any](tb testing.TB, m sdk.Model[T], records ...*T) sdk.Batch {
	tb.Helper()
	packer, err := m.Packer()
	if err != nil {
		tb.Fatal(err)
	}
	for _, r := range records {
		packer.Put(r)
	}
	return packer.Batch()
}

func deletes[T any](tb testing.TB, m sdk.Model[T], ids ...sdk.RecordID) sdk.Batch {
	tb.Helper()
	packer, err := m.Packer()
	if err != nil {
		tb.Fatal(err)
	}
	for _, id := range ids {
		packer.Delete(id)
	}
	return packer.Batch()
}

func updates[T any](tb testing.TB, m sdk.Model[T], record *T, names ...string) sdk.Batch {
	tb.Helper()
	packer, err := m.Packer()
	if err != nil {
		tb.Fatal(err)
	}
	if err := packer.Update(record, names...); err != nil {
		tb.Fatal(err)
	}
	return packer.Batch()
}

// own commits device-owned batches and wants none refused.
func (d *device) own(batches ...sdk.Batch) transaction.Result {
	d.tb.Helper()
	return d.wantWritten(d.manager.CommitDeviceOwned(context.Background(), batches...))
}

// share commits shared batches and wants none refused.
func (d *device) share(batches ...sdk.Batch) transaction.Result {
	d.tb.Helper()
	return d.wantWritten(d.manager.CommitShared(context.Background(), batches...))
}

func (d *device) wantWritten(result transaction.Result, err error) transaction.Result {
	d.tb.Helper()
	if err != nil || len(result.Refused) > 0 {
		d.tb.Fatalf("commit: %v, refused %v", err, result.Refused)
	}
	return result
}

func (d *device) digests() []registry.ModelDigest {
	d.tb.Helper()
	list, err := d.registry.Digest(context.Background())
	if err != nil {
		d.tb.Fatal(err)
	}
	return list
}

// ids returns the records of model that are visible, or those that wait.
func (d *device) ids(model sdk.ModelName, hidden bool) []sdk.RecordID {
	d.tb.Helper()
	ids := []sdk.RecordID{}
	err := d.registry.List(context.Background(), model, registry.Filter{Hidden: hidden}, func(row registry.Row) error {
		ids = append(ids, row.ID)
		return nil
	})
	if err != nil {
		d.tb.Fatal(err)
	}
	return ids
}

func (d *device) get(model sdk.ModelName, id sdk.RecordID) (registry.Row, bool) {
	d.tb.Helper()
	row, err := d.registry.Get(context.Background(), model, id)
	if sdk.CodeOf(err) == sdk.CodeNotFound {
		return row, false
	}
	if err != nil {
		d.tb.Fatal(err)
	}
	return row, true
}

// checkInvariants fails the test where a table holds a record whose references are not all visible, or where a record
// waits although it needs nothing that is missing.
func (d *device) checkInvariants() {
	d.tb.Helper()
	type place struct { // the model is empty in a need of any
		model sdk.ModelName
		id    sdk.RecordID
	}
	type info struct {
		visible bool
		needs   []place
	}
	all := make(map[place]*info)
	for _, desc := range d.registry.Descriptions() {
		for _, hidden := range []bool{false, true} {
			err := d.registry.List(context.Background(), desc.Model, registry.Filter{Hidden: hidden}, func(row registry.Row) error {
				at := place{desc.Model, row.ID}
				if all[at] != nil {
					return errors.New("twice: " + row.ID.String())
				}
				r := &info{visible: !hidden}
				for _, ref := range desc.References() {
					if id, ok := row.Value(ref.Name).(sdk.RecordID); ok {
						r.needs = append(r.needs, place{ref.Ref, id})
					}
				}
				all[at] = r
				return nil
			})
			if err != nil {
				d.tb.Fatal(err)
			}
		}
	}
	want := make(map[place]bool) // visible, as the definition says
	for at := range all {
		want[at] = true
	}
	there := func(need place) bool {
		if need.model != "" {
			return want[need]
		}
		return slices.ContainsFunc(d.registry.Descriptions(), func(desc sdk.Description) bool { return want[place{desc.Model, need.id}] })
	}
	for changed := true; changed; {
		changed = false
		for at, r := range all {
			if want[at] && slices.ContainsFunc(r.needs, func(need place) bool { return !there(need) }) {
				want[at], changed = false, true
			}
		}
	}
	for at, r := range all {
		if r.visible != want[at] {
			d.tb.Errorf("%s %s is visible: %v, want %v; it needs %v", at.model, at.id, r.visible, want[at], r.needs)
		}
	}
}
