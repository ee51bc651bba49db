package sdktest_test

import (
	"encoding/json"
	"errors"
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
	Words   sdk.Set[string] `starling:"words"`
	Years   sdk.Set[int64]  `starling:"years"`
	Plays   sdk.Counter     `starling:"plays"`
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

type memo struct {
	sdk.Hybrid
	Entry   sdk.Ref   `starling:"entry_id,ref=entry,owner,key"`
	Content []byte    `starling:"content_hash,key"`
	Note    string    `starling:"note"`
	Rating  *int64    `starling:"rating"`
	Seen    time.Time `starling:"seen_at"`
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
	t.Run("Memo", func(t *testing.T) {
		sdktest.Model(t, sdk.Model[memo]{Name: "memo", Version: 1, Validate: func(m *memo) error {
			if m.Entry.IsZero() == (m.Content == nil) {
				return errors.New("it is on an entry or on content")
			}
			return nil
		}})
	})
	t.Run("Place", func(t *testing.T) { sdktest.Model(t, sdk.Model[place]{Name: "place", Version: 1}) })
}
