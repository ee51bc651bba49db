package command

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/agext/levenshtein"
	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

// consequences says what it means to retire a device.
const consequences = `  every device that hears of it cuts it off, also in the middle of a session
  what it wrote until then stays, and still travels between the others
  nothing is kept for it any more: it no longer holds back pruning
  it can not come back as this device: to let it in again, make it anew (starling init DIR --join) and invite it
`

// ownConsequences says what comes to that where a device retires itself.
const ownConsequences = `  it goes on until a peer has heard of it: keep it running until starling status says who refuses it
`

func (a *app) retireCommand() *cobra.Command {
	var yes, evenSelf bool
	cmd := a.reads(&cobra.Command{
		Use:   "retire DEVICE",
		Short: "Take a device out of the library for good: one that is lost, sold or broken",
		Long: "Take a device (by name or id) out of the library for good: one that is lost, sold or broken.\n\n" + consequences +
			"\nWith --self this device retires itself, before it is given away:\n\n" + ownConsequences,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				d, err := findDevice(ctx, host, args[0])
				if err != nil {
					return err
				}
				if d.self && !evenSelf {
					return sdk.Errorf(sdk.CodeInvalid, "%s is this device itself; to give it away, say --self, or retire it on another device", d)
				}
				if !yes {
					if err := a.confirm(cmd, d); err != nil {
						return err
					}
				}
				retired, err := host.Retire(ctx, d.id, evenSelf)
				if err != nil {
					return err
				}
				if a.json {
					return a.object(retired)
				}
				return a.printRetired(&retired, d.self)
			})
		},
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&evenSelf, "self", false, "also this device itself")
	return cmd
}

func (a *app) printRetired(r *control.Retired, self bool) error {
	then := "every device that hears of it cuts it off, and it can not come back as this device"
	if self {
		then = "keep it running until starling status says who refuses it: then its peers have heard"
	}
	return a.printf("%s (%s) is retired; %s\n", plain(r.Name), r.ID, then)
}

// confirm asks the person at the terminal whether the device is to be retired; nil: it is.
func (a *app) confirm(cmd *cobra.Command, d device) error {
	if !a.Terminal {
		return misusef(cmd, "a device is retired for good, and there is nobody here to ask; say --yes")
	}
	more := ""
	if d.self {
		more = ownConsequences
	}
	fmt.Fprintf(a.Err, "To retire %s is for good:\n%s%sRetire it? [y/N] ", d, consequences, more)
	answer := make(chan string, 1)
	go func() { // a terminal can not be told to stop: what is read after an interrupt is lost with the program
		line, _ := bufio.NewReader(a.In).ReadString('\n') //nolint:errcheck // the end of the input is no
		answer <- line
	}()
	select {
	case line := <-answer:
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return nil
		}
		return sdk.Errorf(sdk.CodeInvalid, "nothing was done")
	case <-cmd.Context().Done():
		return cmd.Context().Err()
	}
}

// device is a device of the library, as a person names it.
type device struct {
	id      sdk.DeviceID
	name    string // empty: nothing is known of it
	self    bool
	state   string
	retired time.Time
}

func (d device) String() string {
	if d.name == "" {
		return d.id.String()
	}
	return fmt.Sprintf("%s (%s)", plain(d.name), d.id)
}

// findDevice returns the device that text names: by its id, or by its name, which must be that of one device alone. A
// retired device is meant by a name only if no other has it.
func findDevice(ctx context.Context, host *control.Client, text string) (device, error) {
	status, err := host.Status(ctx)
	if err != nil {
		return device{}, err
	}
	all := []device{{id: status.DeviceID, name: status.DeviceName, self: true, state: "this device", retired: status.RetiredAt}}
	for _, p := range status.Peers {
		all = append(all, device{id: p.ID, name: p.Name, state: p.State, retired: p.RetiredAt})
	}
	if id, err := sdk.ParseDeviceID(text); err == nil {
		for _, d := range all {
			if d.id == id {
				return d, nil
			}
		}
		return device{id: id}, nil // the host knows best who is a member
	}
	var named, enrolled []device
	for _, d := range all {
		if d.name != text {
			continue
		}
		if named = append(named, d); d.retired.IsZero() {
			enrolled = append(enrolled, d)
		}
	}
	if len(enrolled) > 0 {
		named = enrolled
	}
	switch len(named) {
	case 0:
		return device{}, sdk.Errorf(sdk.CodeNotFound, "no device %q in this library%s", text, nearest(text, all))
	case 1:
		return named[0], nil
	}
	lines := make([]string, len(named))
	for i, d := range named {
		lines[i] = fmt.Sprintf("%s (%s)", d.id, d.state)
	}
	return device{}, sdk.Errorf(sdk.CodeInvalid, "%d devices are called %q; name one by its id: %s", len(named), text, strings.Join(lines, ", "))
}

// nearest suggests a name, or says where the names are.
func nearest(text string, all []device) string {
	best, distance := "", 3
	for _, d := range all {
		if n := levenshtein.Distance(text, d.name, nil); n < min(distance, len(d.name)) {
			best, distance = d.name, n
		}
	}
	if best == "" {
		return "; starling peers lists them"
	}
	return fmt.Sprintf("; did you mean %q?", best)
}
