//go:build two

package main

import "github.com/starling-sync/starling/sdk"

const version = 2

type Note struct {
	sdk.Shared
	Title string  `starling:"title,required"`
	Stars int64   `starling:"stars,max,index"`
	On    sdk.Ref `starling:"tag_id,ref=tag"`
}

type Gadget struct {
	sdk.Owned
	Name   string `starling:"name,required"`
	Colour string `starling:"colour"`
}
