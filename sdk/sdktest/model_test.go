package sdktest_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

type note struct {
	sdk.Shared
	Title   string          `starling:"title,required" doc:"what it is called"`
	Pages   *int            `starling:"pages"`
	Weight  *float64        `starling:"weight"`
	Done    *bool           `starling:"done"`
	Picture []byte          `starling:"picture"`
	Due     time.Time       `starling:"due,index"`
	Extra   json.RawMessage `starling:"extra"`
	Parent  sdk.Ref         `starling:"parent_id,ref=note"`
	About   sdk.AnyRef      `starling:"about,weak"`
	Highest int64           `starling:"highest,max"`
	Lowest  *float64        `starling:"lowest,min"`
	First   string          `starling:"first,min"`
	Bits    []byte          `starling:"bits,max"`
}

type tie struct {
	sdk.Shared
	From sdk.Ref    `starling:"from_id,ref=note,key"`
	To   sdk.AnyRef `starling:"to,key"`
	Kind string     `starling:"kind,key"`
	Note string     `starling:"note"`
}

type file struct {
	sdk.Owned
	Name     string          `starling:"name,required"`
	Size     int64           `starling:"size"`
	Ratio    float64         `starling:"ratio"`
	Hidden   bool            `starling:"hidden"`
	Hash     []byte          `starling:"hash"`
	Modified time.Time       `starling:"modified_at"`
	Extra    json.RawMessage `starling:"extra"`
	Parent   sdk.Ref         `starling:"parent_id,ref=file"`
}

type place struct {
	sdk.Owned
	Path  string `starling:"path,key"`
	Label string `starling:"label"`
}

func TestModel(t *testing.T) {
	refuse := func(blank bool) error {
		if blank {
			return errors.New("it must have a name")
		}
		return nil
	}
	t.Run("Note", func(t *testing.T) {
		sdktest.Model(t, sdk.Model[note]{Name: "note", Version: 1, Validate: func(n *note) error { return refuse(n.Title == "") }})
	})
	t.Run("Tie", func(t *testing.T) { sdktest.Model(t, sdk.Model[tie]{Name: "tie", Version: 1}) })
	t.Run("File", func(t *testing.T) {
		sdktest.Model(t, sdk.Model[file]{Name: "file", Version: 3, Validate: func(f *file) error { return refuse(f.Name != "x") }},
			sdktest.FieldValues("name", "x"))
	})
	t.Run("Place", func(t *testing.T) { sdktest.Model(t, sdk.Model[place]{Name: "place", Version: 1}) })
}

// faulty is a model with one seeded bug.
type faulty struct {
	sdk.Model[note]
	shared func(sdk.SharedChanges, *sdk.SharedResult)
}

func (f faulty) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	result, err := f.Model.ApplySharedChange(ctx, in)
	f.shared(in, &result)
	return result, err
}

// bugs are what the laws must catch, each with the law that must.
var bugs = map[string]struct {
	law    string
	shared func(sdk.SharedChanges, *sdk.SharedResult)
}{
	"arrival order decides ties": {"Shared/TieByDevice", func(in sdk.SharedChanges, out *sdk.SharedResult) {
		if len(in.Current) == 0 || len(out.Records) == 0 {
			return
		}
		for i, f := range out.Records[0].Fields {
			for _, old := range in.Current[0].Fields {
				if old.Name == f.Name && old.Version.Stamp == f.Version.Stamp {
					out.Records[0].Fields[i] = old
				}
			}
		}
	}},
	"an update brings back": {"Shared/Existence", func(in sdk.SharedChanges, out *sdk.SharedResult) {
		for i := range out.Records {
			for op := range in.Batch.Ops() {
				if op.Kind == sdk.Update && op.Stamp > out.Records[i].Inserted.Stamp {
					out.Records[i].Inserted = sdk.Version{Stamp: op.Stamp, Device: in.Origin}
				}
			}
		}
	}},
	"repetitions are changes": {"Shared/Idempotent", func(in sdk.SharedChanges, out *sdk.SharedResult) {
		if len(out.Records) == 0 {
			out.Records = in.Current
		}
	}},
	"max is lww": {"Shared/EqualsReference", func(in sdk.SharedChanges, out *sdk.SharedResult) {
		for i := range out.Records {
			for j, f := range out.Records[i].Fields {
				for op := range in.Batch.Ops() {
					for _, w := range op.Fields {
						if f.Name == "highest" && in.Batch.Columns[w.Column] == "highest" && op.Stamp > f.Version.Stamp && op.ID == out.Records[i].ID {
							out.Records[i].Fields[j].Value, _, _ = sdk.DecodeValue(w.Value, sdk.Int)
						}
					}
				}
			}
		}
	}},
	"conflicts are lost":     {"Shared/Conflicts", func(_ sdk.SharedChanges, out *sdk.SharedResult) { out.Conflicts = nil }},
	"resolved ones are kept": {"Shared/Conflicts", func(_ sdk.SharedChanges, out *sdk.SharedResult) { out.Resolved = nil }},
	"refusals are silent":    {"Shared/BadValuesAreRefused", func(_ sdk.SharedChanges, out *sdk.SharedResult) { out.Refused = nil }},
	"unknown fields are dropped": {"Shared/UnknownFieldsAreKept", func(_ sdk.SharedChanges, out *sdk.SharedResult) {
		for i := range out.Records {
			kept := out.Records[i].Fields[:0]
			for _, f := range out.Records[i].Fields {
				if !strings.HasPrefix(f.Name, "zz_") {
					kept = append(kept, f)
				}
			}
			out.Records[i].Fields = kept
		}
	}},
	"the caller's records are changed": {"Shared/InputIsUntouched", func(in sdk.SharedChanges, _ *sdk.SharedResult) {
		for i := range in.Current {
			in.Current[i].Inserted.Stamp++
		}
	}},
}

const bugVariable = "STARLING_SEEDED_BUG"

// TestSeededBug runs the laws against one bug, in a process of its own that TestModel_CatchesSeededBugs starts.
func TestSeededBug(t *testing.T) {
	bug, known := bugs[os.Getenv(bugVariable)]
	if !known {
		t.Skip("it runs in a process of its own: see TestModel_CatchesSeededBugs")
	}
	sdktest.Model(t, faulty{Model: sdk.Model[note]{Name: "note", Version: 1}, shared: bug.shared})
}

func TestModel_CatchesSeededBugs(t *testing.T) {
	for name, bug := range bugs {
		t.Run(name, func(t *testing.T) {
			//nolint:gosec // the test binary itself
			cmd := exec.Command(os.Args[0], "-test.run=^TestSeededBug$/"+strings.ReplaceAll(bug.law, "/", "$/"), "-rapid.nofailfile")
			cmd.Env = append(os.Environ(), bugVariable+"="+name)
			output, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatalf("no law caught it:\n%s", output)
			}
			if !strings.Contains(string(output), "--- FAIL: TestSeededBug/"+bug.law) {
				t.Errorf("want %s to catch it, got:\n%.2000s", bug.law, output)
			}
		})
	}
}
