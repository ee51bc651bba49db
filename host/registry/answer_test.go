package registry_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// mangled serves labels and files, and spoils its answers.
type mangled struct {
	sdk.ModelServer
	shared func(*sdk.SharedResult)
	state  func(*sdk.StateResult)
}

func (m mangled) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	result, err := m.ModelServer.ApplySharedChange(ctx, in)
	if m.shared != nil {
		m.shared(&result)
	}
	return result, err
}

func (m mangled) ApplyStateChange(ctx context.Context, in sdk.StateChanges) (sdk.StateResult, error) {
	result, err := m.ModelServer.ApplyStateChange(ctx, in)
	m.state(&result)
	return result, err
}

// TestPrepare_brokenAnswer wants nothing to be stored, and nothing to be lost, by a model whose answer lacks what it accepted.
func TestPrepare_brokenAnswer(t *testing.T) {
	nothing := func(r *sdk.SharedResult) { *r = sdk.SharedResult{} }
	insert := packed(t, labels(), label(9, 0, "nine"))
	update := updates(t, labels(), &Label{Shared: sdk.Shared{ID: rid(1)}, Color: "red"}, "color")
	raise := updates(t, labels(), &Label{Shared: sdk.Shared{ID: rid(1)}, Rank: 7}, "rank")
	remove := deletes(t, labels(), rid(1))
	no := sdk.Refusal{Code: sdk.CodeInvalid, Message: "no"}
	for name, c := range map[string]struct {
		batch sdk.Batch
		spoil func(*sdk.SharedResult)
		want  string
	}{
		"an insert of nothing":   {insert, nothing, `accepted the insert of ` + rid(9).String() + `, and its answer lacks the record`},
		"an update of nothing":   {update, nothing, `lacks the write to "color"`},
		"a raise of nothing":     {raise, nothing, `lacks the write to "rank"`},
		"a delete of nothing":    {remove, nothing, `lacks the delete`},
		"an insert without one":  {insert, func(r *sdk.SharedResult) { r.Records[0].Inserted = sdk.Version{} }, `lacks the insert`},
		"a delete without one":   {remove, func(r *sdk.SharedResult) { r.Records[0].Deleted = sdk.Version{} }, `lacks the delete`},
		"a record without field": {insert, func(r *sdk.SharedResult) { r.Records[0].Fields = r.Records[0].Fields[:1] }, `lacks the write to "name"`},
		"a record twice":         {insert, func(r *sdk.SharedResult) { r.Records = append(r.Records, r.Records[0]) }, `returned ` + rid(9).String() + ` twice`},
		"a refusal beyond":       {insert, func(r *sdk.SharedResult) { no.Index = 1; r.Refused = append(r.Refused, no) }, `refused change 1 of 1`},
		"a refusal before":       {insert, func(r *sdk.SharedResult) { no.Index = -1; r.Refused = append(r.Refused, no) }, `refused change -1 of 1`},
		"a refusal twice":        {insert, func(r *sdk.SharedResult) { no.Index = 0; r.Refused = append(r.Refused, no, no) }, `refused change 0 after change 0`},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, c, spoil := newDevice(t, 1, labels()), newDevice(t, 2, labels()), c, mangled{ModelServer: labels(), shared: c.spoil}
			a.share(packed(t, labels(), label(1, 0, "one")))
			b.pull(a, 1<<20)
			// Of what is written here nothing is kept.
			before := b.digests()
			b.add(spoil)
			result, err := b.manager.CommitShared(t.Context(), c.batch)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("wrote %d, %v; want an error with %q", result.Written, err, c.want)
			}
			if after := b.digests(); !slices.Equal(after, before) {
				t.Errorf("a refused write is kept: %v, before %v", after, before)
			}
			if p, _ := b.read(history.Stream{Origin: b.id, Kind: sdk.SharedByAll}, 0, 1<<20); len(p.batches) != 0 {
				t.Errorf("a refused write is in the log: %d batches", len(p.batches))
			}
			// What a peer wrote waits for a better plugin.
			a.share(c.batch)
			b.pull(a, 1<<20)
			if counts := b.counts("label"); counts.Parked != 1 || counts.Refused != 0 {
				t.Errorf("of the peer's change: %+v; want it parked", counts)
			}
			b.add(labels())
			wantEqual(t, a, b)
		})
	}
}

// TestPrepare_brokenRefusals wants the refusals of rows to be of rows.
func TestPrepare_brokenRefusals(t *testing.T) {
	d := newDevice(t, 1, mangled{ModelServer: files(), state: func(r *sdk.StateResult) {
		r.Refused = []sdk.Refusal{{Index: 1, Code: sdk.CodeInvalid, Message: "no"}, {Index: 0, Code: sdk.CodeInvalid, Message: "no"}}
	}})
	_, err := d.manager.CommitDeviceOwned(t.Context(), packed(t, files(), file(1, 0, "a"), file(2, 0, "b")))
	if err == nil || !strings.Contains(err.Error(), "refused change 0 after change 1") {
		t.Errorf("got %v; want the broken answer named", err)
	}
}

// TestPrepare_answersThatChangeNothing wants what is no news to be no broken answer.
func TestPrepare_answersThatChangeNothing(t *testing.T) {
	a, b := newDevice(t, 1, labels()), newDevice(t, 2, labels())
	a.share(packed(t, labels(), &Label{Shared: sdk.Shared{ID: rid(1)}, Name: "one", Rank: 5}))
	lower := updates(t, labels(), &Label{Shared: sdk.Shared{ID: rid(1)}, Rank: 2}, "rank")
	empty := sdk.Batch{Model: "label", Version: 1, Count: 1, Rows: sdk.AppendOpHeader(nil, rid(1), 0, sdk.Update, 0)}
	a.share(lower, empty)
	unknown := sdk.Batch{Model: "label", Version: 1, Count: 1, Rows: sdk.AppendOpHeader(nil, rid(77), 1, sdk.Update, 0)}
	if _, err := b.registry.Prepare(t.Context(), registry.Incoming{Origin: a.id, Kind: sdk.SharedByAll, Batches: []sdk.Batch{unknown}}); err != nil {
		t.Error(err)
	}
	b.pull(a, 1<<20)
	wantEqual(t, a, b)
	if counts := b.counts("label"); counts.Parked != 0 || counts.Refused != 0 {
		t.Errorf("%+v", counts)
	}
}

// TestPrepare_refusalWithoutReason wants a refusal to say whose it is at least.
func TestPrepare_refusalWithoutReason(t *testing.T) {
	for text, bare := range map[string]error{"": errors.New(""), " (permission denied)": os.ErrPermission} {
		model := labels()
		model.Validate = func(*Label) error { return bare }
		d := newDevice(t, 1, model)
		result, err := d.manager.CommitShared(t.Context(), packed(t, labels(), label(1, 0, "one")))
		if want := `model "label" refused this without a reason` + text; err != nil || len(result.Refused) != 1 || result.Refused[0].Message != want {
			t.Errorf("got %+v, %v; want %q", result.Refused, err, want)
		}
	}
}
