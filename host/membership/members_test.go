package membership

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

func TestModel_Laws(t *testing.T) { sdktest.Model(t, sdk.Model[Member]{Name: MemberModel, Version: 1}) }

func TestModel_Validate(t *testing.T) {
	identity := testIdentity(t, "alice")
	good := func() Member {
		return Member{Shared: sdk.Shared{ID: sdk.RecordID(identity.ID())}, Name: "alice", PublicKey: identity.PublicKey(), JoinedAt: start}
	}
	for name, test := range map[string]struct {
		change func(*Member)
		ok     bool
	}{
		"good":          {func(*Member) {}, true},
		"addresses":     {func(m *Member) { m.Addresses = json.RawMessage(`[{"transport":"tcp","address":"x:1"}]`) }, true},
		"another key":   {func(m *Member) { m.PublicKey = testIdentity(t, "bob").PublicKey() }, false},
		"a short key":   {func(m *Member) { m.PublicKey = m.PublicKey[:5] }, false},
		"no name":       {func(m *Member) { m.Name = "\t" }, false},
		"odd name":      {func(m *Member) { m.Name = "a\x1b[2Jb" }, false},
		"no list":       {func(m *Member) { m.Addresses = json.RawMessage(`{}`) }, false},
		"empty address": {func(m *Member) { m.Addresses = json.RawMessage(`[{"transport":"tcp"}]`) }, false},
	} {
		m := good()
		test.change(&m)
		if err := Model().Validate(&m); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMembers_RunFollows(t *testing.T) {
	defer goleak.VerifyNone(t)
	w := &wall{now: start}
	alice, carol := founder(t, w, "alice"), newDevice(t, w, "carol")
	changes := make(chan []Member, 16)
	defer alice.members.OnChange(func(all []Member) { changes <- all })()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- alice.members.Run(ctx) }()

	if _, err := carol.present(t.Context(), alice, alice.invite(t)); err != nil {
		t.Fatal(err)
	}
	if got, want := names(<-changes), []string{"alice", "carol"}; !slices.Equal(got, want) {
		t.Errorf("members %v, want %v", got, want)
	}
	alice.edit(carol.identity.ID(), set("name", "caroline"))
	if got, want := names(<-changes), []string{"alice", "caroline"}; !slices.Equal(got, want) {
		t.Errorf("members %v, want %v", got, want)
	}
	alice.edit(carol.identity.ID(), set("retired_at", start.UnixMicro()))
	<-changes
	if _, known := alice.members.Member(carol.identity.ID()); !known || alice.members.Enrolled(carol.identity.ID()) {
		t.Errorf("a retired device: known %v, enrolled %v", known, alice.members.Enrolled(carol.identity.ID()))
	}
	// What others say of this device is put right.
	alice.edit(alice.identity.ID(), set("name", "mallory"))
	for got := names(<-changes); !slices.Contains(got, "alice"); got = names(<-changes) {
		if !slices.Contains(got, "mallory") {
			t.Fatalf("members %v", got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// An update that does not stand, or another process with this device's key, must not end in a contest for ever.
func TestMembers_DoesNotInsist(t *testing.T) {
	w := &wall{now: start}
	alice := founder(t, w, "alice")
	for i, want := range []int{2, 2, 3} {
		name := []string{"mallory", "mallory", "oscar"}[i]
		alice.edit(alice.identity.ID(), set("name", name))
		if err := alice.members.keepOwn(t.Context()); err != nil {
			t.Fatal(err)
		}
		if alice.commits != want {
			t.Errorf("after edit %d: %d commits, want %d", i, alice.commits, want)
		}
	}
}

func TestMembers_BadRecords(t *testing.T) {
	w := &wall{now: start}
	alice, bob := founder(t, w, "alice"), newDevice(t, w, "bob")
	if _, err := bob.present(t.Context(), alice, alice.invite(t)); err != nil {
		t.Fatal(err)
	}
	id := bob.identity.ID()
	alice.edit(id, set("addresses", `"nowhere"`))
	alice.edit(id, set("public_key", []byte("not a key")))
	if err := alice.members.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, ok := alice.members.Member(id)
	if where, err := got.Where(); !ok || !alice.members.Enrolled(id) || got.PublicKey != nil || where != nil || err != nil {
		t.Errorf("member %+v, %v, where %v, %v", got, ok, where, err)
	}
}

func TestMembers_DeletedIsNotMadeAgain(t *testing.T) {
	w := &wall{now: start}
	alice := founder(t, w, "alice")
	alice.edit(alice.identity.ID(), func(r *sdk.Record, at sdk.Version) { r.Deleted = at })
	alice.restart(t, w)
	if err := alice.members.Announce(t.Context(), "alice", nil); err != nil {
		t.Fatal(err)
	}
	if all := alice.members.All(); len(all) != 0 {
		t.Errorf("members %v", names(all))
	}
}

func TestMembers_Announce(t *testing.T) {
	w := &wall{now: start}
	alice := founder(t, w, "alice")
	for range 2 {
		if err := alice.members.Announce(t.Context(), "alice", lan("127.0.0.1:7420")); err != nil {
			t.Fatal(err)
		}
	}
	if alice.commits != 1 {
		t.Errorf("%d commits for one record that did not change", alice.commits)
	}
	if err := alice.members.Announce(t.Context(), "", nil); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("no name: %v", err)
	}
	if err := newDevice(t, w, "bob").members.Announce(t.Context(), "bob", nil); err != nil {
		t.Errorf("without a library: %v", err)
	}
	if _, err := Found(t.Context(), alice.store, LibraryID{2}, "again"); sdk.CodeOf(err) != sdk.CodeDenied {
		t.Errorf("a second library: %v", err)
	}
}

func TestMembers_RunEnds(t *testing.T) {
	defer goleak.VerifyNone(t)
	w := &wall{now: start}
	alice := founder(t, w, "alice")
	alice.store.mu.Lock()
	alice.meta[metaLibrary] = []byte("{")
	alice.store.mu.Unlock()
	if err := alice.members.Run(t.Context()); sdk.CodeOf(err) != sdk.CodeInternal {
		t.Errorf("a damaged database: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := newDevice(t, w, "bob").members.Run(ctx); err != nil {
		t.Errorf("ended at once: %v", err)
	}
}

func TestReachable(t *testing.T) {
	network := func(text string) net.Addr {
		ip, n, err := net.ParseCIDR(text)
		if err != nil {
			t.Fatal(err)
		}
		return &net.IPNet{IP: ip, Mask: n.Mask}
	}
	interfaces := func() ([]net.Addr, error) {
		return []net.Addr{network("127.0.0.1/8"), network("192.0.2.7/24"), network("fe80::1/64"), network("2001:db8::7/64")}, nil
	}
	for _, test := range []struct {
		listen    string
		advertise []string
		want      []string
	}{
		{"127.0.0.1:7420", nil, []string{"127.0.0.1:7420"}},
		{"nas:7420", nil, []string{"nas:7420"}},
		{"0.0.0.0:7420", []string{"nas:1"}, []string{"nas:1"}},
		{"0.0.0.0:7420", nil, []string{"192.0.2.7:7420", "127.0.0.1:7420"}},
		{":7420", nil, []string{"192.0.2.7:7420", "[2001:db8::7]:7420", "127.0.0.1:7420"}},
		{"a.subject", nil, []string{"a.subject"}},
		{"", nil, nil},
	} {
		got, err := Reachable(test.listen, test.advertise, interfaces)
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
			t.Errorf("%q: %v (-want +got):\n%s", test.listen, err, diff)
		}
	}
	broken := func() ([]net.Addr, error) { return nil, errors.New("no such thing") }
	if _, err := Reachable(":1", nil, broken); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("no interfaces: %v", err)
	}
}

func TestPairing_WaitsItsTurn(t *testing.T) {
	alice := founder(t, &wall{now: start}, "alice")
	alice.pairing.turn <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, _, err := alice.pairing.Invite(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
