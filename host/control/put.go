package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/agext/levenshtein"

	"github.com/starling-sync/starling/sdk"
)

// Put is one record to write: JSON is an object of field names and values.
//
// With a zero ID it is an insert under a new id (of a model with a natural key: under the id derived from it, so that
// putting the same again is the same record). Otherwise it updates the fields that JSON names; the record must
// exist, because an id made up by a caller could name a deleted record or another model's.
type Put struct {
	ID   sdk.RecordID
	JSON []byte
}

// PutResult answers a call of several puts.
type PutResult struct {
	IDs     []sdk.RecordID // one a put, in order; zero where nothing was written
	Refused []sdk.Refusal  // ascending by Index
}

// writer turns what people put and delete into batches. It is the one place where a device-owned record's named
// fields meet its other fields: those records are written whole, shared ones field by field.
type writer struct {
	records  Records
	history  History
	reporter Reporter
	newID    func() sdk.RecordID

	mu sync.Mutex // guards merging
	// merging holds, for each model, one token while nobody reads, merges and writes a device-owned record of it, so that two
	// updates of different fields do not undo one another. Sources write their rows past it: they own what they write.
	merging map[sdk.ModelName]chan struct{}
}

func newWriter(records Records, history History, reporter Reporter, newID func() sdk.RecordID) *writer {
	return &writer{records: records, history: history, reporter: reporter, newID: newID, merging: make(map[sdk.ModelName]chan struct{})}
}

// turnOf returns what holds the token of a model.
func (w *writer) turnOf(model sdk.ModelName) chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	turn, ok := w.merging[model]
	if !ok {
		turn = make(chan struct{}, 1)
		turn <- struct{}{}
		w.merging[model] = turn
	}
	return turn
}

// find returns the description of a model, and whether it is served here.
func find(models []sdk.Description, model sdk.ModelName) (sdk.Description, bool) {
	for _, d := range models {
		if d.Model == model {
			return d, true
		}
	}
	return sdk.Description{}, false
}

// describe returns the description of a model served here, or says why it is not, or which models there are.
func describe(ctx context.Context, records Records, reporter Reporter, model sdk.ModelName) (sdk.Description, error) {
	models := records.Models()
	if d, ok := find(models, model); ok {
		return d, nil
	}
	plugins, err := reporter.Plugins(ctx)
	if err != nil {
		return sdk.Description{}, err
	}
	if err := notServed(plugins, model); err != nil {
		return sdk.Description{}, err
	}
	if err := keptFor(ctx, reporter, model); err != nil {
		return sdk.Description{}, err
	}
	best, distance := "", 3
	for _, d := range models {
		if n := levenshtein.Distance(string(d.Model), string(model), nil); n < distance {
			best, distance = string(d.Model), n
		}
	}
	if best != "" {
		return sdk.Description{}, sdk.Errorf(sdk.CodeUnknownModel, "no model %q here; did you mean %q?", model, best)
	}
	if len(models) == 0 {
		return sdk.Description{}, sdk.Errorf(sdk.CodeUnknownModel, "no model %q here; no model plugin is running (see: starling plugin list)", model)
	}
	var names []string
	for _, d := range models {
		names = append(names, string(d.Model))
	}
	slices.Sort(names)
	return sdk.Description{}, sdk.Errorf(sdk.CodeUnknownModel, "no model %q here; the models are %s%s", model, strings.Join(names, ", "), unheard(plugins, models))
}

// keptFor returns an error that says how many changes of a model without a plugin are kept; nil: none, or it can not be told.
func keptFor(ctx context.Context, reporter Reporter, model sdk.ModelName) error {
	status, err := reporter.Status(ctx)
	if err != nil {
		return nil //nolint:nilerr // that there is no such model is what is asked about, and known without
	}
	for i := range status.Models {
		if m := &status.Models[i]; m.Model == model && m.Parked > 0 {
			changes := fmt.Sprintf("%d changes of it are kept, and wait for one", m.Parked)
			if m.Parked == 1 {
				changes = "1 change of it is kept, and waits for one"
			}
			return sdk.Errorf(sdk.CodeUnknownModel, "no plugin here serves the model %q; %s: configure it in config.hcl, then: starling reload", model, changes)
		}
	}
	return nil
}

// The states and the kind of plugins that are told apart here, as in Plugin.
const (
	stateRunning     = "running"
	stateUnhealthy   = "unhealthy"
	stateQuarantined = "quarantined"
	stateDebugging   = "debugging"
	stateStarting    = "starting"

	kindModel = "model"
)

// notServed says why a model is not served that a plugin of the configuration is for; nil: there is no such plugin, or it runs.
func notServed(plugins []Plugin, model sdk.ModelName) error {
	for i := range plugins {
		p := &plugins[i]
		if !slices.Contains(p.Models, model) {
			continue
		}
		switch p.State {
		case stateQuarantined:
			return sdk.Errorf(sdk.CodeUnavailable, "model %q is not served, since its plugin %s is quarantined: %s; mend that, then: starling plugin restart %s", model, p.Name, p.Reason, p.Name)
		case stateDebugging:
			return sdk.Errorf(sdk.CodeUnavailable, "model %q is not served yet, since its plugin %s is under a debugger and has not said what it is: %s; let it go on, and try again", model, p.Name, p.Reason)
		case stateStarting:
			return sdk.Errorf(sdk.CodeUnavailable, "model %q is not served yet: its plugin %s is being started; try again", model, p.Name)
		case stateRunning, stateUnhealthy:
			continue
		}
		return sdk.Errorf(sdk.CodeUnavailable, "model %q is not served now: its plugin %s is %s: %s; see: starling plugin list", model, p.Name, p.State, p.Reason)
	}
	return nil
}

// unheard names the plugins that have not said which models they serve besides the one that they are named by.
func unheard(plugins []Plugin, served []sdk.Description) string {
	var names []string
	for i := range plugins {
		p := &plugins[i]
		heard := slices.ContainsFunc(append([]sdk.ModelName{sdk.ModelName(p.Name)}, p.Models...), func(model sdk.ModelName) bool { _, known := find(served, model); return known })
		if p.Kind == kindModel && p.PID == 0 && !heard {
			names = append(names, fmt.Sprintf("%s (%s)", p.Name, p.State))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "; these plugins do not run, and may serve others: " + strings.Join(names, ", ")
}

// put writes records of one model. Its error means that nothing was written, or, with ErrUnknown in its chain, that nobody can
// tell; what is wrong with single records is in the result.
func (w *writer) put(ctx context.Context, model sdk.ModelName, puts []Put, allOrNothing bool) (PutResult, error) {
	desc, err := describe(ctx, w.records, w.reporter, model)
	if err != nil {
		return PutResult{}, err
	}
	if desc.WrittenBy != "" {
		return PutResult{}, sdk.Errorf(sdk.CodeDenied, "records of model %s are written by %s; they can not be put", desc.Model, desc.WrittenBy)
	}
	merges := desc.Ownership != sdk.SharedByAll && slices.ContainsFunc(puts, func(p Put) bool { return !p.ID.IsZero() })
	if merges {
		turn := w.turnOf(desc.Model)
		select {
		case <-turn:
			defer func() { turn <- struct{}{} }()
		case <-ctx.Done():
			return PutResult{}, ctx.Err()
		}
	}
	b := newBuilder(w, desc, len(puts))
	result := PutResult{IDs: make([]sdk.RecordID, len(puts))}
	for i, p := range puts {
		next, err := b.kindOfPut(ctx, p)
		if err == nil && next != b.kind && len(b.index) > 0 { // a hybrid model: rows and operations are committed apart
			if allOrNothing {
				return PutResult{}, sdk.Errorf(sdk.CodeUnsupported, "%s: owned and shared records can not be written together, all or none; write them one after the other", desc.Model)
			}
			if err := b.commitInto(ctx, &result, false); err != nil {
				return PutResult{}, err
			}
			b = newBuilder(w, desc, len(puts))
			b.later = true
		}
		if err == nil {
			b.kind = next
			err = b.add(ctx, p)
		}
		if err != nil {
			if ctx.Err() != nil {
				return PutResult{}, err
			}
			b.refuse(i, err)
			continue
		}
		b.index = append(b.index, i)
	}
	return result, b.commitInto(ctx, &result, allOrNothing)
}

// commitInto commits and adds what became of it to result. Where other records of the call may have been written before, it has
// no error: that those of b were not, or may not have been, is what is wrong with each of them.
func (b *builder) commitInto(ctx context.Context, result *PutResult, allOrNothing bool) error {
	one, err := b.commit(ctx, allOrNothing)
	switch {
	case err != nil && !b.later:
		return err
	case err != nil:
		one = b.result
		for _, i := range b.index {
			one.Refused = append(one.Refused, sdk.Refusal{Index: i, Code: sdk.CodeOf(err), Message: NotWritten(err).Error()})
		}
		slices.SortFunc(one.Refused, func(x, y sdk.Refusal) int { return x.Index - y.Index })
	}
	for i, id := range one.IDs {
		if !id.IsZero() {
			result.IDs[i] = id
		}
	}
	result.Refused = append(result.Refused, one.Refused...)
	return nil
}

// kindOfPut says whether a put is of an owned or of a shared record: of a hybrid model, an insert by its owner field, an
// update by what the record is.
func (b *builder) kindOfPut(ctx context.Context, p Put) (sdk.Ownership, error) {
	if b.desc.Ownership != sdk.HybridOwned {
		return b.desc.Ownership, nil
	}
	if !p.ID.IsZero() {
		return b.writer.kindOf(ctx, b.desc, p.ID)
	}
	names, values, err := sdk.DecodeJSON(b.desc, p.JSON)
	if err != nil {
		return "", err
	}
	if i := slices.Index(names, b.desc.Owner().Name); i >= 0 && values[i] != nil {
		return sdk.DeviceOwned, nil
	}
	return sdk.SharedByAll, nil
}

// kindOf says whether a record that there is is owned or shared.
func (w *writer) kindOf(ctx context.Context, model sdk.Description, id sdk.RecordID) (sdk.Ownership, error) {
	if model.Ownership != sdk.HybridOwned {
		return model.Ownership, nil
	}
	record, err := w.records.Get(ctx, model.Model, id)
	if err != nil {
		return "", err
	}
	return record.kind(), nil
}

// kindOfAny is kindOf of a record that exists, visible or not; CodeNotFound if it does not.
func (w *writer) kindOfAny(ctx context.Context, desc sdk.Description, id sdk.RecordID) (sdk.Ownership, error) {
	record, err := w.records.Get(ctx, desc.Model, id)
	if sdk.CodeOf(err) == sdk.CodeNotFound {
		switch e, known := w.history.Explain(ctx, desc.Model, id); {
		case known != nil || e.State != StateWaiting:
			return "", err
		case e.Owned.Device.IsZero():
			return sdk.SharedByAll, nil
		default:
			return sdk.DeviceOwned, nil
		}
	}
	if err != nil || desc.Ownership != sdk.HybridOwned {
		return desc.Ownership, err
	}
	return record.kind(), nil
}

// kind says whether the record is owned or shared.
func (r *Record) kind() sdk.Ownership {
	if r.Owner.IsZero() {
		return sdk.SharedByAll
	}
	return sdk.DeviceOwned
}

// builder packs the puts of one call. index[k] is the put that row k of batch came from.
type builder struct {
	*writer
	desc    sdk.Description
	kind    sdk.Ownership // of the records in batch; of a hybrid model zero until the first
	columns map[string]int
	batch   sdk.Batch
	index   []int
	later   bool // other records of the call were committed before
	result  PutResult
	ids     []sdk.RecordID         // of row k of batch
	right   map[reference]bool     // references found not to name a record of another model
	merged  map[sdk.RecordID][]any // the device-owned records updated in this call, as they will be
}

func newBuilder(w *writer, desc sdk.Description, puts int) *builder {
	b := &builder{
		writer:  w,
		desc:    desc,
		kind:    desc.Ownership,
		columns: make(map[string]int, len(desc.Fields)),
		batch:   sdk.Batch{Model: desc.Model, Version: desc.Version},
		result:  PutResult{IDs: make([]sdk.RecordID, puts)},
		right:   map[reference]bool{},
		merged:  map[sdk.RecordID][]any{},
	}
	for i, f := range desc.Fields {
		b.columns[f.Name] = i
		b.batch.Columns = append(b.batch.Columns, f.Name)
	}
	return b
}

func (b *builder) refuse(index int, err error) {
	err = NotWritten(err)
	b.result.Refused = append(b.result.Refused, sdk.Refusal{Index: index, Code: sdk.CodeOf(err), Message: err.Error()})
}

// add packs one put, or says why it can not be.
func (b *builder) add(ctx context.Context, p Put) error {
	names, values, err := sdk.DecodeJSON(b.desc, p.JSON)
	if err != nil {
		return err
	}
	if err := b.refersRight(ctx, names, values); err != nil {
		return err
	}
	id := p.ID
	if id.IsZero() {
		if b.desc.Ownership == sdk.HybridOwned {
			names, values = wholeKey(&b.desc, names, values)
		}
		if id, err = b.freshID(names, values); err != nil {
			return err
		}
	}
	before := len(b.batch.Rows)
	if b.kind == sdk.SharedByAll {
		kind := sdk.Insert
		if !p.ID.IsZero() {
			kind = sdk.Update
		}
		b.addOp(id, kind, names, values)
	} else if err := b.addRow(ctx, id, !p.ID.IsZero(), names, values); err != nil {
		return err
	}
	if size := len(b.batch.Rows) - before; size > sdk.MaxRecordBytes {
		b.batch.Rows = b.batch.Rows[:before]
		delete(b.merged, id)
		return sdk.Errorf(sdk.CodeTooLarge, "%s: a record of %d bytes; at most %d are allowed", b.desc.Model, size, sdk.MaxRecordBytes)
	}
	b.batch.Count++
	b.ids = append(b.ids, id)
	return nil
}

// freshID returns the id of an insert: of the natural key where the model has one.
func (b *builder) freshID(names []string, values []any) (sdk.RecordID, error) {
	var key []any
	some := false
	var one []string // of these must be given
	for _, f := range b.desc.Fields {
		if !f.Key {
			continue
		}
		one = append(one, f.Name)
		i := slices.Index(names, f.Name)
		if i < 0 || (values[i] == nil && (f.Required || b.desc.Ownership != sdk.HybridOwned)) {
			return sdk.RecordID{}, sdk.Errorf(sdk.CodeInvalid, "%s: %s is part of the key and must be given", b.desc.Model, f.Name)
		}
		key = append(key, values[i])
		some = some || values[i] != nil
	}
	if key == nil {
		return b.newID(), nil
	}
	if !some {
		return sdk.RecordID{}, sdk.Errorf(sdk.CodeInvalid, "%s: give one of %s", b.desc.Model, strings.Join(one, ", "))
	}
	return sdk.KeyID(b.desc.Model, key...), nil
}

// wholeKey names every field of the natural key of a hybrid model: those that are left out have no value.
func wholeKey(desc *sdk.Description, names []string, values []any) ([]string, []any) {
	for _, f := range desc.Fields {
		if f.Key && !f.Required && !slices.Contains(names, f.Name) {
			names, values = append(names, f.Name), append(values, nil)
		}
	}
	return names, values
}

func (b *builder) addOp(id sdk.RecordID, kind sdk.OpKind, names []string, values []any) {
	b.batch.Rows = sdk.AppendOpHeader(b.batch.Rows, id, 0, kind, len(names))
	for i, name := range names {
		b.batch.Rows = sdk.AppendOpField(b.batch.Rows, b.columns[name], values[i], 0)
	}
}

func (b *builder) addRow(ctx context.Context, id sdk.RecordID, update bool, names []string, values []any) error {
	whole := make([]any, len(b.desc.Fields))
	if update {
		if earlier, ok := b.merged[id]; ok {
			copy(whole, earlier)
		} else {
			record, err := b.records.Get(ctx, b.desc.Model, id)
			if err != nil {
				return err
			}
			copy(whole, record.Values)
		}
	}
	for i, name := range names {
		whole[b.columns[name]] = values[i]
	}
	b.batch.Rows = sdk.AppendStateHeader(b.batch.Rows, id, 0, len(whole))
	for _, v := range whole {
		b.batch.Rows = sdk.AppendValue(b.batch.Rows, v)
	}
	if update {
		b.merged[id] = whole
	}
	return nil
}

// commit writes what could be packed.
func (b *builder) commit(ctx context.Context, allOrNothing bool) (PutResult, error) {
	if b.batch.Count == 0 || (allOrNothing && len(b.result.Refused) > 0) {
		return b.result, nil
	}
	refused, err := b.records.Commit(ctx, Write{Kind: b.kind, Batch: b.batch, AllOrNothing: allOrNothing})
	if errors.Is(err, ErrUnknown) {
		return PutResult{}, sdk.Errorf(sdk.CodeOf(err), "%w; whether it was, this says then: %s", err, b.look())
	}
	if err != nil {
		return PutResult{}, b.whyNot(ctx, err)
	}
	if allOrNothing && len(refused) > 0 {
		b.ids = nil
	}
	for k, id := range b.ids {
		b.result.IDs[b.index[k]] = id
	}
	for _, r := range refused {
		r.Index = b.index[r.Index]
		b.result.IDs[r.Index] = sdk.RecordID{}
		b.result.Refused = append(b.result.Refused, r)
	}
	slices.SortFunc(b.result.Refused, func(x, y sdk.Refusal) int { return x.Index - y.Index })
	return b.result, nil
}

// whyNot says why nothing was written: where the model's plugin does not run, that is why, and err knows less about it.
func (b *builder) whyNot(ctx context.Context, err error) error {
	if sdk.CodeOf(err) != sdk.CodeUnavailable || ctx.Err() != nil {
		return err
	}
	plugins, unknown := b.reporter.Plugins(ctx)
	if unknown != nil {
		return err
	}
	return cmp.Or(notServed(plugins, b.desc.Model), err)
}

// look is a command that shows the records of the batch, if they were written.
func (b *builder) look() string {
	if len(b.ids) == 1 {
		return fmt.Sprintf("starling get %s %s", b.desc.Model, b.ids[0])
	}
	return fmt.Sprintf("starling list %s; the first of them has the id %s", b.desc.Model, b.ids[0])
}

// remove deletes records of one model, also those that wait for others; one that does not exist is refused with CodeNotFound.
func (w *writer) remove(ctx context.Context, model sdk.ModelName, ids []sdk.RecordID) ([]sdk.Refusal, error) {
	desc, err := describe(ctx, w.records, w.reporter, model)
	if err != nil {
		return nil, err
	}
	if desc.WrittenBy != "" && !desc.MayDelete {
		return nil, sdk.Errorf(sdk.CodeDenied, "records of model %s are written by %s; they can not be deleted", desc.Model, desc.WrittenBy)
	}
	b, result := newBuilder(w, desc, len(ids)), PutResult{IDs: make([]sdk.RecordID, len(ids))}
	for i, id := range ids {
		kind, err := w.kindOfAny(ctx, desc, id)
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			b.refuse(i, w.mistaken(ctx, desc.Model, id, err))
			continue
		}
		if kind != b.kind && len(b.index) > 0 {
			if err := b.commitInto(ctx, &result, false); err != nil {
				return nil, err
			}
			b = newBuilder(w, desc, len(ids))
			b.later = true
		}
		if b.kind = kind; kind == sdk.SharedByAll {
			b.batch.Rows = sdk.AppendOpHeader(b.batch.Rows, id, 0, sdk.Delete, 0)
		} else {
			b.batch.Rows = sdk.AppendStateHeader(b.batch.Rows, id, 0, -1)
		}
		b.batch.Count++
		b.ids = append(b.ids, id)
		b.index = append(b.index, i)
	}
	err = b.commitInto(ctx, &result, false)
	return result.Refused, err
}
