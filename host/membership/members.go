package membership

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/sdk"
)

// Records is where member records are kept: those of model MemberModel. Its methods block and may be called at once.
type Records interface {
	// ListMembers calls each for every member record that exists, with its values by name, typed as sdk.Type says.
	ListMembers(ctx context.Context, each func(id sdk.RecordID, names []string, values []any) error) error
	// CommitMembers writes a batch of local shared operations and returns when it is durable.
	CommitMembers(ctx context.Context, batch sdk.Batch) ([]sdk.Refusal, error)
	// WatchMembers returns a channel that receives a value after member records have changed, here or elsewhere
	// (several changes may share one), until cancel is called.
	WatchMembers() (changed <-chan struct{}, cancel func())
}

// Options is what a Members needs. All of it is required.
type Options struct {
	Self    *Identity
	Records Records
	Meta    Meta
	Now     func() time.Time
	Log     hclog.Logger
}

// Members is the set of the library's devices, kept current. Its methods may be called at once; those that take a
// context read or write the database, the others answer from memory.
type Members struct {
	o    Options
	turn token // of reading the records, so that an old reading never replaces a newer one
	pen  token // of writing this device's own record, so that it is made once

	mu      sync.Mutex
	current map[sdk.DeviceID]Member // replaced, never changed
	own     *ownSayings             // what this device says of itself; nil until Announce
	watch   map[int]func([]Member)
	nextID  int
	warned  map[sdk.DeviceID]bool
}

type ownSayings struct {
	name      string
	addresses []Address
	corrected *Member // the record that was last put right; used by the holder of the pen. The same is not put right twice, lest two devices do so for ever
}

// token is held by one goroutine at a time. Unlike a mutex it may be held across a query: who waits can give up.
type token chan struct{}

func (t token) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t token) leave() { <-t }

// NewMembers returns an empty set. Reload, or Run, fills it.
func NewMembers(o Options) *Members {
	return &Members{
		o: o, turn: make(token, 1), pen: make(token, 1), current: map[sdk.DeviceID]Member{},
		watch: map[int]func([]Member){}, warned: map[sdk.DeviceID]bool{},
	}
}

// Run follows the member records until ctx ends (then it returns nil), and keeps this device's own record as Announce
// said. Another error means that the database can not be read.
func (m *Members) Run(ctx context.Context) error {
	changed, cancel := m.o.Records.WatchMembers()
	defer cancel()
	for {
		if err := m.Reload(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("follow the members: %w", err)
		}
		if err := m.keepOwn(ctx); err != nil && ctx.Err() == nil {
			m.o.Log.Warn("this device's own member record is not up to date", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-changed:
			if !ok {
				<-ctx.Done()
				return nil
			}
		}
	}
}

// ownAddresses returns where this device can be dialled.
func (m *Members) ownAddresses() ([]Address, error) {
	m.mu.Lock()
	own, record := m.own, m.current[m.o.Self.ID()]
	m.mu.Unlock()
	if own != nil {
		return own.addresses, nil
	}
	return record.Where()
}

// Member returns the member id, also a retired one, and whether there is one.
func (m *Members) Member(id sdk.DeviceID) (Member, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	member, ok := m.current[id]
	return member, ok
}

// Enrolled reports whether id is a member that is not retired.
func (m *Members) Enrolled(id sdk.DeviceID) bool {
	member, ok := m.Member(id)
	return ok && !member.Retired()
}

// All returns every member, this device and retired ones included, by id. The slice belongs to the caller, what it
// refers to does not.
func (m *Members) All() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return sorted(m.current)
}

func sorted(members map[sdk.DeviceID]Member) []Member {
	return slices.SortedFunc(maps.Values(members), func(a, b Member) int { return a.ID.Compare(b.ID) })
}

// OnChange calls f with every member, as All returns them, after each change of the set until cancel is called. f runs
// on the goroutine that found the change and must not block; it does not get the present set.
func (m *Members) OnChange(f func([]Member)) (cancel func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.nextID
	m.nextID++
	m.watch[id] = f
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watch, id)
	}
}

// Reload reads the records, so that what was committed before the call is seen after it.
func (m *Members) Reload(ctx context.Context) error {
	if err := m.turn.take(ctx); err != nil {
		return err
	}
	defer m.turn.leave()
	stored, err := m.stored(ctx)
	if err != nil {
		return err
	}
	standing, ok, err := readStanding(ctx, m.o.Meta)
	if err != nil {
		return err
	}
	next := map[sdk.DeviceID]Member{}
	for _, i := range standing.Introduced {
		next[i.ID] = i.member()
	}
	maps.Copy(next, stored)
	m.replace(next)
	if ok {
		return m.settle(ctx, standing, stored)
	}
	return nil
}

// settle forgets the introductions whose records have arrived, and remembers that this device's own has.
func (m *Members) settle(ctx context.Context, s standing, stored map[sdk.DeviceID]Member) error {
	waiting := slices.DeleteFunc(slices.Clone(s.Introduced), func(i introduced) bool {
		_, arrived := stored[i.ID]
		return arrived
	})
	_, own := stored[m.o.Self.ID()]
	if len(waiting) == len(s.Introduced) && (s.Enrolled || !own) {
		return nil
	}
	s.Introduced, s.Enrolled = waiting, s.Enrolled || own
	return writeStanding(ctx, m.o.Meta, s)
}

// stored reads the records. One that can not be understood is left out and told of once.
func (m *Members) stored(ctx context.Context) (map[sdk.DeviceID]Member, error) {
	model := Model()
	members := map[sdk.DeviceID]Member{}
	err := m.o.Records.ListMembers(ctx, func(id sdk.RecordID, names []string, values []any) error {
		member, err := model.Decode(id, names, values)
		if err == nil {
			_, err = member.Where()
		}
		if err != nil {
			m.warnOnce(sdk.DeviceID(id), "a member's record can not be understood", err)
			member.Addresses = nil // it stays a member: its id, which the session's key proves, is what counts
			member.ID, member.RetiredAt = id, retiredAt(names, values)
		}
		if len(member.PublicKey) != ed25519.PublicKeySize || DeviceIDOf(member.PublicKey) != member.Device() {
			m.warnOnce(sdk.DeviceID(id), "a member's id does not follow from its public key", nil)
			member.PublicKey = nil
		}
		members[member.Device()] = member
		return nil
	})
	if err != nil {
		return nil, err
	}
	return members, nil
}

// retiredAt reads when a device was retired from a record of which something else can not be understood.
func retiredAt(names []string, values []any) time.Time {
	if i := slices.Index(names, "retired_at"); i >= 0 && i < len(values) {
		if micros, ok := values[i].(int64); ok {
			return time.UnixMicro(micros).UTC()
		}
	}
	return time.Time{}
}

func (m *Members) warnOnce(id sdk.DeviceID, message string, err error) {
	m.mu.Lock()
	again := m.warned[id]
	m.warned[id] = true
	m.mu.Unlock()
	if !again {
		m.o.Log.Warn(message, "member", id, "error", err)
	}
}

// replace makes next the current set and tells who asked, if it differs.
func (m *Members) replace(next map[sdk.DeviceID]Member) {
	m.mu.Lock()
	same := maps.EqualFunc(m.current, next, equal)
	m.current = next
	callbacks := slices.Collect(maps.Values(m.watch))
	m.mu.Unlock()
	if same {
		return
	}
	for _, f := range callbacks {
		f(sorted(next))
	}
}

func equal(a, b Member) bool {
	return a.ID == b.ID && a.Name == b.Name && bytes.Equal(a.PublicKey, b.PublicKey) && bytes.Equal(a.Addresses, b.Addresses) &&
		a.JoinedAt.Equal(b.JoinedAt) && a.RetiredAt.Equal(b.RetiredAt)
}

// Announce says what this device is called and where it can be dialled, best address first, and writes its own member
// record if that says otherwise. The founder's record is made here; a device that has joined waits for the one that its
// inviter made, and Run writes what differs when it has come. Without a library, nothing is written.
func (m *Members) Announce(ctx context.Context, name string, addresses []Address) error {
	addresses = slices.Clone(addresses[:min(len(addresses), maxAddresses)])
	if err := checkName(name); err != nil {
		return err
	}
	if err := checkAddresses(addresses); err != nil {
		return err
	}
	m.mu.Lock()
	m.own = &ownSayings{name: name, addresses: addresses}
	m.mu.Unlock()
	if err := m.Reload(ctx); err != nil {
		return err
	}
	return m.keepOwn(ctx)
}

// keepOwn writes this device's own record where it differs from what Announce said.
func (m *Members) keepOwn(ctx context.Context) error {
	if err := m.pen.take(ctx); err != nil {
		return err
	}
	defer m.pen.leave()
	m.mu.Lock()
	own := m.own
	m.mu.Unlock()
	standing, ok, err := readStanding(ctx, m.o.Meta)
	if err != nil || !ok || own == nil {
		return err
	}
	self := m.o.Self.ID()
	stored, err := m.stored(ctx)
	if err != nil {
		return err
	}
	record, exists := stored[self]
	switch {
	case exists && own.corrected != nil && equal(*own.corrected, record):
		m.warnOnce(self, "another device keeps changing this device's own member record; it is left as it is", nil)
		return nil
	case exists:
		if len(record.changed(own.name, own.addresses)) > 0 {
			own.corrected = &record
		}
		return m.update(ctx, record, own.name, own.addresses)
	case standing.Enrolled:
		m.warnOnce(self, "this device's own member record has been deleted; it is not made again", nil)
		return nil
	case slices.ContainsFunc(standing.Introduced, func(i introduced) bool { return i.ID == self }):
		return nil // the inviter has made it; it is on its way
	}
	record = Member{
		Shared: sdk.Shared{ID: sdk.RecordID(self)}, Name: own.name, PublicKey: m.o.Self.PublicKey(),
		Addresses: encodeAddresses(own.addresses), JoinedAt: m.o.Now().UTC(),
	}
	if err := m.insert(ctx, record); err != nil {
		return err
	}
	return m.Reload(ctx)
}

func (m *Members) insert(ctx context.Context, record Member) error {
	packer, err := Model().Packer()
	if err != nil {
		return err
	}
	packer.Put(&record)
	return m.commit(ctx, packer.Batch())
}

// update writes the name and addresses of a stored record where they differ.
func (m *Members) update(ctx context.Context, record Member, name string, addresses []Address) error {
	names := record.changed(name, addresses)
	if len(names) == 0 {
		return nil
	}
	record.Name, record.Addresses = name, encodeAddresses(addresses)
	packer, err := Model().Packer()
	if err != nil {
		return err
	}
	if err := packer.Update(&record, names...); err != nil {
		return err
	}
	if err := m.commit(ctx, packer.Batch()); err != nil {
		return err
	}
	return m.Reload(ctx)
}

func (m *Members) commit(ctx context.Context, batch sdk.Batch) error {
	refused, err := m.o.Records.CommitMembers(ctx, batch)
	if err == nil && len(refused) > 0 {
		err = sdk.Errorf(refused[0].Code, "%s", refused[0].Message)
	}
	if err != nil {
		return sdk.Errorf(sdk.CodeOf(err), "store a member: %w", err)
	}
	return nil
}
