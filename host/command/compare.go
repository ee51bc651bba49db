package command

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

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
				status, err := host.Status(ctx)
				if err != nil {
					return err
				}
				return a.printConflicts(conflicts, namesIn(&status), status.Retention.Conflicts)
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

// printConflicts prints the entries, and for how long each is kept; 0 is without limit.
func (a *app) printConflicts(conflicts []control.ConflictView, names names, kept time.Duration) error {
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
	if err := t.flush(); err != nil {
		return printed(err)
	}
	length := "without limit"
	if kept > 0 {
		length = "for " + span(kept)
	}
	return a.printf("each is kept %s (sync retention conflicts, in config.hcl); written again with: starling conflicts restore NO\n", length)
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
				status, err := host.Status(ctx)
				if err != nil {
					return err
				}
				parked := map[sdk.ModelName]int64{}
				for i := range status.Models {
					parked[status.Models[i].Model] = status.Models[i].Parked
				}
				for _, d := range digests {
					if err := a.printDigest(&d, parked[d.Model]); err != nil {
						return err
					}
				}
				return nil
			})
		},
	})
}

// printDigest prints a line that depends on this model alone, so that lines of two devices can be compared: that of a device
// which keeps changes for the model's plugin, and so has not merged all that it has, differs from all others.
func (a *app) printDigest(d *control.ModelDigest, parked int64) error {
	digest := hex.EncodeToString(d.Digest)
	if a.json {
		return a.object(struct {
			Model  sdk.ModelName `json:"model"`
			Rows   int64         `json:"rows"`
			Digest string        `json:"digest"`
			Parked int64         `json:"parked,omitempty"` // changes that are not in the digest
		}{d.Model, d.Rows, digest, parked})
	}
	without := ""
	if parked > 0 {
		without = "   without " + count(parked, "change") + " kept for its plugin"
	}
	return a.printf("%-16s %12d   %s%s\n", d.Model, d.Rows, digest, without)
}

func (a *app) auditCommand() *cobra.Command {
	return a.reads(&cobra.Command{
		Use:   "audit [PEER]",
		Short: "Compare this device with its connected peers, or one, now, and repair what differs",
		Long: "Compare this device with its connected peers, or with one (by name or id), now, and repair what differs.\n\n" +
			"Devices that have the same changes must hold the same records; audits check that from time to time by themselves\n" +
			"(sync audit, in config.hcl). Status 1 if a peer could not be compared.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				var peer sdk.DeviceID
				if len(args) > 0 {
					d, err := findDevice(ctx, host, args[0])
					if err != nil {
						return err
					}
					if d.self {
						return sdk.Errorf(sdk.CodeInvalid, "%s is this device itself; name a peer, or none for all of them", d)
					}
					peer = d.id
				}
				return a.audit(ctx, host, peer)
			})
		},
	})
}

func (a *app) audit(ctx context.Context, host *control.Client, peer sdk.DeviceID) error {
	asked, open := 0, 0
	err := host.Audit(ctx, peer, func(r control.AuditResult) error {
		asked++
		if r.Outcome != control.AuditEqual && r.Outcome != control.AuditRepaired {
			open++
		}
		if a.json {
			return a.object(r)
		}
		return a.printf("%s: %s\n", plain(r.Name), plain(finding(&r.Audit)))
	})
	if err == nil && open > 0 {
		err = sdk.Errorf(sdk.CodeUnavailable, "%d of %s could not be compared; try again once starling status shows them live and level", open, count(int64(asked), "peer"))
	}
	return err
}

// finding says what an audit has found.
func finding(audit *control.Audit) string {
	var cost []string
	if audit.Records > 0 {
		cost = append(cost, count(audit.Records, "record"))
	}
	cost = append(cost, span(audit.Took))
	if audit.Bytes > 0 {
		cost = append(cost, size(audit.Bytes))
	}
	switch audit.Outcome {
	case control.AuditEqual:
		return "equal (" + strings.Join(cost, ", ") + ")"
	case control.AuditRepaired:
		what := count(audit.Repaired, "record") + " here"
		if audit.Repaired == 0 {
			what = "records at the peer, none here"
		}
		return fmt.Sprintf("repaired %s (%s differed; %s)", what, count(audit.Ranges, "range"), strings.Join(cost, ", "))
	case control.AuditNotAlike:
		return "not alike yet: " + reasonOr(audit.Reason, "one of the two lacks changes of the other, so nothing was compared")
	case control.AuditFailed:
		return "failed: " + reasonOr(audit.Reason, "the log says why")
	}
	return strings.TrimSpace(string(audit.Outcome) + " " + audit.Reason)
}

func reasonOr(reason, otherwise string) string {
	if reason == "" {
		return otherwise
	}
	return reason
}
