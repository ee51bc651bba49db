package main_test

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	_ "modernc.org/sqlite"

	"github.com/starling-sync/starling/host/clustertest"
)

// TestCluster_UserMetadata has alice note something about an entry of hers, which bob reads and may not write, and both
// write about one content without hearing of one another, which merges. The view shows both kinds.
func TestCluster_UserMetadata(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t)
	folder := t.TempDir()
	writeFiles(t, folder, "sea.jpg")
	alice.Run(t, "location", "add", folder)
	var entry string
	clustertest.Eventually(t, "alice's entry at bob", func() error {
		for id, e := range bob.List(t, "entry") {
			if e["name"] == "sea.jpg" {
				entry = id
				return nil
			}
		}
		return errors.New("it is not there")
	})

	const model = "user_metadata"
	wantNotOwner(t, "the first about alice's entry", alice, bob, "put", model, fmt.Sprintf(`{"entry_id":%q,"notes":"bob's"}`, entry))
	onEntry := alice.Run(t, "put", model, fmt.Sprintf(`{"entry_id":%q,"notes":"mine","favourite":true}`, entry))
	want := map[string]any{
		"entry_id": entry, "content_hash": nil, "notes": "mine", "favourite": true, "hidden": nil, "rating": nil,
		"extra": nil, "_owner": deviceID(t, alice),
	}
	expectRecord(t, bob, model, onEntry, want)
	for name, args := range map[string][]string{
		"the same target": {"put", model, fmt.Sprintf(`{"entry_id":%q,"notes":"bob's"}`, entry)},
		"by its id":       {"put", model, `{"notes":"bob's"}`, "--id", onEntry},
		"a delete":        {"delete", model, onEntry},
	} {
		wantNotOwner(t, name, alice, bob, args...)
	}
	if again := alice.Run(t, "put", model, fmt.Sprintf(`{"entry_id":%q,"notes":"still mine"}`, entry)); again != onEntry {
		t.Errorf("put again for the same entry, it is another record: %s, not %s", again, onEntry)
	}
	alice.Run(t, "put", model, `{"rating":5}`, "--id", onEntry)
	want["notes"], want["favourite"], want["rating"] = "still mine", nil, 5.0
	expectRecord(t, bob, model, onEntry, want)
	clustertest.WaitEqual(t, alice, bob)

	bob.Stop(t)
	onContent := alice.Run(t, "put", model, `{"content_hash":"sha256:00ff","notes":"the sea","rating":2}`)
	alice.Stop(t)
	bob.Start(t)
	if other := bob.Run(t, "put", model, `{"content_hash":"sha256:00ff","hidden":true,"rating":4}`); other != onContent {
		t.Fatalf("bob's record about the content is %s, alice's %s", other, onContent)
	}
	alice.Start(t)
	clustertest.WaitEqual(t, alice, bob)
	for _, d := range []*clustertest.Device{alice, bob} {
		expectRecord(t, d, model, onEntry, want)
		expectRecord(t, d, model, onContent, map[string]any{
			"entry_id": nil, "content_hash": "sha256:00ff", "notes": "the sea", "hidden": true, "rating": 4.0,
		})
		if lost := d.Run(t, "conflicts", model, onContent, "--json"); !strings.Contains(lost, `"rating"`) {
			t.Errorf("%s does not tell that alice's rating lost: %s", d.Name, lost)
		}
		wantView := []string{"still mine 5 on an entry, owned true", "the sea 4 on sha256:00ff, owned false"}
		if diff := cmp.Diff(wantView, metadataView(t, d)); diff != "" {
			t.Errorf("the view of %s (-want +got):\n%s", d.Name, diff)
		}
	}
	for record, want := range map[string]string{
		`{"notes":"x"}`: "give one of entry_id, content_hash",
		fmt.Sprintf(`{"entry_id":%q,"content_hash":"sha256:00ff"}`, entry): "give one of entry_id and content_hash",
		`{"content_hash":"00ff"}`:                    "METHOD:HEX",
		`{"content_hash":"sha256:00ff","rating":6}`:  "rating: 6",
		`{"content_hash":"sha256:00ff","extra":[1]}`: "extra: want a JSON object",
	} {
		_, err := alice.TryRun("put", model, record)
		if exit, ok := errors.AsType[*clustertest.ExitError](err); !ok || !strings.Contains(exit.Stderr, want) {
			t.Errorf("put %s: %v, want a refusal that says %q", record, err, want)
		}
	}
}

// wantNotOwner has other try to change what owner owns, and wants the refusal to say whose it is.
func wantNotOwner(t *testing.T, name string, owner, other *clustertest.Device, args ...string) {
	t.Helper()
	_, err := other.TryRun(args...)
	exit, ok := errors.AsType[*clustertest.ExitError](err)
	if !ok || exit.Status != 1 {
		t.Errorf("%s: %v, want a refusal", name, err)
		return
	}
	if !strings.Contains(exit.Stderr, "belongs to device "+owner.Name) {
		t.Errorf("%s: refused with %q, want word of its owner %s", name, exit.Stderr, owner.Name)
	}
}

// metadataView is what SQL shows of user_metadata at d.
func metadataView(t *testing.T, d *clustertest.Device) (lines []string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.ToSlash(filepath.Join(d.Data(), "starling.db"))+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), `SELECT notes, rating, coalesce(content_hash, 'an entry'), _owner IS NOT NULL FROM user_metadata ORDER BY notes`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var notes, target string
		var rating int
		var owned bool
		if err := rows.Scan(&notes, &rating, &target, &owned); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%s %d on %s, owned %v", notes, rating, target, owned))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}
