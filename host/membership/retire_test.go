package membership

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// pair is a founder and a device that has joined it, each with the records of both.
func pair(tb testing.TB, w *wall) (alice, bob *device) {
	tb.Helper()
	alice, bob = founder(tb, w, "alice"), newDevice(tb, w, "bob")
	welcome, err := bob.present(tb.Context(), alice, alice.invite(tb))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := Joined(tb.Context(), bob.store, bob.identity.ID(), alice.identity.ID(), welcome); err != nil {
		tb.Fatal(err)
	}
	bob.receive(alice.store)
	if err := bob.members.Announce(tb.Context(), "bob", lan("127.0.0.1:7421")); err != nil {
		tb.Fatal(err)
	}
	return alice, bob
}

func TestMembers_Retire(t *testing.T) {
	w := &wall{now: start}
	alice, bob := pair(t, w)
	var told [][]Member
	defer alice.members.OnChange(func(all []Member) { told = append(told, all) })()
	w.pass(time.Hour)
	if err := alice.members.Retire(t.Context(), bob.identity.ID()); err != nil {
		t.Fatal(err)
	}
	got, known := alice.members.Member(bob.identity.ID())
	if !known || !got.RetiredAt.Equal(w.Now()) || got.Name != "bob" || alice.members.Enrolled(bob.identity.ID()) {
		t.Errorf("bob is %+v, known %v, enrolled %v", got, known, alice.members.Enrolled(bob.identity.ID()))
	}
	if len(told) != 1 || !told[0][slices.IndexFunc(told[0], func(m Member) bool { return m.Name == "bob" })].Retired() {
		t.Errorf("who watches was told %d times: %+v", len(told), told)
	}
	err := alice.members.Retire(t.Context(), bob.identity.ID())
	if sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), "bob") || !strings.Contains(err.Error(), "was retired at 2026-11-22T08:10:00Z") {
		t.Errorf("once more: %v", err)
	}
	if _, err := bob.present(t.Context(), alice, alice.invite(t)); sdk.CodeOf(err) != sdk.CodeDenied {
		t.Errorf("bob comes back: %v", err)
	}
}

func TestMembers_RetireRefuses(t *testing.T) {
	w := &wall{now: start}
	alice, bob := pair(t, w)
	waiting := newDevice(t, w, "carol")
	welcome, err := waiting.present(t.Context(), alice, alice.invite(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Joined(t.Context(), waiting.store, waiting.identity.ID(), alice.identity.ID(), welcome); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		retire func() error
		code   sdk.Code
		says   string
	}{
		"itself":     {func() error { return alice.members.Retire(t.Context(), alice.identity.ID()) }, sdk.CodeDenied, "--self"},
		"nobody":     {func() error { return alice.members.Retire(t.Context(), sdk.DeviceID{1}) }, sdk.CodeNotFound, "starling peers"},
		"on its way": {func() error { return waiting.members.Retire(t.Context(), alice.identity.ID()) }, sdk.CodeUnavailable, "still on its way"},
		"the last":   {func() error { return founder(t, w, "dave").members.RetireSelf(t.Context()) }, sdk.CodeDenied, "only device"},
		"a full disk": {func() error {
			alice.fail = errors.New("disk full")
			return alice.members.Retire(t.Context(), bob.identity.ID())
		}, sdk.CodeInternal, "disk full"},
	} {
		if err := test.retire(); sdk.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v (%s); want %s and %q", name, err, sdk.CodeOf(err), test.code, test.says)
		}
	}
	if member, _ := alice.members.Member(bob.identity.ID()); member.Retired() {
		t.Error("bob is retired, though every call was refused")
	}
}

func TestMembers_RetireSelf(t *testing.T) {
	w := &wall{now: start}
	alice, bob := pair(t, w)
	ticket := bob.invite(t)
	if err := bob.members.RetireSelf(t.Context()); err != nil {
		t.Fatal(err)
	}
	if bob.members.Enrolled(bob.identity.ID()) {
		t.Error("bob still counts itself in")
	}
	if _, _, err := bob.pairing.Invite(t.Context()); sdk.CodeOf(err) != sdk.CodeDenied {
		t.Errorf("a retired device invites: %v", err)
	}
	if _, err := newDevice(t, w, "carol").present(t.Context(), bob, ticket); sdk.CodeOf(err) != sdk.CodeDenied {
		t.Errorf("a retired device lets another in: %v", err)
	}
	if err := bob.members.Retire(t.Context(), alice.identity.ID()); sdk.CodeOf(err) != sdk.CodeDenied {
		t.Errorf("a retired device retires another: %v", err)
	}
	if err := bob.members.RetireSelf(t.Context()); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("once more: %v", err)
	}
}

// A retired device, and one that helps it, may write what they like: it stays retired.
func TestMembers_RetiredForGood(t *testing.T) {
	w := &wall{now: start}
	alice, bob := pair(t, w)
	id := sdk.RecordID(bob.identity.ID())
	if err := alice.members.Retire(t.Context(), bob.identity.ID()); err != nil {
		t.Fatal(err)
	}
	retired := func(after string) {
		t.Helper()
		if err := alice.members.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if member, known := alice.members.Member(bob.identity.ID()); known && !member.Retired() {
			t.Errorf("%s, bob is back: %+v", after, member)
		}
	}
	record, _ := alice.members.Member(bob.identity.ID())
	record.RetiredAt = time.Time{}
	packer, err := Model().Packer()
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		after string
		write func() error
	}{
		{"after an update", func() error { return packer.Update(&record, "retired_at") }},
		{"after a delete", func() error { packer.Delete(id); return nil }},
		{"after an insert", func() error { packer.Put(&record); return nil }},
	} {
		if err := step.write(); err != nil {
			t.Fatal(err)
		}
		if refused, err := alice.CommitMembers(t.Context(), packer.Batch()); err != nil || len(refused) > 0 {
			t.Fatal(step.after, err, refused)
		}
		retired(step.after)
	}
	alice.edit(bob.identity.ID(), set("name", int64(5)))
	retired("with a record that can not be understood")
	alice.edit(bob.identity.ID(), func(r *sdk.Record, at sdk.Version) { r.Deleted = at })
	if _, err := bob.present(t.Context(), alice, alice.invite(t)); sdk.CodeOf(err) != sdk.CodeDenied {
		t.Errorf("bob joins again after its record was deleted: %v", err)
	}
}
