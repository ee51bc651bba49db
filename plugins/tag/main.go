// Command tag serves the tag and tagging models: labels that any device may create, change and delete, and what they are
// tied to.
package main

import (
	"strings"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// Tag is a label.
type Tag struct {
	sdk.Shared
	Name        string  `starling:"name,required,index" doc:"what people read; not blank, at most 256 bytes"`
	Color       string  `starling:"color" doc:"any name of a colour that the user's programs understand"`
	Description string  `starling:"description" doc:"for people"`
	Parent      sdk.Ref `starling:"parent_id,ref=tag" doc:"the tag that this one is under; it is not visible without it"`
}

// Tagging ties a tag to any record; the same tie made on two devices is one record.
type Tagging struct {
	sdk.Shared
	Tag    sdk.Ref    `starling:"tag_id,ref=tag,key" doc:"the tag"`
	Target sdk.AnyRef `starling:"target,key" doc:"the record that is tagged, of any model"`
}

func tags() sdk.Model[Tag] {
	return sdk.Model[Tag]{Name: "tag", Version: 1, Doc: "labels for records", Validate: validName}
}

func taggings() sdk.Model[Tagging] {
	return sdk.Model[Tagging]{Name: "tagging", Version: 1, Doc: "which tag is on which record"}
}

const maxNameBytes = 256

func validName(tag *Tag) error {
	switch {
	case strings.TrimSpace(tag.Name) == "":
		return sdk.Errorf(sdk.CodeInvalid, `field "name": a tag needs a name that is not blank`)
	case len(tag.Name) > maxNameBytes:
		return sdk.Errorf(sdk.CodeTooLarge, `field "name": %d bytes; at most %d are allowed`, len(tag.Name), maxNameBytes)
	}
	return nil
}

func main() { rpc.Serve(tags(), taggings()) }
