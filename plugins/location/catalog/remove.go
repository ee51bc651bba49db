package catalog

import (
	"context"

	"github.com/starling-sync/starling/plugins/location/catalog/disk"
	"github.com/starling-sync/starling/sdk"
)

// findGroup is how many folders' entries are asked for at once.
const findGroup = 256

// removeTrees deletes the entries roots, which must be committed, and everything below them, children before parents.
// What was moved elsewhere and committed there is not below them any more. Memory grows with the number of directories.
func removeTrees(ctx context.Context, host sdk.SourceHost, w *writer, roots []sdk.RecordID) error {
	levels := [][]sdk.RecordID{roots}
	for deepest := roots; len(deepest) > 0; {
		var below []sdk.RecordID
		err := eachChild(ctx, host, deepest, func(child *Entry) error {
			if child.Kind == disk.Directory {
				below = append(below, child.ID)
				return nil
			}
			return w.remove(ctx, child.ID)
		})
		if err != nil {
			return err
		}
		levels, deepest = append(levels, below), below
	}
	removed := map[sdk.RecordID]struct{}{} // a root may lie below another one
	for i := len(levels) - 1; i >= 0; i-- {
		for _, id := range levels[i] {
			if _, done := removed[id]; done {
				continue
			}
			removed[id] = struct{}{}
			if err := w.remove(ctx, id); err != nil {
				return err
			}
		}
	}
	return w.flush(ctx)
}

// eachChild calls f for every entry whose parent is one of parents.
func eachChild(ctx context.Context, host sdk.SourceHost, parents []sdk.RecordID, f func(*Entry) error) error {
	for len(parents) > 0 {
		group := parents[:min(len(parents), findGroup)]
		parents = parents[len(group):]
		entries, err := findEntries(ctx, host, "parent_id", idValues(group))
		if err != nil {
			return err
		}
		for i := range entries {
			if err := f(&entries[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func idValues(ids []sdk.RecordID) []any {
	values := make([]any, len(ids))
	for i, id := range ids {
		values[i] = id
	}
	return values
}
