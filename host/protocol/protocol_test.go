package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

func newCodec(tb testing.TB) *Codec {
	tb.Helper()
	codec, err := NewCodec(DefaultLimits())
	if err != nil {
		tb.Fatal(err)
	}
	return codec
}

// pos is a position in the epoch of that number; zero is none.
func pos(epoch byte, stamp hlc.Stamp) Position { return Position{Epoch: EpochID{epoch}, Stamp: stamp} }

func samplePage(kind sdk.Ownership, rows int) Page {
	batch := sdk.Batch{Model: "entry", Version: 3, Columns: []string{"name", "size"}, Count: rows}
	for i := range rows {
		batch.Rows = sdk.AppendStateHeader(batch.Rows, sdk.RecordID{1, byte(i)}, hlc.Stamp(100+i), 2)
		batch.Rows = sdk.AppendValue(batch.Rows, "a name")
		batch.Rows = sdk.AppendValue(batch.Rows, int64(i))
	}
	return Page{
		Stream: Stream{Origin: sdk.DeviceID{7}, Kind: kind}, Heads: Heads{pos(9, 100), pos(10, 42)}, From: 99, Through: hlc.Stamp(100 + rows), Head: 5000,
		Batches: []sdk.Batch{batch},
	}
}

// samples has every message with every field set, and each page message of both sizes.
func samples() []Message {
	at := time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)
	marks := []Mark{
		{Stream{Origin: sdk.DeviceID{1}, Kind: sdk.DeviceOwned}, pos(2, 3)},
		{Stream{Origin: sdk.DeviceID{1}, Kind: sdk.SharedByAll}, pos(0, hlc.MaxStamp)},
	}
	request := Request{
		Subscribe: []Subscribe{{Number: 1, Origin: sdk.DeviceID{1}, Since: Heads{pos(2, 4)}}, {Number: 2, Origin: sdk.DeviceID{3}}},
		Drop:      []sdk.DeviceID{{8}}, PageBytes: 1000, WindowBytes: 2000,
	}
	out := []Message{
		&Hello{
			MinVersion: 1, MaxVersion: 2, Library: LibraryID{1}, Device: sdk.DeviceID{2}, Name: "alice", Epoch: EpochID{3}, Clock: at,
			Models: []ModelVersion{{"entry", 1}, {"tag", 2}}, Vector: marks,
		},
		&StateRequest{request}, &SharedChangeRequest{request},
		&AckSharedChanges{Vector: marks},
		&Heartbeat{
			Clock: at, Echo: at.Add(time.Second), EchoDelay: 5 * time.Millisecond, Vector: marks,
			Known: []Known{{Device: sdk.DeviceID{4}, Vector: marks[1:]}, {Device: sdk.DeviceID{5}}},
		},
		&Error{Code: sdk.CodeDenied, Message: "no"},
		&Error{Code: sdk.CodeClockSkew, Message: "later", Retryable: true, Stream: marks[0].Stream},
		&Join{MinVersion: 1, MaxVersion: 1, Secret: []byte("s"), Name: "bob", Addresses: []Address{{"tcp", "127.0.0.1:1"}}},
		&Welcome{Library: LibraryID{1}, LibraryName: "home", Members: []byte("m")},
	}
	out = append(out, repairSamples()...)
	for _, kind := range []sdk.Ownership{sdk.DeviceOwned, sdk.SharedByAll} {
		for _, rows := range []int{1, 2000} {
			d := Delivery{Subscription: 5, Page: samplePage(kind, rows)}
			out = append(out, CatchUp(d), Live(d))
		}
	}
	return out
}

// repairSamples has the messages about branches, snapshots and audits.
func repairSamples() []Message {
	vector := []Mark{{Stream{Origin: sdk.DeviceID{1}, Kind: sdk.SharedByAll}, pos(2, 3)}}
	rows, deletes := samplePage(sdk.DeviceOwned, 3).Batches, samplePage(sdk.DeviceOwned, 1).Batches
	return []Message{
		&Epochs{Epochs: []Epoch{
			{ID: EpochID{1}, Stream: vector[0].Stream},
			{ID: EpochID{3}, Stream: Stream{Origin: sdk.DeviceID{1}, Kind: sdk.DeviceOwned}, Parents: Heads{pos(1, 5), pos(2, hlc.MaxStamp)}},
		}},
		&SnapshotRequest{
			Number: 7, Kind: sdk.DeviceOwned, Origin: sdk.DeviceID{1}, Since: Heads{pos(1, 5), pos(2, 6)},
			After: Place{Model: "entry"}, Until: Place{"tag", sdk.RecordID{0xff}}, PageBytes: 4096,
		},
		&SnapshotRequest{Number: 8, Kind: sdk.SharedByAll},
		&SnapshotPage{
			Number: 7, Vector: vector,
			Changes:   []Changes{{Origin: sdk.DeviceID{1}, Batches: append(rows, deletes...)}, {Origin: sdk.DeviceID{2}}},
			Unchanged: []RecordIDs{{Model: "entry", IDs: []sdk.RecordID{{}, {1}, {1, 1}}}, {Model: "tag"}},
			End:       Place{"entry", sdk.RecordID{9}},
		},
		&SnapshotPage{Number: 8, Done: true},
		&SnapshotPage{Number: 9, End: Place{"tag", sdk.RecordID{9}}, Done: true},
		&AuditRequest{Number: 1, Vector: Digest{1}, Models: []ModelDigest{{"entry", Digest{2}}, {"tag", Digest{}}}},
		&AuditResponse{Number: 1, Models: []RangeDigests{
			{Model: "entry", Ranges: []RangeDigest{{sdk.RecordID{}, Digest{1}}, {sdk.RecordID{1}, Digest{2}}, {sdk.RecordID{0xff}, Digest{3}}}}, {Model: "tag"},
		}},
		&AuditResponse{Number: 2, Moved: true},
		&AuditRepair{Number: 1, Ranges: []AuditRange{{"entry", sdk.RecordID{}, sdk.RecordID{1}}, {"tag", sdk.RecordID{5}, sdk.RecordID{5, 1}}}},
	}
}

func TestCodec_RoundTrip(t *testing.T) {
	codec := newCodec(t)
	var wire bytes.Buffer
	w := NewWriter(&wire, codec)
	seen := map[Type]bool{}
	for _, m := range samples() {
		seen[m.Type()] = true
		if err := w.Write(m); err != nil {
			t.Fatal(err)
		}
	}
	for typ := TypeHello; typ <= lastType; typ++ {
		if !seen[typ] {
			t.Errorf("no sample of %s", typ)
		}
	}
	size := int64(wire.Len())
	r := NewReader(&wire, codec)
	for _, want := range samples() {
		got, err := r.Read()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", want.Type(), diff)
		}
	}
	if _, err := r.Read(); err != io.EOF { //nolint:errorlint // the contract is io.EOF itself
		t.Errorf("after the last frame: %v, want io.EOF", err)
	}
	if r.Bytes() != size || w.Bytes() != size {
		t.Errorf("counted %d read and %d written of %d bytes", r.Bytes(), w.Bytes(), size)
	}
}

// frame builds a frame by hand.
func frame(t Type, flags byte, payload []byte) []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(len(payload)+2))
	return append(append(out, byte(t), flags), payload...)
}

func compressed(tb testing.TB, plain []byte) []byte {
	tb.Helper()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = encoder.Close() }()
	return encoder.EncodeAll(plain, nil)
}

// streamed is compressed without the size of the content in its header.
func streamed(tb testing.TB, plain []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	encoder, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
	if err != nil {
		tb.Fatal(err)
	}
	for len(plain) > 0 {
		n := min(len(plain), 100_000)
		_, _ = encoder.Write(plain[:n])
		plain = plain[n:]
	}
	if err := encoder.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func TestReader_Refuses(t *testing.T) {
	codec := newCodec(t)
	ok, err := codec.AppendFrame(nil, &Error{Code: sdk.CodeDenied, Message: "x"})
	if err != nil {
		t.Fatal(err)
	}
	page := func(change func(*Page)) []byte {
		p := samplePage(sdk.DeviceOwned, 2)
		change(&p)
		out, err := codec.AppendFrame(nil, &StateBatch{Delivery{Page: p}})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	cases := []struct {
		name  string
		bytes []byte
		code  sdk.Code
	}{
		{"length zero", []byte{0, 0, 0, 0, 1, 0}, sdk.CodeTooLarge},
		{"length beyond the limit", []byte{0x7f, 0xff, 0xff, 0xff, 1, 0}, sdk.CodeTooLarge},
		{"type 0", frame(0, 0, nil), sdk.CodeUnsupported},
		{"unknown type", frame(200, 0, nil), sdk.CodeUnsupported},
		{"unknown flag", frame(TypeError, 4, nil), sdk.CodeUnsupported},
		{"cut in the header", ok[:3], sdk.CodeInvalid},
		{"cut in the payload", ok[:len(ok)-1], sdk.CodeInvalid},
		{"garbage payload", frame(TypeHello, 0, []byte{0xff, 0xff, 0xff}), sdk.CodeInvalid},
		{"not zstd", frame(TypeHello, 1, []byte("garbage")), sdk.CodeInvalid},
		{"a zip bomb that says so", frame(TypeError, 1, compressed(t, make([]byte, 64<<20))), sdk.CodeTooLarge},
		{"a zip bomb that does not", frame(TypeError, 1, streamed(t, make([]byte, 64<<20))), sdk.CodeTooLarge},
		{"an empty Hello", frame(TypeHello, 0, nil), sdk.CodeInvalid},
		{"a page that ends before it begins", page(func(p *Page) { p.From = p.Through + 1 }), sdk.CodeInvalid},
		{"a stamp beyond the greatest", page(func(p *Page) { p.Through = hlc.MaxStamp + 1 }), sdk.CodeInvalid},
		{"a page that leads beyond its end", page(func(p *Page) { p.Heads = Heads{pos(1, p.Through+1)} }), sdk.CodeInvalid},
		{"a head beyond the greatest", page(func(p *Page) { p.Head = hlc.MaxStamp + 1 }), sdk.CodeInvalid},
		{"no origin", page(func(p *Page) { p.Origin = sdk.DeviceID{} }), sdk.CodeInvalid},
		{"more rows than bytes", page(func(p *Page) { p.Batches[0].Count = 1 << 30 }), sdk.CodeInvalid},
		{"a batch without rows", page(func(p *Page) { p.Batches[0].Count = 0 }), sdk.CodeInvalid},
		{"a model's name as SQL", page(func(p *Page) { p.Batches[0].Model = `x"; drop` }), sdk.CodeInvalid},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m, err := NewReader(bytes.NewReader(c.bytes), codec).Read()
			if sdk.CodeOf(err) != c.code {
				t.Errorf("got %v, %v; want an error with code %s", m, err, c.code)
			}
			if e, ok := errors.AsType[*sdk.Error](err); !ok || e.Message == "" {
				t.Errorf("%v is no sdk.Error", err)
			}
		})
	}
}

func mustFrame(tb testing.TB, codec *Codec, m Message) []byte {
	tb.Helper()
	out, err := codec.AppendFrame(nil, m)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// TestReader_Memory has frames announce much and bring little.
func TestReader_Memory(t *testing.T) {
	codec := newCodec(t)
	short := []byte{0, 0x10, 0, 0, byte(TypeStateBatch), 0, 1, 2, 3}
	allocated := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = NewReader(bytes.NewReader(short), codec).Read()
		}
	}).AllocedBytesPerOp()
	if allocated > 256<<10 {
		t.Errorf("a frame that announces 1 MiB and brings 3 bytes takes %d bytes", allocated)
	}
}

// TestReader_MemoryOfRepeated has frames of a few hundred bytes repeat the smallest elements a million times.
func TestReader_MemoryOfRepeated(t *testing.T) {
	limits := DefaultLimits()
	element := func(field byte, payload ...byte) []byte {
		return append([]byte{field<<3 | 2, byte(len(payload))}, payload...)
	}
	batch := append([]byte{7<<3 | 2, 0xd0, 0x0f}, bytes.Repeat(element(3), 1000)...) // 2000 bytes: as many columns as a batch may have
	position := element(3, make([]byte, leastPosition)...)
	subscribe := append([]byte{1<<3 | 2, 0xc0, 0x0e}, bytes.Repeat(position, 64)...) // 1856 bytes: as many positions as a stream may have
	cases := []struct {
		name string
		typ  Type
		unit []byte
		most uint64 // bytes allocated
	}{
		{"models of Hello", TypeHello, element(8), 1 << 20},
		{"vector of Hello", TypeHello, element(9), 1 << 20},
		{"streams asked for", TypeStateRequest, element(1), 1 << 20},
		{"streams dropped", TypeSharedChangeRequest, element(2), 1 << 20},
		{"batches of a page", TypeStateBatch, element(7), 1 << 20},
		{"columns of one batch", TypeStateResponse, append([]byte{7<<3 | 2, 0xa0, 0x9c, 0x01}, bytes.Repeat(element(3), 10000)...), 1 << 20},
		{"columns of many batches", TypeSharedChange, batch, 40 << 20},
		{"vector of an acknowledgement", TypeAckSharedChanges, element(1), 1 << 20},
		{"vector of a heartbeat", TypeHeartbeat, element(4), 1 << 20},
		{"addresses of Join", TypeJoin, element(5), 1 << 20},
		{"vectors of third devices", TypeHeartbeat, element(5), 1 << 20},
		{"vector of a third device", TypeHeartbeat, element(5, bytes.Repeat(element(2), 60)...), 3 << 20},
		{"positions of a stream asked for", TypeStateRequest, element(1, element(3)...), 1 << 20},
		{"positions of many streams", TypeStateRequest, subscribe, 24 << 20},
		{"empty positions of many streams", TypeStateRequest, append([]byte{1<<3 | 2, 0x80, 0x01}, bytes.Repeat(element(3), 64)...), 1 << 20},
		{"positions of a page", TypeStateBatch, element(3, make([]byte, 27)...), 1 << 20},
		{"epochs", TypeEpochs, element(1), 1 << 20},
		{"positions that an epoch continues", TypeEpochs, element(1, element(4)...), 1 << 20},
		{"positions in a snapshot request", TypeSnapshotRequest, element(4, make([]byte, 27)...), 1 << 20},
		{"vector of a snapshot", TypeSnapshotPage, element(2), 1 << 20},
		{"origins in a snapshot", TypeSnapshotPage, element(3), 1 << 20},
		{"batches in a snapshot", TypeSnapshotPage, element(3, bytes.Repeat(element(2), 60)...), 3 << 20},
		{"models in a snapshot", TypeSnapshotPage, element(4), 1 << 20},
		{"models of an audit", TypeAuditRequest, element(3), 1 << 20},
		{"models of an answer to it", TypeAuditResponse, element(3), 1 << 20},
		{"ranges of a repair", TypeAuditRepair, element(2), 1 << 20},
		{"unknown fields", TypeHeartbeat, element(15), 1 << 20},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			codec := newCodec(t)
			payload := bytes.Repeat(c.unit, (limits.DecodedBytes-64)/len(c.unit))
			wire := frame(c.typ, 1, compressed(t, payload))
			read := func() error {
				_, err := NewReader(bytes.NewReader(wire), codec).Read()
				return err
			}
			_ = read() // makes the buffers that are kept
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_ = read()
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > c.most+uint64(limits.DecodedBytes) {
				t.Errorf("a frame of %d bytes takes %d KiB", len(wire), got>>10)
			}
		})
	}
}

// TestReader_ReadOnly reads what a stranger may say, and refuses the rest before it takes memory for it.
func TestReader_ReadOnly(t *testing.T) {
	codec := newCodec(t)
	const limit = 4 << 10
	hello := &Hello{Device: sdk.DeviceID{1}, Name: "a"}
	for range 2000 {
		hello.Vector = append(hello.Vector, Mark{Stream: Stream{Origin: sdk.DeviceID{1}, Kind: sdk.DeviceOwned}})
	}
	cases := []struct {
		name string
		wire []byte
		code sdk.Code
	}{
		{"a Hello", mustFrame(t, codec, &Hello{Device: sdk.DeviceID{1}}), ""},
		{"a Join", mustFrame(t, codec, &Join{Name: "a"}), ""},
		{"another message", mustFrame(t, codec, &AckSharedChanges{}), sdk.CodeInvalid},
		{"a long frame", []byte{0, 0, 0x20, 0, byte(TypeHello), 0}, sdk.CodeTooLarge},
		{"a short frame that is long", mustFrame(t, codec, hello), sdk.CodeTooLarge},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for range 2 { // the second time with the buffers of the first
				_, err := NewReader(bytes.NewReader(c.wire), codec).ReadOnly(limit, TypeHello, TypeJoin)
				if got := sdk.CodeOf(err); err != nil && got != c.code || err == nil && c.code != "" {
					t.Errorf("got %v; want code %q", err, c.code)
				}
				_, _ = NewReader(bytes.NewReader(c.wire), codec).Read()
			}
		})
	}
}

func TestCodec_TooLarge(t *testing.T) {
	codec := newCodec(t)
	noise := make([]byte, codec.Limits().FrameBytes+1)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(noise)
	page := samplePage(sdk.DeviceOwned, 1)
	page.Batches[0].Rows = noise
	dst := []byte("before")
	out, err := codec.AppendFrame(dst, &StateBatch{Delivery{Page: page}})
	if sdk.CodeOf(err) != sdk.CodeTooLarge || string(out) != "before" {
		t.Errorf("got %d bytes and %v; want the buffer unchanged and code too_large", len(out), err)
	}
	page.Batches[0].Rows = noise[:codec.Limits().MaxPageBytes-1000]
	if _, err := codec.AppendFrame(nil, &StateBatch{Delivery{Page: page}}); err != nil {
		t.Errorf("the largest page that is allowed does not fit a frame: %v", err)
	}
}

// TestCodec_InvalidText sends text that is not UTF-8, as a file name in an error may be.
func TestCodec_InvalidText(t *testing.T) {
	codec := newCodec(t)
	for _, m := range []Message{
		&Error{Code: sdk.CodeInvalid, Message: "open \xff\xfe"},
		&Hello{Device: sdk.DeviceID{1}, Name: "\xff"},
		&Join{Name: "\xff", Addresses: []Address{{"tcp", "\xff"}}},
		&Welcome{LibraryName: "\xff"},
	} {
		if _, err := NewReader(bytes.NewReader(mustFrame(t, codec, m)), codec).Read(); err != nil {
			t.Errorf("%s: %v", m.Type(), err)
		}
	}
}

func FuzzReader(f *testing.F) {
	codec := newCodec(f)
	for _, m := range samples() {
		f.Add(mustFrame(f, codec, m))
	}
	f.Add(frame(TypeError, 1, compressed(f, make([]byte, 4<<20))))
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := NewReader(bytes.NewReader(wire), codec)
		for {
			m, err := r.Read()
			if err != nil {
				return
			}
			again := mustFrame(t, codec, m)
			same, err := NewReader(bytes.NewReader(again), codec).Read()
			if err != nil {
				t.Fatalf("%s was read, written and is not read again: %v", m.Type(), err)
			}
			if diff := cmp.Diff(m, same); diff != "" {
				t.Fatalf("%s changes on the way (-first +second):\n%s", m.Type(), diff)
			}
		}
	})
}

func BenchmarkCodec(b *testing.B) {
	codec := newCodec(b)
	m := &StateBatch{Delivery{Page: samplePage(sdk.DeviceOwned, 5000)}}
	wire := mustFrame(b, codec, m)
	b.Run("encode", func(b *testing.B) {
		b.SetBytes(int64(m.Page.Bytes()))
		var buf []byte
		for b.Loop() {
			buf, _ = codec.AppendFrame(buf[:0], m)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(int64(m.Page.Bytes()))
		for b.Loop() {
			if _, err := NewReader(bytes.NewReader(wire), codec).Read(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
