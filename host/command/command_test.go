package command_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/command"
	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/control/controltest"
	"github.com/starling-sync/starling/sdk"
)

var update = flag.Bool("update", false, "write what the commands print into testdata")

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// TestScripts runs each script of testdata against a host in memory behind a real socket. In a script:
//
//	$ starling ...   a command; words may stand in 'single quotes'
//	< text           a line of its standard input
//	! text           a line that it printed on standard error
//	? 2              its exit status, if not 0
//
// and every other line is what it printed on standard output. $DIR is the folder it runs in. -update writes the output.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) { runScript(t, file) })
	}
}

// described is what the plugins of the tests say: that of note takes settings, that of tag takes none, that of gone is not
// there, and the others do not say.
func described(c *config.Config) []command.Described {
	var all []command.Described
	for i := range c.Models {
		m := &c.Models[i]
		d := command.Described{Plugin: string(m.Name), Models: []sdk.Description{{Model: m.Name, Version: 2, Ownership: sdk.SharedByAll, Doc: "what there is"}}}
		switch m.Name {
		case "note":
			d.Models[0].Fields = []sdk.Field{
				{Name: "name", Type: sdk.Text, Required: true, Index: true, Doc: "what people read"}, {Name: "level", Type: sdk.Int, Merge: sdk.Max},
				{Name: "words", Type: sdk.Text, Merge: sdk.AddWins}, {Name: "of", Type: sdk.UUID, Key: true}, {Name: "in", Type: sdk.UUID, Ref: "tag", Weak: true},
			}
			d.Settings = map[sdk.ModelName][]sdk.Setting{"note": {
				{Name: "server", Type: sdk.TextSetting, Required: true, Doc: "where it goes"}, {Name: "timeout", Type: sdk.DurationSetting, Default: "10s"},
				{Name: "password", Type: sdk.TextSetting, Secret: true, Doc: "of the server"}, {Name: "user", Type: sdk.TextSetting},
			}}
		case "tag":
			d.Settings = map[sdk.ModelName][]sdk.Setting{"tag": {}}
		case "invoice":
			d.Build = control.Build{SHA256: strings.Repeat("5b", 32), Path: "./invoice-2"}
		case "gone":
			d.Err = sdk.Errorf(sdk.CodeNotFound, "there is no plugin binary at %s; build it, or correct plugin_dir", m.Path)
		}
		if d.Err == nil {
			d.Err = m.Block.Check(d.Settings[m.Name])
		}
		all = append(all, d)
	}
	return all
}

func runScript(t *testing.T, file string) {
	t.Helper()
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, changed[strings.TrimSuffix(filepath.Base(file), ".txt")])
	var got strings.Builder
	for _, s := range steps(string(script)) {
		got.WriteString(s.head)
		if s.args == nil {
			continue
		}
		out, errs, status := w.run(s.args, s.input)
		got.WriteString(w.neutral(out))
		for line := range strings.Lines(w.neutral(errs)) {
			got.WriteString("! " + line)
		}
		if status != 0 {
			fmt.Fprintf(&got, "? %d\n", status)
		}
		got.WriteString("\n")
	}
	if *update {
		if err := os.WriteFile(path, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(script), got.String()); diff != "" {
		t.Errorf("%s (go test -update writes it): %s", file, diff)
	}
}

// step is one command of a script, or a comment before the first one.
type step struct {
	head  string // the lines of the script that are not output
	args  []string
	input string
}

func steps(script string) []step {
	var out []step
	for line := range strings.Lines(script) {
		switch {
		case strings.HasPrefix(line, "#"):
			out = append(out, step{head: line})
		case strings.HasPrefix(line, "$ starling"):
			out = append(out, step{head: line, args: words(strings.TrimSpace(line))[2:]})
		case strings.HasPrefix(line, "< "):
			s := &out[len(out)-1]
			s.head += line
			s.input += line[2:]
		}
	}
	return out
}

// words splits at spaces outside single quotes.
func words(line string) []string {
	var out []string
	var word strings.Builder
	quoted, begun := false, false
	for _, r := range line + " " {
		switch {
		case r == '\'':
			quoted, begun = !quoted, true
		case r == ' ' && !quoted:
			if begun {
				out = append(out, word.String())
				word.Reset()
				begun = false
			}
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	return out
}

// world is a folder with a device's config.hcl and a host in memory that runs on its data directory.
type world struct {
	dir string
	ctx context.Context
}

// newWorld makes a world whose host is the fixture, changed by change.
func newWorld(t *testing.T, change func(*controltest.Host)) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "cmd")
	if err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Chdir(dir)
	for _, folder := range []string{"data", "pictures/summer", "music", "parts"} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, "pictures/a.jpg", "x")
	writeConfig(t, "config.hcl", config.Settings{Library: "home", Device: "alice"})
	writeConfig(t, "asleep.hcl", config.Settings{Library: "home", Device: "asleep", DataDir: "./asleep"})
	writeFile(t, "bad.hcl", "library \"home\" {}\ndevice \"alice\" { data_dir = \"./data\" }\n\ntransport \"tcp\" \"lan\" {\n  lisen = \"127.0.0.1:7420\"\n}\nsync {\n  heartbeat = \"1min\"\n}\n")
	writeFile(t, "parts/base.hcl", "library \"home\" {}\ndevice \"alice\" { data_dir = \"../data\" }\nstore \"sqlite\" {}\nplugin_dir = \"/opt/plugins\"\n")
	writeFile(t, "parts/tag.hcl", "model \"tag\" {\nconfig {\ntoken=secretfile(\"../token\")\n}\n}\n")
	writeFile(t, "again.hcl", "plugin_dir = \"./plugins\"\n")
	writeFile(t, "token", "s3cret\n")
	writeFile(t, "locked.hcl", "library \"home\" {}\ndevice \"alice\" { data_dir = \"./data\" }\nstore \"postgres\" { dsn = env(\"STARLING_NOT_SET\") }\nplugin_dir = \"/opt/plugins\"\n")
	writeFile(t, "nodevice.hcl", "library \"home\" {}\n")
	const head = "library \"home\" {}\ndevice \"alice\" { data_dir = \"./data\" }\nstore \"sqlite\" {}\nplugin_dir = \"/opt/plugins\"\n"
	writeFile(t, "secret.hcl", head+"model \"note\" {\n  config {\n    server   = \"hub\"\n    password = \"sesame\"\n    user     = env(\"NOTE_USER\", \"u\")\n  }\n}\n"+
		"model \"old\" {\n  config {\n    key   = env(\"PATH\")\n    token = secretfile(\"token\")\n  }\n}\nmodel \"tag\" {}\n")
	writeFile(t, "wrong.hcl", head+"model \"tag\" { config = { colour = 1 } }\nmodel \"note\" {\n  config {\n    timeout  = \"1min\"\n    password = 4711\n    sever    = \"hub\"\n  }\n}\nmodel \"gone\" {}\n")
	if err := os.Mkdir("bin", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bin/tag", "bin/note", "bin/transport-tcp", "note-2"} {
		writeFile(t, name, "a build of "+name)
	}
	const here = "library \"home\" {}\ndevice \"alice\" { data_dir = \"./data\" }\nstore \"sqlite\" {}\nplugin_dir = \"./bin\"\n"
	writeFile(t, "here.hcl", here+"model \"tag\" {}\nmodel \"note\" {}\ntransport \"tcp\" \"lan\" {}\n")
	writeFile(t, "absent.hcl", here+"model \"tagg\" {}\nmodel \"invoice\" {}\nmodel \"note\" {\n  path = \"./bin/nite\"\n}\nmodel \"tag\" {\n  path = \"./elsewhere/x\"\n}\n"+
		"model \"draft\" { attach = \"./debug.json\" }\ntransport \"tpc\" \"lan\" {}\ntransport \"tcp\" \"a\" {\n  attach = \"./a.json\"\n}\ntransport \"tcp\" \"b\" {\n  attach = \"./b.json\"\n}\n")
	host := fixture()
	if change != nil {
		change(host)
	}
	serve(t, host, filepath.Join(dir, "data"))
	return &world{dir: dir, ctx: t.Context()}
}

func writeFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func writeConfig(t *testing.T, name string, settings config.Settings) {
	t.Helper()
	var content bytes.Buffer
	if err := config.Write(&content, settings); err != nil {
		t.Fatal(err)
	}
	writeFile(t, name, content.String())
}

func serve(t *testing.T, host *controltest.Host, dataDir string) {
	t.Helper()
	listener, err := control.Listen(dataDir)
	if err != nil {
		t.Fatal(err)
	}
	next := uint16(0)
	newID := func() sdk.RecordID {
		next++
		return sdk.RecordID{0x01, 0x92, 6: 0x70, 8: 0x80, 14: byte(next >> 8), 15: byte(next)}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- control.NewServer(host.Backend(), hclog.NewNullLogger(), newID).Run(ctx, listener)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// run runs one command.
func (w *world) run(args []string, input string) (out, errs string, status int) {
	var o, e bytes.Buffer
	deps := w.deps(strings.NewReader(input), &o, &e)
	deps.Terminal = input != "" // somebody has typed it
	status = command.Execute(w.ctx, deps, args)
	return o.String(), e.String(), status
}

func (w *world) deps(in io.Reader, out, errs io.Writer) command.Deps {
	return command.Deps{
		Version: "1.2.3", Now: now, In: in, Out: out, Err: errs,
		Init: func(_ context.Context, dir string, s config.Settings) (command.Made, error) {
			if dir == "taken" {
				return command.Made{}, sdk.Errorf(sdk.CodeInvalid, "taken/config.hcl is there already; name another folder, or remove it")
			}
			where := ""
			if s.Postgres {
				where = fmt.Sprintf(", schema %q", s.Schema)
			}
			fmt.Fprintf(out, "(init %s: device %q, library %q, listen %q%s)\n", dir, s.Device, s.Library, s.Listen, where)
			return command.Made{ConfigFile: filepath.Join(dir, "config.hcl"), DeviceID: alice}, nil
		},
		Describe: func(_ context.Context, c *config.Config) []command.Described { return described(c) },
		DescribeBinary: func(_ context.Context, path string) command.Described {
			return command.Described{Plugin: path, Err: sdk.Errorf(sdk.CodeNotFound, "there is no plugin binary at %s", path)}
		},
		Chosen: func(_ *config.Config, plugin, path string) (control.Build, bool, error) {
			switch plugin {
			case "note":
				return control.Build{SHA256: strings.Repeat("5a", 32), Path: filepath.Join(w.dir, "note-2")}, true, nil
			case "lan":
				return control.Build{SHA256: strings.Repeat("77", 32), Path: path}, true, nil
			case "draft":
				return control.Build{}, false, sdk.Errorf(sdk.CodeInvalid, "choices.json can not be read")
			}
			return control.Build{}, false, nil
		},
		Run: func(_ context.Context, c *config.Config) error {
			_, err := fmt.Fprintf(out, "(run %s)\n", c.Device.Name)
			return err
		},
		Demo: func(_ context.Context, to io.Writer, o command.DemoOptions) error {
			_, err := fmt.Fprintf(to, "(demo of %q, once %v, over %s %s)\n", o.Path, o.Once, o.Transport, o.NATS)
			return err
		},
	}
}

// neutral replaces what differs between machines.
func (w *world) neutral(text string) string {
	return strings.NewReplacer(w.dir, "$DIR", runtime.Version(), "$GO", runtime.GOOS, "$OS", runtime.GOARCH, "$ARCH").Replace(text)
}

var (
	alice = sdk.DeviceID{0xa1, 6: 0x80, 8: 0x80, 15: 1}
	bob   = sdk.DeviceID{0xb0, 6: 0x80, 8: 0x80, 15: 2}
	carol = sdk.DeviceID{0xca, 6: 0x80, 8: 0x80, 15: 3}
	dave  = sdk.DeviceID{0xda, 6: 0x80, 8: 0x80, 15: 4}
)

func now() time.Time { return time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC) }

func hidden(n byte) sdk.RecordID {
	return sdk.RecordID{0x01, 0x92, 6: 0x70, 8: 0x80, 14: 0xf9, 15: n}
}

// fixture is the host that the scripts talk to.
func fixture() *controltest.Host {
	at := func(h, m, s int) hlc.Stamp {
		return hlc.New(time.Date(2026, 11, 22, h, m, s, 123e6, time.UTC).UnixMilli(), 0)
	}
	h := controltest.NewHost(alice, at(9, 0, 0), models()...)
	work := sdk.RecordID{0x01, 0x92, 6: 0x70, 8: 0x80, 14: 0xf9, 15: 1}
	h.PutForeign("tag", control.Record{
		ID: work, Values: []any{"work", "red", nil}, Inserted: sdk.Version{Stamp: at(7, 9, 58), Device: bob},
		Clocks: []sdk.Version{{Stamp: at(7, 10, 11), Device: alice}, {Stamp: at(7, 9, 58), Device: bob}, {}},
	})
	h.PutForeign("location", control.Record{
		ID: sdk.RecordID{0x01, 0x92, 6: 0x70, 8: 0x80, 14: 0xf9, 15: 2}, Values: []any{"/home/bob/papers", "papers"}, Owner: bob, Stamp: at(7, 0, 0),
	})
	h.PutForeign("entry", control.Record{
		ID: sdk.RecordID{0x01, 0x92, 6: 0x70, 8: 0x80, 14: 0xf9, 15: 3}, Owner: bob, Stamp: at(7, 0, 1),
		Values: []any{"evil\x1b[2Jname", int64(9007199254740993), at(6, 0, 0).Time().UnixMicro(), []byte{0, 1}, 0.5, true},
	})
	h.Journal = []control.Conflict{{
		Number: 17, Model: "tag", ID: work, Field: "name", Value: "job",
		Lost: sdk.Version{Stamp: at(7, 10, 5), Device: bob}, Winner: sdk.Version{Stamp: at(7, 10, 11), Device: alice},
	}}
	h.Now = now
	h.Elsewhere = []control.Whereabouts{
		{Device: bob, State: control.PresenceSame},
		{Device: carol, State: control.PresenceNotYet, Detail: "her backfill has not reached alice's 07:10:11"},
		{Device: dave, State: control.PresenceUnknown},
	}
	h.Explained = map[sdk.RecordID]control.Explanation{
		hidden(4): {State: control.StateDeleted, Inserted: sdk.Version{Stamp: at(7, 0, 0), Device: alice}, Deleted: sdk.Version{Stamp: at(8, 0, 0), Device: bob}},
		hidden(5): {
			State: control.StateWaiting, Inserted: sdk.Version{Stamp: at(7, 0, 0), Device: carol},
			Fields: []sdk.FieldState{
				{Name: "tag_id", Value: hidden(4), Version: sdk.Version{Stamp: at(7, 0, 0), Device: carol}},
				{Name: "target", Value: hidden(9), Version: sdk.Version{Stamp: at(7, 0, 0), Device: carol}},
				{Name: "newer", Value: int64(3), Version: sdk.Version{Stamp: at(7, 0, 1), Device: carol}},
			},
			Missing: []control.Missing{{Field: "tag_id", Model: "tag", ID: hidden(4), State: "deleted"}, {Field: "target", ID: hidden(9), State: "not_arrived"}},
			Refused: []control.RefusedChange{{Model: "tagging", ID: hidden(5), Origin: bob, Stamp: at(7, 0, 2), Code: sdk.CodeInvalid, Message: "field \"newer\": not a number"}},
		},
		hidden(6): {State: control.StateUnread, Parked: 1204},
		hidden(7): {State: control.StateNotInserted, Fields: []sdk.FieldState{{Name: "color", Value: "red", Version: sdk.Version{Stamp: at(7, 0, 0), Device: dave}}}},
	}
	h.Awaiting = []control.WaitingRecord{
		{Model: "tag", ID: hidden(8), Missing: []control.Missing{{Field: "parent_id", Model: "tag", ID: hidden(4), State: "deleted"}}},
		{Model: "tagging", ID: hidden(5), Missing: h.Explained[hidden(5)].Missing},
		{Model: "tagging", ID: hidden(10), Missing: []control.Missing{{Field: "target", ID: hidden(8), State: "waiting"}}},
	}
	h.Audits = []control.AuditResult{
		{ID: bob, Name: "bob", Audit: control.Audit{At: now(), Outcome: control.AuditEqual, Records: 12424, Bytes: 1240, Took: 18 * time.Millisecond}},
		{ID: carol, Name: "carol", Audit: control.Audit{At: now(), Outcome: control.AuditNotAlike}},
		{ID: dave, Name: "dave", Audit: control.Audit{At: now(), Outcome: control.AuditRepaired, Records: 12424, Ranges: 1, Repaired: 2, Bytes: 88_000, Took: 40 * time.Millisecond}},
	}
	h.Steps = []control.Step{
		{Stage: "staging", Text: "staged sha256:1f0c1f0c1f0c", Took: 22 * time.Millisecond},
		{Subject: `model "tag": path`, Stage: "switching", Text: "switched", Took: 12 * time.Microsecond},
		{Stage: "watching", Text: "watched for 30s: 1204 calls, no fault", Took: 30 * time.Second},
		{Subject: "store", Stage: "needs a restart"},
		{Stage: "done", Text: "done"},
	}
	location, tag := control.Build{Version: "v1.3.0", SHA256: strings.Repeat("1f0c", 16), Path: "/usr/lib/starling/plugins/location"}, control.Build{SHA256: strings.Repeat("ab", 32)}
	h.Events = []control.PluginEvent{
		{Number: 1, At: now().Add(-time.Hour), Kind: "swapped", Plugin: "location", By: "starling plugin swap", From: tag, To: location},
		{Number: 2, At: now().Add(-time.Minute), Kind: "crashed", Plugin: "tag", Why: "process 4243 ended: exit status 2: panic: boom", From: tag},
		{Number: 3, At: now(), Kind: "reloaded", By: "SIGHUP", Why: `model "tag": path`},
	}
	h.Invitation = control.Invitation{Code: "starling1-abcd", Expires: now().Add(10 * time.Minute)}
	h.Joined = control.Joined{LibraryID: "0192f3c0-6f3e-7cc1-a36b-5d0d5b6f3a01", LibraryName: "home", InviterID: bob, InviterName: "bob"}
	h.State = state()
	h.Processes = []control.Plugin{
		{Name: "location", Kind: "model", State: "running", PID: 4242, Since: now().Add(-3 * time.Hour), Path: "/usr/lib/starling/plugins/location", SHA256: strings.Repeat("1f0c", 16), Models: []sdk.ModelName{"location"}, Version: "v1.3.0", Swap: "watching the new build, 12s left",
			Staged: []control.Build{{Version: "v1.2.0", SHA256: strings.Repeat("ab", 32), Path: "/tmp/location"}, {SHA256: strings.Repeat("cd", 32)}, {Version: "v1.3.0", SHA256: strings.Repeat("1f0c", 16)}}},
		{Name: "tag", Kind: "model", State: "quarantined", Reason: "it ended 5 times in 10 minutes; see the log", Restarts: 5, Since: now().Add(-90 * time.Second), Path: "/usr/lib/starling/plugins/tag"},
	}
	return h
}

func models() []sdk.Description {
	return []sdk.Description{
		{Model: "entry", Version: 1, Ownership: sdk.DeviceOwned, Fields: []sdk.Field{
			{Name: "name", Type: sdk.Text, Required: true}, {Name: "size", Type: sdk.Int}, {Name: "modified_at", Type: sdk.Time},
			{Name: "data", Type: sdk.Bytes}, {Name: "ratio", Type: sdk.Float}, {Name: "kept", Type: sdk.Bool},
		}},
		{Model: "location", Version: 1, Ownership: sdk.DeviceOwned, Fields: []sdk.Field{
			{Name: "path", Type: sdk.Text, Required: true}, {Name: "name", Type: sdk.Text},
		}},
		{Model: "tag", Version: 1, Ownership: sdk.SharedByAll, Fields: []sdk.Field{
			{Name: "name", Type: sdk.Text, Required: true}, {Name: "color", Type: sdk.Text}, {Name: "parent_id", Type: sdk.UUID, Ref: "tag"},
		}},
		{Model: "tagging", Version: 1, Ownership: sdk.SharedByAll, Fields: []sdk.Field{
			{Name: "tag_id", Type: sdk.UUID, Ref: "tag", Required: true, Key: true}, {Name: "target", Type: sdk.UUID, Required: true, Key: true},
		}},
		{Model: "album", Version: 1, Ownership: sdk.SharedByAll, Fields: []sdk.Field{{Name: "name", Type: sdk.Text, Required: true}}},
		{Model: "album_item", Version: 1, Ownership: sdk.SharedByAll, Fields: []sdk.Field{
			{Name: "album_id", Type: sdk.UUID, Ref: "album", Required: true, Key: true}, {Name: "entry_id", Type: sdk.UUID, Ref: "entry", Required: true, Key: true},
			{Name: "position", Type: sdk.Text},
		}},
	}
}

func state() control.Status {
	return control.Status{
		DeviceID: alice, DeviceName: "alice", LibraryID: "0192f3c0-6f3e-7cc1-a36b-5d0d5b6f3a01", LibraryName: "home",
		Version: "1.2.3", Started: now().Add(-3 * time.Hour), StoreKind: "sqlite", StoreBytes: 212e6,
		ClockState: "ok", ClockOffset: 3 * time.Millisecond,
		Models: []control.ModelStatus{
			{Model: "entry", Ownership: sdk.DeviceOwned, Version: 1, Rows: 12411}, {Model: "location", Ownership: sdk.DeviceOwned, Version: 1, Rows: 1},
			{Model: "tag", Ownership: sdk.SharedByAll, Version: 1, Rows: 12, Waiting: 1}, {Model: "tagging", Ownership: sdk.SharedByAll, Version: 1, Waiting: 1204},
		},
		Transports: []control.TransportStatus{{Name: "lan", Kind: "tcp", Address: "127.0.0.1:7420", State: "listening"}},
		Sources: []control.SourceStatus{{
			Model: "location", State: "running",
			Progress: []control.Progress{
				{Key: "/home/alice/empty", Unit: "things"}, {Key: "/home/alice/music", Unit: "things", Done: 17, Total: 17}, {Key: "/home/alice/new", Unit: "things", Done: 2048},
				{Key: "/home/alice/pictures", Unit: "things", Done: 8812, Total: 12411},
				{Key: "hashing /home/alice/music", Unit: "bytes", Done: 734_003_200, Total: 40e9}, {Key: "hashing /home/alice/music", Unit: "files", Done: 17, Total: 17},
				{Key: "hashing /home/alice/pictures", Unit: "bytes", Done: 1.2e9, Total: 40e9}, {Key: "hashing /home/alice/pictures", Unit: "files", Done: 3, Total: 312},
				{Key: "inbox", Unit: "mails", Done: 1204},
			},
			Warnings: []control.Warning{{Key: "unreadable", Count: 3, Message: "folders that can not be read"}},
		}},
		Conflicts: 1,
		Log:       control.LogStatus{Entries: 1204, Bytes: 3_400_000, Oldest: now().Add(-12 * 24 * time.Hour)},
		Shadow:    control.ShadowStatus{Deleted: 31, NotInserted: 2, Waiting: 1205, WaitingBound: 100_000},
		Retention: control.Retention{Age: 90 * 24 * time.Hour, Bytes: 1 << 30, Conflicts: 30 * 24 * time.Hour},
		Peers: []control.Peer{
			{ID: bob, Name: "bob", State: "live", RTT: 1200 * time.Microsecond, Skew: -3 * time.Millisecond, Via: "tcp", Since: now().Add(-2 * time.Hour), BytesIn: 1_500_000, BytesOut: 22_000, RowsIn: 12411, RowsPerSecond: 31000, Addresses: []string{"tcp 127.0.0.1:7421"}, Audit: control.Audit{At: now().Add(-12 * time.Minute), Outcome: control.AuditEqual, Records: 12424, Bytes: 1240, Took: 18 * time.Millisecond}},
			{ID: carol, Name: "carol", State: "backfilling", Progress: 0.38, Left: 80 * time.Second, BehindMe: 3400 * time.Millisecond, RTT: 9 * time.Millisecond, Via: "tcp", Since: now().Add(-40 * time.Second)},
			{ID: dave, Name: "dave", State: "held", Reason: "clock 4 m ahead; set its clock, nothing is lost", Behind: 4 * time.Minute, Via: "tcp"},
		},
	}
}

var (
	oldPhone = sdk.DeviceID{0xf0, 6: 0x80, 8: 0x80, 15: 5}
	phone    = sdk.DeviceID{0xf1, 6: 0x80, 8: 0x80, 15: 6}
	twin     = sdk.DeviceID{0xf2, 6: 0x80, 8: 0x80, 15: 7}
)

// changed says how the host differs for the scripts that need another.
var changed = map[string]func(*controltest.Host){
	"album": func(h *controltest.Host) {
		album := sdk.RecordID{0x01, 0x92, 6: 0x70, 8: 0x80, 15: 1}
		h.Explained[sdk.KeyID("album_item", album, hidden(4))] = control.Explanation{
			State: control.StateWaiting, Missing: []control.Missing{{Field: "entry_id", Model: "entry", ID: hidden(4), State: "not_arrived"}},
		}
	},
	"hybrid": func(h *controltest.Host) {
		h.Serve(sdk.Description{Model: "memo", Version: 1, Ownership: sdk.HybridOwned, Fields: []sdk.Field{
			{Name: "entry_id", Type: sdk.UUID, Ref: "entry", Owner: true, Key: true}, {Name: "content", Type: sdk.Text, Key: true},
			{Name: "note", Type: sdk.Text}, {Name: "rating", Type: sdk.Int},
		}})
	},
	"away": func(h *controltest.Host) {
		h.State.StoreKind, h.State.StoreBytes, h.State.Models, h.State.Log, h.State.Shadow, h.State.Conflicts = "postgres", 0, nil, control.LogStatus{}, control.ShadowStatus{WaitingBound: 100_000}, 0
		h.State.Warnings = []control.StatusWarning{
			control.WarnStoreAway("PostgreSQL at db.example:5432, database home, schema alice", now().Add(-time.Minute), errors.New("nothing listens there; see that the server runs")),
		}
	},
	"parts": func(h *controltest.Host) {
		h.Serve(sdk.Description{Model: "song", Version: 1, Ownership: sdk.SharedByAll, Fields: []sdk.Field{
			{Name: "title", Type: sdk.Text}, {Name: "words", Type: sdk.Text, Merge: sdk.AddWins},
			{Name: "years", Type: sdk.Int, Merge: sdk.AddWins}, {Name: "plays", Type: sdk.Int, Merge: sdk.Sum},
		}})
	},
	"retire": func(h *controltest.Host) {
		lost := now().Add(-72 * time.Hour)
		h.State.Peers = append(h.State.Peers,
			control.Peer{ID: oldPhone, Name: "phone", State: "retired", Since: lost, RetiredAt: lost},
			control.Peer{ID: phone, Name: "phone", State: "live", Via: "tcp", Since: now().Add(-time.Hour)},
			control.Peer{ID: twin, Name: "bob", State: "offline", Reason: "not reached yet"})
		h.Audits = h.Audits[:1]
	},
	"trouble": func(h *controltest.Host) {
		s := &h.State
		s.Models = []control.ModelStatus{{Model: "tagging", Ownership: sdk.SharedByAll, Version: 1, Parked: 1204}, {Model: "invoice", Parked: 2}}
		s.Sources, h.Processes = nil, h.Processes[:1]
		s.Shadow = control.ShadowStatus{NotInserted: 1, Waiting: 150_000, WaitingBound: 100_000}
		s.Log = control.LogStatus{Entries: 1, Bytes: 88, Oldest: now().Add(-time.Minute)}
		s.Retention.Conflicts = 0
		s.Repaired = 2
		s.Refusals = []control.RefusedInput{{Limit: "frame_bytes", Count: 3}, {Limit: "marks"}, {Limit: "text_bytes", Count: 1204}}
		s.Warnings = []control.StatusWarning{
			control.WarnRunsTwice(), control.WarnRestored(), control.WarnClockAhead(4*time.Minute + 10*time.Second), control.WarnRestamped(1204),
		}
		s.Peers[0].Refuses, s.Peers[0].State = true, "offline"
		s.Peers[0].Reason = "this device is not a member of the library, or has been retired"
		s.Peers[0].Audit.Outcome, s.Peers[0].Audit.Repaired = control.AuditRepaired, 2
		s.Peers[1].RunsTwice, s.Peers[1].Reason = true, "two copies of this device run; stop one of them, nothing is lost"
		s.Peers[1].Audit = control.Audit{At: now().Add(-time.Hour), Outcome: control.AuditNotAlike}
		s.Peers[2].RunsTwice, s.Peers[2].Refuses = true, true
		h.Audits = []control.AuditResult{
			{ID: dave, Name: "dave", Audit: control.Audit{At: now(), Outcome: control.AuditRepaired, Ranges: 3, Took: 40 * time.Millisecond}},
			{ID: bob, Name: "bob", Audit: control.Audit{At: now(), Outcome: control.AuditFailed, Reason: "it left before it had answered"}},
			{ID: carol, Name: "carol", Audit: control.Audit{At: now(), Outcome: control.AuditFailed}},
		}
		h.Awaiting = nil
	},
}

func TestPut_StreamsManyBatches(t *testing.T) {
	w := newWorld(t, nil)
	var input strings.Builder
	for i := range 250 {
		if i == 120 {
			input.WriteString(`{"nam":"x"}` + "\n")
			continue
		}
		fmt.Fprintf(&input, "{\"name\":\"tag %d\"}\n", i)
	}
	out, errs, status := w.run([]string{"put", "tag", "-"}, input.String())
	want := "starling: record 121: "
	if status != 1 || strings.Count(out, "\n") != 249 || !strings.HasPrefix(errs, want) {
		t.Errorf("status %d, %d ids, %s", status, strings.Count(out, "\n"), errs)
	}
	if !strings.HasSuffix(errs, "1 of 250 records were refused; the others were put\n") {
		t.Error(errs)
	}
}

// TestPut_AnswersBeforeTheInputEnds: a program that writes a record and waits for its id gets it.
func TestPut_AnswersBeforeTheInputEnds(t *testing.T) {
	w := newWorld(t, nil)
	in, feed := io.Pipe()
	answers, out := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- command.Execute(w.ctx, w.deps(in, out, io.Discard), []string{"put", "tag", "-"})
	}()
	answer := make([]byte, 37)
	for range 3 {
		if _, err := io.WriteString(feed, "{\"name\":\"a\"}\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(answers, answer); err != nil {
			t.Fatal(err)
		}
	}
	_ = feed.Close()
	if status := <-ended; status != 0 {
		t.Errorf("status %d", status)
	}
}

func TestWatch(t *testing.T) {
	w := newWorld(t, nil)
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	events, out := io.Pipe()
	ended := make(chan int, 1)
	var errs bytes.Buffer
	go func() { ended <- command.Execute(ctx, w.deps(nil, out, &errs), []string{"watch", "tag"}) }()
	// The watch may begin after the first puts: put until one of them shows.
	seen := make(chan string, 1)
	go func() {
		line := make([]byte, 4096)
		n, _ := events.Read(line)
		seen <- string(line[:n])
		_, _ = io.Copy(io.Discard, events)
	}()
	var line string
	for line == "" {
		if _, e, status := w.run([]string{"put", "tag", `{"name":"holiday"}`}, ""); status != 0 {
			t.Fatal(e)
		}
		select {
		case line = <-seen:
		default:
		}
	}
	if !strings.HasPrefix(line, `{"_model":"tag","_event":"put","_origin":"`+alice.String()) || !strings.HasSuffix(line, "}\n") {
		t.Errorf("got %q", line)
	}
	cancel()
	if status := <-ended; status != 0 || errs.Len() > 0 {
		t.Errorf("status %d after an interrupt: %s", status, errs.String())
	}
	_ = out.Close()
}

func TestInterrupted(t *testing.T) {
	w := newWorld(t, nil)
	ctx, cancel := context.WithCancel(w.ctx)
	cancel()
	var errs bytes.Buffer
	if status := command.Execute(ctx, w.deps(nil, io.Discard, &errs), []string{"status"}); status != 1 || errs.String() != "starling: interrupted\n" {
		t.Errorf("status %d, %q", status, errs.String())
	}
}

// TestRetire_Interrupted: who is asked and interrupts instead of answering is not kept waiting, and nothing is done.
func TestRetire_Interrupted(t *testing.T) {
	w := newWorld(t, nil)
	in, typing := io.Pipe()
	defer typing.Close()
	ctx, cancel := context.WithCancel(w.ctx)
	asked, errs := io.Pipe()
	deps := w.deps(in, io.Discard, errs)
	deps.Terminal = true
	ended := make(chan int, 1)
	go func() { ended <- command.Execute(ctx, deps, []string{"retire", "bob"}) }()
	said := make([]byte, 1024)
	if n, err := asked.Read(said); err != nil || !strings.HasSuffix(string(said[:n]), "[y/N] ") {
		t.Fatalf("%v: %s", err, said[:n])
	}
	go func() { _, _ = io.Copy(io.Discard, asked) }()
	cancel()
	if status := <-ended; status != 1 {
		t.Errorf("status %d", status)
	}
	_ = errs.Close()
	if out, _, _ := w.run([]string{"peers"}, ""); strings.Contains(out, "retired") {
		t.Errorf("a device is retired:\n%s", out)
	}
}

func TestList_LongTablesAreBounded(t *testing.T) {
	w := newWorld(t, nil)
	var input strings.Builder
	for i := range 1200 {
		fmt.Fprintf(&input, "{\"name\":\"%d\"}\n", i)
	}
	if _, errs, status := w.run([]string{"put", "entry", "-"}, input.String()); status != 0 {
		t.Fatal(errs)
	}
	out, _, _ := w.run([]string{"list", "entry"}, "")
	if n := strings.Count(out, "\n"); n != 1202 {
		t.Errorf("%d lines, want a header and 1201 records", n)
	}
	if n := strings.Count(out, "MODIFIED_AT"); n != 1 {
		t.Errorf("%d headers", n)
	}
}
