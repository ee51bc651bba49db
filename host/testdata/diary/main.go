// Command diary serves a made-up model that tells everybody its secret, for tests of what the host lets through. Where
// mode is "mute" it declares no settings.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// mode is set by the linker.
var mode string

// Entry is a record.
type Entry struct {
	sdk.Shared
	Text string `starling:"text,required"`
}

type settings struct {
	Token string `starling:"token,secret,required" doc:"what opens it"`
	Level int    `starling:"level" doc:"how much it says"`
	Place string `starling:"place"`
}

// Check tells.
func (s *settings) Check() error {
	log.Printf("[INFO] logged: the token is %s", s.Token)
	fmt.Println("printed: the token is", s.Token)
	fmt.Fprintln(os.Stderr, "said: the token is", s.Token)
	if s.Level > 9 {
		return sdk.BadSetting("level", "%d is over 9, which the token %q does not allow", s.Level, s.Token)
	}
	return nil
}

type diary struct {
	sdk.Model[Entry]
	settings *settings
}

// Check implements rpc.Checker.
func (d diary) Check(context.Context) error {
	if d.settings.Level == 5 {
		return fmt.Errorf("felt: the token is %s", d.settings.Token)
	}
	return nil
}

func main() {
	s := &settings{Level: 1}
	var config sdk.Configurable = sdk.Settings(s)
	if mode == "mute" {
		config = sdk.ConfigFunc(func(_ context.Context, block json.RawMessage) error {
			if err := json.Unmarshal(block, s); err != nil {
				return err
			}
			return s.Check()
		})
	}
	rpc.Serve(diary{sdk.Model[Entry]{
		Name: "diary", Version: 1, Doc: "a made-up record", Config: config,
		Validate: func(e *Entry) error {
			if e.Text == "" {
				return sdk.Errorf(sdk.CodeInvalid, "refused: the token is %s", s.Token)
			}
			return nil
		},
	}, s})
}
