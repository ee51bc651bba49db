package command

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

func (a *app) conflictsCommand() *cobra.Command {
	cmd := a.reads(&cobra.Command{
		Use:   "conflicts [MODEL ID]",
		Short: "List the values that lost to a write that had not seen them",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 0 && len(args) != 2 {
				return fmt.Errorf("want a model and an id, or neither")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var model sdk.ModelName
			var id sdk.RecordID
			if len(args) == 2 {
				var err error
				if id, err = sdk.ParseRecordID(args[1]); err != nil {
					return err
				}
				model = sdk.ModelName(args[0])
			}
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				conflicts, err := host.Conflicts(ctx, model, id)
				if err != nil {
					return err
				}
				if a.json {
					return printEach(a, conflicts)
				}
				names, err := deviceNames(ctx, host)
				if err != nil {
					return err
				}
				return a.printConflicts(conflicts, names)
			})
		},
	})
	cmd.AddCommand(a.restoreCommand())
	return cmd
}

func (a *app) restoreCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restore NUMBER",
		Short: "Write a value that lost again, as a change made here now, and take it out of the list",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || number < 1 {
				return misusef(cmd, "%q is not a number of a conflict; they are in the first column of: starling conflicts", args[0])
			}
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				r, err := host.RestoreConflict(ctx, number)
				if err != nil {
					return err
				}
				return a.printf("%s %s: %s is %s again\n", r.Model, r.ID, r.Field, plain(string(r.Value)))
			})
		},
	}
}

func (a *app) printConflicts(conflicts []control.ConflictView, names names) error {
	t := newTable(a.Out, "NO", "MODEL", "ID", "FIELD", "LOST", "BY", "AT", "TO A WRITE BY", "AT", "NOW")
	for i := range conflicts {
		c := &conflicts[i]
		now := "(not visible)"
		if c.Standing != nil {
			now = cut(text(c.Standing))
		}
		t.row(fmt.Sprint(c.Number), string(c.Model), c.ID.String(), c.Field,
			cut(text(c.Value)), names.of(c.Lost.Device), a.moment(c.Lost.Stamp.Time()),
			names.of(c.Winner.Device), a.moment(c.Winner.Stamp.Time()), now)
	}
	if len(conflicts) == 0 {
		return a.printf("no conflicts\n")
	}
	return printed(t.flush())
}

func (a *app) digestCommand() *cobra.Command {
	return a.reads(&cobra.Command{
		Use:   "digest",
		Short: "Print one line a model: its records and their digest; equal devices print equal lines",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				digests, err := host.Digests(ctx)
				if err != nil {
					return err
				}
				for _, d := range digests {
					if err := a.printDigest(&d); err != nil {
						return err
					}
				}
				return nil
			})
		},
	})
}

// printDigest prints a line that depends on this model alone, so that lines of two devices can be compared.
func (a *app) printDigest(d *control.ModelDigest) error {
	digest := hex.EncodeToString(d.Digest)
	if a.json {
		return a.object(struct {
			Model  sdk.ModelName `json:"model"`
			Rows   int64         `json:"rows"`
			Digest string        `json:"digest"`
		}{d.Model, d.Rows, digest})
	}
	return a.printf("%-16s %12d   %s\n", d.Model, d.Rows, digest)
}
