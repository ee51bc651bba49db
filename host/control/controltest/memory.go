// Package controltest has a host in memory behind the control API, for tests of the API and of what uses it.
//
// It keeps records the way the host does as far as a caller can see (ids, whole rows, fields with clocks, refusals,
// conflicts, events) and leaves out everything between devices.
package controltest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

// Host is a host in memory. The exported fields are what it answers; set them before it is used. Its methods may be
// called at once.
type Host struct {
	Self         sdk.DeviceID
	Descriptions []sdk.Description
	State        control.Status // Peers answers with its peers
	Processes    []control.Plugin
	Journal      []control.Conflict
	Explained    map[sdk.RecordID]control.Explanation // of records that are not visible
	Elsewhere    []control.Whereabouts                // of every record that is visible
	Awaiting     []control.WaitingRecord              // by model and id
	Audits       []control.AuditResult                // what audits with the connected peers find
	Now          func() time.Time                     // when devices are retired
	Steps        []control.Step                       // of every swap and reload
	Events       []control.PluginEvent                // with Number 1, 2 and so on
	Invitation   control.Invitation
	Joined       control.Joined
	Fail         func(call string) error // if set, may make a call fail; call is a method's name

	mu      sync.Mutex
	stamp   hlc.Stamp // the last one used
	records map[sdk.ModelName]map[sdk.RecordID]control.Record
	states  map[string]sdk.FieldState // of sets and counters, by model, field and record
	watches map[int]watch
	next    int
}

// NewHost returns an empty host of device self whose stamps follow start.
func NewHost(self sdk.DeviceID, start hlc.Stamp, descriptions ...sdk.Description) *Host {
	h := &Host{
		Self: self, Descriptions: descriptions, stamp: start, Now: start.Time,
		records: map[sdk.ModelName]map[sdk.RecordID]control.Record{},
		watches: map[int]watch{},
	}
	for _, d := range descriptions {
		h.records[d.Model] = map[sdk.RecordID]control.Record{}
	}
	return h
}

// Backend returns the host as the API sees it.
func (h *Host) Backend() control.Backend {
	return control.Backend{Records: h, Journal: journal{h}, History: history{h}, Feed: h, Reporter: h, Pairing: pairing{h}, Operator: operator{h}}
}

func (h *Host) fail(call string) error {
	if h.Fail == nil {
		return nil
	}
	return h.Fail(call)
}

// Models returns the descriptions.
func (h *Host) Models() []sdk.Description { return h.Descriptions }

// Get returns a record.
func (h *Host) Get(_ context.Context, model sdk.ModelName, id sdk.RecordID) (control.Record, error) {
	if err := h.fail("Get"); err != nil {
		return control.Record{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	record, ok := h.records[model][id]
	if !ok {
		return record, sdk.Errorf(sdk.CodeNotFound, "no %s %s", model, id)
	}
	return record, nil
}

// List yields records by id.
func (h *Host) List(_ context.Context, query control.Query, yield func(control.Record) error) error {
	if err := h.fail("List"); err != nil {
		return err
	}
	h.mu.Lock()
	records := slices.SortedFunc(maps.Values(h.records[query.Model]), func(x, y control.Record) int { return x.ID.Compare(y.ID) })
	h.mu.Unlock()
	desc := h.description(query.Model)
	count := 0
	for _, r := range records {
		if !holds(desc, &r, query.Where) {
			continue
		}
		if err := yield(r); err != nil {
			return err
		}
		if count++; count == query.Limit {
			return nil
		}
	}
	return nil
}

func holds(desc *sdk.Description, r *control.Record, where *control.Condition) bool {
	if where == nil {
		return true
	}
	i := slices.IndexFunc(desc.Fields, func(f sdk.Field) bool { return f.Name == where.Field })
	return bytes.Equal(sdk.AppendValue(nil, r.Values[i]), sdk.AppendValue(nil, where.Value))
}

func (h *Host) description(model sdk.ModelName) *sdk.Description {
	for i := range h.Descriptions {
		if h.Descriptions[i].Model == model {
			return &h.Descriptions[i]
		}
	}
	return &sdk.Description{}
}

// Commit stores the batch. It refuses records of other devices, records without a required field, and operations on
// records that are not there.
func (h *Host) Commit(_ context.Context, write control.Write) ([]sdk.Refusal, error) {
	if err := h.fail("Commit"); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	model := write.Batch.Model
	before := h.records[model]
	if write.AllOrNothing {
		before = maps.Clone(before)
	}
	var refused []sdk.Refusal
	var events []control.Event
	refuse := func(index int, err error) {
		refused = append(refused, sdk.Refusal{Index: index, Code: sdk.CodeOf(err), Message: err.Error()})
	}
	desc := h.description(model)
	index := 0
	apply := func(id sdk.RecordID, gone bool, record control.Record, err error) {
		if err != nil {
			refuse(index, err)
		} else {
			events = append(events, h.store(model, id, gone, record))
		}
		index++
	}
	if write.Kind == sdk.DeviceOwned {
		for row, err := range write.Batch.StateRows() {
			if err != nil {
				return nil, err
			}
			record, err := h.row(desc, &row)
			apply(row.ID, row.Deleted, record, err)
		}
	} else {
		for op, err := range write.Batch.Ops() {
			if err != nil {
				return nil, err
			}
			record, err := h.op(desc, &op)
			apply(op.ID, op.Kind == sdk.Delete, record, err)
		}
	}
	if write.AllOrNothing && len(refused) > 0 {
		h.records[model] = before
		return refused, nil
	}
	for _, e := range events {
		h.announce(e)
	}
	return refused, nil
}

func (h *Host) store(model sdk.ModelName, id sdk.RecordID, gone bool, record control.Record) control.Event {
	if gone {
		delete(h.records[model], id)
	} else {
		h.records[model][id] = record
	}
	return control.Event{Model: model, ID: id, Origin: h.Self, Stamp: h.stamp, Local: true, Gone: gone}
}

func (h *Host) row(desc *sdk.Description, row *sdk.StateRow) (control.Record, error) {
	h.stamp++
	if old, ok := h.records[desc.Model][row.ID]; ok && old.Owner != h.Self {
		return control.Record{}, sdk.Errorf(sdk.CodeNotOwner, "%s %s belongs to device %s", desc.Model, row.ID, old.Owner)
	}
	record := control.Record{ID: row.ID, Owner: h.Self, Stamp: h.stamp}
	if row.Deleted {
		return record, nil
	}
	rest := row.Values
	for _, f := range desc.Fields {
		value, next, err := sdk.DecodeValue(rest, f.Type)
		if err != nil {
			return record, err
		}
		record.Values = append(record.Values, value)
		rest = next
	}
	return record, required(desc, &record)
}

func (h *Host) op(desc *sdk.Description, op *sdk.Op) (control.Record, error) {
	h.stamp++
	version := sdk.Version{Stamp: h.stamp, Device: h.Self}
	record, ok := h.records[desc.Model][op.ID]
	if !ok && op.Kind != sdk.Insert {
		return record, sdk.Errorf(sdk.CodeNotFound, "no %s %s", desc.Model, op.ID)
	}
	if !ok {
		record = control.Record{ID: op.ID, Values: make([]any, len(desc.Fields)), Clocks: make([]sdk.Version, len(desc.Fields))}
	}
	record.Values, record.Clocks = slices.Clone(record.Values), slices.Clone(record.Clocks)
	if op.Kind == sdk.Insert {
		record.Inserted = version
	}
	for _, f := range op.Fields {
		value, err := h.merged(desc, op.ID, &desc.Fields[f.Column], f.Value, version)
		if err != nil {
			return record, err
		}
		record.Values[f.Column], record.Clocks[f.Column] = value, version
	}
	if op.Kind == sdk.Delete {
		return record, nil
	}
	return record, required(desc, &record)
}

func stateName(model sdk.ModelName, field string, id sdk.RecordID) string {
	return string(model) + "." + field + "." + id.String()
}

// Serve adds a model.
func (h *Host) Serve(desc sdk.Description) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Descriptions = append(h.Descriptions, desc)
	h.records[desc.Model] = map[sdk.RecordID]control.Record{}
}

// merged returns the value of a field after a write: of a set or a counter, after what its edit does to what it has.
func (h *Host) merged(desc *sdk.Description, id sdk.RecordID, f *sdk.Field, packed []byte, at sdk.Version) (any, error) {
	if f.Merge != sdk.AddWins && f.Merge != sdk.Sum {
		value, _, err := sdk.DecodeValue(packed, f.Type)
		return value, err
	}
	name := stateName(desc.Model, f.Name, id)
	state := h.states[name]
	written, err := f.Edit(&state, packed, at, sdk.PartID{1})
	if err != nil {
		return nil, err
	}
	parts, err := sdk.OpParts(f.Merge, at, written)
	if err != nil {
		return nil, err
	}
	before, err := state.Parts()
	if err != nil {
		return nil, err
	}
	state.SetParts(f.Merge, append(before, parts...))
	if h.states == nil {
		h.states = map[string]sdk.FieldState{}
	}
	h.states[name] = state
	return state.Value, nil
}

func required(desc *sdk.Description, r *control.Record) error {
	for i, f := range desc.Fields {
		if f.Required && r.Values[i] == nil {
			return sdk.Errorf(sdk.CodeInvalid, "%s.%s is required", desc.Model, f.Name)
		}
	}
	return nil
}

// PutForeign stores a device-owned record of another device, as if it had come from there, and announces it.
func (h *Host) PutForeign(model sdk.ModelName, record control.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.records[model][record.ID] = record
	h.announce(control.Event{Model: model, ID: record.ID, Origin: record.Owner, Stamp: record.Stamp})
}

// Announce sends an event to every watcher.
func (h *Host) Announce(event control.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.announce(event)
}

func (h *Host) announce(event control.Event) {
	for _, w := range h.watches {
		if !event.Missed && len(w.models) > 0 && !slices.Contains(w.models, event.Model) {
			continue
		}
		select {
		case w.events <- event:
		default: // a test that reads too slowly sees too little
		}
	}
}

type watch struct {
	models []sdk.ModelName
	events chan control.Event
}

// Watch returns a channel of events.
func (h *Host) Watch(models []sdk.ModelName) (<-chan control.Event, func()) {
	events := make(chan control.Event, 64)
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.next
	h.next++
	h.watches[n] = watch{models: models, events: events}
	return events, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watches, n)
	}
}

// Status returns State.
func (h *Host) Status(context.Context) (control.Status, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	state := h.State
	state.Peers = slices.Clone(state.Peers)
	return state, h.fail("Status")
}

// Peers returns State's peers.
func (h *Host) Peers(ctx context.Context) ([]control.Peer, error) {
	state, _ := h.Status(ctx) //nolint:errcheck // Peers fails by itself
	return state.Peers, h.fail("Peers")
}

// Plugins returns Processes.
func (h *Host) Plugins(context.Context) ([]control.Plugin, error) {
	return h.Processes, h.fail("Plugins")
}

// RestartPlugin implements control.Reporter.
func (h *Host) RestartPlugin(_ context.Context, name string) error {
	for i := range h.Processes {
		if h.Processes[i].Name == name {
			return h.fail("RestartPlugin")
		}
	}
	return sdk.Errorf(sdk.CodeNotFound, "there is no plugin %q", name)
}

// operator makes the steps of Host, and fails as Fail says.
type operator struct{ h *Host }

func (o operator) steps(call string, report func(control.Step)) error {
	for _, s := range o.h.Steps {
		report(s)
	}
	return o.h.fail(call)
}

func (o operator) SwapPlugin(_ context.Context, swap control.PluginSwap, report func(control.Step)) error {
	for i := range o.h.Processes {
		if o.h.Processes[i].Name == swap.Name {
			return o.steps("SwapPlugin", report)
		}
	}
	return sdk.Errorf(sdk.CodeNotFound, "there is no plugin %q", swap.Name)
}

func (o operator) RollbackPlugin(_ context.Context, _ string, _ time.Duration, report func(control.Step)) error {
	return o.steps("RollbackPlugin", report)
}

func (o operator) SwapTransport(_ context.Context, _ control.TransportSwap, report func(control.Step)) error {
	return o.steps("SwapTransport", report)
}

func (o operator) RollbackTransport(_ context.Context, _ string, report func(control.Step)) error {
	return o.steps("RollbackTransport", report)
}

func (o operator) Reload(_ context.Context, _ time.Duration, report func(control.Step)) error {
	return o.steps("Reload", report)
}

func (o operator) Events(after int64) ([]control.PluginEvent, <-chan struct{}, error) {
	return o.h.Events[min(after, int64(len(o.h.Events))):], nil, o.h.fail("Events")
}

type journal struct{ h *Host }

func (j journal) Conflicts(_ context.Context, model sdk.ModelName, id sdk.RecordID) ([]control.Conflict, error) {
	j.h.mu.Lock()
	defer j.h.mu.Unlock()
	var out []control.Conflict
	for _, c := range j.h.Journal {
		if (model == "" || c.Model == model) && (id.IsZero() || c.ID == id) {
			out = append(out, c)
		}
	}
	return out, j.h.fail("Conflicts")
}

func (j journal) Digests(ctx context.Context) ([]control.ModelDigest, error) {
	var out []control.ModelDigest
	for i := range j.h.Descriptions {
		desc := &j.h.Descriptions[i]
		sum := sha256.New()
		rows := int64(0)
		err := j.h.List(ctx, control.Query{Model: desc.Model}, func(r control.Record) error {
			rows++
			sum.Write(r.ID[:])
			for _, v := range r.Values {
				sum.Write(sdk.AppendValue(nil, v))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		out = append(out, control.ModelDigest{Model: desc.Model, Rows: rows, Digest: sum.Sum(nil)})
	}
	return out, nil
}

// Audit yields Audits, or the one with the peer.
func (j journal) Audit(_ context.Context, peer sdk.DeviceID, yield func(control.AuditResult) error) error {
	if err := j.h.fail("Audit"); err != nil {
		return err
	}
	_, member := j.h.peer(peer)
	if !peer.IsZero() && !member {
		return sdk.Errorf(sdk.CodeNotFound, "no device %s in this library; its devices are listed by: starling peers", peer)
	}
	held := 0
	for _, r := range j.h.Audits {
		if !peer.IsZero() && r.ID != peer {
			continue
		}
		held++
		if err := yield(r); err != nil {
			return err
		}
	}
	if held == 0 {
		return sdk.Errorf(sdk.CodeUnavailable, "no such peer is connected, so there is nothing to compare with; see: starling status")
	}
	return nil
}

// peer returns a copy of a peer in State.
func (h *Host) peer(id sdk.DeviceID) (control.Peer, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.State.Peers {
		if p.ID == id {
			return p, true
		}
	}
	return control.Peer{}, false
}

type pairing struct{ h *Host }

func (p pairing) Invite(context.Context) (control.Invitation, error) {
	return p.h.Invitation, p.h.fail("Invite")
}

func (p pairing) Join(_ context.Context, code string) (control.Joined, error) {
	if err := p.h.fail("Join"); err != nil {
		return control.Joined{}, err
	}
	if code != p.h.Invitation.Code {
		return control.Joined{}, sdk.Errorf(sdk.CodeInvalid, "this is not an invitation; copy the whole line that starling invite printed")
	}
	return p.h.Joined, nil
}

// Retire retires a peer of State, or the host itself.
func (p pairing) Retire(_ context.Context, id sdk.DeviceID, evenSelf bool) (control.Retired, error) {
	if err := p.h.fail("Retire"); err != nil {
		return control.Retired{}, err
	}
	now := p.h.Now()
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	if id == p.h.Self {
		if !evenSelf {
			return control.Retired{}, sdk.Errorf(sdk.CodeDenied, "%s is this device itself; to give it away, retire it with --self, or on another device", id)
		}
		p.h.State.RetiredAt = now
		return control.Retired{ID: id, Name: p.h.State.DeviceName, At: now}, nil
	}
	for i := range p.h.State.Peers {
		peer := &p.h.State.Peers[i]
		switch {
		case peer.ID != id:
			continue
		case !peer.RetiredAt.IsZero():
			return control.Retired{}, sdk.Errorf(sdk.CodeInvalid, "%s (%s) was retired at %s; there is nothing left to do", peer.Name, id, peer.RetiredAt.Format(time.RFC3339))
		}
		*peer = control.Peer{ID: id, Name: peer.Name, State: "retired", Since: now, RetiredAt: now}
		return control.Retired{ID: id, Name: peer.Name, At: now}, nil
	}
	return control.Retired{}, sdk.Errorf(sdk.CodeNotFound, "no device %s in this library; its devices are listed by: starling peers", id)
}
