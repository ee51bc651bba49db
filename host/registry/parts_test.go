package registry_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// Tune has fields of all merge kinds from its second version on.
type Tune struct {
	sdk.Shared
	Name string `starling:"name,required"`
}

// TuneV2 is a later version of Tune.
type TuneV2 struct {
	sdk.Shared
	Name  string          `starling:"name,required"`
	Words sdk.Set[string] `starling:"words"`
	Years sdk.Set[int64]  `starling:"years"`
	Plays sdk.Counter     `starling:"plays"`
	High  int64           `starling:"high,max"`
	Low   int64           `starling:"low,min"`
}

func tunes() sdk.Model[Tune]     { return sdk.Model[Tune]{Name: "tune", Version: 1} }
func tunesV2() sdk.Model[TuneV2] { return sdk.Model[TuneV2]{Name: "tune", Version: 2} }

// said returns one operation on a tune with what a person writes of its fields.
func said(tb testing.TB, n byte, kind sdk.OpKind, object string) sdk.Batch {
	tb.Helper()
	desc, err := tunesV2().Describe(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	names, values, err := sdk.DecodeJSON(desc, []byte(object))
	if err != nil {
		tb.Fatal(err)
	}
	b := sdk.Batch{Model: "tune", Version: 2, Columns: names, Count: 1}
	b.Rows = sdk.AppendOpHeader(nil, rid(n), 0, kind, len(names))
	for i := range names {
		b.Rows = sdk.AppendOpField(b.Rows, i, values[i], 0)
	}
	return b
}

// joined makes one batch of batches with the same columns.
func joined(list ...sdk.Batch) sdk.Batch {
	b := list[0]
	for _, more := range list[1:] {
		b.Rows, b.Count = slices.Concat(b.Rows, more.Rows), b.Count+more.Count
	}
	return b
}

func (d *device) values(n byte, names ...string) (values []any) {
	d.tb.Helper()
	row, found := d.get("tune", rid(n))
	if !found {
		d.tb.Fatalf("%s has no tune %d", d.id, n)
	}
	for _, name := range names {
		values = append(values, row.Value(name))
	}
	return values
}

func (d *device) wantValues(n byte, words, years string, plays int64) {
	d.tb.Helper()
	if diff := cmp.Diff([]any{words, years, plays}, d.values(n, "words", "years", "plays")); diff != "" {
		d.tb.Errorf("%s holds (-want +got):\n%s", d.id, diff)
	}
}

// forgetLog has d forget all operations.
func (d *device) forgetLog() {
	d.tb.Helper()
	vector := d.vector()
	d.tx(func(tx *database.Tx) error {
		for stream, through := range vector {
			if stream.Kind == sdk.SharedByAll {
				if _, err := d.log.Prune(tx, stream.Origin, through, 1<<20); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func TestParts_twoDevices(t *testing.T) {
	a, b := newDevice(t, 1, tunesV2()), newDevice(t, 2, tunesV2())
	a.share(said(t, 1, sdk.Insert, `{"name":"n","words":["b","a"],"years":[1999],"plays":2}`))
	b.pull(a, 1<<20)
	b.wantValues(1, `["a","b"]`, `[1999]`, 2)
	// Both have not seen the other's.
	a.share(said(t, 1, sdk.Update, `{"words":{"add":["a"]},"plays":{"add":5}}`))
	b.share(said(t, 1, sdk.Update, `{"words":{"remove":["a","b"],"add":["c"]},"years":{"add":[-7]},"plays":{"add":-1}}`))
	a.pull(b, 1<<20)
	b.pull(a, 1<<20)
	a.wantValues(1, `["a","c"]`, `[-7,1999]`, 6)
	wantEqual(t, a, b)
	b.share(said(t, 1, sdk.Update, `{"words":["z"],"years":[],"plays":100}`))
	a.pull(b, 1<<20)
	a.wantValues(1, `["z"]`, `[]`, 100)
	wantEqual(t, a, b)
	if list, err := a.registry.Conflicts(t.Context(), "", sdk.RecordID{}); err != nil || len(list) > 0 {
		t.Errorf("the conflict journal: %v, %v", list, err)
	}
	var words string
	var plays int64
	a.tx(func(tx *database.Tx) error {
		id := rid(1)
		each := "json_each(words) e"
		if databasetest.OnPostgres() {
			each = "json_array_elements_text(words::json) e"
		}
		_, err := tx.One("SELECT e.value, plays FROM tune, "+each+" WHERE tune.id = ?", []any{id[:]}, &words, &plays)
		return err
	})
	if words != "z" || plays != 100 {
		t.Errorf("in SQL: %q, %d", words, plays)
	}
}

// TestParts_anew deletes a record and makes it again: fields have what they had, unless the insert names them.
func TestParts_anew(t *testing.T) {
	a, b := newDevice(t, 1, tunesV2()), newDevice(t, 2, tunesV2())
	a.share(said(t, 1, sdk.Insert, `{"name":"n","words":["a","b"],"plays":2}`))
	b.pull(a, 1<<20)
	a.share(deletes(t, tunesV2(), rid(1)))
	b.share(said(t, 1, sdk.Update, `{"words":{"add":["late"]}}`))
	a.pull(b, 1<<20)
	a.share(said(t, 1, sdk.Insert, `{"name":"again","plays":1}`))
	b.pull(a, 1<<20)
	wantEqual(t, a, b)
	if diff := cmp.Diff([]any{`["a","b","late"]`, int64(1)}, b.values(1, "words", "plays")); diff != "" {
		t.Error(diff)
	}
}

// TestParts_localBatch has one request write the same set and counter several times, some of it refused.
func TestParts_localBatch(t *testing.T) {
	m := tunesV2()
	m.Validate = func(tune *TuneV2) error {
		if tune.Words.Has("bad") {
			return sdk.Errorf(sdk.CodeInvalid, "no bad words")
		}
		return nil
	}
	a, b := newDevice(t, 1, m), newDevice(t, 2, tunesV2())
	a.share(said(t, 1, sdk.Insert, `{"name":"n"}`))
	result, err := a.manager.CommitShared(t.Context(), joined(
		said(t, 1, sdk.Update, `{"words":{"add":["a","b"]},"plays":{"add":1}}`),
		said(t, 1, sdk.Update, `{"words":{"add":["bad"]},"plays":{"add":10}}`),             // refused
		said(t, 1, sdk.Update, `{"words":{"remove":["a"]},"plays":{"add":100}}`),           // removes what the first adds
		said(t, 9, sdk.Update, `{"words":{"remove":["a"]},"plays":{"add":100}}`),           // refused
		said(t, 1, sdk.Update, `{"words":{"add":["c"],"remove":["c"]},"plays":{"add":7}}`), // refused
		said(t, 1, sdk.Update, `{"words":["c","b"],"plays":{"add":1000}}`),
	))
	if err != nil {
		t.Fatal(err)
	}
	var refused []string
	for _, no := range result.Refused {
		refused = append(refused, fmt.Sprint(no.Index, " ", no.Code))
	}
	if diff := cmp.Diff([]string{"1 invalid", "3 not_found", "4 invalid"}, refused); diff != "" {
		t.Errorf("refused (-want +got):\n%s\n%v", diff, result.Refused)
	}
	if diff := cmp.Diff([]any{`["b","c"]`, int64(1101)}, a.values(1, "words", "plays")); diff != "" {
		t.Error(diff)
	}
	b.pull(a, 1<<20)
	wantEqual(t, a, b)
	if diff := cmp.Diff(a.clocks([]sdk.ModelName{"tune"}, []sdk.RecordID{rid(1)}), b.clocks([]sdk.ModelName{"tune"}, []sdk.RecordID{rid(1)})); diff != "" {
		t.Errorf("clocks (-writer +reader):\n%s", diff)
	}
}

// TestParts_tooLarge refuses locally what makes a record too large; what two devices make of it together is taken, and
// travels in a snapshot.
func TestParts_tooLarge(t *testing.T) {
	a, b := newDevice(t, 1, tunesV2()), newDevice(t, 2, tunesV2())
	a.share(said(t, 1, sdk.Insert, `{"name":"n"}`))
	b.pull(a, 1<<20)
	words := func(letter string) string {
		var list []string
		for i := range 300 { // 300 kB
			list = append(list, fmt.Sprintf("%q", letter+fmt.Sprint(i)+strings.Repeat(letter, 1000)))
		}
		return `{"words":{"add":[` + strings.Join(list, ",") + `]}}`
	}
	a.share(said(t, 1, sdk.Update, words("a")))
	b.share(said(t, 1, sdk.Update, words("b")))
	result, err := a.manager.CommitShared(t.Context(), said(t, 1, sdk.Update, words("c")))
	if err != nil || len(result.Refused) != 1 || result.Refused[0].Code != sdk.CodeTooLarge {
		t.Fatalf("want it refused as too large, got %v, %+.200v", err, result)
	}
	a.pull(b, 1<<20)
	b.pull(a, 1<<20)
	wantEqual(t, a, b)
	result, err = a.manager.CommitShared(t.Context(), said(t, 1, sdk.Update, `{"words":{"add":["small"]}}`))
	if err != nil || len(result.Refused) != 1 || result.Refused[0].Code != sdk.CodeTooLarge {
		t.Fatalf("want it refused as too large, got %v, %+.200v", err, result)
	}
	fresh, absent := newDevice(t, 3, tunesV2()), newDevice(t, 4)
	fresh.snapshot(a, 1<<16, nil)
	absent.snapshot(a, 1<<16, nil)
	absent.add(tunesV2())
	wantEqual(t, a, fresh, absent)
}

// TestParts_laterUpdate has a record deleted and forgotten, while another device, which had not seen the delete, added to its
// set and its counter: of these parts alone something remains.
func TestParts_laterUpdate(t *testing.T) {
	a, b, c := three(t, func(a *device) {
		a.share(said(t, 1, sdk.Insert, `{"name":"n","words":["a"],"plays":2}`))
	}, tunesV2())
	b.seal()
	a.pull(b, 1<<20)
	a.share(deletes(t, tunesV2(), rid(1)))
	c.seal()
	a.pull(c, 1<<20)
	b.seal()
	a.pull(b, 1<<20)
	b.wall = b.wall.Add(1)
	b.share(said(t, 1, sdk.Update, `{"words":{"add":["late"]},"plays":{"add":3}}`))
	a.forget(a, b, c)
	if out := b.snapshot(a, 1, nil); out.Erased != 1 {
		t.Errorf("%+v; want one record erased", out)
	}
	clocks := func(d *device) map[string]string {
		return d.clocks([]sdk.ModelName{"tune"}, []sdk.RecordID{rid(1)})
	}
	e := b.explain("tune", rid(1))
	var kept []string
	for _, f := range e.Fields {
		kept = append(kept, fmt.Sprint(f.Name, "=", f.Value))
	}
	if diff := cmp.Diff([]string{"plays=3", `words=["late"]`}, kept); diff != "" || e.Exists {
		t.Errorf("what remains (-want +got):\n%s", diff)
	}
	a.pull(b, 1<<20)
	if out := c.snapshot(a, 1<<20, nil); out.Erased != 1 {
		t.Errorf("%+v; want one record erased", out)
	}
	for _, d := range []*device{b, c} {
		if diff := cmp.Diff(clocks(a), clocks(d)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", d.id, diff)
		}
	}
}

var tuneEdits = []string{
	`{"words":["a"]}`, `{"words":["a","b","c"]}`, `{"words":[]}`, `{"words":{"add":["a"]}}`, `{"words":{"add":["b"],"remove":["a"]}}`,
	`{"words":{"remove":["a","b"]},"plays":{"add":1}}`, `{"years":[1999,-1]}`, `{"years":{"remove":[1999]}}`,
	`{"plays":{"add":1}}`, `{"plays":{"add":-3},"name":"x"}`, `{"plays":5}`, `{"high":3,"low":3}`, `{"high":7}`, `{"high":5,"low":1}`,
}

// TestParts_anyWay has devices write sets and counters, delete and insert records, and get one another's changes in any order,
// through a device of an older schema and through one without the model, from the log and from a snapshot; all hold the same.
func TestParts_anyWay(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := newQuickDevice(t, 1, tunesV2()), newQuickDevice(t, 2, tunesV2())
		old, absent, fresh, late := newQuickDevice(t, 3, tunes()), newQuickDevice(t, 4), newQuickDevice(t, 5, tunesV2()), newQuickDevice(t, 6, tunes())
		all := []*device{a, b, old, absent, fresh, late}
		for _, d := range all {
			defer d.close()
		}
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			d := rapid.SampledFrom(all[:2]).Draw(rt, "device")
			n := byte(rapid.IntRange(1, 2).Draw(rt, "record")) //nolint:gosec // small
			ctx := context.Background()
			var err error
			switch rapid.IntRange(0, 9).Draw(rt, "step") {
			case 0:
				_, err = d.manager.CommitShared(ctx, said(t, n, sdk.Insert, `{"name":"n","plays":1}`))
			case 1:
				_, err = d.manager.CommitShared(ctx, deletes(t, tunesV2(), rid(n)))
			case 2, 3, 4:
				from := rapid.SampledFrom(all[:3]).Draw(rt, "from") // the logs of these have no gap
				to := rapid.SampledFrom(all[:4]).Draw(rt, "to")
				bytes := rapid.SampledFrom([]int{1, 1 << 20}).Draw(rt, "bytes")
				if to == absent && rapid.Bool().Draw(rt, "as a snapshot") {
					to.snapshot(from, bytes, nil)
				} else if from != to {
					to.pull(from, bytes)
				}
			case 5: // runs again, in another start
				d.registry, err = registry.New(ctx, registry.Options{DB: d.db, Self: d.id, Part: sdk.NewPartID(rapid.Uint64().Draw(rt, "part") + 1)})
				if err == nil {
					d.add(tunesV2())
				}
			default:
				_, err = d.manager.CommitShared(ctx, said(t, n, sdk.Update, rapid.SampledFrom(tuneEdits).Draw(rt, "edit")))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		// The older one has everything, forgets its log, and is all that the next one meets.
		for _, from := range all[:2] {
			old.pull(from, 1<<20)
		}
		old.forgetLog()
		late.snapshot(old, 1, nil)
		if rapid.Bool().Draw(rt, "known") {
			old.add(tunesV2())
		}
		fresh.snapshot(late, 1<<20, nil)
		for _, d := range all {
			for _, from := range all[:2] {
				if d != from {
					d.pull(from, 1<<20)
				}
			}
		}
		if diff := cmp.Diff(a.audit(), old.audit()); diff != "" {
			rt.Fatalf("digests, where the fields are known and where not (-known +unknown):\n%s", diff)
		}
		for _, d := range []*device{old, absent, late} {
			d.add(tunesV2())
		}
		ids := []sdk.RecordID{rid(1), rid(2)}
		for _, d := range all[1:] {
			if diff := cmp.Diff(a.digests(), d.digests()); diff != "" {
				rt.Fatalf("digests of %s (-want +got):\n%s", d.id, diff)
			}
			if diff := cmp.Diff(withoutSeen(a.clocks([]sdk.ModelName{"tune"}, ids)), withoutSeen(d.clocks([]sdk.ModelName{"tune"}, ids))); diff != "" {
				rt.Fatalf("%s (-want +got):\n%s", d.id, diff)
			}
		}
		if diff := cmp.Diff(a.auditAnew(), a.audit()); diff != "" {
			rt.Fatalf("digests that were kept (-want +got):\n%s", diff)
		}
	})
}

// withoutSeen leaves out what writes saw: of a value that was written twice at once a device may know either.
func withoutSeen(clocks map[string]string) map[string]string {
	out := maps.Clone(clocks)
	for id, text := range out {
		var lines []string
		for line := range strings.SplitSeq(text, "\n") {
			before, after, found := strings.Cut(line, " seen ")
			if found {
				_, state, _ := strings.Cut(after, " ")
				before += " " + state
			}
			lines = append(lines, before)
		}
		out[id] = strings.Join(lines, "\n")
	}
	return out
}

// TestParts_audit repairs a set and a counter that differ.
func TestParts_audit(t *testing.T) {
	a, b := newDevice(t, 1, tunesV2()), newDevice(t, 2, tunesV2())
	a.share(said(t, 1, sdk.Insert, `{"name":"n","words":["a","b"],"plays":2}`))
	b.pull(a, 1<<20)
	a.share(said(t, 1, sdk.Update, `{"words":{"remove":["a"]},"plays":{"add":3}}`))
	b.share(said(t, 1, sdk.Update, `{"words":{"add":["c"]},"plays":{"add":-1}}`))
	if n := repair(a, b, auditDifferences(a.audit(), b.audit())); n != 2 {
		t.Errorf("%d repairs; want one on each side", n)
	}
	wantEqual(t, a, b)
	if diff := cmp.Diff([]any{`["b","c"]`, int64(4)}, b.values(1, "words", "plays")); diff != "" {
		t.Error(diff)
	}
}

// TestParts_parkedTwice has a device without the model keep an operation, and get it again from a snapshot as what stands of
// it: both count.
func TestParts_parkedTwice(t *testing.T) {
	a, b := newDevice(t, 1, tunesV2()), newDevice(t, 2, tunesV2())
	absent := newDevice(t, 3)
	a.share(said(t, 1, sdk.Insert, `{"name":"n","words":["x","y"],"plays":2}`))
	b.pull(a, 1<<20)
	absent.pull(a, 1<<20)
	b.share(said(t, 1, sdk.Update, `{"words":{"remove":["x"]},"name":"m"}`))
	a.share(said(t, 1, sdk.Update, `{"words":{"add":["z"],"remove":["y"]}}`))
	absent.pull(a, 1<<20)
	a.pull(b, 1<<20)
	b.pull(a, 1<<20)
	absent.snapshot(b, 1<<20, nil)
	fresh := newDevice(t, 4, tunesV2())
	fresh.snapshot(absent, 1<<20, nil)
	absent.add(tunesV2())
	wantEqual(t, a, b, absent, fresh)
	if diff := cmp.Diff([]any{`["z"]`, int64(2), "m"}, absent.values(1, "words", "plays", "name")); diff != "" {
		t.Error(diff)
	}
}
