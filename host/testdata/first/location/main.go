// Command location is the location plugin as it was with version 1 of its model, without its source, for tests of databases
// from then.
package main

import (
	"context"
	"encoding/json"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

type Location struct {
	sdk.Owned
	Path string `starling:"path,required" doc:"the folder, absolute"`
	Name string `starling:"name" doc:"what people call it"`
}

func main() {
	rpc.Serve(sdk.Model[Location]{
		Name: "location", Version: 1, Doc: "a folder that its device catalogues",
		Config: sdk.ConfigFunc(func(context.Context, json.RawMessage) error { return nil }),
	})
}
