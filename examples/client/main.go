// Command client puts a tag on a device, changes it, follows the change, lists the tags, and deletes it. It is given the absolute
// path of the device's data directory.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: client DATA_DIR")
		os.Exit(2)
	}
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dataDir string) error {
	host, err := control.Dial(ctx, dataDir)
	if errors.Is(err, control.ErrNoHost) {
		return fmt.Errorf("start it with starling run: %w", err)
	}
	if err != nil {
		return err
	}
	defer host.Close()

	result, err := host.Put(ctx, "tag", []control.Put{{JSON: []byte(`{"name":"from Go"}`)}}, false)
	switch {
	case errors.Is(err, control.ErrUnknown):
		return fmt.Errorf("look whether it is there: %w", err)
	case err != nil: // nothing was written
		return err
	case len(result.Refused) > 0: // by the model, or the host
		return fmt.Errorf("%s: %s", result.Refused[0].Code, result.Refused[0].Message)
	}
	id := result.IDs[0]

	watch, err := host.Watch(ctx, "tag")
	if err != nil {
		return err
	}
	defer watch.Close()
	if _, err := host.Put(ctx, "tag", []control.Put{{ID: id, JSON: []byte(`{"color":"red"}`)}}, false); err != nil {
		return err
	}
	event, err := watch.Next() // blocks until there is one
	if err != nil {
		return err
	}
	var change struct {
		Event string       `json:"_event"` // put, delete, or missed: then read everything again
		Local bool         `json:"_local"`
		ID    sdk.RecordID `json:"id"`
		Color string       `json:"color"`
	}
	if err := json.Unmarshal(event, &change); err != nil {
		return err
	}
	fmt.Println(change.Event, change.ID == id, change.Local, change.Color)

	show := func(record json.RawMessage) error {
		var tag struct{ Name string }
		if err := json.Unmarshal(record, &tag); err != nil {
			return err
		}
		fmt.Println(tag.Name)
		return nil
	}
	if err := host.List(ctx, "tag", []control.Where{{Field: "color", Value: "red"}}, 0, show); err != nil {
		return err
	}

	refused, err := host.Delete(ctx, "tag", id)
	if err != nil {
		return err
	}
	if len(refused) > 0 {
		return fmt.Errorf("%s: %s", refused[0].Code, refused[0].Message)
	}
	_, err = host.Get(ctx, "tag", id)
	fmt.Println(sdk.CodeOf(err))
	return nil
}
