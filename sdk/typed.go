package sdk

import (
	"context"
	"encoding/json"
	"iter"
	"slices"

	"github.com/starling-sync/starling/hlc"
)

// Owned is embedded in the Go struct of a device-owned model. The host keeps what it holds.
type Owned struct {
	ID    RecordID
	Stamp hlc.Stamp // of the latest change; zero for a record that is not stored yet
}

// Shared is embedded in the Go struct of a model that every device may change. The host keeps what it holds.
type Shared struct {
	ID    RecordID
	Stamp hlc.Stamp // of the latest write to any of its fields or its existence; zero for a record that is not stored yet
}

// Hybrid is embedded in the Go struct of a model each of whose records is one or the other: owned by the device that owns
// what the field tagged owner refers to, or, where that is NULL, shared. The host keeps what it holds.
type Hybrid struct {
	ID    RecordID
	Stamp hlc.Stamp // as in Owned and Shared
}

// Ref refers to a record of one model, which the tag names: `starling:"parent_id,ref=tag"`. The zero Ref is NULL.
type Ref RecordID

// AnyRef refers to a record of any model. The zero AnyRef is NULL.
type AnyRef RecordID

// ID returns the id that r holds.
func (r Ref) ID() RecordID { return RecordID(r) }

// IsZero reports whether r refers to nothing.
func (r Ref) IsZero() bool { return r == Ref{} }

func (r Ref) String() string { return RecordID(r).String() }

// ID returns the id that r holds.
func (r AnyRef) ID() RecordID { return RecordID(r) }

// IsZero reports whether r refers to nothing.
func (r AnyRef) IsZero() bool { return r == AnyRef{} }

func (r AnyRef) String() string { return RecordID(r).String() }

// Set is a set of elements, ascending and each once, that devices add to and remove from at the same time: of an add and a
// remove that did not see one another, the add wins. A nil Set is empty.
type Set[E int64 | string] []E

// Has reports whether e is in the set.
func (s Set[E]) Has(e E) bool { return slices.Contains(s, e) }

// Counter is a whole number that devices add to at the same time, and to which everything that they add counts.
type Counter int64

// Model serves a plain model whose records are Go structs of type T, which embeds Shared, Owned or Hybrid.
// It implements ModelServer, Source and Configurable; its methods may be called at once.
//
// Each other exported field of T is a column and carries a tag:
//
//	`starling:"name,options..." doc:"one line for people"`
//
//	required      nil is refused            ref=MODEL   the model that a Ref refers to
//	key           part of the natural key   weak        a reference that does not hide the record
//	index         kept in an index          max, min    the greatest or least value wins (shared models)
//	owner         hybrid: who owns what it refers to owns the record; its key fields may be NULL, but not all of them
//	type=time     of an int64: Unix microseconds
//	type=json     of a string: one JSON value
//
// and has one of these types, or is a pointer to one (nil is NULL): string, int, int64, float64, bool, []byte, Ref,
// AnyRef, time.Time, json.RawMessage. A nil []byte or json.RawMessage, and a zero Ref, AnyRef or time.Time, is NULL.
// Of a shared model it may also be Set[string], Set[int64] or Counter, which merge as their names say and are never NULL to
// the author; docs/merge-kinds.md says how each kind merges.
// A field tagged `starling:"-"` is left alone. A mistake in the tags is an error of Check and of every other method.
type Model[T any] struct {
	Name    ModelName
	Version uint32 // of T's columns, from 1; raise it when one is added
	Doc     string // one line for people

	WrittenBy string // who alone writes the records; see Description
	MayDelete bool   // whether people may delete them all the same

	// Validate, if set, says why a record may not be written here. It is pure, may be called at once, and sees only
	// local writes, in their merged form. What it changes in the record is not kept.
	Validate func(record *T) error
	// Config, if set, takes the model's config block: Settings(&settings), or a Configurable of your own.
	Config Configurable
	// Source, if set, yields local changes; see the interface Source.
	Source func(ctx context.Context, host SourceHost) error
}

// Check returns the first mistake in T's tags or in the model's description.
func (m Model[T]) Check() error {
	_, err := m.schema()
	return err
}

// Describe implements ModelServer.
func (m Model[T]) Describe(context.Context) (Description, error) {
	s, err := m.schema()
	if err != nil {
		return Description{}, err
	}
	return s.desc, nil
}

// ApplyStateChange implements ModelServer: see CheckState.
func (m Model[T]) ApplyStateChange(_ context.Context, in StateChanges) (StateResult, error) {
	s, err := m.schema()
	if err != nil {
		return StateResult{}, err
	}
	if m.Validate == nil || !in.Local {
		return CheckState(&s.desc, in, nil)
	}
	bound := s.bindColumns(in.Batch.Columns)
	return CheckState(&s.desc, in, func(row *StateRow) error {
		var record T
		if err := s.decodeRow(&record, bound, row); err != nil {
			return err
		}
		return m.Validate(&record)
	})
}

// ApplySharedChange implements ModelServer: see MergeShared.
func (m Model[T]) ApplySharedChange(_ context.Context, in SharedChanges) (SharedResult, error) {
	s, err := m.schema()
	if err != nil {
		return SharedResult{}, err
	}
	if m.Validate == nil || !in.Local {
		return MergeShared(&s.desc, in, nil)
	}
	return MergeShared(&s.desc, in, func(merged *Record) error {
		var record T
		if err := s.decodeRecord(&record, merged); err != nil {
			return err
		}
		return m.Validate(&record)
	})
}

// Configure implements Configurable. A model without Config takes no settings and refuses any.
func (m Model[T]) Configure(ctx context.Context, config json.RawMessage) error {
	if m.Config == nil {
		return noSettings{}.Configure(ctx, config)
	}
	return m.Config.Configure(ctx, config)
}

// CheckConfig implements ConfigChecker.
func (m Model[T]) CheckConfig(ctx context.Context, config json.RawMessage) error {
	if m.Config == nil {
		return noSettings{}.CheckConfig(ctx, config)
	}
	if c, ok := m.Config.(ConfigChecker); ok {
		return c.CheckConfig(ctx, config)
	}
	return Errorf(CodeUnsupported, "model %q can not judge a config block without taking it", m.Name)
}

// DeclareSettings implements Declarer.
func (m Model[T]) DeclareSettings() ([]Setting, error) {
	if m.Config == nil {
		return noSettings{}.DeclareSettings()
	}
	if d, ok := m.Config.(Declarer); ok {
		return d.DeclareSettings()
	}
	return nil, nil
}

// Run implements Source. Only a model with Source, which its description says, is a source.
func (m Model[T]) Run(ctx context.Context, host SourceHost) error {
	if m.Source == nil {
		return Errorf(CodeUnsupported, "model %q is not a source of changes", m.Name)
	}
	return m.Source(ctx, host)
}

// Packer returns a new, empty Packer. A batch holds rows or operations, so for a hybrid model call PackerOf.
func (m Model[T]) Packer() (*Packer[T], error) {
	s, err := m.schema()
	if err != nil {
		return nil, err
	}
	return m.PackerOf(s.desc.Ownership)
}

// PackerOf returns a new, empty Packer of the records of a hybrid model that are owned by devices or that are shared; of
// another model kind is its ownership.
func (m Model[T]) PackerOf(kind Ownership) (*Packer[T], error) {
	s, err := m.schema()
	if err != nil {
		return nil, err
	}
	if kind == HybridOwned || (kind != s.desc.Ownership && s.desc.Ownership != HybridOwned) {
		return nil, Errorf(CodeUnsupported, "model %q is %q, so that none of its batches is %q; see PackerOf", m.Name, s.desc.Ownership, kind)
	}
	return newPacker[T](s, kind), nil
}

// Rows yields the rows of a device-owned batch, deleted ones left out. Columns that T lacks are skipped, and T's fields
// that the batch lacks stay zero. It ends after the first error.
func (m Model[T]) Rows(batch *Batch) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		s, err := m.schema()
		if err != nil {
			yield(none, err)
			return
		}
		bound := s.bindColumns(batch.Columns)
		for row, err := range batch.StateRows() {
			if err == nil && row.Deleted {
				continue
			}
			var record T
			if err == nil {
				err = s.decodeRow(&record, bound, &row)
			}
			if !yield(record, err) || err != nil {
				return
			}
		}
	}
}

// Decode returns the record id with values[i] as its field names[i]. Names that T lacks are skipped, and T's fields that
// are not named stay zero. Values are of the types that Type lists.
func (m Model[T]) Decode(id RecordID, names []string, values []any) (T, error) {
	var record T
	s, err := m.schema()
	if err != nil {
		return record, err
	}
	if len(names) != len(values) {
		return record, Errorf(CodeInvalid, "%s %s: %d names for %d values", m.Name, id, len(names), len(values))
	}
	return record, s.decodeValues(&record, id, names, values)
}

// schema reads T's tags. It is made anew for each call, which costs some microseconds a batch and keeps Model a plain
// value without state.
func (m Model[T]) schema() (*schema, error) {
	return newSchema[T](Description{Model: m.Name, Version: m.Version, Doc: m.Doc, Source: m.Source != nil, WrittenBy: m.WrittenBy, MayDelete: m.MayDelete})
}
