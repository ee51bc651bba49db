// Command note is a plugin of two made-up models, for tests of what happens when a schema changes: build tags choose its
// version. note is shared, gadget device-owned.
package main

import (
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

func main() {
	rpc.Serve(
		sdk.Model[Note]{Name: "note", Version: version, Doc: "a made-up shared record"},
		sdk.Model[Gadget]{Name: "gadget", Version: version, Doc: "a made-up record of one device"},
	)
}
