package membership

import (
	"bytes"
	"context"
	"crypto/sha256"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// store is Records and Meta in memory. It merges with the real model.
type store struct {
	tb     testing.TB
	device sdk.DeviceID

	mu       sync.Mutex
	stamp    hlc.Stamp
	records  map[sdk.RecordID]sdk.Record
	meta     map[string][]byte
	watchers []chan struct{}
	commits  int
	fail     error // of the next commit

	marked    Library
	markFails error // of each mark
}

func (s *store) Meta(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meta[key], nil
}

func (s *store) SetMeta(_ context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meta[key] = bytes.Clone(value)
	return nil
}

func (s *store) Mark(library Library) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.markFails != nil {
		return s.markFails
	}
	s.marked = library
	return nil
}

func (s *store) ListMembers(_ context.Context, each func(sdk.RecordID, []string, []any) error) error {
	s.mu.Lock()
	records := slices.Collect(maps.Values(s.records))
	s.mu.Unlock()
	for _, r := range records {
		if !r.Exists() {
			continue
		}
		var names []string
		var values []any
		for _, f := range r.Fields {
			names, values = append(names, f.Name), append(values, f.Value)
		}
		if err := each(r.ID, names, values); err != nil {
			return err
		}
	}
	return nil
}

func (s *store) CommitMembers(ctx context.Context, batch sdk.Batch) ([]sdk.Refusal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail; err != nil {
		s.fail = nil
		return nil, err
	}
	in := sdk.SharedChanges{Batch: s.stamped(batch), Origin: s.device, Local: true, Current: slices.Collect(maps.Values(s.records))}
	result, err := Model().ApplySharedChange(ctx, in)
	if err != nil {
		return nil, err
	}
	for _, r := range result.Records {
		s.records[r.ID] = r
	}
	s.commits++
	s.announce()
	return result.Refused, nil
}

// stamped returns batch with a fresh stamp for each operation, as the host gives it.
func (s *store) stamped(batch sdk.Batch) sdk.Batch {
	description, err := Model().Describe(context.Background())
	if err != nil {
		s.tb.Error(err)
	}
	var rows []byte
	for op, err := range batch.Ops() {
		if err != nil {
			s.tb.Error(err)
			break
		}
		s.stamp++
		rows = sdk.AppendOpHeader(rows, op.ID, s.stamp, op.Kind, len(op.Fields))
		for _, f := range op.Fields {
			field, _ := description.Field(batch.Columns[f.Column])
			value, _, err := sdk.DecodeValue(f.Value, field.Type)
			if err != nil {
				s.tb.Error(err)
			}
			rows = sdk.AppendOpField(rows, f.Column, value, f.Seen)
		}
	}
	batch.Rows = rows
	return batch
}

func (s *store) WatchMembers() (changed <-chan struct{}, cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan struct{}, 1)
	s.watchers = append(s.watchers, c)
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.watchers = slices.DeleteFunc(s.watchers, func(other chan struct{}) bool { return other == c })
	}
}

func (s *store) announce() {
	for _, c := range s.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// receive makes the records of other those of s, as a sync would.
func (s *store) receive(other *store) {
	other.mu.Lock()
	records := maps.Clone(other.records)
	stamp := other.stamp
	other.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(s.records, records)
	s.stamp = max(s.stamp, stamp)
	s.announce()
}

// edit changes a stored member, as another device may.
func (s *store) edit(id sdk.DeviceID, change func(*sdk.Record, sdk.Version)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[sdk.RecordID(id)]
	r.Fields = slices.Clone(r.Fields)
	s.stamp++
	change(&r, sdk.Version{Stamp: s.stamp})
	s.records[r.ID] = r
	s.announce()
}

func set(name string, value any) func(*sdk.Record, sdk.Version) {
	return func(r *sdk.Record, at sdk.Version) {
		r.Fields = slices.DeleteFunc(r.Fields, func(f sdk.FieldState) bool { return f.Name == name })
		r.Fields = append(r.Fields, sdk.FieldState{Name: name, Value: value, Version: at})
	}
}

// device is one device with its store in memory.
type device struct {
	*store
	identity *Identity
	members  *Members
	pairing  *Pairing
	name     string
}

var start = time.Date(2026, 11, 22, 7, 10, 0, 0, time.UTC)

type wall struct {
	mu  sync.Mutex
	now time.Time
}

func (w *wall) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *wall) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// random returns a stream of bytes that only seed decides.
func random(seed string) *bytes.Reader {
	var out []byte
	for sum := sha256.Sum256([]byte(seed)); len(out) < 1<<14; sum = sha256.Sum256(sum[:]) {
		out = append(out, sum[:]...)
	}
	return bytes.NewReader(out)
}

func newDevice(tb testing.TB, w *wall, name string) *device {
	tb.Helper()
	identity, err := NewIdentity(random("key of " + name))
	if err != nil {
		tb.Fatal(err)
	}
	s := &store{tb: tb, device: identity.ID(), records: map[sdk.RecordID]sdk.Record{}, meta: map[string][]byte{}}
	d := &device{store: s, identity: identity, name: name}
	d.restart(tb, w)
	return d
}

// restart forgets what is in memory only.
func (d *device) restart(tb testing.TB, w *wall) {
	tb.Helper()
	d.members = NewMembers(Options{Self: d.identity, Records: d.store, Meta: d.store, Now: w.Now, Log: hclog.NewNullLogger()})
	d.pairing = NewPairing(d.members, random("secrets of "+d.name+" at "+w.Now().String()), 0)
}

func lan(address string) []Address { return []Address{{Transport: "tcp", Address: address}} }

// founder is a device that has founded the library "home" and announced itself.
func founder(tb testing.TB, w *wall, name string) *device {
	tb.Helper()
	d := newDevice(tb, w, name)
	if _, err := Found(tb.Context(), d.store, LibraryID{1}, "home"); err != nil {
		tb.Fatal(err)
	}
	if err := d.members.Announce(tb.Context(), name, lan("127.0.0.1:7420")); err != nil {
		tb.Fatal(err)
	}
	return d
}

// invite returns a fresh ticket of d, as it comes out of its code.
func (d *device) invite(tb testing.TB) Ticket {
	tb.Helper()
	code, _, err := d.pairing.Invite(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	ticket, err := Decode(code)
	if err != nil {
		tb.Fatal(err)
	}
	return ticket
}

// present is what inviter answers when d presents ticket.
func (d *device) present(ctx context.Context, inviter *device, ticket Ticket) (Welcome, error) {
	join := Join{Secret: ticket.Secret, Name: d.name, Addresses: lan("127.0.0.1:7421")}
	return inviter.pairing.Accept(ctx, d.identity.ID(), d.identity.PublicKey(), join)
}
