// Command device serves the device model: what each device of the library says of itself. The host writes the record of
// its own device as it starts.
package main

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// Device is what a device says of itself. The record's id is the device's. Who belongs to the library, and who is
// retired, says the model member, which the host keeps itself: what stands here decides nothing.
type Device struct {
	sdk.Owned
	Name          string          `starling:"name,required" doc:"what people call it, by its configuration"`
	System        string          `starling:"system" doc:"as Go names operating systems: linux, darwin, windows"`
	Architecture  string          `starling:"architecture" doc:"as Go names processors: amd64, arm64"`
	SystemName    string          `starling:"system_name" doc:"what people call the operating system, such as Debian GNU/Linux"`
	SystemVersion string          `starling:"system_version" doc:"of the operating system; empty where it does not tell"`
	Addresses     json.RawMessage `starling:"addresses" doc:"where peers can dial it, by transport, best first: {\"tcp\": [\"host:port\"]}"`
	Version       string          `starling:"version" doc:"of Starling"`
	StartedAt     time.Time       `starling:"started_at" doc:"when it last started"`
}

func main() { rpc.Serve(model()) }

// model is what this plugin serves.
func model() sdk.Model[Device] {
	return sdk.Model[Device]{Name: "device", Version: 1, Doc: "what a device says of itself", Validate: validate, WrittenBy: "the host, of its own device as it starts"}
}

func validate(d *Device) error {
	if strings.TrimSpace(d.Name) == "" {
		return sdk.Errorf(sdk.CodeInvalid, `field "name": a device needs a name that is not blank`)
	}
	if len(d.Addresses) == 0 {
		return nil
	}
	var addresses map[string][]string
	if err := json.Unmarshal(d.Addresses, &addresses); err != nil {
		return sdk.Errorf(sdk.CodeInvalid, `field "addresses": want lists of addresses by transport, as in {"tcp": ["host:port"]}: %w`, err)
	}
	return nil
}
