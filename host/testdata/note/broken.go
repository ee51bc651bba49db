//go:build broken

package main

import "github.com/starling-sync/starling/sdk"

// This version changes a field's type, which no table can follow.
const version = 3

type Note struct {
	sdk.Shared
	Title int64   `starling:"title,required"`
	Stars int64   `starling:"stars,max,index"`
	On    sdk.Ref `starling:"tag_id,ref=tag"`
}

type Gadget struct {
	sdk.Owned
	Name   string `starling:"name,required"`
	Colour string `starling:"colour"`
}
