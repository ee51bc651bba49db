package membership

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/sdk"
)

func names(members []Member) []string {
	var names []string
	for _, m := range members {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	return names
}

func TestPairing_TwoDevices(t *testing.T) {
	w := &wall{now: start}
	alice, bob := founder(t, w, "alice"), newDevice(t, w, "bob")
	code, expires, err := alice.pairing.Invite(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := start.Add(DefaultLife); !expires.Equal(want) {
		t.Errorf("expires %s, want %s", expires, want)
	}
	ticket, err := Decode(code)
	if err != nil {
		t.Fatal(err)
	}
	if stored := alice.meta[metaInvitations]; bytes.Contains(stored, []byte(base64.StdEncoding.EncodeToString(ticket.Secret))) {
		t.Errorf("the secret is stored: %s", stored)
	}
	if diff := cmp.Diff(lan("127.0.0.1:7420"), ticket.Addresses); diff != "" || ticket.Inviter != alice.identity.ID() {
		t.Errorf("inviter %s, addresses (-want +got):\n%s", ticket.Inviter, diff)
	}

	welcome, err := bob.present(t.Context(), alice, ticket)
	if err != nil {
		t.Fatal(err)
	}
	if !alice.members.Enrolled(bob.identity.ID()) {
		t.Error("alice does not know bob when Accept returns")
	}
	library, err := Joined(t.Context(), bob.store, bob.identity.ID(), ticket.Inviter, welcome)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Library{ID: LibraryID{1}, Name: "home"}); library != want {
		t.Errorf("library %v, want %v", library, want)
	}

	// Before any sync, bob knows both; it has written nothing of its own.
	if err := bob.members.Announce(t.Context(), "bob", lan("127.0.0.1:7421")); err != nil {
		t.Fatal(err)
	}
	if got, want := names(bob.members.All()), []string{"alice", "bob"}; !slices.Equal(got, want) || bob.commits != 0 {
		t.Errorf("bob knows %v, want %v; wrote %d records", got, want, bob.commits)
	}
	met, _ := bob.members.Member(alice.identity.ID())
	if where, err := met.Where(); err != nil || !cmp.Equal(where, lan("127.0.0.1:7420")) || !bytes.Equal(met.PublicKey, alice.identity.PublicKey()) {
		t.Errorf("bob met %+v, %v", met, err)
	}

	// Afterwards the records stand, the introductions are forgotten, and a restart changes nothing.
	bob.receive(alice.store)
	bob.restart(t, w)
	if err := bob.members.Announce(t.Context(), "bob", lan("127.0.0.1:7422")); err != nil {
		t.Fatal(err)
	}
	if s, _, err := readStanding(t.Context(), bob.store); err != nil || len(s.Introduced) != 0 || !s.Enrolled {
		t.Errorf("standing %+v, %v", s, err)
	}
	own, _ := bob.members.Member(bob.identity.ID())
	if where, err := own.Where(); err != nil || !cmp.Equal(where, lan("127.0.0.1:7422")) || bob.commits != 1 {
		t.Errorf("bob's own record: %v, %v after %d commits", where, err, bob.commits)
	}
}

type refusal struct {
	act  func(t *testing.T, w *wall, alice, bob *device) error
	code sdk.Code
	want string
}

func refusals() map[string]refusal {
	return map[string]refusal{
		"expired": {func(t *testing.T, w *wall, alice, bob *device) error {
			ticket := alice.invite(t)
			w.pass(DefaultLife)
			_, err := bob.present(t.Context(), alice, ticket)
			return err
		}, sdk.CodeExpired, "expired at 2026-11-22T07:20:00Z"},
		"used by another": {func(t *testing.T, w *wall, alice, bob *device) error {
			ticket := alice.invite(t)
			if _, err := newDevice(t, w, "carol").present(t.Context(), alice, ticket); err != nil {
				return err
			}
			alice.restart(t, w) // also over a restart
			_, err := bob.present(t.Context(), alice, ticket)
			return err
		}, sdk.CodeDenied, "already been used"},
		"unknown": {func(t *testing.T, _ *wall, alice, bob *device) error {
			ticket := alice.invite(t)
			ticket.Secret[3] ^= 1
			_, err := bob.present(t.Context(), alice, ticket)
			return err
		}, sdk.CodeDenied, "does not know this invitation"},
		"of another device": {func(t *testing.T, w *wall, alice, bob *device) error {
			_, err := bob.present(t.Context(), alice, founder(t, w, "dave").invite(t))
			return err
		}, sdk.CodeDenied, "does not know this invitation"},
		"a short secret": {func(t *testing.T, _ *wall, alice, bob *device) error {
			_, err := bob.present(t.Context(), alice, Ticket{Secret: []byte("x")})
			return err
		}, sdk.CodeInvalid, "want 16"},
		"a key of another": {func(t *testing.T, _ *wall, alice, bob *device) error {
			join := Join{Secret: alice.invite(t).Secret, Name: "bob"}
			_, err := alice.pairing.Accept(t.Context(), bob.identity.ID(), alice.identity.PublicKey(), join)
			return err
		}, sdk.CodeDenied, "does not follow from its key"},
		"itself": {func(t *testing.T, _ *wall, alice, _ *device) error {
			_, err := alice.present(t.Context(), alice, alice.invite(t))
			return err
		}, sdk.CodeInvalid, "the device that made the invitation"},
		"no name": {func(t *testing.T, _ *wall, alice, bob *device) error {
			bob.name = " "
			_, err := bob.present(t.Context(), alice, alice.invite(t))
			return err
		}, sdk.CodeInvalid, "name is empty"},
		"retired": {func(t *testing.T, _ *wall, alice, bob *device) error {
			if _, err := bob.present(t.Context(), alice, alice.invite(t)); err != nil {
				return err
			}
			alice.edit(bob.identity.ID(), set("retired_at", start.UnixMicro()))
			_, err := bob.present(t.Context(), alice, alice.invite(t))
			return err
		}, sdk.CodeDenied, "was retired"},
		"inviting without a library": {func(t *testing.T, _ *wall, _, bob *device) error {
			_, _, err := bob.pairing.Invite(t.Context())
			return err
		}, sdk.CodeUnavailable, "belongs to no library"},
		"inviting without an address": {func(t *testing.T, _ *wall, alice, _ *device) error {
			if err := alice.members.Announce(t.Context(), "alice", nil); err != nil {
				return err
			}
			_, _, err := alice.pairing.Invite(t.Context())
			return err
		}, sdk.CodeUnavailable, "set listen"},
		"a full disk": {func(t *testing.T, _ *wall, alice, bob *device) error {
			ticket := alice.invite(t)
			alice.fail = sdk.Errorf(sdk.CodeInternal, "the disk is full")
			_, err := bob.present(t.Context(), alice, ticket)
			if _, again := bob.present(t.Context(), alice, ticket); again != nil {
				t.Errorf("the code can not be used again after: %v", again)
			}
			return err
		}, sdk.CodeInternal, "the disk is full"},
		"a device of another library": {func(t *testing.T, w *wall, alice, _ *device) error {
			dave := newDevice(t, w, "dave")
			if _, err := Found(t.Context(), dave.store, LibraryID{9}, "work"); err != nil {
				return err
			}
			if err := Free(t.Context(), dave.store); sdk.CodeOf(err) != sdk.CodeDenied {
				t.Errorf("Free: %v", err)
			}
			ticket := alice.invite(t)
			welcome, err := dave.present(t.Context(), alice, ticket)
			if err != nil {
				return err
			}
			_, err = Joined(t.Context(), dave.store, dave.identity.ID(), ticket.Inviter, welcome)
			return err
		}, sdk.CodeDenied, `already belongs to library "work"`},
	}
}

func TestPairing_Refuses(t *testing.T) {
	for name, test := range refusals() {
		t.Run(name, func(t *testing.T) {
			w := &wall{now: start}
			alice, bob := founder(t, w, "alice"), newDevice(t, w, "bob")
			err := test.act(t, w, alice, bob)
			if sdk.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v (%s); want %q (%s)", err, sdk.CodeOf(err), test.want, test.code)
			}
		})
	}
}

func TestPairing_AnswerLost(t *testing.T) {
	w := &wall{now: start}
	alice, bob := founder(t, w, "alice"), newDevice(t, w, "bob")
	ticket := alice.invite(t)
	first, err := bob.present(t.Context(), alice, ticket)
	if err != nil {
		t.Fatal(err)
	}
	alice.restart(t, w)
	second, err := bob.present(t.Context(), alice, ticket)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("the second answer differs (-first +second):\n%s", diff)
	}
	for range 2 {
		if _, err := Joined(t.Context(), bob.store, bob.identity.ID(), ticket.Inviter, second); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPairing_OneOfMany(t *testing.T) {
	w := &wall{now: start}
	alice := founder(t, w, "alice")
	ticket := alice.invite(t)
	var wg sync.WaitGroup
	results := make([]error, 16)
	for i := range results {
		d := newDevice(t, w, "device "+string(rune('a'+i)))
		wg.Go(func() { _, results[i] = d.present(t.Context(), alice, ticket) })
	}
	wg.Wait()
	admitted := 0
	for _, err := range results {
		switch {
		case err == nil:
			admitted++
		case sdk.CodeOf(err) != sdk.CodeDenied:
			t.Error(err)
		}
	}
	if admitted != 1 || len(alice.members.All()) != 2 {
		t.Errorf("%d admitted, %d members", admitted, len(alice.members.All()))
	}
}

func TestPairing_RemembersFew(t *testing.T) {
	w := &wall{now: start}
	alice, bob := founder(t, w, "alice"), newDevice(t, w, "bob")
	first := alice.invite(t)
	for range maxInvitations {
		alice.invite(t)
	}
	if _, err := bob.present(t.Context(), alice, first); sdk.CodeOf(err) != sdk.CodeDenied {
		t.Errorf("the oldest of %d: %v", maxInvitations+1, err)
	}
	w.pass(keptFor + DefaultLife + time.Second)
	if list, err := alice.pairing.load(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("a day later: %d invitations, %v", len(list), err)
	}
}

func TestJoined_Distrusts(t *testing.T) {
	w := &wall{now: start}
	alice, bob, carol := founder(t, w, "alice"), newDevice(t, w, "bob"), newDevice(t, w, "carol")
	welcome, err := bob.present(t.Context(), alice, alice.invite(t))
	if err != nil {
		t.Fatal(err)
	}
	self, inviter := bob.identity.ID(), alice.identity.ID()
	forged := strings.Replace(string(welcome.Members), inviter.String(), carol.identity.ID().String(), 1)
	for name, try := range map[string]func() error{
		"no library": func() error {
			_, err := Joined(t.Context(), bob.store, self, inviter, Welcome{LibraryName: "x", Members: welcome.Members})
			return err
		},
		"garbage": func() error {
			_, err := Joined(t.Context(), bob.store, self, inviter, Welcome{Library: LibraryID{1}, LibraryName: "x", Members: []byte("{")})
			return err
		},
		"another inviter": func() error {
			_, err := Joined(t.Context(), bob.store, self, carol.identity.ID(), welcome)
			return err
		},
		"for another": func() error {
			_, err := Joined(t.Context(), bob.store, carol.identity.ID(), inviter, welcome)
			return err
		},
		"a forged id": func() error {
			_, err := Joined(t.Context(), bob.store, self, inviter, Welcome{Library: LibraryID{1}, LibraryName: "x", Members: []byte(forged)})
			return err
		},
	} {
		if err := try(); sdk.CodeOf(err) != sdk.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, ok, err := Current(t.Context(), bob.store); ok || err != nil {
		t.Errorf("a library was stored: %v, %v", ok, err)
	}
}

// TestPairing_WrongCodesKeepNobodyOut presents many unknown secrets before a good one.
func TestPairing_WrongCodesKeepNobodyOut(t *testing.T) {
	w := &wall{now: start}
	alice, bob := founder(t, w, "alice"), newDevice(t, w, "bob")
	good := alice.invite(t)
	for range 100 {
		if _, err := bob.present(t.Context(), alice, Ticket{Secret: make([]byte, secretBytes)}); sdk.CodeOf(err) != sdk.CodeDenied {
			t.Fatalf("a wrong code: %v", err)
		}
	}
	if _, err := bob.present(t.Context(), alice, good); err != nil {
		t.Errorf("a good code after wrong ones: %v", err)
	}
	w.pass(DefaultLife + time.Minute)
	if _, err := bob.present(t.Context(), alice, good); err != nil {
		t.Errorf("the same device again, after the code has expired: %v", err)
	}
}
