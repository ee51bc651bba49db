package sdktest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// SourceHost is an sdk.SourceHost that keeps rows in memory and records what a source does. Its methods may be called
// at once.
type SourceHost struct {
	mu       sync.Mutex
	models   map[sdk.ModelName]*sourceModel
	stamp    hlc.Stamp
	commits  []sdk.Batch
	warnings map[string]Warning
	progress map[task]sdk.Progress
	changed  chan struct{} // closed and made anew whenever something above changes
	closed   bool
}

// Warning is what a source warned of last under one key.
type Warning struct {
	Count   int
	Message string
}

// task is of what a source says how far it is, and in which unit.
type task struct {
	key  string
	unit sdk.Unit
}

type sourceModel struct {
	server    sdk.ModelServer
	desc      sdk.Description
	columns   []string
	rows      map[sdk.RecordID]sourceRow
	listeners []chan struct{}
}

type sourceRow struct {
	stamp  hlc.Stamp
	values []byte // packed, one a field of the description
}

// NewSourceHost returns a host without rows whose models are served by servers; it validates by them what a source
// commits. The channels of Changed are closed when tb ends, or by Close.
func NewSourceHost(tb testing.TB, servers ...sdk.ModelServer) *SourceHost {
	tb.Helper()
	h := &SourceHost{
		models:   map[sdk.ModelName]*sourceModel{},
		warnings: map[string]Warning{},
		progress: map[task]sdk.Progress{},
		changed:  make(chan struct{}),
	}
	for _, server := range servers {
		desc, err := server.Describe(tb.Context())
		if err != nil {
			tb.Fatalf("describe: %v", err)
		}
		m := &sourceModel{server: server, desc: desc, rows: map[sdk.RecordID]sourceRow{}}
		for i := range desc.Fields {
			m.columns = append(m.columns, desc.Fields[i].Name)
		}
		h.models[desc.Model] = m
	}
	tb.Cleanup(h.Close)
	return h
}

// Close closes the channels of Changed, as the end of the source's context does.
func (h *SourceHost) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.models {
		for _, listener := range m.listeners {
			close(listener)
		}
		m.listeners = nil
	}
	h.closed = true
}

// Commit implements sdk.SourceHost, and stands for any other local writer too.
func (h *SourceHost) Commit(ctx context.Context, batch sdk.Batch) ([]sdk.Refusal, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h.mu.Lock()
	m := h.models[batch.Model]
	h.mu.Unlock()
	if m == nil {
		return nil, sdk.Errorf(sdk.CodeUnknownModel, "no server for model %q", batch.Model)
	}
	batch.Rows, batch.Columns = bytes.Clone(batch.Rows), slices.Clone(batch.Columns)
	batch, err := h.complete(m, batch)
	if err != nil {
		return nil, err
	}
	result, err := m.server.ApplyStateChange(ctx, sdk.StateChanges{Batch: batch, Local: true})
	if err != nil {
		return nil, err
	}
	if result.Rows != nil {
		batch.Rows = result.Rows
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.commits = append(h.commits, batch)
	written, err := h.store(m, &batch, result.Refused)
	if written {
		for _, listener := range m.listeners {
			select {
			case listener <- struct{}{}:
			default:
			}
		}
	}
	h.notify()
	return result.Refused, err
}

// complete returns batch with the columns that it lacks, filled from what is stored: they keep their values.
func (h *SourceHost) complete(m *sourceModel, batch sdk.Batch) (sdk.Batch, error) {
	var missing []int
	for i, name := range m.columns {
		if !slices.Contains(batch.Columns, name) {
			missing = append(missing, i)
		}
	}
	if len(missing) == 0 {
		return batch, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	whole := sdk.Batch{Model: batch.Model, Version: batch.Version, Columns: batch.Columns, Count: batch.Count}
	for _, at := range missing {
		whole.Columns = append(whole.Columns, m.columns[at])
	}
	for row, err := range batch.StateRows() {
		if err != nil {
			return batch, err
		}
		if row.Deleted {
			whole.Rows = sdk.AppendStateHeader(whole.Rows, row.ID, 0, -1)
			continue
		}
		whole.Rows = append(sdk.AppendStateHeader(whole.Rows, row.ID, 0, len(whole.Columns)), row.Values...)
		stored, exists := m.rows[row.ID]
		for _, at := range missing {
			value := sdk.AppendValue(nil, nil)
			if exists {
				if value, err = m.packed(stored, at); err != nil {
					return batch, err
				}
			}
			whole.Rows = append(whole.Rows, value...)
		}
	}
	return whole, nil
}

// store keeps the rows of batch that are not refused. h.mu is held.
func (h *SourceHost) store(m *sourceModel, batch *sdk.Batch, refused []sdk.Refusal) (written bool, err error) {
	index := -1
	for row, err := range batch.StateRows() {
		index++
		if slices.ContainsFunc(refused, func(r sdk.Refusal) bool { return r.Index == index }) {
			continue
		}
		if err != nil {
			return written, err
		}
		stored, exists := m.rows[row.ID]
		if row.Deleted {
			delete(m.rows, row.ID)
			written = written || exists
			continue
		}
		values, err := m.align(batch.Columns, row.Values)
		if err != nil {
			return written, err
		}
		if exists && bytes.Equal(values, stored.values) {
			continue
		}
		h.stamp++
		m.rows[row.ID] = sourceRow{stamp: h.stamp, values: values}
		written = true
	}
	return written, nil
}

// align brings packed values of columns into the order of the description; what is not given is nil.
func (m *sourceModel) align(columns []string, values []byte) ([]byte, error) {
	given := map[string]any{}
	for _, name := range columns {
		field, _ := m.desc.Field(name)
		value, rest, err := sdk.DecodeValue(values, field.Type)
		if err != nil {
			return nil, fmt.Errorf("column %q: %w", name, err)
		}
		given[name], values = value, rest
	}
	var aligned []byte
	for _, name := range m.columns {
		aligned = sdk.AppendValue(aligned, given[name])
	}
	return aligned, nil
}

// Find implements sdk.SourceHost.
func (h *SourceHost) Find(ctx context.Context, model sdk.ModelName, field string, values []any) (sdk.Batch, error) {
	if err := ctx.Err(); err != nil {
		return sdk.Batch{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.models[model]
	if m == nil {
		return sdk.Batch{}, sdk.Errorf(sdk.CodeUnknownModel, "no server for model %q", model)
	}
	at := slices.Index(m.columns, field)
	if at < 0 && field != "id" {
		return sdk.Batch{}, sdk.Errorf(sdk.CodeUnknownField, "%s has no field %q", model, field)
	}
	var wanted [][]byte
	for _, v := range values {
		if err := m.comparable(at, v); err != nil {
			return sdk.Batch{}, err
		}
		wanted = append(wanted, sdk.AppendValue(nil, v))
	}
	found := sdk.Batch{Model: model, Columns: slices.Clone(m.columns)}
	for _, id := range m.ids() {
		row := m.rows[id]
		value := sdk.AppendValue(nil, id)
		if at >= 0 {
			var err error
			if value, err = m.packed(row, at); err != nil {
				return sdk.Batch{}, err
			}
		}
		if len(wanted) > 0 && !slices.ContainsFunc(wanted, func(w []byte) bool { return bytes.Equal(w, value) }) {
			continue
		}
		found.Version = m.desc.Version
		found.Count++
		found.Rows = sdk.AppendStateHeader(found.Rows, id, row.stamp, len(m.columns))
		found.Rows = append(found.Rows, row.values...)
	}
	return found, nil
}

// comparable returns why v can not be compared with the field at, or with the id where at is negative.
func (m *sourceModel) comparable(at int, v any) error {
	if at >= 0 {
		return sdk.CheckValue(m.desc.Fields[at].Type, v)
	}
	if _, ok := v.(sdk.RecordID); !ok {
		return sdk.Errorf(sdk.CodeInvalid, "an id is compared with a %T", v)
	}
	return nil
}

// packed returns the packed value of the field at.
func (m *sourceModel) packed(row sourceRow, at int) ([]byte, error) {
	rest := row.values
	for i := range m.columns {
		value, next, err := sdk.DecodeValue(rest, m.desc.Fields[i].Type)
		if err != nil {
			return nil, err
		}
		if i == at {
			return sdk.AppendValue(nil, value), nil
		}
		rest = next
	}
	return nil, errors.New("a row is shorter than its description")
}

func (m *sourceModel) ids() []sdk.RecordID {
	ids := make([]sdk.RecordID, 0, len(m.rows))
	for id := range m.rows {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, sdk.RecordID.Compare)
	return ids
}

// Changed implements sdk.SourceHost.
func (h *SourceHost) Changed(model sdk.ModelName) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	listener := make(chan struct{}, 1)
	m := h.models[model]
	switch {
	case h.closed:
		close(listener)
	case m != nil:
		m.listeners = append(m.listeners, listener)
	}
	return listener
}

// Warn implements sdk.SourceHost.
func (h *SourceHost) Warn(key string, count int, message string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if count == 0 {
		delete(h.warnings, key)
	} else {
		h.warnings[key] = Warning{Count: count, Message: message}
	}
	h.notify()
}

// Progress implements sdk.SourceHost.
func (h *SourceHost) Progress(progress sdk.Progress) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.progress[task{progress.Key, progress.Unit}] = progress
	h.notify()
}

// notify wakes Await. h.mu is held.
func (h *SourceHost) notify() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// Await blocks until condition, which may call h's methods, holds; it looks at first and after every Commit, Warn and
// Progress. It returns ctx's error if that ends first.
func (h *SourceHost) Await(ctx context.Context, condition func() bool) error {
	for {
		h.mu.Lock()
		changed := h.changed
		h.mu.Unlock()
		if condition() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Commits returns every batch committed so far, in order, also those that changed nothing.
func (h *SourceHost) Commits() []sdk.Batch {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.commits)
}

// Count returns how many records of model there are.
func (h *SourceHost) Count(model sdk.ModelName) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.models[model]; m != nil {
		return len(m.rows)
	}
	return 0
}

// Written returns how many rows were written so far; rows that equalled what was stored, and deletes, do not count.
func (h *SourceHost) Written() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int(h.stamp) //nolint:gosec // a count
}

// Warnings returns the warnings that stand, by key.
func (h *SourceHost) Warnings() map[string]Warning {
	h.mu.Lock()
	defer h.mu.Unlock()
	warnings := make(map[string]Warning, len(h.warnings))
	for key, w := range h.warnings {
		warnings[key] = w
	}
	return warnings
}

// Progressed returns the latest progress of each task in each unit, ascending by key and unit.
func (h *SourceHost) Progressed() []sdk.Progress {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.SortedFunc(maps.Values(h.progress), func(a, b sdk.Progress) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Unit, b.Unit))
	})
}

// Records returns the records of a typed model that h holds, in the order of their ids.
func Records[T any](tb testing.TB, h *SourceHost, model sdk.Model[T]) []T {
	tb.Helper()
	batch, err := h.Find(context.Background(), model.Name, "id", nil)
	if err != nil {
		tb.Fatalf("find every %s: %v", model.Name, err)
	}
	var records []T
	for record, err := range model.Rows(&batch) {
		if err != nil {
			tb.Fatalf("read %s: %v", model.Name, err)
		}
		records = append(records, record)
	}
	return records
}
