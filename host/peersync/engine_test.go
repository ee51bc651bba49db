package peersync

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testKey is a device's key and the Security over it.
type testKey struct {
	key  ed25519.PrivateKey
	cert tls.Certificate
}

func newTestKey(tb testing.TB, seed byte) *testKey {
	tb.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	return &testKey{key: key, cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
}

func keyID(key ed25519.PublicKey) sdk.DeviceID {
	sum := sha256.Sum256(key)
	return sdk.DeviceID(sum[:16])
}

func (k *testKey) id() sdk.DeviceID { return keyID(k.key.Public().(ed25519.PublicKey)) }

func (k *testKey) ServerTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{k.cert}, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true}
}

func (k *testKey) ClientTLS(expected sdk.DeviceID) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{k.cert}, InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if id, err := k.PeerID(state); err != nil || id != expected {
				return fmt.Errorf("another device: %v, %w", id, err)
			}
			return nil
		},
	}
}

func (k *testKey) PeerID(state tls.ConnectionState) (sdk.DeviceID, error) {
	key, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return sdk.DeviceID{}, errors.New("not an Ed25519 key")
	}
	return keyID(key), nil
}

// host is an engine with its store, over a memory transport.
type host struct {
	tb     testing.TB
	key    *testKey
	store  *memoryStore
	clock  *hlc.Clock
	engine *Engine
	net    *sdktest.MemoryTransport
	stop   context.CancelFunc
	done   chan struct{}
	mu     sync.Mutex
}

func testConfig() Config {
	c := DefaultConfig()
	c.Heartbeat, c.RetryMin, c.RetryMax, c.StallTime = 200*time.Millisecond, 5*time.Millisecond, 100*time.Millisecond, 500*time.Millisecond
	return c
}

func newHost(tb testing.TB, network *sdktest.MemoryTransport, seed byte, change func(*Options)) *host {
	tb.Helper()
	return newHostOn(tb, network, seed, 1, newMemoryStore(newTestKey(tb, seed).id()), change)
}

// newHostOn is start number start of a host on its data.
func newHostOn(tb testing.TB, network *sdktest.MemoryTransport, seed, start byte, store *memoryStore, change func(*Options)) *host {
	tb.Helper()
	key := newTestKey(tb, seed)
	h := &host{tb: tb, key: key, store: store, clock: hlc.NewClock(time.Now, store.top(), 0), net: network}
	h.store.onGap = func(text string) { tb.Error(text) }
	o := Options{
		Self: Self{
			Device: key.id(), Name: fmt.Sprintf("host%d", seed), Library: protocol.LibraryID{1}, Epoch: protocol.EpochID{14: start, 15: seed}, Started: h.clock.Now(),
		},
		Stored:  store.stored(),
		Applier: h.store, Reader: h.store, Ranges: h.store, Keeper: hostKeeper{h.store, h}, Security: key, Config: testConfig(),
	}
	if testing.Verbose() {
		o.Log = hclog.New(&hclog.LoggerOptions{Name: o.Self.Name, Level: hclog.Debug, Output: testWriter{tb}})
	}
	if change != nil {
		change(&o)
	}
	engine, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	h.engine = engine
	return h
}

// hostKeeper closes stamps where the host commits.
type hostKeeper struct {
	*memoryStore
	h *host
}

func (k hostKeeper) Seal(context.Context) error {
	k.h.write(sdk.SharedByAll, 0, 0, "")
	return nil
}

type testWriter struct{ tb testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.tb.Log(string(bytes.TrimSpace(b)))
	return len(b), nil
}

func (h *host) member() Member {
	return Member{ID: h.key.id(), Name: h.engine.options.Self.Name, Addresses: []protocol.Address{{Transport: "memory", Address: h.engine.options.Self.Name}}}
}

// start runs the host until the test ends.
func (h *host) start(members ...Member) {
	h.tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h.stop, h.done = cancel, make(chan struct{})
	listener, err := h.net.Listen(ctx, h.engine.options.Self.Name, nil)
	if err != nil {
		h.tb.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := h.engine.Run(ctx); err != nil {
			h.tb.Error(err)
		}
	})
	running.Go(func() {
		if err := h.engine.Serve(ctx, listener, "test"); err != nil {
			h.tb.Error(err)
		}
	})
	go func() {
		running.Wait()
		close(h.done)
	}()
	h.engine.SetMembers(members)
	h.engine.AddTransport("test", h.net)
	h.tb.Cleanup(h.end)
}

func (h *host) end() {
	h.stop()
	<-h.done
}

func (h *host) write(kind sdk.Ownership, first, n int, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.engine.Committed(h.store.commit(kind, h.engine.options.Self.Epoch, h.clock.Now, first, n, text))
}

// givesUp is when a test does; it decides nothing else.
const givesUp = 2 * time.Minute

// eventually waits until ok, which is asked often, or fails after a long time.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.NewTimer(givesUp)
	defer deadline.Stop()
	every := time.NewTicker(2 * time.Millisecond)
	defer every.Stop()
	for !ok() {
		select {
		case <-every.C:
		case <-deadline.C:
			tb.Fatalf("not in %s: %s", givesUp, what)
		}
	}
}

func sameData(hosts ...*host) func() bool {
	return func() bool {
		for _, h := range hosts[1:] {
			if !slices.Equal(hosts[0].store.vector(), h.store.vector()) {
				return false
			}
		}
		for _, h := range hosts[1:] {
			if !slices.Equal(hosts[0].store.dump(), h.store.dump()) {
				return false
			}
		}
		return true
	}
}

func (h *host) stateOf(other *host) PeerStatus {
	for _, p := range h.engine.Peers() {
		if p.ID == other.key.id() {
			return p
		}
	}
	return PeerStatus{}
}

func TestEngine_TwoDevices(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	a, b := newHost(t, network, 1, nil), newHost(t, network, 2, nil)
	members := []Member{a.member(), b.member()}
	for i := range 20 {
		a.write(sdk.DeviceOwned, i*200, 200, "row")
	}
	a.start(members...)
	b.start(members...)
	eventually(t, "b has a's rows", sameData(a, b))
	eventually(t, "both are live", func() bool { return a.stateOf(b).State == Live && b.stateOf(a).State == Live })
	for i := range 50 {
		a.write(sdk.SharedByAll, i, 1, "a")
		b.write(sdk.SharedByAll, i, 3, "b")
		b.write(sdk.DeviceOwned, i, 2, "b")
	}
	eventually(t, "both have everything", sameData(a, b))
	status := b.stateOf(a)
	if status.BytesIn == 0 || status.RowsIn < 4050 || status.RTT == 0 || status.Via != "test" {
		t.Errorf("status: %+v", status)
	}
	if diff := cmp.Diff(a.engine.Vector(), a.store.vector()); diff != "" {
		t.Errorf("the machine's vector differs from the store's (-machine +store):\n%s", diff)
	}
}

func TestEngine_Reconnects(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	a, b := newHost(t, network, 1, nil), newHost(t, network, 2, nil)
	members := []Member{a.member(), b.member()}
	a.start(members...)
	b.start(members...)
	for i := range 30 {
		eventually(t, "connected", func() bool { return a.stateOf(b).State == Live })
		a.write(sdk.DeviceOwned, i*10, 10, fmt.Sprint(i))
		b.write(sdk.SharedByAll, i*10, 1, fmt.Sprint(i))
		a.engine.mu.Lock()
		for _, l := range a.engine.links {
			l.cut()
		}
		a.engine.mu.Unlock()
	}
	eventually(t, "both have everything", sameData(a, b))
}

func TestEngine_Relays(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	hosts := []*host{newHost(t, network, 1, nil), newHost(t, network, 2, nil), newHost(t, network, 3, nil)}
	members := []Member{hosts[0].member(), hosts[1].member(), hosts[2].member()}
	without := func(i int) []Member { // a line: the ends can not dial each other
		out := slices.Clone(members)
		out[i].Addresses = nil
		return out
	}
	hosts[0].start(without(2)...)
	hosts[1].start(members...)
	hosts[2].start(without(0)...)
	for i := range 40 {
		for _, h := range hosts {
			h.write(sdk.DeviceOwned, i*7, 9, fmt.Sprint(i))
			h.write(sdk.SharedByAll, i, 1, fmt.Sprint(i))
		}
	}
	eventually(t, "all have everything", sameData(hosts...))
}

func TestEngine_HoldsAndRetries(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	a, b := newHost(t, network, 1, nil), newHost(t, network, 2, nil)
	members := []Member{a.member(), b.member()}
	var mu sync.Mutex
	full := true
	b.store.fail = func(page protocol.Page) error {
		mu.Lock()
		defer mu.Unlock()
		if full && page.Kind == sdk.DeviceOwned {
			return sdk.Errorf(sdk.CodeUnavailable, "the disk is full")
		}
		return nil
	}
	a.start(members...)
	b.start(members...)
	a.write(sdk.DeviceOwned, 0, 100, "x")
	a.write(sdk.SharedByAll, 0, 1, "tag")
	eventually(t, "b holds a and says why", func() bool {
		p := b.stateOf(a)
		return p.State == Held && p.Reason == "the rows of host1: the disk is full"
	})
	eventually(t, "a knows", func() bool { return a.stateOf(b).State == Held })
	eventually(t, "the other stream goes on", func() bool { return len(b.store.dump()) == 1 })
	mu.Lock()
	full = false
	mu.Unlock()
	eventually(t, "b has everything", sameData(a, b))
	eventually(t, "live again", func() bool { return a.stateOf(b).State == Live && b.stateOf(a).State == Live })
}

type pairing func(sdk.DeviceID, ed25519.PublicKey, protocol.Join) (protocol.Welcome, error)

func (p pairing) Join(_ context.Context, peer sdk.DeviceID, key ed25519.PublicKey, join protocol.Join) (protocol.Welcome, error) {
	return p(peer, key, join)
}

func TestPair(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	joiner := newTestKey(t, 9)
	a := newHost(t, network, 1, func(o *Options) {
		o.Pairing = pairing(func(peer sdk.DeviceID, key ed25519.PublicKey, join protocol.Join) (protocol.Welcome, error) {
			switch {
			case peer != joiner.id() || keyID(key) != peer:
				return protocol.Welcome{}, sdk.Errorf(sdk.CodeDenied, "another device")
			case string(join.Secret) != "secret":
				return protocol.Welcome{}, sdk.Errorf(sdk.CodeExpired, "this invitation was used already; ask for a new one")
			}
			return protocol.Welcome{Library: protocol.LibraryID{1}, LibraryName: "home", Members: []byte(join.Name)}, nil
		})
	})
	a.start(a.member())
	ctx := t.Context()
	pair := func(secret string) (protocol.Welcome, error) {
		conn, err := network.Dial(ctx, "host1")
		if err != nil {
			t.Fatal(err)
		}
		return Pair(ctx, conn, joiner.ClientTLS(a.key.id()), protocol.Join{Secret: []byte(secret), Name: "new"})
	}
	welcome, err := pair("secret")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(protocol.Welcome{Library: protocol.LibraryID{1}, LibraryName: "home", Members: []byte("new")}, welcome); diff != "" {
		t.Error(diff)
	}
	if _, err := pair("wrong"); sdk.CodeOf(err) != sdk.CodeExpired || err.Error() != "this invitation was used already; ask for a new one" {
		t.Errorf("wrong secret: %v", err)
	}
}

// rawPeer is a connection whose bytes the test writes itself.
type rawPeer struct {
	tb   testing.TB
	conn *tls.Conn
	wire *netConn
	w    *protocol.Writer
	r    *protocol.Reader
}

func dialRaw(tb testing.TB, h *host, key *testKey) *rawPeer {
	tb.Helper()
	conn, err := h.net.Dial(context.Background(), h.engine.options.Self.Name)
	if err != nil {
		tb.Fatal(err)
	}
	wire := newNetConn(conn)
	secure := tls.Client(wire, key.ClientTLS(h.key.id()))
	if err := secure.Handshake(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = wire.Close() })
	return &rawPeer{tb: tb, conn: secure, wire: wire, w: protocol.NewWriter(secure, h.engine.codec), r: protocol.NewReader(secure, h.engine.codec)}
}

func (p *rawPeer) say(messages ...protocol.Message) {
	p.tb.Helper()
	for _, msg := range messages {
		if err := p.w.Write(msg); err != nil {
			p.tb.Fatal(err)
		}
	}
}

func (p *rawPeer) hello(key *testKey, library byte) {
	p.tb.Helper()
	p.say(&protocol.Hello{MinVersion: 1, MaxVersion: 1, Library: protocol.LibraryID{library}, Device: key.id(), Name: "raw", Clock: time.Now()})
}

// ended reads until the host ends the connection, and returns the last Error that it said.
func (p *rawPeer) ended() *protocol.Error {
	var last *protocol.Error
	for {
		msg, err := p.r.Read()
		if err != nil {
			return last
		}
		if e, ok := msg.(*protocol.Error); ok {
			last = e
		}
	}
}

func TestEngine_Refuses(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	member, stranger := newTestKey(t, 7), newTestKey(t, 8)
	a, b := newHost(t, network, 1, nil), newHost(t, network, 2, nil)
	members := []Member{a.member(), b.member(), {ID: member.id(), Name: "raw"}}
	a.start(members...)
	b.start(members...)
	page := protocol.Delivery{Page: protocol.Page{Stream: protocol.Stream{Origin: a.key.id(), Kind: sdk.DeviceOwned}, Heads: at(5), Through: 5}}
	cases := []struct {
		name string
		key  *testKey
		say  func(p *rawPeer)
		code sdk.Code
	}{
		{"a stranger", stranger, func(p *rawPeer) { p.hello(stranger, 1) }, sdk.CodeDenied},
		{"another library", member, func(p *rawPeer) { p.hello(member, 2) }, sdk.CodeDenied},
		{"another device's Hello", member, func(p *rawPeer) { p.hello(stranger, 1) }, sdk.CodeDenied},
		{"another protocol", member, func(p *rawPeer) {
			p.say(&protocol.Hello{MinVersion: 7, MaxVersion: 9, Library: protocol.LibraryID{1}, Device: member.id()})
		}, sdk.CodeUnsupported},
		{"a page before Hello", member, func(p *rawPeer) { p.say(&protocol.StateBatch{Delivery: page}) }, sdk.CodeInvalid},
		{"a page of a stranger, of which only the header comes", stranger, func(p *rawPeer) {
			_, _ = p.conn.Write([]byte{0, 0, 0x80, 0, byte(protocol.TypeStateBatch), 0})
		}, sdk.CodeInvalid},
		{"a stranger's Hello too long", stranger, func(p *rawPeer) {
			_, _ = p.conn.Write([]byte{0, 2, 0, 0, byte(protocol.TypeHello), 0})
		}, sdk.CodeTooLarge},
		{"two Hellos", member, func(p *rawPeer) { p.hello(member, 1); p.hello(member, 1) }, sdk.CodeInvalid},
		{"an invitation where there is none", stranger, func(p *rawPeer) { p.say(&protocol.Join{MinVersion: 1, MaxVersion: 1}) }, sdk.CodeDenied},
		{"garbage", member, func(p *rawPeer) { p.hello(member, 1); _, _ = p.conn.Write(bytes.Repeat([]byte{0xff}, 100)) }, ""},
		{"garbage in a frame", member, func(p *rawPeer) {
			p.hello(member, 1)
			_, _ = p.conn.Write([]byte{0, 0, 0, 6, byte(protocol.TypeHeartbeat), 1, 1, 2, 3, 4})
		}, ""},
		{"a frame cut short", member, func(p *rawPeer) {
			p.hello(member, 1)
			_, _ = p.conn.Write([]byte{0, 0, 1, 0, byte(protocol.TypeHeartbeat), 0, 1})
			_ = p.conn.CloseWrite()
		}, ""},
		{"a frame too long", member, func(p *rawPeer) {
			p.hello(member, 1)
			_, _ = p.conn.Write([]byte{0x7f, 0, 0, 0, byte(protocol.TypeStateBatch), 0})
		}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := dialRaw(t, a, c.key)
			c.say(p)
			last := p.ended()
			if c.code == "" {
				return
			}
			if last == nil || last.Code != c.code || last.Message == "" {
				t.Errorf("got %+v, want an error with code %s", last, c.code)
			}
		})
	}
	a.write(sdk.DeviceOwned, 0, 10, "still here")
	eventually(t, "the others go on", sameData(a, b))
}

// TestEngine_ForgedPages has a member send pages that it was not asked for, of this device and of others.
func TestEngine_ForgedPages(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	member := newTestKey(t, 7)
	a := newHost(t, network, 1, nil)
	a.start(a.member(), Member{ID: member.id(), Name: "raw"})
	p := dialRaw(t, a, member)
	p.hello(member, 1)
	for _, origin := range []sdk.DeviceID{a.key.id(), deviceID(5), member.id()} {
		for _, kind := range kinds {
			page := protocol.Page{Stream: protocol.Stream{Origin: origin, Kind: kind}, Heads: at(1 << 40), Through: 1 << 40}
			p.say(protocol.Live(protocol.Delivery{Subscription: 99, Page: page}), protocol.CatchUp(protocol.Delivery{Subscription: 99, Page: page}))
		}
	}
	p.say(&protocol.Error{Code: sdk.CodeInternal, Message: "bye"})
	p.ended()
	if marks := a.engine.Vector(); len(marks) != 0 {
		t.Errorf("a took in pages it never asked for: %v", marks)
	}
}

// TestEngine_SlowPeer has a peer that asks for everything and reads nothing: what is queued for it stays within the
// window, and another peer is served.
func TestEngine_SlowPeer(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	slow := newTestKey(t, 7)
	a, b := newHost(t, network, 1, func(o *Options) {
		o.Limits = protocol.DefaultLimits()
		o.Limits.WindowBytes = 1 << 20
	}), newHost(t, network, 2, nil)
	members := []Member{a.member(), b.member(), {ID: slow.id(), Name: "slow"}}
	a.start(members...)
	b.start(members...)
	p := dialRaw(t, a, slow)
	p.hello(slow, 1)
	for _, kind := range kinds {
		p.say(protocol.RequestFor(kind, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: a.key.id()}}, WindowBytes: 1 << 30}))
	}
	text := string(bytes.Repeat([]byte("0123456789abcdef"), 64))
	for i := range 40 {
		a.write(sdk.DeviceOwned, i*250, 250, text)
	}
	eventually(t, "the quick peer has everything", sameData(a, b))
	a.engine.mu.Lock()
	defer a.engine.mu.Unlock()
	for _, l := range a.engine.links {
		l.mu.Lock()
		queued := 0
		for _, msg := range slices.Concat(l.bulk, l.urgent) {
			if d, ok := protocol.DeliveryOf(msg); ok {
				queued += d.Page.Bytes()
			}
		}
		l.mu.Unlock()
		if queued > 2<<20 {
			t.Errorf("%d bytes are queued for a peer that does not read; the window is 1 MiB", queued)
		}
	}
}

// TestEngine_HalfOpen has a peer that says Hello and then nothing: it is noticed and another session may follow.
func TestEngine_HalfOpen(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	silent := newTestKey(t, 7)
	a := newHost(t, network, 1, nil)
	a.start(a.member(), Member{ID: silent.id(), Name: "silent"})
	p := dialRaw(t, a, silent)
	p.hello(silent, 1)
	p.ended()
	eventually(t, "a sees it offline", func() bool {
		peers := a.engine.Peers()
		return peers[0].State == Offline && peers[0].Reason != ""
	})
}

// TestEngine_RetiredMidSession cuts off a member that is retired while connected.
func TestEngine_RetiredMidSession(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	a, b := newHost(t, network, 1, nil), newHost(t, network, 2, nil)
	a.start(a.member(), b.member())
	b.start(a.member(), b.member())
	eventually(t, "connected", func() bool { return a.stateOf(b).State == Live })
	retired := b.member()
	retired.Retired = true
	a.engine.SetMembers([]Member{a.member(), retired})
	eventually(t, "cut off on both sides", func() bool { return a.stateOf(b).State == Offline && b.stateOf(a).State != Live })
	eventually(t, "b learns why", func() bool {
		return bytes.Contains([]byte(b.stateOf(a).Reason), []byte("retired"))
	})
}

func TestEngine_RestartedTransport(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	a := newHost(t, network, 1, nil)
	a.start(a.member())
	listener, err := network.Listen(t.Context(), "second", nil)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- a.engine.Serve(context.Background(), listener, "second") }()
	_ = listener.Close()
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a listener that closes by itself: got %v, want net.ErrClosed", err)
	}
	a.engine.RemoveTransport("test")
	a.engine.AddTransport("test", network)
}
