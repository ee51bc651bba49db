//go:build !two && !broken

package main

import "github.com/starling-sync/starling/sdk"

const version = 1

type Note struct {
	sdk.Shared
	Title string `starling:"title,required"`
}

type Gadget struct {
	sdk.Owned
	Name string `starling:"name,required"`
}
