// Command album serves the album and album_item models: ordered collections of entries that any device may change.
package main

import (
	"strings"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/fractional"
	"github.com/starling-sync/starling/sdk/rpc"
)

// Album is an ordered collection of entries.
type Album struct {
	sdk.Shared
	Name        string  `starling:"name,required,index" doc:"what people read; not blank, at most 256 bytes"`
	Description string  `starling:"description" doc:"for people"`
	Cover       sdk.Ref `starling:"cover_id,ref=entry,weak" doc:"the entry that stands for the album; the album is visible without it"`
}

// Item puts an entry into an album; the same entry put there on two devices is one item. It is visible while both are.
//
// An album's order is ORDER BY position IS NULL, position, id: alike on every device, whoever moved what when.
type Item struct {
	sdk.Shared
	Album    sdk.Ref `starling:"album_id,ref=album,key" doc:"the album"`
	Entry    sdk.Ref `starling:"entry_id,ref=entry,key" doc:"the entry that is in it"`
	Position *string `starling:"position" doc:"where in the album, as sdk/fractional makes it; none: after all that have one"`
}

func albums() sdk.Model[Album] {
	return sdk.Model[Album]{Name: "album", Version: 1, Doc: "ordered collections of entries", Validate: validAlbum}
}

func items() sdk.Model[Item] {
	return sdk.Model[Item]{Name: "album_item", Version: 1, Doc: "which entry is in which album, and where", Validate: validItem}
}

const maxNameBytes = 256

func validAlbum(album *Album) error {
	switch {
	case strings.TrimSpace(album.Name) == "":
		return sdk.Errorf(sdk.CodeInvalid, `field "name": an album needs a name that is not blank`)
	case len(album.Name) > maxNameBytes:
		return sdk.Errorf(sdk.CodeTooLarge, `field "name": %d bytes; at most %d are allowed`, len(album.Name), maxNameBytes)
	}
	return nil
}

func validItem(item *Item) error {
	if item.Position == nil {
		return nil
	}
	if err := fractional.Check(*item.Position); err != nil {
		return sdk.Errorf(sdk.CodeInvalid, `field "position": %w; leave it out to put the entry at the end`, err)
	}
	return nil
}

func main() { rpc.Serve(albums(), items()) }
