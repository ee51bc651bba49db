// Command entry serves the entry model: one record for each name in a catalogued folder. It says what a valid entry is;
// the entries themselves come from sources, such as the location plugin.
package main

import (
	"encoding/hex"
	"strings"
	"time"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// Entry is a file, a folder or another name in a catalogued folder. Only the device that has it changes it.
//
// Names are text: a byte of a name that is not valid UTF-8 stands as \xHH, and so does a backslash that would
// otherwise read as the start of such an escape.
type Entry struct {
	sdk.Owned
	Name        string    `starling:"name,required" doc:"the last part of its path; a byte that is not UTF-8 as \\xHH"`
	Extension   string    `starling:"extension" doc:"of a file: what follows the last dot, in lower case"`
	Kind        string    `starling:"kind,required" doc:"file, directory, symlink or other"`
	Size        int64     `starling:"size" doc:"bytes; 0 but for files and symlinks"`
	ModifiedAt  time.Time `starling:"modified_at" doc:"when the content changed last"`
	CreatedAt   time.Time `starling:"created_at" doc:"when it was made, where the system tells"`
	Permissions int64     `starling:"permissions" doc:"Unix mode bits, at most 07777"`
	Inode       int64     `starling:"inode,index" doc:"the file's number in its file system; 0 where there is none"`
	Device      int64     `starling:"device_number" doc:"the file system's number on its device; 0 where there is none"`
	Parent      sdk.Ref   `starling:"parent_id,ref=entry" doc:"the folder that holds it; none for a location's own folder"`
	Location    sdk.Ref   `starling:"location_id,ref=location,weak,required" doc:"the location that it was found in"`
	ContentHash *string   `starling:"content_hash" doc:"of a file: what it held, as METHOD:HEX, where that was found out for its size and times"`
}

func main() { rpc.Serve(model()) }

// model is what this plugin serves. The reference to the location is weak, so that removing a location deletes its
// entries bit by bit instead of hiding all of them in one transaction.
func model() sdk.Model[Entry] {
	return sdk.Model[Entry]{
		Name:     "entry",
		Version:  2,
		Doc:      "a name in a catalogued folder",
		Validate: validate,
	}
}

func validate(e *Entry) error {
	switch e.Kind {
	case "file", "directory", "symlink", "other":
	default:
		return sdk.Errorf(sdk.CodeInvalid, "kind: %q is not one of file, directory, symlink and other", e.Kind)
	}
	switch {
	case e.Name == "", e.Name == ".", e.Name == "..":
		return sdk.Errorf(sdk.CodeInvalid, "name: %q does not name anything", e.Name)
	case strings.Contains(e.Name, "/"):
		return sdk.Errorf(sdk.CodeInvalid, "name: %q holds a slash; give the last part of the path alone", e.Name)
	case e.Size < 0:
		return sdk.Errorf(sdk.CodeInvalid, "size: %d is less than nothing", e.Size)
	case e.Permissions < 0 || e.Permissions > 0o7777:
		return sdk.Errorf(sdk.CodeInvalid, "permissions: %#o is beyond 07777", e.Permissions)
	case e.Parent.ID() == e.ID && !e.Parent.IsZero():
		return sdk.Errorf(sdk.CodeInvalid, "parent_id: an entry can not hold itself")
	case e.ContentHash != nil && !namesMethod(*e.ContentHash):
		return sdk.Errorf(sdk.CodeInvalid, "content_hash: %q does not say how it was made; write METHOD:HEX, as in %q", *e.ContentHash, "sha256:e3b0c442...")
	}
	return nil
}

// namesMethod reports whether text is METHOD:HEX: a hash without its method can not be compared with others. Which methods
// there are is for who makes them to say.
func namesMethod(text string) bool {
	method, digits, found := strings.Cut(text, ":")
	_, err := hex.DecodeString(digits)
	return found && method != "" && digits != "" && err == nil && digits == strings.ToLower(digits) &&
		strings.Trim(method, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}
