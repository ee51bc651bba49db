package command

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/fractional"
)

const (
	albumModel     sdk.ModelName = "album"
	albumItemModel sdk.ModelName = "album_item"
)

// albumItem is a record of the model album_item.
type albumItem struct {
	ID       sdk.RecordID `json:"id"`
	Entry    sdk.RecordID `json:"entry_id"`
	Position *string      `json:"position"`

	record json.RawMessage
}

func (a *app) albumCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "album", Short: "Put entries into albums, and in order"}
	cmd.AddCommand(a.albumAdd(), a.albumList())
	return cmd
}

func (a *app) albumAdd() *cobra.Command {
	var before, after string
	cmd := &cobra.Command{
		Use:   "add ALBUM ENTRY...",
		Short: "Put entries into an album, or move those that are in it; print the items' ids",
		Long: "Put entries into an album in the order in which they are named, at its end or, with --before or --after, beside\n" +
			"another of its entries. An entry that is in the album already is moved there. Prints the items' ids.\n\n" +
			"A new album is made with: starling put album '{\"name\":\"...\"}'",
		Example: "  starling album add 0192f3c0-... 0192f3d1-... 0192f3d2-...\n  starling album add 0192f3c0-... 0192f3d2-... --before 0192f3d1-...",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if before != "" && after != "" {
				return misusef(cmd, "--before and --after name two places; give one of them")
			}
			ids, err := recordIDs(args)
			if err != nil {
				return err
			}
			at := place{before: before != ""}
			if beside := cmp.Or(before, after); beside != "" {
				if at.beside, err = sdk.ParseRecordID(beside); err != nil {
					return err
				}
			}
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				return a.addToAlbum(ctx, host, ids[0], ids[1:], at)
			})
		},
	}
	cmd.Flags().StringVar(&before, "before", "", "put them before this `entry` of the album")
	cmd.Flags().StringVar(&after, "after", "", "put them after this `entry` of the album")
	return cmd
}

func recordIDs(args []string) ([]sdk.RecordID, error) {
	ids := make([]sdk.RecordID, 0, len(args))
	for _, arg := range args {
		id, err := sdk.ParseRecordID(arg)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// place is where in an album: beside one of its entries, or at its end, if that is zero.
type place struct {
	beside sdk.RecordID
	before bool
}

func (a *app) addToAlbum(ctx context.Context, host *control.Client, album sdk.RecordID, entries []sdk.RecordID, at place) error {
	if _, err := host.Get(ctx, albumModel, album); err != nil {
		return control.NotWritten(err)
	}
	items, err := albumItems(ctx, host, album)
	if err != nil {
		return control.NotWritten(err)
	}
	puts, err := arrange(album, items, entries, at)
	if err != nil {
		return err
	}
	for i, batch := range slices.Collect(slices.Chunk(puts, batchRecords)) {
		result, err := host.Put(ctx, albumItemModel, batch, true)
		if err == nil && len(result.Refused) > 0 {
			err = refusal(result.Refused[0])
		}
		if err != nil && i > 0 {
			return fmt.Errorf("%w; that is of some of the entries: those whose ids are printed are in the album", err)
		}
		if err != nil {
			return err
		}
		for i, id := range result.IDs {
			if batch[i].ID.IsZero() {
				if err := a.printf("%s\n", id); err != nil {
					return err
				}
				if err := a.noteWaiting(ctx, host, albumItemModel, id); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// albumItems returns the items of an album in its order.
func albumItems(ctx context.Context, host *control.Client, album sdk.RecordID) ([]albumItem, error) {
	var items []albumItem
	where := []control.Where{{Field: "album_id", Value: album.String()}}
	err := host.List(ctx, albumItemModel, where, 0, func(record json.RawMessage) error {
		item := albumItem{record: slices.Clone(record)}
		if err := json.Unmarshal(record, &item); err != nil {
			return sdk.Errorf(sdk.CodeInternal, "read an item of an album: %w", err)
		}
		items = append(items, item)
		return nil
	})
	sortItems(items)
	return items, err
}

// sortItems brings items of one album into its order: by position, what has none last, then by id.
func sortItems(items []albumItem) {
	slices.SortFunc(items, func(x, y albumItem) int {
		switch {
		case x.Position == nil && y.Position == nil:
			return x.ID.Compare(y.ID)
		case x.Position == nil:
			return 1
		case y.Position == nil:
			return -1
		}
		return cmp.Or(cmp.Compare(*x.Position, *y.Position), x.ID.Compare(y.ID))
	})
}

// arrange returns what to write so that entries stand at a place among the items of an album, which are in order. Items
// without a position are given one: nothing can be put after them otherwise.
func arrange(album sdk.RecordID, items []albumItem, entries []sdk.RecordID, at place) ([]control.Put, error) {
	var puts []control.Put
	others := make([]albumItem, 0, len(items))
	last := ""
	for _, item := range items {
		if slices.Contains(entries, item.Entry) {
			continue
		}
		if item.Position == nil {
			position, err := fractional.Between(last, "")
			if err != nil {
				return nil, err
			}
			item.Position = &position
			puts = append(puts, control.Put{ID: item.ID, JSON: []byte(`{"position":"` + position + `"}`)})
		}
		last = *item.Position
		others = append(others, item)
	}
	next := len(others)
	if !at.beside.IsZero() {
		next = slices.IndexFunc(others, func(item albumItem) bool { return item.Entry == at.beside })
		if next < 0 {
			return nil, sdk.Errorf(sdk.CodeNotFound, "entry %s is not in the album, or is one of those to put there; see: starling album list %s", at.beside, album)
		}
		if !at.before {
			next++
		}
	}
	low, high := "", ""
	if next > 0 {
		low = *others[next-1].Position
	}
	if next < len(others) {
		high = *others[next].Position
	}
	for _, entry := range entries {
		position, err := fractional.Between(low, high)
		if err != nil {
			return nil, sdk.Errorf(sdk.CodeInvalid, "find a place in album %s: %w", album, err)
		}
		low = position
		puts = append(puts, control.Put{JSON: []byte(`{"album_id":"` + album.String() + `","entry_id":"` + entry.String() + `","position":"` + position + `"}`)})
	}
	return puts, nil
}

func (a *app) albumList() *cobra.Command {
	return a.reads(&cobra.Command{
		Use:   "list ALBUM",
		Short: "List what is in an album, in its order",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			album, err := sdk.ParseRecordID(args[0])
			if err != nil {
				return err
			}
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				if _, err := host.Get(ctx, albumModel, album); err != nil {
					return err
				}
				items, err := albumItems(ctx, host, album)
				if err != nil {
					return err
				}
				t := newTable(a.Out, "ENTRY", "NAME", "ITEM")
				for _, item := range items {
					if a.json {
						if err := a.line(item.record); err != nil {
							return err
						}
						continue
					}
					t.row(item.Entry.String(), entryName(ctx, host, item.Entry), item.ID.String())
				}
				if a.json {
					return nil
				}
				return printed(t.flush())
			})
		},
	})
}

// entryName returns the name of an entry, for people.
func entryName(ctx context.Context, host *control.Client, id sdk.RecordID) string {
	var entry struct{ Name string }
	record, err := host.Get(ctx, "entry", id)
	if err != nil || json.Unmarshal(record, &entry) != nil {
		return "-" // its item is about to go too
	}
	return entry.Name
}
