package rpc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
)

func TestMain(m *testing.M) {
	rpctest.Main(probe{}, probeSource{sdk.Settings(&leafSettings{First: "a"})}, brokenTransport{}, probeMetrics())
	goleak.VerifyTestMain(m)
}

const patience = 2 * time.Minute

// probe is a shared model that answers with what it got, or does what the batch's first column says.
type probe struct{}

func (probe) Describe(context.Context) (sdk.Description, error) {
	fmt.Println("a model that prints does not disturb the handshake")
	return sdk.Description{Model: "probe", Version: 7, Ownership: sdk.SharedByAll, Doc: "a probe", Fields: []sdk.Field{
		{Name: "name", Type: sdk.Text, Merge: sdk.LWW, Required: true, Key: true, Index: true, Doc: "a name"},
		{Name: "parent", Type: sdk.UUID, Ref: "probe", Weak: true},
	}}, nil
}

// standardError is the process's own, which go-plugin replaces in os by one of its own.
var standardError = os.Stderr

func (probe) Configure(_ context.Context, config json.RawMessage) error {
	if string(config) != "{}" {
		return sdk.Errorf(sdk.CodeInvalid, "config was %s", config)
	}
	return nil
}

func (probe) ApplyStateChange(ctx context.Context, in sdk.StateChanges) (sdk.StateResult, error) {
	command := strings.Join(in.Batch.Columns, " ")
	if word, ok := strings.CutPrefix(command, "say "); ok {
		return sdk.StateResult{}, errors.New("it said " + word)
	}
	if word, ok := strings.CutPrefix(command, "refuse "); ok {
		return sdk.StateResult{Refused: []sdk.Refusal{{Code: sdk.CodeInvalid, Message: "it said " + word}}}, nil
	}
	if text, ok := strings.CutPrefix(command, "write "); ok {
		fmt.Fprint(standardError, text)
		return sdk.StateResult{}, nil
	}
	if text, ok := strings.CutPrefix(command, "print "); ok {
		fmt.Fprint(os.Stderr, text)
		return sdk.StateResult{}, nil
	}
	switch command {
	case "log":
		logAll()
		return sdk.StateResult{}, nil
	case "exit":
		os.Exit(3)
	case "panic":
		panic("asked to")
	case "stale":
		return sdk.StateResult{}, sdk.Errorf(sdk.CodeStale, "row \xff changed")
	case "plain error":
		return sdk.StateResult{}, errors.New("plain")
	case "block":
		<-ctx.Done()
		return sdk.StateResult{}, ctx.Err()
	case "hang":
		<-make(chan struct{})
	case "big answer":
		return sdk.StateResult{Rows: make([]byte, rpc.MaxMessageBytes)}, nil
	case "keep":
		return sdk.StateResult{Refused: []sdk.Refusal{{Index: 3, Code: sdk.CodeNotOwner, Message: "not \xff yours"}}}, nil
	}
	return sdk.StateResult{Rows: bytes.ToUpper(in.Batch.Rows)}, nil
}

func (probe) ApplySharedChange(_ context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	out := sdk.SharedResult{Records: in.Current}
	for _, r := range in.Current {
		for _, f := range r.Fields {
			c := sdk.Conflict{ID: r.ID, Field: f.Name, Value: f.Value, Lost: f.Version, Winner: sdk.Version{Stamp: 9, Device: in.Origin}}
			out.Conflicts, out.Resolved = append(out.Conflicts, c), append(out.Resolved, c)
		}
	}
	return out, nil
}

// start starts this binary as a plugin and returns its models by name.
func start(tb testing.TB) (*rpc.Process, map[sdk.ModelName]sdk.ModelServer) {
	tb.Helper()
	p := rpctest.Start(tb, rpctest.Self(tb))
	info, err := p.Client().Info(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	models := make(map[sdk.ModelName]sdk.ModelServer)
	for _, d := range info.Models {
		models[d.Model] = p.Client().Model(d)
	}
	return p, models
}

func command(name string) sdk.StateChanges {
	return sdk.StateChanges{Batch: sdk.Batch{Model: "probe", Columns: []string{name}}}
}

func TestModel_Describe(t *testing.T) {
	_, models := start(t)
	want, _ := probe{}.Describe(t.Context())
	got, err := models["probe"].Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, ok := models["probe"].(sdk.Source); ok {
		t.Error("a model that is no source looks like one")
	}
	for config, want := range map[string]sdk.Code{"": "", "{}": "", `{"a":1}`: sdk.CodeInvalid} {
		err := models["probe"].(sdk.Configurable).Configure(t.Context(), json.RawMessage(config))
		if got := sdk.CodeOf(err); got != want {
			t.Errorf("configure %q: want code %q, got %q: %v", config, want, got, err)
		}
	}
}

// TestClient_CheckConfig wants blocks judged as Configure would, by a model that can do so without taking them, and changed nothing.
func TestClient_CheckConfig(t *testing.T) {
	p, models := start(t)
	for _, each := range []struct {
		model sdk.ModelName
		block string
		known bool
		want  string
	}{
		{"leaf", `{"first":"no"}`, true, "it says no"}, {"leaf", `{"frist":"b"}`, true, `did you mean "first"?`}, {"leaf", `{"first":"b"}`, true, ""}, {"leaf", "", true, ""},
		{"probe", `{"first":"no"}`, false, ""}, {"nobody", "{}", true, `does not serve model "nobody"`},
		{"", `{}`, true, ""}, {"", `{"a":1}`, true, "takes no settings"},
	} {
		known, err := p.Client().CheckConfig(t.Context(), each.model, json.RawMessage(each.block))
		if known != each.known || (err == nil) != (each.want == "") || err != nil && !strings.Contains(err.Error(), each.want) {
			t.Errorf("%s %s: known %t, %v; want %t, %q", each.model, each.block, known, err, each.known, each.want)
		}
	}
	if err := models["leaf"].(sdk.Configurable).Configure(t.Context(), json.RawMessage(`{"first":"no"}`)); err == nil {
		t.Error("Configure takes what CheckConfig does not")
	}
}

func TestModel_ApplyStateChange(t *testing.T) {
	_, models := start(t)
	m := models["probe"]
	out, err := m.ApplyStateChange(t.Context(), command("keep"))
	if err != nil || out.Rows != nil {
		t.Errorf("rows that stay as they are: %v, %v", out.Rows, err)
	}
	if diff := cmp.Diff([]sdk.Refusal{{Index: 3, Code: sdk.CodeNotOwner, Message: "not \uFFFD yours"}}, out.Refused); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]sdk.Code{
		"stale": sdk.CodeStale, "plain error": sdk.CodeInternal, "panic": sdk.CodeInternal, "big answer": sdk.CodeTooLarge,
	} {
		_, err := m.ApplyStateChange(t.Context(), command(name))
		if got := sdk.CodeOf(err); got != want {
			t.Errorf("%s: want code %s, got %s: %v", name, want, got, err)
		}
	}
	for name, batch := range map[string]sdk.Batch{
		"column": {Columns: []string{"\xff"}},
		"model":  {Model: "\xff"},
		"count":  {Count: 1},
	} {
		if _, err := m.ApplyStateChange(t.Context(), sdk.StateChanges{Batch: batch}); sdk.CodeOf(err) != sdk.CodeInvalid {
			t.Errorf("malformed %s: want code %s, got %v", name, sdk.CodeInvalid, err)
		}
	}
	// None of these cost the stream that all calls share.
	if _, err := m.ApplyStateChange(t.Context(), command("keep")); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

func TestModel_LargeBatches(t *testing.T) {
	_, models := start(t)
	m := models["probe"]
	rows := bytes.Repeat([]byte("a"), 1<<20)
	var group errgroup.Group
	for range 32 { // many times the credits
		group.Go(func() error {
			out, err := m.ApplyStateChange(t.Context(), sdk.StateChanges{Batch: sdk.Batch{Model: "probe", Count: 1, Rows: rows}})
			if err == nil && !bytes.Equal(out.Rows, bytes.ToUpper(rows)) {
				err = errors.New("the rows changed on the way")
			}
			return err
		})
	}
	_, err := m.ApplyStateChange(t.Context(), sdk.StateChanges{Batch: sdk.Batch{Rows: make([]byte, rpc.MaxMessageBytes)}})
	if sdk.CodeOf(err) != sdk.CodeTooLarge {
		t.Errorf("over the limit: want code %s, got %v", sdk.CodeTooLarge, err)
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

func TestModel_ApplySharedChange(t *testing.T) {
	_, models := start(t)
	v := sdk.Version{Stamp: 5, Device: sdk.DeviceID{1}}
	in := sdk.SharedChanges{Origin: sdk.DeviceID{2}, Current: []sdk.Record{{ID: sdk.RecordID{3}, Inserted: v, Fields: []sdk.FieldState{
		{Name: "name", Value: "x", Version: v, Seen: hlc.Stamp(4)}, {Name: "parent", Value: sdk.RecordID{7}, Version: v},
	}}}}
	want, _ := probe{}.ApplySharedChange(t.Context(), in)
	got, err := models["probe"].ApplySharedChange(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestModel_Cancel gives up more calls than there are credits, and Drain then waits for those that still block.
func TestModel_Cancel(t *testing.T) {
	p, models := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	var group errgroup.Group
	for range 20 {
		group.Go(func() error {
			_, err := models["probe"].ApplyStateChange(ctx, command("block"))
			if !errors.Is(err, context.Canceled) {
				return fmt.Errorf("want a cancelled call, got %w", err)
			}
			return nil
		})
	}
	cancel()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	p.Kill()
	if _, err := models["probe"].ApplyStateChange(t.Context(), command("keep")); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("a call to a dead process: want code %s, got %v", sdk.CodeUnavailable, err)
	}
}

// TestModel_Hang calls a handler that never returns: the call does, and the health call tells of the handler.
func TestModel_Hang(t *testing.T) {
	c := rpctest.Command(t, rpctest.Self(t))
	c.Name, c.CallTimeout = "hanging", time.Second
	p, err := rpc.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	_, err = p.Client().Model(sdk.Description{Model: "probe"}).ApplyStateChange(t.Context(), command("hang"))
	if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), `plugin hanging did not answer a batch of model "probe" within 1s`) {
		t.Errorf("want code %s, got %s: %v", sdk.CodeUnavailable, sdk.CodeOf(err), err)
	}
	health, err := p.Client().Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if health.OldestCall != "ApplyStateChange of probe" || health.Oldest <= 0 {
		t.Errorf("health %+v", health)
	}
}

func TestProcess_Stop(t *testing.T) {
	p, models := start(t)
	if _, err := models["probe"].ApplyStateChange(t.Context(), command("keep")); err != nil {
		t.Fatal(err)
	}
	if err := p.Client().Drain(t.Context()); err != nil {
		t.Errorf("drain: %v", err)
	}
	if _, err := models["probe"].ApplyStateChange(t.Context(), command("keep")); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("a call after drain: want code %s, got %v", sdk.CodeUnavailable, err)
	}
	health, err := p.Client().Health(t.Context())
	if err != nil || !health.OK || !strings.Contains(health.String(), "draining") {
		t.Errorf("health %+v, %v", health, err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Errorf("stop: %v", err)
	}
	if p.Reason() != "exit status 0" {
		t.Errorf("it ended with %s", p.Reason())
	}
}

func TestServe_ByHand(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), rpctest.Build(t, "../../plugins/transport-tcp")) //nolint:gosec // just built
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "is a Starling plugin: the host starts it") {
		t.Errorf("%v: %s", err, out)
	}
}

// brokenTransport listens, but on no socket of the host's, and fails at the first accept.
type brokenTransport struct{ sdk.Transport }

func (brokenTransport) Name() string { return "broken" }

func (brokenTransport) Listen(_ context.Context, _ string, socket net.Listener) (sdk.Listener, error) {
	if socket != nil {
		return nil, sdk.Errorf(sdk.CodeUnsupported, "it carries pigeons")
	}
	return brokenListener{}, nil
}

type brokenListener struct{}

func (brokenListener) Accept() (sdk.Conn, error) {
	return nil, sdk.Errorf(sdk.CodeInternal, "the socket is broken")
}
func (brokenListener) Address() string { return "nowhere" }
func (brokenListener) Close() error    { return nil }

// TestListen_NoUseForSockets wants a transport that takes no socket to listen by itself, unless it was told which to take.
func TestListen_NoUseForSockets(t *testing.T) {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	c := rpctest.Command(t, rpctest.Self(t))
	c.Sockets = []rpc.Socket{{Address: "loft", Listener: socket.(rpc.FileListener)}}
	p, err := rpc.Start(t.Context(), c)
	if sdk.CodeOf(err) == sdk.CodeUnsupported {
		t.Skipf("no sockets are passed here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	l, err := p.Client().Transport("broken").Listen(t.Context(), "loft", nil)
	if err != nil {
		t.Fatal(err)
	}
	if l.Address() != "nowhere" {
		t.Errorf("it listens at %s", l.Address())
	}
	_ = l.Close()
	if _, err := p.Client().Transport("broken").Listen(t.Context(), "loft", socket); sdk.CodeOf(err) != sdk.CodeUnsupported {
		t.Errorf("told to take a socket: want code %s, got %s: %v", sdk.CodeUnsupported, sdk.CodeOf(err), err)
	}
}

// TestListener_Fails wants the host to learn why a listener ended, and not to take it for one that was closed.
func TestListener_Fails(t *testing.T) {
	p, _ := start(t)
	l, err := p.Client().Transport("broken").Listen(t.Context(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.Accept()
	if sdk.CodeOf(err) != sdk.CodeUnavailable || errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), "the socket is broken") {
		t.Errorf("want the reason and code %s, got %s: %v", sdk.CodeUnavailable, sdk.CodeOf(err), err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: want net.ErrClosed, got %v", err)
	}
}

// probeSource yields one batch for each change of model "folder", and uses every call that a source has.
type probeSource struct{ sdk.Declarer }

// leafSettings are those of probeSource.
type leafSettings struct {
	First  string `starling:"first" doc:"one"`
	Second int    `starling:"second,secret"`
}

// CheckConfig implements sdk.ConfigChecker, which an embedded sdk.Declarer does not.
func (p probeSource) CheckConfig(ctx context.Context, config json.RawMessage) error {
	return p.Declarer.(sdk.ConfigChecker).CheckConfig(ctx, config)
}

func (s *leafSettings) Check() error {
	if s.First == "no" {
		return fmt.Errorf("wrapped: %w", sdk.BadSetting("first", "it says no"))
	}
	return nil
}

func (probeSource) Describe(context.Context) (sdk.Description, error) {
	return sdk.Description{Model: "leaf", Version: 1, Ownership: sdk.DeviceOwned, Source: true}, nil
}

func (probeSource) ApplyStateChange(context.Context, sdk.StateChanges) (sdk.StateResult, error) {
	return sdk.StateResult{}, nil
}

func (probeSource) ApplySharedChange(context.Context, sdk.SharedChanges) (sdk.SharedResult, error) {
	return sdk.SharedResult{}, nil
}

func (probeSource) Run(ctx context.Context, host sdk.SourceHost) error {
	found, err := host.Find(ctx, "leaf", "parent", []any{sdk.RecordID{1}, "two", int64(3), nil})
	if err != nil {
		return fmt.Errorf("find: %w", err)
	}
	host.Warn("unreadable", 2, "two folders")
	host.Progress(sdk.Progress{Key: "walk", Done: 1, Total: 10})
	host.Progress(sdk.Progress{Key: "walk", Unit: sdk.UnitBytes, Done: 2, Total: 20})
	if _, err := host.Commit(ctx, sdk.Batch{Model: "refuse me"}); sdk.CodeOf(err) != sdk.CodeNotOwner {
		return fmt.Errorf("want code %s, got %w", sdk.CodeNotOwner, err)
	}
	for range host.Changed("folder") { // until ctx ends
		var group errgroup.Group
		for range 30 { // more than the credits
			group.Go(func() error {
				refused, err := host.Commit(ctx, found)
				if err == nil && len(refused) != 1 {
					err = fmt.Errorf("refused %v", refused)
				}
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// sourceHost is a host that counts.
type sourceHost struct {
	found   sdk.Batch
	changed chan struct{}
	commits chan sdk.Batch

	mu     sync.Mutex
	values []any
	notes  []string
}

func (h *sourceHost) Commit(ctx context.Context, b sdk.Batch) ([]sdk.Refusal, error) {
	if b.Model == "refuse me" {
		return nil, sdk.Errorf(sdk.CodeNotOwner, "refused")
	}
	select {
	case h.commits <- b:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return []sdk.Refusal{{Index: 1, Code: sdk.CodeInvalid, Message: "no"}}, nil
}

func (h *sourceHost) Find(_ context.Context, _ sdk.ModelName, _ string, values []any) (sdk.Batch, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.values = values
	return h.found, nil
}

func (h *sourceHost) Changed(sdk.ModelName) <-chan struct{} { return h.changed }

func (h *sourceHost) note(text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notes = append(h.notes, text)
}

func (h *sourceHost) Warn(key string, count int, message string) {
	h.note(fmt.Sprint(key, count, message))
}

func (h *sourceHost) Progress(p sdk.Progress) { h.note(fmt.Sprint(p.Key, p.Done, p.Total, p.Unit)) }

func TestSource(t *testing.T) {
	_, models := start(t)
	source, ok := models["leaf"].(sdk.Source)
	if !ok {
		t.Fatal("not a source")
	}
	h := &sourceHost{
		found:   sdk.Batch{Model: "leaf", Version: 1, Columns: []string{"name"}, Count: 5, Rows: bytes.Repeat([]byte("row"), 1<<20)}, // in parts
		changed: make(chan struct{}, 1), commits: make(chan sdk.Batch),
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx, h) }()
	h.changed <- struct{}{}
	for range 30 {
		select {
		case got := <-h.commits:
			if !bytes.Equal(h.found.Rows, got.Rows) || got.Count != 5 || got.Version != 1 || got.Model != "leaf" {
				t.Fatal("what was found is not what was committed")
			}
		case err := <-ended:
			t.Fatalf("the source ended: %v", err)
		case <-time.After(patience):
			t.Fatal("no commit")
		}
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("run: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("run goes on after its context ended")
	}
	if diff := cmp.Diff([]any{sdk.RecordID{1}, "two", int64(3), nil}, h.values); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"unreadable2two folders", "walk1 10things", "walk2 20bytes"}, h.notes); diff != "" {
		t.Error(diff)
	}
}

func BenchmarkModel_ApplyStateChange(b *testing.B) {
	_, models := start(b)
	rows := bytes.Repeat([]byte("x"), 250_000) // about 1,000 rows
	in := sdk.StateChanges{Batch: sdk.Batch{Model: "probe", Columns: []string{"keep"}, Count: 1000, Rows: rows}}
	b.SetBytes(int64(len(rows)))
	b.SetParallelism(2)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := models["probe"].ApplyStateChange(b.Context(), in); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
