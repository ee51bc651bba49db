package membership

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/sdk"
)

// TestWriteMark writes, replaces and damages a mark.
func TestWriteMark(t *testing.T) {
	dir := t.TempDir()
	if _, ok, err := ReadMark(dir); ok || err != nil {
		t.Fatalf("before the first: %v %v", ok, err)
	}
	for _, want := range []Mark{
		{LibraryID: LibraryID{1}, Library: "home", Store: "data/starling.db"},
		{LibraryID: LibraryID{1}, Library: "home", Store: `PostgreSQL at db:5432, database "d"`},
	} {
		for range 2 {
			if err := WriteMark(dir, want); err != nil {
				t.Fatal(err)
			}
		}
		got, ok, err := ReadMark(dir)
		if diff := cmp.Diff(want, got); !ok || err != nil || diff != "" {
			t.Errorf("%v %v (-want +got):\n%s", ok, err, diff)
		}
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("left behind: %v %v", list, err)
	}
	if err := os.WriteFile(filepath.Join(dir, MarkFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ReadMark(dir); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("a damaged one: %v", err)
	}
	if err := WriteMark(filepath.Join(dir, "none"), Mark{}); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("no folder: %v", err)
	}
}

// unmarked is a store that fails at one step of entering a library.
type unmarked struct {
	*store
	standing error // of storing in the database
}

func (u unmarked) SetMeta(ctx context.Context, key string, value []byte) error {
	if u.standing != nil {
		return u.standing
	}
	return u.store.SetMeta(ctx, key, value)
}

// TestFound_marked wants the mark first: without it nothing is stored, and it may stand alone.
func TestFound_marked(t *testing.T) {
	seeded := errors.New("seeded")
	s := &store{tb: t, meta: map[string][]byte{}, markFails: seeded}
	if _, err := Found(t.Context(), s, LibraryID{1}, "home"); !errors.Is(err, seeded) || len(s.meta) > 0 {
		t.Errorf("without a mark: %v, %v is stored", err, s.meta)
	}
	s.markFails = nil
	if _, err := Found(t.Context(), unmarked{s, seeded}, LibraryID{1}, "home"); !errors.Is(err, seeded) || s.marked.Name != "home" {
		t.Errorf("the database fails: %v, the mark is %+v", err, s.marked)
	}
	if library, err := Found(t.Context(), s, LibraryID{2}, "home"); err != nil || s.marked != library {
		t.Errorf("again: %+v %v, the mark is %+v", library, err, s.marked)
	}
}
