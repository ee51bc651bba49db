package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/host/control"
)

func (a *app) inviteCommand() *cobra.Command {
	return a.reads(&cobra.Command{
		Use:   "invite",
		Short: "Print a code that lets one device join this library",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				invitation, err := host.Invite(ctx)
				if err != nil {
					return err
				}
				if a.json {
					return a.object(invitation)
				}
				if err := a.printf("%s\n", invitation.Code); err != nil {
					return err
				}
				// Not on standard output, so that a script gets the code alone.
				_, err = fmt.Fprintf(a.Err, "good once, for %s; on the other device: starling join CODE\n", span(invitation.Expires.Sub(a.Now())))
				return printed(err)
			})
		},
	})
}

func (a *app) joinCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "join CODE",
		Short: "Join the library that the code comes from",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				joined, err := host.Join(ctx, args[0])
				if err != nil {
					return err
				}
				return a.printf("joined library %s (%s) through %s\n", plain(joined.LibraryName), joined.LibraryID, plain(joined.InviterName))
			})
		},
	}
}
