package command

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

const locationModel sdk.ModelName = "location"

// location is a record of the location model.
type location struct {
	ID    string `json:"id"`
	Path  string `json:"path"`
	Name  string `json:"name"`
	Owner string `json:"_owner"`
}

func (a *app) locationCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "location", Short: "Choose the folders that are catalogued"}
	cmd.AddCommand(a.locationAdd(), a.locationList(), a.locationRemove())
	return cmd
}

func (a *app) locationAdd() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "add PATH",
		Short: "Catalogue a folder of this device and watch it; print the location's id",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, err := existingFolder(args[0])
			if err != nil {
				return err
			}
			if name == "" {
				name = filepath.Base(folder)
			}
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				if err := checkOverlap(ctx, host, folder); err != nil {
					return control.NotWritten(err)
				}
				object, err := marshal(map[string]string{"path": folder, "name": name})
				if err != nil {
					return err
				}
				p := &putter{app: a, host: host, model: locationModel}
				return p.one(ctx, object)
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "`name` for people (default: the folder's)")
	return cmd
}

// existingFolder returns the absolute path of the folder at path, links resolved.
func existingFolder(path string) (string, error) {
	whole, err := filepath.Abs(path)
	if err == nil {
		whole, err = filepath.EvalSymlinks(whole)
	}
	if err == nil {
		var info fs.FileInfo
		if info, err = os.Stat(whole); err == nil && !info.IsDir() {
			return "", sdk.Errorf(sdk.CodeInvalid, "%s is not a folder; name the folder that it is in", path)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", sdk.Errorf(sdk.CodeNotFound, "%s: there is no such folder", path)
	case err != nil:
		return "", sdk.Errorf(sdk.CodeInvalid, "%s: %w", path, err)
	}
	return whole, nil
}

// checkOverlap refuses a folder that is, holds or lies in a location of this device: its entries would be there twice.
func checkOverlap(ctx context.Context, host *control.Client, folder string) error {
	status, err := host.Status(ctx)
	if err != nil {
		return err
	}
	return eachLocation(ctx, host, func(l location) error {
		switch {
		case l.Owner != status.DeviceID.String():
			return nil
		case l.Path == folder:
			return sdk.Errorf(sdk.CodeInvalid, "%s is a location already: %s", folder, l.ID)
		case within(folder, l.Path):
			return sdk.Errorf(sdk.CodeInvalid, "%s lies in the location %s (%s), which catalogues it already", folder, l.Path, l.ID)
		case within(l.Path, folder):
			return sdk.Errorf(sdk.CodeInvalid, "%s holds the location %s (%s); remove that one first", folder, l.Path, l.ID)
		}
		return nil
	})
}

// within reports whether path lies in folder.
func within(path, folder string) bool {
	rel, err := filepath.Rel(folder, path)
	return err == nil && rel != "." && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

func eachLocation(ctx context.Context, host *control.Client, yield func(location) error) error {
	return host.List(ctx, locationModel, nil, 0, func(record json.RawMessage) error {
		var l location
		if err := json.Unmarshal(record, &l); err != nil {
			return sdk.Errorf(sdk.CodeInternal, "read a location: %w", err)
		}
		return yield(l)
	})
}

func (a *app) locationList() *cobra.Command {
	return a.reads(&cobra.Command{
		Use:   "list",
		Short: "List the locations of every device",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				if a.json {
					return host.List(ctx, locationModel, nil, 0, func(record json.RawMessage) error { return a.line(record) })
				}
				names, err := deviceNames(ctx, host)
				if err != nil {
					return err
				}
				t := newTable(a.Out, "ID", "NAME", "DEVICE", "PATH")
				err = eachLocation(ctx, host, func(l location) error {
					owner, err := sdk.ParseDeviceID(l.Owner)
					t.row(l.ID, orNothing(l.Name), names.of(owner), l.Path)
					return err
				})
				return errors.Join(err, printed(t.flush()))
			})
		},
	})
}

func (a *app) locationRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove ID",
		Short: "Stop cataloguing a folder and forget its entries; the files stay",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := sdk.ParseRecordID(args[0])
			if err != nil {
				return err
			}
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				return remove(ctx, host, locationModel, id)
			})
		},
	}
}
