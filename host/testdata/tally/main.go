// Command tally serves a model with a counter: what is added to it is neither lost nor counted twice.
package main

import (
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

var mode string // set when it is built, so that builds differ

// Tally is counted by every device.
type Tally struct {
	sdk.Shared
	Name string      `starling:"name,required"`
	Hits sdk.Counter `starling:"hits"`
}

func main() {
	_ = mode
	rpc.Serve(sdk.Model[Tally]{Name: "tally", Version: 1})
}
