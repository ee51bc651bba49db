package peersync

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

func TestMachine_Figures(t *testing.T) {
	s := newSolo(t)
	sub, _ := s.subscribed(s.connect(1, 1), rowsOf1)
	var applies []Apply
	for i := range 3 { // the second time it is a repetition
		applies = append(applies, only[Apply](s.page(1, sub.Number, 0, 40, 100+i))...)
	}
	if len(applies) != 1 {
		t.Fatalf("%d pages are applied", len(applies))
	}
	f := s.m.Figures().Peers[deviceID(1)]
	if f.QueuedBytes != 0 || f.StreamsIn == 0 || f.Sessions != 1 {
		t.Errorf("before it is durable: %+v", f)
	}
	s.step(Applied{Generation: applies[0].Generation, Page: applies[0].Page, From: applies[0].From, Accounts: []Account{
		{Model: testModel, Stale: 2, Refused: 3, Parked: 4, Conflicts: 5},
	}})
	s.page(1, sub.Number, 90, 95, 10) // a gap
	s.step(Received{Session: 1, Message: &protocol.Heartbeat{Clock: s.now, Echo: s.now.Add(-3 * time.Millisecond)}})
	f = s.m.Figures().Peers[deviceID(1)]
	want := map[sdk.ModelName]Changes{testModel: {Received: 4, Applied: 1, Stale: 2, Refused: 3, Parked: 4, Conflicts: 5}}
	if diff := cmp.Diff(want, f.Changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if f.Gaps != 1 {
		t.Errorf("%d gaps", f.Gaps)
	}
	trips := s.m.Figures().RoundTrip[""]
	if trips.Sum != 3*time.Millisecond || trips.Counts[4] != 1 {
		t.Errorf("round trips %+v; want one of 3 ms between 2 and 4", trips)
	}
	s.step(DialFailed{Peer: deviceID(2)}) // that nobody asked for
	if n := s.m.Figures().Peers[deviceID(2)].DialFailures; n != 0 {
		t.Errorf("%d failures to dial", n)
	}
	s.step(MembersChanged{})
	if n := len(s.m.tally.peers); n != 0 {
		t.Errorf("%d devices that are no members are remembered", n)
	}
}

// TestMachine_FiguresBounded has a peer name model after model.
func TestMachine_FiguresBounded(t *testing.T) {
	s := newSolo(t)
	sub, _ := s.subscribed(s.connect(1, 1), rowsOf1)
	const pages = 10 * modelsCounted
	for i := range pages {
		page := protocol.Page{Stream: rowsOf1, Heads: at(90), From: 80, Through: 90, Batches: []sdk.Batch{{Model: sdk.ModelName(fmt.Sprintf("m%d", i)), Count: 1}}}
		s.step(Received{Session: 1, Message: protocol.CatchUp(protocol.Delivery{Subscription: sub.Number + 1, Page: page})})
	}
	changes := s.m.Figures().Peers[deviceID(1)].Changes
	if len(changes) != modelsCounted+1 || changes[OtherModels].Received != pages-modelsCounted {
		t.Errorf("%d models, %+v of others", len(changes), changes[OtherModels])
	}
}

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{0, histogramLeast, histogramLeast + 1, h.Bound(histogramBuckets - 1), h.Bound(histogramBuckets-1) + 1, time.Hour} {
		h.observe(d)
	}
	if want := [...]uint64{0: 2, 1: 1, histogramBuckets - 1: 1, histogramBuckets: 2}; h.Counts != want {
		t.Errorf("%v; want %v", h.Counts, want)
	}
}

// BenchmarkFigures is how long a scrape keeps a machine that is connected with so many peers, each of which has all streams.
func BenchmarkFigures(b *testing.B) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := crowd(b, n)
			now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			b.Run("peers", func(b *testing.B) {
				for b.Loop() {
					m.Peers(now)
				}
			})
			b.Run("figures", func(b *testing.B) {
				for b.Loop() {
					m.Figures()
				}
			})
		})
	}
}

// crowd returns a machine with sessions with n peers that all have the same of every stream.
func crowd(tb testing.TB, n int) *Machine {
	tb.Helper()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var members []Member
	stored := Stored{Heads: map[protocol.Stream]protocol.Heads{}}
	var vector []protocol.Mark
	for i := range n {
		id := sdk.DeviceID{1, byte(i >> 8), byte(i)}
		members = append(members, Member{ID: id, Name: fmt.Sprint("d", i)})
		for _, kind := range kinds {
			key := protocol.Stream{Origin: id, Kind: kind}
			stored.Heads[key] = at(1000)
			vector = append(vector, mark(key, 1000))
		}
	}
	m := NewMachine(MachineOptions{
		Self: Self{Device: deviceID(0), Library: protocol.LibraryID{1}, Epoch: protocol.EpochID{1}}, Limits: protocol.DefaultLimits(), Config: DefaultConfig(),
		Members: members, Stored: stored, Rand: rand.New(rand.NewPCG(1, 1)), //nolint:gosec // jitter
	})
	for i, member := range members {
		id := SessionID(i + 1) //nolint:gosec // few
		m.Step(now, PeerUp{Session: id, Peer: member.ID})
		m.Step(now, Received{Session: id, Message: &protocol.Hello{
			MinVersion: 1, MaxVersion: 1, Library: protocol.LibraryID{1}, Device: member.ID, Epoch: protocol.EpochID{byte(i), byte(i >> 8), 9}, Clock: now, Vector: vector,
		}})
		for k := range 12 {
			m.tally.of(member.ID, sdk.ModelName(fmt.Sprint("model", k))).Sent++
		}
	}
	return m
}

// TestEngine_Figures has bytes counted also of connections that are over, and of members only.
func TestEngine_Figures(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	a, b := newHost(t, network, 1, nil), newHost(t, network, 2, nil)
	members := []Member{a.member(), b.member()}
	a.start(members...)
	b.start(members...)
	a.write(sdk.DeviceOwned, 0, 100, "text")
	eventually(t, "b has the rows", sameData(a, b))
	at := func() PeerFigures { return a.engine.Figures().Peers[b.key.id()] }
	var before PeerFigures
	eventually(t, "all is counted", func() bool {
		before = at()
		theirs := b.engine.Figures().Peers[a.key.id()].Changes[testModel]
		return before.BytesIn > 0 && before.BytesOut > 500 && before.Changes[testModel].Sent >= 100 && theirs.Applied >= 100 && theirs.Received >= theirs.Applied
	})
	b.end()
	eventually(t, "b is gone", func() bool { return a.stateOf(b).State == Offline })
	if after := at(); after.BytesOut < before.BytesOut || after.Sessions != before.Sessions {
		t.Errorf("after the session %+v; before it ended %+v", after, before)
	}
	stranger := newTestKey(t, 9)
	p := dialRaw(t, a, stranger)
	p.hello(stranger, 1)
	p.ended()
	eventually(t, "the stranger's connection is over", func() bool {
		a.engine.mu.Lock()
		defer a.engine.mu.Unlock()
		return len(a.engine.links) == 0
	})
	a.engine.mu.Lock()
	defer a.engine.mu.Unlock()
	if _, kept := a.engine.ended[stranger.id()]; kept || len(a.engine.ended) != 1 {
		t.Errorf("bytes of %d devices are kept", len(a.engine.ended))
	}
}

// TestEngine_CountsSlow has a peer say nothing, and one read nothing, for longer than it may.
func TestEngine_CountsSlow(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	member := newTestKey(t, 7)
	a := newHost(t, network, 1, func(o *Options) {
		o.Limits = protocol.DefaultLimits()
		o.Limits.HandshakeTime, o.Limits.SendTime = 500*time.Millisecond, 50*time.Millisecond
		o.Config.Heartbeat = time.Hour // so that nothing else ends it
	})
	a.start(a.member(), Member{ID: member.id(), Name: "raw"})
	dialRaw(t, a, member).ended()
	over := func(limit string) func() bool {
		return func() bool { return a.engine.Figures().Refusals[limit] > 0 && a.engine.Status().Refusals[limit] > 0 }
	}
	eventually(t, "the handshake that took too long is counted", over("handshake_time"))
	p := dialRaw(t, a, member)
	p.hello(member, 1)
	p.say(protocol.RequestFor(sdk.DeviceOwned, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: a.key.id()}}, WindowBytes: 1 << 30}))
	random := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // what does not compress
	for i := range 20 {                   // more than the connection holds
		var text strings.Builder
		for range 1000 {
			fmt.Fprintf(&text, "%016x", random.Uint64())
		}
		a.write(sdk.DeviceOwned, i, 1, text.String())
	}
	eventually(t, "what did not leave in time is counted", over("send_time"))
}

func TestTally_heldIsBounded(t *testing.T) {
	tally := newTally()
	for n := range 1000 {
		tally.held(sdk.DeviceID{1}, sdk.Code(fmt.Sprint("code ", n)))
	}
	tally.held(sdk.DeviceID{1}, "code 3")
	holds := tally.peer(sdk.DeviceID{1}).Holds
	if len(holds) > holdsCounted || holds["code 3"] != 2 || holds[sdk.CodeInternal] < 900 {
		t.Errorf("%d codes: %v", len(holds), holds)
	}
}

// TestEngine_Alive wants an answer from a loop that turns, and none from one that hangs or has ended.
func TestEngine_Alive(t *testing.T) {
	a := newHost(t, sdktest.NewMemoryTransport(), 1, nil)
	ctx, cancel := context.WithCancel(t.Context())
	late, over := context.WithTimeout(ctx, time.Millisecond)
	defer over()
	if err := a.engine.Alive(late); err == nil {
		t.Error("a loop that does not run is alive")
	}
	a.start(a.member())
	if err := a.engine.Alive(ctx); err != nil {
		t.Error(err)
	}
	a.engine.stepMu.Lock() // a step that does not end
	hangs, end := context.WithTimeout(ctx, 300*time.Millisecond)
	for hangs.Err() == nil {
		if err := a.engine.Alive(hangs); err != nil {
			break
		}
	}
	if hangs.Err() == nil {
		t.Error("a loop that hangs is alive")
	}
	end()
	a.engine.stepMu.Unlock()
	cancel()
	a.end()
	if err := a.engine.Alive(t.Context()); err == nil {
		t.Error("a loop that has ended is alive")
	}
}
