package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/control/controltest"
	"github.com/starling-sync/starling/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	self  = sdk.DeviceID{0xa1, 15: 1}
	other = sdk.DeviceID{0xb0, 15: 2}
)

func tagModel() sdk.Description {
	return sdk.Description{Model: "tag", Version: 1, Ownership: sdk.SharedByAll, Fields: []sdk.Field{
		{Name: "name", Type: sdk.Text, Required: true},
		{Name: "weight", Type: sdk.Int},
		{Name: "parent_id", Type: sdk.UUID, Ref: "tag"},
	}}
}

func taggingModel() sdk.Description {
	return sdk.Description{Model: "tagging", Version: 1, Ownership: sdk.SharedByAll, Fields: []sdk.Field{
		{Name: "tag_id", Type: sdk.UUID, Ref: "tag", Required: true, Key: true},
		{Name: "target", Type: sdk.UUID, Key: true},
		{Name: "note", Type: sdk.Text},
	}}
}

func entryModel() sdk.Description {
	return sdk.Description{Model: "entry", Version: 1, Ownership: sdk.DeviceOwned, Fields: []sdk.Field{
		{Name: "name", Type: sdk.Text, Required: true},
		{Name: "size", Type: sdk.Int},
		{Name: "modified_at", Type: sdk.Time},
		{Name: "data", Type: sdk.Bytes},
		{Name: "ratio", Type: sdk.Float},
		{Name: "kept", Type: sdk.Bool},
	}}
}

// start runs a server of a new host in memory and returns both ends.
func start(tb testing.TB) (*controltest.Host, *control.Client) {
	tb.Helper()
	host := controltest.NewHost(self, hlc.New(1, 0), entryModel(), tagModel(), taggingModel())
	dir := shortDir(tb)
	listener, err := control.Listen(dir)
	if err != nil {
		tb.Fatal(err)
	}
	return host, serve(tb, host, dir, listener)
}

func serve(tb testing.TB, host *controltest.Host, dir string, listener net.Listener) *control.Client {
	tb.Helper()
	next := byte(0)
	newID := func() sdk.RecordID { next++; return sdk.RecordID{0: 1, 15: next} }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := control.NewServer(host.Backend(), hclog.NewNullLogger(), newID)
	go func() { done <- server.Run(ctx, listener) }()
	client, err := control.Dial(ctx, dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		client.Close()
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return client
}

// shortDir returns a folder whose path leaves room for a socket's name.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "ctl")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func put(tb testing.TB, c *control.Client, model sdk.ModelName, objects ...string) []sdk.RecordID {
	tb.Helper()
	var puts []control.Put
	for _, o := range objects {
		puts = append(puts, control.Put{JSON: []byte(o)})
	}
	result, err := c.Put(context.Background(), model, puts, false)
	if err != nil || len(result.Refused) > 0 {
		tb.Fatalf("put %s: %v, refused %v", model, err, result.Refused)
	}
	return result.IDs
}

func update(tb testing.TB, c *control.Client, model sdk.ModelName, id sdk.RecordID, object string) {
	tb.Helper()
	result, err := c.Put(context.Background(), model, []control.Put{{ID: id, JSON: []byte(object)}}, false)
	if err != nil || len(result.Refused) > 0 {
		tb.Fatalf("update %s: %v, refused %v", model, err, result.Refused)
	}
}

func get(tb testing.TB, c *control.Client, model sdk.ModelName, id sdk.RecordID) map[string]any {
	tb.Helper()
	raw, err := c.Get(context.Background(), model, id)
	if err != nil {
		tb.Fatal(err)
	}
	return object(tb, raw)
}

func object(tb testing.TB, raw json.RawMessage) map[string]any {
	tb.Helper()
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.UseNumber()
	var m map[string]any
	if err := decoder.Decode(&m); err != nil {
		tb.Fatalf("%s: %v", raw, err)
	}
	return m
}

func TestPut_DeviceOwnedUpdateKeepsTheOtherFields(t *testing.T) {
	_, c := start(t)
	id := put(t, c, "entry", `{"name":"a","size":9007199254740993,"modified_at":"2026-11-22T07:10:11.123456Z","data":"AAE=","ratio":0.5,"kept":true}`)[0]
	update(t, c, "entry", id, `{"name":"b","ratio":null}`)
	want := map[string]any{
		"id": id.String(), "name": "b", "size": json.Number("9007199254740993"), "modified_at": "2026-11-22T07:10:11.123456Z",
		"data": "AAE=", "ratio": nil, "kept": true, "_owner": self.String(), "_stamp": "0000000000010002",
	}
	if diff := cmp.Diff(want, get(t, c, "entry", id)); diff != "" {
		t.Error(diff)
	}
}

func TestPut_TwoUpdatesOfOneRecordInOneCall(t *testing.T) {
	_, c := start(t)
	id := put(t, c, "entry", `{"name":"a","size":1}`)[0]
	result, err := c.Put(context.Background(), "entry", []control.Put{{ID: id, JSON: []byte(`{"name":"b"}`)}, {ID: id, JSON: []byte(`{"size":2}`)}}, false)
	if err != nil || len(result.Refused) > 0 {
		t.Fatal(err, result.Refused)
	}
	got := get(t, c, "entry", id)
	if got["name"] != "b" || got["size"] != json.Number("2") {
		t.Errorf("got %v, want both updates", got)
	}
}

func TestPut_ConcurrentUpdatesOfDifferentFields(t *testing.T) {
	_, c := start(t)
	id := put(t, c, "entry", `{"name":"a"}`)[0]
	done := make(chan struct{})
	for _, o := range []string{`{"name":"b"}`, `{"size":2}`, `{"kept":true}`, `{"ratio":1.5}`} {
		go func() { defer func() { done <- struct{}{} }(); update(t, c, "entry", id, o) }()
	}
	for range 4 {
		<-done
	}
	got := get(t, c, "entry", id)
	want := []any{"b", json.Number("2"), true, json.Number("1.5")}
	if diff := cmp.Diff(want, []any{got["name"], got["size"], got["kept"], got["ratio"]}); diff != "" {
		t.Error(diff)
	}
}

func TestPut_SharedUpdateTouchesOnlyTheNamedFields(t *testing.T) {
	_, c := start(t)
	id := put(t, c, "tag", `{"name":"work","weight":1}`)[0]
	update(t, c, "tag", id, `{"weight":2}`)
	got := get(t, c, "tag", id)
	at := func(counter uint16) string { return hlc.New(1, counter).String() + "@" + self.String() }
	want := map[string]any{"_inserted": at(1), "name": at(1), "weight": at(2)}
	if diff := cmp.Diff(want, got["_clocks"]); diff != "" {
		t.Error(diff)
	}
}

func TestPut_NaturalKeyGivesTheSameRecord(t *testing.T) {
	_, c := start(t)
	tag := put(t, c, "tag", `{"name":"work"}`)[0]
	one := put(t, c, "tagging", `{"tag_id":"`+tag.String()+`","target":"`+tag.String()+`"}`)[0]
	two := put(t, c, "tagging", `{"target":"`+tag.String()+`","tag_id":"`+tag.String()+`","note":"x"}`)[0]
	if want := sdk.KeyID("tagging", tag, tag); one != want || two != want {
		t.Errorf("ids %s and %s; want both %s", one, two, want)
	}
	if got := get(t, c, "tagging", one)["note"]; got != "x" {
		t.Errorf("note %v, want x", got)
	}
	result, err := c.Put(context.Background(), "tagging", []control.Put{{JSON: []byte(`{"tag_id":"` + tag.String() + `"}`)}}, false)
	if err != nil || len(result.Refused) != 1 || !strings.Contains(result.Refused[0].Message, "target is part of the key") {
		t.Errorf("a put without its key: %v, %v", err, result.Refused)
	}
}

func TestPut_RefusesSingleRecords(t *testing.T) {
	host, c := start(t)
	foreign := sdk.RecordID{9}
	host.PutForeign("entry", control.Record{ID: foreign, Owner: other, Stamp: 5, Values: []any{"theirs", nil, nil, nil, nil, nil}})
	puts := []control.Put{
		{JSON: []byte(`{"name":"good"}`)},
		{JSON: []byte(`{"nam":"x"}`)},
		{JSON: []byte(`{"name":1}`)},
		{JSON: []byte(`{"size":1}`)},
		{JSON: []byte(`{"name":"a\u0000b"}`)},
		{JSON: []byte("{\"name\":\"\xff\"}")},
		{JSON: []byte(`{"name":"` + strings.Repeat("x", sdk.MaxRecordBytes) + `"}`)},
		{ID: sdk.RecordID{8}, JSON: []byte(`{"name":"x"}`)},
		{ID: foreign, JSON: []byte(`{"name":"mine"}`)},
		{JSON: []byte(`{"name":`)},
		{JSON: []byte(`{"name":"also good"}`)},
	}
	result, err := c.Put(context.Background(), "entry", puts, false)
	if err != nil {
		t.Fatal(err)
	}
	got := map[int]sdk.Code{}
	for _, r := range result.Refused {
		got[r.Index] = r.Code
	}
	want := map[int]sdk.Code{
		1: sdk.CodeUnknownField, 2: sdk.CodeInvalid, 3: sdk.CodeInvalid, 4: sdk.CodeInvalid, 5: sdk.CodeInvalid,
		6: sdk.CodeTooLarge, 7: sdk.CodeNotFound, 8: sdk.CodeNotOwner, 9: sdk.CodeInvalid,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for i, id := range result.IDs {
		if _, refused := want[i]; refused != id.IsZero() {
			t.Errorf("put %d: id %s, refused %v", i, id, refused)
		}
	}
	if got := get(t, c, "entry", result.IDs[10])["name"]; got != "also good" {
		t.Errorf("the last record: %v", got)
	}
}

func TestPut_AllOrNothing(t *testing.T) {
	for _, bad := range []string{`{"nam":"x"}`, `{"size":1}`} {
		_, c := start(t)
		result, err := c.Put(context.Background(), "entry", []control.Put{{JSON: []byte(`{"name":"good"}`)}, {JSON: []byte(bad)}}, true)
		if err != nil {
			t.Fatal(err)
		}
		if len(result.Refused) != 1 || result.Refused[0].Index != 1 || !result.IDs[0].IsZero() {
			t.Errorf("%s: ids %v, refused %v; want nothing written", bad, result.IDs, result.Refused)
		}
		err = c.List(context.Background(), "entry", nil, 0, func(r json.RawMessage) error { t.Errorf("written: %s", r); return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestList_Where(t *testing.T) {
	_, c := start(t)
	ids := put(t, c, "entry",
		`{"name":"a","size":1,"modified_at":"2026-11-22T07:10:11Z","kept":true}`,
		`{"name":"b","size":1,"ratio":2.5,"data":"AAE="}`,
		`{"name":"","size":9007199254740993}`)
	type where = []control.Where
	tests := []struct {
		name  string
		where where
		limit int
		want  []int
	}{
		{"all", nil, 0, []int{0, 1, 2}},
		{"limit", nil, 2, []int{0, 1}},
		{"text", where{{"name", "a"}}, 0, []int{0}},
		{"empty text", where{{"name", ""}}, 0, []int{2}},
		{"and", where{{"size", "1"}, {"name", "b"}}, 0, []int{1}},
		{"and, limited", where{{"size", "1"}, {"kept", ""}}, 1, []int{1}},
		{"beyond 2^53", where{{"size", "9007199254740993"}}, 0, []int{2}},
		{"time", where{{"modified_at", "2026-11-22T08:10:11+01:00"}}, 0, []int{0}},
		{"bool", where{{"kept", "true"}}, 0, []int{0}},
		{"float", where{{"ratio", "2.5"}}, 0, []int{1}},
		{"bytes", where{{"data", "AAE="}}, 0, []int{1}},
		{"null", where{{"ratio", ""}}, 0, []int{0, 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got, want []string
			err := c.List(context.Background(), "entry", tt.where, tt.limit, func(r json.RawMessage) error {
				got = append(got, object(t, r)["id"].(string))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range tt.want {
				want = append(want, ids[i].String())
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, w := range []control.Where{{"nam", "x"}, {"size", "x"}, {"modified_at", "noon"}, {"kept", "yes"}, {"ratio", "NaN"}, {"data", "?"}} {
		err := c.List(context.Background(), "entry", []control.Where{w}, 0, func(json.RawMessage) error { return nil })
		if code := sdk.CodeOf(err); code != sdk.CodeInvalid && code != sdk.CodeUnknownField {
			t.Errorf("where %v: %v", w, err)
		}
	}
}

func TestList_StopsAtTheCallersError(t *testing.T) {
	_, c := start(t)
	put(t, c, "tag", `{"name":"a"}`, `{"name":"b"}`)
	want := errors.New("enough")
	if err := c.List(context.Background(), "tag", nil, 0, func(json.RawMessage) error { return want }); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}

func TestList_ManyChunks(t *testing.T) {
	_, c := start(t)
	for range 10 {
		put(t, c, "entry", `{"name":"`+strings.Repeat("x", 30_000)+`"}`)
	}
	count := 0
	if err := c.List(context.Background(), "entry", nil, 0, func(json.RawMessage) error { count++; return nil }); err != nil || count != 10 {
		t.Errorf("%d records, %v; want 10", count, err)
	}
}

func TestDelete(t *testing.T) {
	_, c := start(t)
	for _, model := range []sdk.ModelName{"entry", "tag"} {
		ids := put(t, c, model, `{"name":"a"}`, `{"name":"b"}`)
		refused, err := c.Delete(context.Background(), model, ids[0], sdk.RecordID{7}, ids[1])
		if err != nil || len(refused) != 1 || refused[0].Index != 1 || refused[0].Code != sdk.CodeNotFound {
			t.Errorf("%s: %v, refused %v", model, err, refused)
		}
		for _, id := range ids {
			if _, err := c.Get(context.Background(), model, id); sdk.CodeOf(err) != sdk.CodeNotFound {
				t.Errorf("%s %s after delete: %v", model, id, err)
			}
		}
	}
}

// TestPut_writtenBy holds that people do not write what a source alone writes, and delete it only where that is allowed.
func TestPut_writtenBy(t *testing.T) {
	host, c := start(t)
	id := put(t, c, "entry", `{"name":"a"}`)[0]
	at := slices.IndexFunc(host.Descriptions, func(d sdk.Description) bool { return d.Model == "entry" })
	host.Descriptions = slices.Clone(host.Descriptions) // all tests have one list
	for _, mayDelete := range []bool{false, true} {
		host.Descriptions[at].WrittenBy, host.Descriptions[at].MayDelete = "the location plugin", mayDelete
		for _, p := range []control.Put{{JSON: []byte(`{"name":"b"}`)}, {ID: id, JSON: []byte(`{"name":"b"}`)}} {
			if _, err := c.Put(t.Context(), "entry", []control.Put{p}, false); sdk.CodeOf(err) != sdk.CodeDenied || !strings.Contains(err.Error(), "written by the location plugin") {
				t.Errorf("put %s: %v", p.JSON, err)
			}
		}
		_, err := c.Delete(t.Context(), "entry", id)
		if denied := sdk.CodeOf(err) == sdk.CodeDenied && strings.Contains(err.Error(), "written by the location plugin"); denied == mayDelete {
			t.Errorf("delete, which is allowed: %v: %v", mayDelete, err)
		}
	}
}

func TestWatch(t *testing.T) {
	host, c := start(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w, err := c.Watch(ctx, "tag", "entry")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	expect := func(want ...any) {
		t.Helper()
		raw, err := w.Next()
		if err != nil {
			t.Fatal(err)
		}
		e := object(t, raw)
		if diff := cmp.Diff(want, []any{e["_event"], e["id"], e["_model"], e["_local"], e["name"]}); diff != "" {
			t.Errorf("%s: %s", raw, diff)
		}
	}
	id := put(t, c, "tag", `{"name":"work"}`)[0]
	expect("put", id.String(), "tag", true, "work")
	put(t, c, "tagging", `{"tag_id":"`+id.String()+`","target":"`+id.String()+`"}`) // not watched
	update(t, c, "tag", id, `{"name":"job"}`)
	expect("put", id.String(), "tag", true, "job")
	theirs := sdk.RecordID{9}
	host.PutForeign("entry", control.Record{ID: theirs, Owner: other, Stamp: 5, Values: []any{"theirs", nil, nil, nil, nil, nil}})
	expect("put", theirs.String(), "entry", false, "theirs")
	if _, err := c.Delete(ctx, "tag", id); err != nil {
		t.Fatal(err)
	}
	expect("delete", id.String(), "tag", true, nil)
	host.Announce(control.Event{Missed: true})
	expect("missed", nil, nil, nil, nil)
	cancel()
	if _, err := w.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}

func TestWatch_EndsWithTheHost(t *testing.T) {
	host := controltest.NewHost(self, hlc.New(1, 0), tagModel())
	dir := shortDir(t)
	listener, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- control.NewServer(host.Backend(), hclog.NewNullLogger(), sdk.NewRecordID).Run(ctx, listener)
	}()
	c, err := control.Dial(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w, err := c.Watch(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cancel()
	if _, err := w.Next(); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("got %v, want unavailable", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "control.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestErrors_KeepTheirCodes(t *testing.T) {
	codes := []sdk.Code{
		sdk.CodeInvalid, sdk.CodeNotFound, sdk.CodeUnknownModel, sdk.CodeUnknownField, sdk.CodeNotOwner, sdk.CodeTooLarge,
		sdk.CodeStale, sdk.CodeDenied, sdk.CodeExpired, sdk.CodeUnsupported, sdk.CodeClockSkew, sdk.CodePruned, sdk.CodeUnavailable,
		sdk.CodeInternal,
	}
	host, c := start(t)
	for _, code := range codes {
		host.Fail = func(string) error { return sdk.Errorf(code, "why: %s", code) }
		_, err := c.Digests(context.Background())
		if sdk.CodeOf(err) != code || err.Error() != "why: "+string(code) {
			t.Errorf("%s came as %s: %v", code, sdk.CodeOf(err), err)
		}
	}
	host.Fail = func(string) error { panic("a defect") }
	if _, err := c.Status(context.Background()); sdk.CodeOf(err) != sdk.CodeInternal {
		t.Errorf("a panic came as %v", err)
	}
	host.Fail = nil
	if _, err := c.Status(context.Background()); err != nil {
		t.Errorf("after a panic: %v", err)
	}
}

func TestUnknownModel(t *testing.T) {
	_, c := start(t)
	_, err := c.Get(context.Background(), "tagg", sdk.RecordID{1})
	if sdk.CodeOf(err) != sdk.CodeUnknownModel || !strings.Contains(err.Error(), `did you mean "tag"?`) {
		t.Errorf("got %v", err)
	}
	_, err = c.Watch(context.Background(), "zebra")
	if sdk.CodeOf(err) != sdk.CodeUnknownModel || !strings.Contains(err.Error(), "the models are entry, tag, tagging") {
		t.Errorf("got %v", err)
	}
}

func TestRequest_TooLarge(t *testing.T) {
	_, c := start(t)
	_, err := c.Put(context.Background(), "tag", []control.Put{{JSON: make([]byte, 17<<20)}}, false)
	if sdk.CodeOf(err) != sdk.CodeTooLarge {
		t.Errorf("got %v", err)
	}
}

func TestListen_PrivateAndExclusive(t *testing.T) {
	dir := shortDir(t)
	listener, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // a test
	info, err := os.Stat(filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode().Perm())
	}
	if _, err := control.Listen(dir); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("a second listener: %v", err)
	}
}

func TestListen_ReplacesTheSocketOfAKilledHost(t *testing.T) {
	for _, long := range []bool{false, true} {
		dir := shortDir(t)
		if long {
			dir = longDir(t)
		}
		killed, err := control.Listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		address := killed.Addr().String()
		leaveBehind(t, dir, killed)
		if _, err := control.Dial(context.Background(), dir); !errors.Is(err, control.ErrNoHost) {
			t.Errorf("dial of a dead socket: %v", err)
		}
		listener, err := control.Listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Dir(address)); long && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the old folder %s is still there: %v", filepath.Dir(address), err)
		}
		_ = listener.Close()
	}
}

// leaveBehind closes a listener and leaves its files, as kill -9 does.
func leaveBehind(tb testing.TB, dir string, listener net.Listener) {
	tb.Helper()
	path, pointer := listener.Addr().String(), filepath.Join(dir, "control.path")
	if err := os.Rename(path, path+".kept"); err != nil {
		tb.Fatal(err)
	}
	pointed, missing := os.ReadFile(pointer) //nolint:gosec // a test's own folder
	_ = listener.Close()
	if err := os.Rename(path+".kept", path); err != nil {
		tb.Fatal(err)
	}
	if missing == nil {
		if err := os.WriteFile(pointer, pointed, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

func longDir(tb testing.TB) string {
	tb.Helper()
	dir := filepath.Join(shortDir(tb), strings.Repeat("long/", 20)+strings.Repeat("x", 100))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	return dir
}

func TestListen_LongPath(t *testing.T) {
	dir := longDir(t)
	listener, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	host := controltest.NewHost(self, hlc.New(1, 0), tagModel())
	t.Run("serves", func(t *testing.T) {
		c := serve(t, host, dir, listener)
		if _, err := c.Status(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if _, err := os.Stat(filepath.Dir(address)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", filepath.Dir(address), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "control.path")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pointer is still there: %v", err)
	}
}

func TestDial_NoHost(t *testing.T) {
	_, err := control.Dial(context.Background(), shortDir(t))
	if !errors.Is(err, control.ErrNoHost) || sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("got %v", err)
	}
}

func TestServer_IgnoresGarbage(t *testing.T) {
	dir := shortDir(t)
	listener, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := serve(t, controltest.NewHost(self, hlc.New(1, 0), tagModel()), dir, listener)
	conn, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("\x00\x01\x02 not a request\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1024)
	n, _ := conn.Read(buf)
	if !strings.Contains(string(buf[:n]), http.StatusText(http.StatusBadRequest)) {
		t.Errorf("garbage was answered with %q", buf[:n])
	}
	_ = conn.Close()
	if _, err := c.Status(context.Background()); err != nil {
		t.Errorf("after garbage: %v", err)
	}
}

func BenchmarkPut(b *testing.B) {
	_, c := start(b)
	puts := make([]control.Put, 100)
	for i := range puts {
		puts[i].JSON = []byte(`{"name":"holiday","size":12345678,"modified_at":"2026-11-22T07:10:11.123456Z","ratio":0.5,"kept":true}`)
	}
	rows := 0
	for b.Loop() {
		if _, err := c.Put(context.Background(), "entry", puts, false); err != nil {
			b.Fatal(err)
		}
		rows += len(puts)
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
}

// TestClient_Notice has a put wait for a plugin under a debugger: that is said while it waits, and of no other model's put. A
// process that has not answered yet has no number.
func TestClient_Notice(t *testing.T) {
	host, client := start(t)
	host.Processes = []control.Plugin{{Name: "tag", Kind: "model", State: "debugging", PID: 4242, Models: []sdk.ModelName{"tag"}}}
	said := make(chan string, 2)
	client.Patience, client.Notice = time.Millisecond, func(text string) { said <- text }
	asked, heard := make(chan string, 8), ""
	host.Fail = func(call string) error {
		switch call {
		case "Plugins":
			asked <- call
		case "Commit": // until the plugin's state has been asked for, by whom it concerns
			<-asked
			if heard == "" {
				heard = <-said
			}
		}
		return nil
	}
	put(t, client, "tag", `{"name":"work"}`)
	if !strings.Contains(heard, "plugin tag is process 4242, under a debugger") {
		t.Errorf("said: %q", heard)
	}
	host.Processes[0].PID, heard = 0, ""
	put(t, client, "tag", `{"name":"home"}`)
	if !strings.Contains(heard, "plugin tag is under a debugger") {
		t.Errorf("said: %q", heard)
	}
	put(t, client, "entry", `{"name":"a"}`)
	if len(said) > 0 {
		t.Errorf("said of a model that nobody debugs: %s", <-said)
	}
}

// TestClient_Notice_conflict has the restoring of a value wait: of two plugins under debuggers that of its model is named.
func TestClient_Notice_conflict(t *testing.T) {
	host, client := start(t)
	contested(t, host, client)
	for _, name := range []string{"entry", "tag"} {
		host.Processes = append(host.Processes, control.Plugin{Name: name, Kind: "model", State: "debugging", PID: 4242, Models: []sdk.ModelName{sdk.ModelName(name)}})
	}
	said, heard := make(chan string, 1), ""
	client.Patience, client.Notice = time.Millisecond, func(text string) { said <- text }
	host.Fail = func(call string) error {
		if call == "Commit" {
			heard = <-said
		}
		return nil
	}
	if _, err := client.RestoreConflict(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(heard, "plugin tag is process 4242") {
		t.Errorf("said: %q", heard)
	}
}

// TestDescribe_NotServed asks for models whose plugins have not come up since the start: why, and what to do, is said.
func TestDescribe_NotServed(t *testing.T) {
	host, client := start(t)
	host.Processes = []control.Plugin{
		{Name: "invoice", Kind: "model", State: "quarantined", Reason: "there is no plugin binary at /x/invoice", Models: []sdk.ModelName{"invoice"}},
		{Name: "album", Kind: "model", State: "debugging", Reason: "a debugger has stopped it", PID: 4, Models: []sdk.ModelName{"album"}},
		{Name: "volume", Kind: "model", State: "backing off", Reason: "exit status 3", Models: []sdk.ModelName{"volume"}},
		{Name: "device", Kind: "model", State: "starting", Models: []sdk.ModelName{"device"}},
	}
	for model, want := range map[sdk.ModelName][]string{
		"invoice": {"plugin invoice is quarantined: there is no plugin binary at /x/invoice", "starling plugin restart invoice"},
		"album":   {"under a debugger", "a debugger has stopped it"},
		"volume":  {"is backing off: exit status 3"},
		"device":  {"is being started"},
	} {
		_, err := client.Put(t.Context(), model, []control.Put{{JSON: []byte("{}")}}, false)
		if sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("%s: %v; want code unavailable", model, err)
			continue
		}
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v; want %q", model, err, part)
			}
		}
	}
	_, err := client.Put(t.Context(), "something", []control.Put{{JSON: []byte("{}")}}, false)
	if sdk.CodeOf(err) != sdk.CodeUnknownModel || !strings.Contains(err.Error(), "invoice (quarantined)") {
		t.Errorf("of a model that a plugin in quarantine may serve: %v", err)
	}
}

// TestPut_NotServed writes records of models that have a table here and whose plugins do not run: the answer is that of a model
// whose plugin has not come up since the start.
func TestPut_NotServed(t *testing.T) {
	host, client := start(t)
	host.Fail = func(call string) error {
		if call == "Commit" {
			return sdk.Errorf(sdk.CodeUnavailable, "the plugin is not running now")
		}
		return nil
	}
	for state, want := range map[string]string{
		"quarantined": "plugin tag is quarantined: exit status 3; mend that, then: starling plugin restart tag",
		"backing off": "plugin tag is backing off: exit status 3",
		"running":     "the plugin is not running now",
	} {
		host.Processes = []control.Plugin{{Name: "tag", Kind: "model", State: state, Reason: "exit status 3", Models: []sdk.ModelName{"tag"}}}
		_, err := client.Put(t.Context(), "tag", []control.Put{{JSON: []byte(`{"name":"a"}`)}}, false)
		if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", state, err, want)
		}
	}
}
