package registry_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// narrow serves labels and files behind a border that lets only so many bytes through.
type narrow struct {
	sdk.ModelServer
	most    int
	largest int
}

func (n *narrow) pass(size int) error {
	if size > n.most {
		return sdk.Errorf(sdk.CodeTooLarge, "a message of %d bytes; at most %d cross", size, n.most)
	}
	n.largest = max(n.largest, size)
	return nil
}

func (n *narrow) ApplyStateChange(ctx context.Context, in sdk.StateChanges) (sdk.StateResult, error) {
	if err := n.pass(len(in.Batch.Rows)); err != nil {
		return sdk.StateResult{}, err
	}
	return n.ModelServer.ApplyStateChange(ctx, in)
}

func (n *narrow) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	size := len(in.Batch.Rows)
	for i := range in.Current {
		for _, f := range in.Current[i].Fields {
			if text, ok := f.Value.(string); ok {
				size += len(text)
			}
		}
	}
	if err := n.pass(size); err != nil {
		return sdk.SharedResult{}, err
	}
	return n.ModelServer.ApplySharedChange(ctx, in)
}

// TestPrepare_tooLargeForOneCall has pages whose changes, or the records that they touch, do not fit into one call.
func TestPrepare_tooLargeForOneCall(t *testing.T) {
	const n, most = 40, 2000
	long := strings.Repeat("x", 500)
	a := newDevice(t, 1, labels(), files())
	b := newDevice(t, 2, &narrow{ModelServer: labels(), most: most}, &narrow{ModelServer: files(), most: most})
	late := newDevice(t, 3)
	for i := range n {
		a.share(packed(t, labels(), label(byte(i), 0, long)))
	}
	b.pull(a, 1<<20)
	var touch []*File
	for i := range n {
		a.share(updates(t, labels(), &Label{Shared: sdk.Shared{ID: rid(byte(i))}, Color: "red"}, "color"))
		touch = append(touch, file(byte(100+i), 0, long))
	}
	a.own(packed(t, files(), touch...))
	b.pull(a, 1<<20)
	late.pull(a, 1<<20)
	late.add(&narrow{ModelServer: labels(), most: most})
	late.add(&narrow{ModelServer: files(), most: most})
	wantEqual(t, a, b, late)
	// A local batch too; and one change that does not fit by itself is refused alone.
	c := newDevice(t, 4, &narrow{ModelServer: labels(), most: most})
	result, err := c.manager.CommitShared(t.Context(), packed(t, labels(),
		label(1, 0, long), label(2, 0, long), label(3, 0, strings.Repeat("y", 3000)), label(4, 0, long), label(5, 0, long)))
	if err != nil || result.Written != 4 || len(result.Refused) != 1 || result.Refused[0].Index != 2 || result.Refused[0].Code != sdk.CodeTooLarge {
		t.Errorf("wrote %d, refused %+v, %v; want the third refused", result.Written, result.Refused, err)
	}
}

// TestPrepare_boundsCalls wants calls that are bounded by themselves, whatever a border lets through.
func TestPrepare_boundsCalls(t *testing.T) {
	const n = 12
	long := strings.Repeat("x", 900<<10)
	server := &narrow{ModelServer: labels(), most: 64 << 20}
	a, b := newDevice(t, 1, labels()), newDevice(t, 2, server)
	for i := range n {
		a.share(packed(t, labels(), label(byte(i), 0, long)))
	}
	b.pull(a, 1<<30)
	for i := range n {
		a.share(updates(t, labels(), &Label{Shared: sdk.Shared{ID: rid(byte(i))}, Color: "red"}, "color"))
	}
	b.pull(a, 1<<30)
	wantEqual(t, a, b)
	if server.largest > 9<<20 {
		t.Errorf("a call of %d bytes", server.largest)
	}
}

// failing has a defect that one name brings out.
type failing struct {
	sdk.ModelServer
	calls int
}

func (f *failing) pass(rows []byte) error {
	if f.calls++; strings.Contains(string(rows), "poison") {
		return sdk.Errorf(sdk.CodeInternal, "panic: poison")
	}
	return nil
}

func (f *failing) ApplyStateChange(ctx context.Context, in sdk.StateChanges) (sdk.StateResult, error) {
	if err := f.pass(in.Batch.Rows); err != nil {
		return sdk.StateResult{}, err
	}
	return f.ModelServer.ApplyStateChange(ctx, in)
}

func (f *failing) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	if err := f.pass(in.Batch.Rows); err != nil {
		return sdk.SharedResult{}, err
	}
	return f.ModelServer.ApplySharedChange(ctx, in)
}

// TestPrepare_failingPlugin wants a change that a plugin fails on to wait for the next plugin, and nothing else to.
func TestPrepare_failingPlugin(t *testing.T) {
	a := newDevice(t, 1, labels(), files())
	b := newDevice(t, 2, &failing{ModelServer: labels()}, &failing{ModelServer: files()})
	var l []*Label
	var f []*File
	for i := range byte(20) {
		name := fmt.Sprint(i)
		if i == 7 {
			name = "poison"
		}
		l, f = append(l, label(i, 0, name)), append(f, file(100+i, 0, name))
	}
	a.share(packed(t, labels(), l...))
	a.own(packed(t, files(), f...))
	b.pull(a, 1<<20)
	check := func(d *device, parked, visible int64) {
		t.Helper()
		counts, err := d.registry.Counts(t.Context())
		for _, model := range []sdk.ModelName{"label", "file"} {
			if c := counts[model]; err != nil || c.Parked != parked || c.Visible != visible || c.Refused != 0 {
				t.Errorf("%s: %+v, %v; want %d parked, %d visible", model, c, err, parked, visible)
			}
		}
	}
	check(b, 1, 19)
	c := newDevice(t, 3, labels(), files()) // gets it through b all the same
	c.pull(b, 1<<20)
	wantEqual(t, a, c)
	b.add(&failing{ModelServer: labels()}) // no better: it goes on waiting, and does not hold up the plugin's start
	b.add(&failing{ModelServer: files()})
	check(b, 1, 19)
	b.add(labels())
	b.add(files())
	check(b, 0, 20)
	wantEqual(t, a, b, c)
}

// TestPrepare_brokenPlugin bounds what it costs that a plugin fails on everything.
func TestPrepare_brokenPlugin(t *testing.T) {
	a := newDevice(t, 1, labels())
	var l []*Label
	for range 1000 {
		l = append(l, &Label{Name: "poison"})
	}
	a.share(packed(t, labels(), l...))
	broken := &failing{ModelServer: labels()}
	b := newDevice(t, 2, broken)
	b.pull(a, 1<<20)
	if broken.calls > 200 {
		t.Errorf("%d calls", broken.calls)
	}
	b.add(labels())
	wantEqual(t, a, b)
}

// leaving serves labels and is taken away after its first call.
type leaving struct {
	sdk.Model[Label]
	registry *registry.Registry
	calls    int
}

func (l *leaving) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	if l.calls++; l.calls == 1 {
		l.registry.Remove("label")
	}
	return l.Model.ApplySharedChange(ctx, in)
}

// TestAdd_pluginLeaves takes the plugin away while what has waited for it is applied.
func TestAdd_pluginLeaves(t *testing.T) {
	a, b := newDevice(t, 1, labels()), newDevice(t, 2)
	var l []*Label
	for range 1200 {
		l = append(l, &Label{Name: "x"})
	}
	a.share(packed(t, labels(), l...))
	b.pull(a, 1<<20)
	_, err := b.registry.Add(t.Context(), &leaving{Model: labels(), registry: b.registry})
	if sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("got %v; want it to be tried again", err)
	}
	b.add(labels())
	wantEqual(t, a, b)
}

// TestAdd_passingFailures wants errors of Add that pass to be worth a retry.
func TestAdd_passingFailures(t *testing.T) {
	a, b := newDevice(t, 1, labels()), newDevice(t, 2)
	a.share(packed(t, labels(), label(1, 0, "x")))
	b.pull(a, 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.registry.Add(ctx, labels()); !sdk.CodeOf(err).Retryable() {
		t.Errorf("the time is over: %v (%s)", err, sdk.CodeOf(err))
	}
	gone := &gone{Model: labels()}
	if _, err := b.registry.Add(t.Context(), gone); !sdk.CodeOf(err).Retryable() {
		t.Errorf("the plugin is gone: %v (%s)", err, sdk.CodeOf(err))
	}
	b.add(labels())
	wantEqual(t, a, b)
	if p, _ := b.read(history.Stream{Origin: a.id, Kind: sdk.SharedByAll}, 0, 1<<20); len(p.batches) != 1 {
		t.Errorf("the log has %d batches", len(p.batches))
	}
}

// gone is a plugin whose process ended.
type gone struct{ sdk.Model[Label] }

func (*gone) ApplySharedChange(context.Context, sdk.SharedChanges) (sdk.SharedResult, error) {
	return sdk.SharedResult{}, sdk.Errorf(sdk.CodeUnavailable, "the plugin process is gone")
}
