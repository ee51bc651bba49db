package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

func (a *app) waitingCommand() *cobra.Command {
	var limit int
	cmd := a.reads(&cobra.Command{
		Use:   "waiting [MODEL]",
		Short: "List the records that wait for others they refer to, and for which",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return misusef(cmd, "--limit %d is negative; 0 lists all", limit)
			}
			var model sdk.ModelName
			if len(args) > 0 {
				model = sdk.ModelName(args[0])
			}
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				return a.printWaiting(ctx, host, model, limit)
			})
		},
	})
	cmd.Flags().IntVar(&limit, "limit", 100, "at most so `many` records (0: all)")
	return cmd
}

func (a *app) printWaiting(ctx context.Context, host *control.Client, model sdk.ModelName, limit int) error {
	ask := limit
	if limit > 0 {
		ask++ // one more tells whether there are others
	}
	t := newTable(a.Out)
	count := 0
	err := host.Waiting(ctx, model, ask, func(r control.WaitingRecord) error {
		if count++; limit > 0 && count > limit {
			return nil
		}
		if a.json {
			return a.object(r)
		}
		if count == 1 {
			t.row("MODEL", "ID", "FIELD", "WAITS FOR")
		}
		for i := range r.Missing {
			m := &r.Missing[i]
			t.row(string(r.Model), r.ID.String(), m.Field, needed(m))
		}
		if len(r.Missing) == 0 { // what it waited for has come since it was found
			t.row(string(r.Model), r.ID.String(), nothing, nothing)
		}
		return nil
	})
	if err == nil {
		err = printed(t.flush())
	}
	if err != nil {
		return err
	}
	switch { // not on standard output: a program gets the records alone
	case count == 0 && !a.json:
		_, err = fmt.Fprintln(a.Err, "no record waits")
	case limit > 0 && count > limit:
		_, err = fmt.Fprintf(a.Err, "more records wait; --limit 0 lists all\n")
	}
	return printed(err)
}
