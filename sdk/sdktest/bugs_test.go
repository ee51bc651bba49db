package sdktest_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// faulty is a model with one seeded bug.
type faulty struct {
	sdk.Model[note]
	shared func(sdk.SharedChanges, *sdk.SharedResult)
}

func (f faulty) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	result, err := f.Model.ApplySharedChange(ctx, in)
	f.shared(in, &result)
	return result, err
}

// sharedBugs are what the laws must catch, each with the law that must.
var sharedBugs = map[string]struct {
	law    string
	shared func(sdk.SharedChanges, *sdk.SharedResult)
}{
	"arrival order decides ties": {"MODEL-035", func(in sdk.SharedChanges, out *sdk.SharedResult) {
		if len(in.Current) == 0 || len(out.Records) == 0 {
			return
		}
		for i, f := range out.Records[0].Fields {
			for _, old := range in.Current[0].Fields {
				if old.Name == f.Name && old.Version.Stamp == f.Version.Stamp {
					out.Records[0].Fields[i] = old
				}
			}
		}
	}},
	"an update brings back": {"MODEL-036", func(in sdk.SharedChanges, out *sdk.SharedResult) {
		for i := range out.Records {
			for op := range in.Batch.Ops() {
				if op.Kind == sdk.Update && op.Stamp > out.Records[i].Inserted.Stamp {
					out.Records[i].Inserted = sdk.Version{Stamp: op.Stamp, Device: in.Origin}
				}
			}
		}
	}},
	"repetitions are changes": {"MODEL-031", func(in sdk.SharedChanges, out *sdk.SharedResult) {
		if len(out.Records) == 0 {
			out.Records = in.Current
		}
	}},
	"max is lww": {"MODEL-030", func(in sdk.SharedChanges, out *sdk.SharedResult) {
		for i := range out.Records {
			for j, f := range out.Records[i].Fields {
				for op := range in.Batch.Ops() {
					for _, w := range op.Fields {
						if f.Name == "highest" && in.Batch.Columns[w.Column] == "highest" && op.Stamp > f.Version.Stamp && op.ID == out.Records[i].ID {
							out.Records[i].Fields[j].Value, _, _ = sdk.DecodeValue(w.Value, sdk.Int)
						}
					}
				}
			}
		}
	}},
	"the later write decides on an element": {"MODEL-044", func(in sdk.SharedChanges, out *sdk.SharedResult) {
		eachState(out, sdk.AddWins, func(parts []sdk.FieldPart) []sdk.FieldPart {
			for op := range in.Batch.Ops() {
				for i := range parts { // what was removed is removed whoever added it, if that was before
					for _, p := range parts {
						if p.Removed && p.Element == parts[i].Element && parts[i].Version.Stamp < op.Stamp {
							parts[i].Removed = true
						}
					}
				}
			}
			return parts
		})
	}},
	"removes are forgotten": {"MODEL-030", func(_ sdk.SharedChanges, out *sdk.SharedResult) {
		eachState(out, sdk.AddWins, func(parts []sdk.FieldPart) []sdk.FieldPart {
			return slices.DeleteFunc(parts, func(p sdk.FieldPart) bool { return p.Removed })
		})
	}},
	"a start counts for its device": {"MODEL-045", func(_ sdk.SharedChanges, out *sdk.SharedResult) {
		eachState(out, sdk.Sum, func(parts []sdk.FieldPart) []sdk.FieldPart {
			for i := range parts {
				parts[i].Part[1] = 0
			}
			return parts
		})
	}},
	"unknown sets are registers": {"MODEL-047", func(in sdk.SharedChanges, out *sdk.SharedResult) {
		for i := range out.Records {
			for k := range out.Records[i].Fields {
				f := &out.Records[i].Fields[k]
				if f.Merge != sdk.AddWins {
					continue
				}
				for op := range in.Batch.Ops() {
					parts, err := sdk.OpParts(f.Merge, sdk.Version{Stamp: op.Stamp, Device: in.Origin}, op.Fields[0].Value)
					if err == nil {
						f.SetParts(f.Merge, parts)
					}
				}
			}
		}
	}},
	"conflicts are lost":        {"MODEL-037", func(_ sdk.SharedChanges, out *sdk.SharedResult) { out.Conflicts = nil }},
	"resolved ones are kept":    {"MODEL-037", func(_ sdk.SharedChanges, out *sdk.SharedResult) { out.Resolved = nil }},
	"refused operations vanish": {"MODEL-040", func(_ sdk.SharedChanges, out *sdk.SharedResult) { out.Refused = nil }},
	"unknown fields are dropped": {"MODEL-039", func(_ sdk.SharedChanges, out *sdk.SharedResult) {
		for i := range out.Records {
			kept := out.Records[i].Fields[:0]
			for _, f := range out.Records[i].Fields {
				if !strings.HasPrefix(f.Name, "zz_") {
					kept = append(kept, f)
				}
			}
			out.Records[i].Fields = kept
		}
	}},
	"the caller's records are changed": {"MODEL-034", func(in sdk.SharedChanges, _ *sdk.SharedResult) {
		for i := range in.Current {
			in.Current[i].Inserted.Stamp++
		}
	}},
}

// eachState changes the parts of every set or counter among the records that a model returns.
func eachState(out *sdk.SharedResult, merge sdk.Merge, change func([]sdk.FieldPart) []sdk.FieldPart) {
	for i := range out.Records {
		for k := range out.Records[i].Fields {
			f := &out.Records[i].Fields[k]
			parts, err := f.Parts()
			if err != nil || len(parts) == 0 || (parts[0].Element == nil) != (merge == sdk.Sum) {
				continue
			}
			f.SetParts(merge, change(parts))
		}
	}
}

// faultyState is a device-owned model with one seeded bug.
type faultyState struct {
	sdk.Model[place]
	state func(sdk.StateChanges, *sdk.StateResult)
}

func (f faultyState) ApplyStateChange(ctx context.Context, in sdk.StateChanges) (sdk.StateResult, error) {
	result, err := f.Model.ApplyStateChange(ctx, in)
	f.state(in, &result)
	return result, err
}

var stateBugs = map[string]struct {
	law   string
	state func(sdk.StateChanges, *sdk.StateResult)
}{
	"the caller's rows are changed": {"MODEL-010", func(in sdk.StateChanges, _ *sdk.StateResult) {
		in.Batch.Rows[len(in.Batch.Rows)-1]++
	}},
	"each decision appends": {"MODEL-010", func(in sdk.StateChanges, out *sdk.StateResult) {
		out.Rows = append(bytes.Clone(in.Batch.Rows), 0)
	}},
	"refusals are silent": {"MODEL-015", func(_ sdk.StateChanges, out *sdk.StateResult) { out.Refused = nil }},
	"reasons are missing": {"MODEL-016", func(_ sdk.StateChanges, out *sdk.StateResult) {
		for i := range out.Refused {
			out.Refused[i].Message = ""
		}
	}},
	"new columns are dropped": {"MODEL-013", func(_ sdk.StateChanges, out *sdk.StateResult) { out.Rows = []byte{} }},
	"old rows are refused": {"MODEL-014", func(in sdk.StateChanges, out *sdk.StateResult) {
		if len(in.Batch.Columns) < 2 {
			out.Refused = []sdk.Refusal{{Code: sdk.CodeInvalid, Message: "no label"}}
		}
	}},
	"any id will do":     {"MODEL-018", func(_ sdk.StateChanges, out *sdk.StateResult) { out.Refused = nil }},
	"nothing is valid":   {"MODEL-011", func(_ sdk.StateChanges, out *sdk.StateResult) { out.Refused = make([]sdk.Refusal, 1) }},
	"nil will do":        {"MODEL-012", func(_ sdk.StateChanges, out *sdk.StateResult) { out.Refused = nil }},
	"each has its price": {"MODEL-010", func(_ sdk.StateChanges, out *sdk.StateResult) { out.Refused = make([]sdk.Refusal, 1) }},
}

// faultyHybrid is a hybrid model that takes a record of either kind for one of the other.
type faultyHybrid struct {
	sdk.Model[memo]
	law string
}

var hybridBugs = map[string]string{
	"a row needs no owner":           "MODEL-019",
	"an operation may have an owner": "MODEL-048",
}

func (f faultyHybrid) ApplyStateChange(ctx context.Context, in sdk.StateChanges) (sdk.StateResult, error) {
	result, err := f.Model.ApplyStateChange(ctx, in)
	if f.law == "MODEL-019" {
		result.Refused = nil
	}
	return result, err
}

func (f faultyHybrid) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	result, err := f.Model.ApplySharedChange(ctx, in)
	if f.law == "MODEL-048" {
		result.Refused = nil
	}
	return result, err
}

// faultyTransport is a transport with one seeded bug, made of hooks.
type faultyTransport struct {
	sdk.Transport
	conn     func(sdk.Conn) sdk.Conn
	listener func(sdk.Listener) sdk.Listener
	dial     func(error) (sdk.Conn, error)
}

func (f *faultyTransport) Listen(ctx context.Context, address string, socket net.Listener) (sdk.Listener, error) {
	l, err := f.Transport.Listen(ctx, address, socket)
	if err == nil && f.listener != nil {
		l = f.listener(l)
	}
	return l, err
}

func (f *faultyTransport) Dial(ctx context.Context, address string) (sdk.Conn, error) {
	conn, err := f.Transport.Dial(ctx, address)
	if err != nil && f.dial != nil {
		return f.dial(err)
	}
	if err == nil && f.conn != nil {
		conn = f.conn(conn)
	}
	return conn, err
}

// hooked is a connection with some calls replaced.
type hooked struct {
	sdk.Conn
	read  func([]byte) (int, error)
	write func([]byte) (int, error)
	close func() error
}

func (h *hooked) Read(p []byte) (int, error) {
	if h.read != nil {
		return h.read(p)
	}
	return h.Conn.Read(p)
}

func (h *hooked) Write(p []byte) (int, error) {
	if h.write != nil {
		return h.write(p)
	}
	return h.Conn.Write(p)
}

func (h *hooked) Close() error {
	if h.close != nil {
		return h.close()
	}
	return h.Conn.Close()
}

// boundless takes every write at once.
func boundless(c sdk.Conn) sdk.Conn {
	queue := make(chan []byte, 1<<20)
	var once sync.Once
	return &hooked{Conn: c, write: func(p []byte) (int, error) {
		once.Do(func() {
			go func() {
				for p := range queue {
					if _, err := c.Write(p); err != nil {
						return
					}
				}
			}()
		})
		queue <- bytes.Clone(p)
		return len(p), nil
	}}
}

type otherAddress struct{ sdk.Listener }

func (otherAddress) Address() string { return "nowhere" }

type otherError struct{ sdk.Listener }

func (o otherError) Accept() (sdk.Conn, error) {
	conn, err := o.Listener.Accept()
	if err != nil {
		err = errors.New("closed, somehow")
	}
	return conn, err
}

var transportBugs = map[string]struct {
	law   string
	fault faultyTransport
}{
	"bytes are swapped": {"TRANSPORT-002", faultyTransport{conn: func(c sdk.Conn) sdk.Conn {
		return &hooked{Conn: c, write: func(p []byte) (int, error) {
			p = bytes.Clone(p)
			if len(p) > 1 {
				p[0], p[1] = p[1], p[0]
			}
			return c.Write(p)
		}}
	}}},
	"large writes are cut": {"TRANSPORT-003", faultyTransport{conn: func(c sdk.Conn) sdk.Conn {
		return &hooked{Conn: c, read: func(p []byte) (int, error) { return c.Read(p[:min(len(p), 1<<10)]) }, close: c.Close,
			write: func(p []byte) (int, error) { return c.Write(p[:min(len(p), 1<<20)]) }}
	}, listener: func(l sdk.Listener) sdk.Listener { return cutListener{l} }}},
	"one direction at a time": {"TRANSPORT-004", faultyTransport{conn: func(c sdk.Conn) sdk.Conn {
		var mu sync.Mutex
		return &hooked{Conn: c, read: func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return c.Read(p)
		}, write: func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return c.Write(p)
		}}
	}}},
	"writes never block": {"TRANSPORT-006", faultyTransport{conn: boundless}},
	"close is only local": {"TRANSPORT-007", faultyTransport{conn: func(c sdk.Conn) sdk.Conn {
		return &hooked{Conn: c, close: func() error { return nil }}
	}}},
	"close waits for the peer": {"TRANSPORT-008", faultyTransport{conn: func(c sdk.Conn) sdk.Conn {
		return &hooked{Conn: c, close: func() error { return nil }}
	}}},
	"accept has an error of its own": {"TRANSPORT-009", faultyTransport{listener: func(l sdk.Listener) sdk.Listener { return otherError{l} }}},
	"the address can not be dialled": {"TRANSPORT-002", faultyTransport{listener: func(l sdk.Listener) sdk.Listener { return otherAddress{l} }}},
	"nobody answers":                 {"TRANSPORT-010", faultyTransport{dial: func(error) (sdk.Conn, error) { return &hooked{close: func() error { return nil }}, nil }}},
	"cancel is ignored":              {"TRANSPORT-011", faultyTransport{dial: func(error) (sdk.Conn, error) { return &hooked{close: func() error { return nil }}, nil }}},
	"goroutines stay": {"TRANSPORT-012", faultyTransport{conn: func(c sdk.Conn) sdk.Conn {
		go func() { select {} }()
		return c
	}}},
}

type cutListener struct{ sdk.Listener }

func (l cutListener) Accept() (sdk.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &hooked{Conn: c, write: func(p []byte) (int, error) { return c.Write(p[:min(len(p), 1<<20)]) }}, nil
}

const bugVariable = "STARLING_SEEDED_BUG"

// TestSeededBug runs the laws against one bug, in a process of its own that the tests below start.
func TestSeededBug(t *testing.T) {
	name := os.Getenv(bugVariable)
	if bug, known := sharedBugs[name]; known {
		sdktest.Model(t, faulty{Model: sdk.Model[note]{Name: "note", Version: 1}, shared: bug.shared})
	} else if bug, known := hybridBugs[name]; known {
		sdktest.Model(t, faultyHybrid{Model: sdk.Model[memo]{Name: "memo", Version: 1}, law: bug})
	} else if bug, known := stateBugs[name]; known {
		sdktest.Model(t, faultyState{Model: sdk.Model[place]{Name: "place", Version: 1}, state: bug.state})
	} else if bug, known := transportBugs[name]; known {
		sdktest.Transport(t, func(*testing.T) sdk.Transport {
			bug.fault.Transport = sdktest.NewMemoryTransport()
			return &bug.fault
		}, sdktest.Patience(time.Second))
	} else if bug, known := hostBugs[name]; known {
		sdktest.SourceHostSuite(t, func(t *testing.T, server sdk.ModelServer) (sdk.SourceHost, func()) {
			t.Helper()
			bug.host.SourceHost = sdktest.NewSourceHost(t, server)
			return &bug.host, bug.host.Close
		})
	} else {
		t.Skip("it runs in a process of its own: see TestModel_CatchesSeededBugs")
	}
}

// wantCaught runs one seeded bug and fails if the law does not. law is an id, or the name of a law without one.
func wantCaught(t *testing.T, bug, law string) {
	t.Helper()
	//nolint:gosec // the test binary itself
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSeededBug$/^"+law+"(_|$)", "-rapid.nofailfile", "-rapid.shrinktime=100ms")
	cmd.Env = append(os.Environ(), bugVariable+"="+bug)
	output, err := cmd.CombinedOutput()
	if err == nil {
		t.Errorf("%s: %s did not catch it:\n%.2000s", bug, law, output)
	} else if !strings.Contains(string(output), "--- FAIL: TestSeededBug/"+law) {
		t.Errorf("%s: want %s to catch it, got:\n%.2000s", bug, law, output)
	}
}

func TestModel_CatchesSeededBugs(t *testing.T) {
	for name, bug := range sharedBugs {
		t.Run(name, func(t *testing.T) { wantCaught(t, name, bug.law) })
	}
	for name, bug := range stateBugs {
		t.Run(name, func(t *testing.T) { wantCaught(t, name, bug.law) })
	}
	for name, law := range hybridBugs {
		t.Run(name, func(t *testing.T) { wantCaught(t, name, law) })
	}
}

func TestTransport_CatchesSeededBugs(t *testing.T) {
	for name, bug := range transportBugs {
		t.Run(name, func(t *testing.T) { wantCaught(t, name, bug.law) })
	}
}
