// Command user_metadata serves the user_metadata model: what people note about a file on one device, or about content
// wherever it is.
package main

import (
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// UserMetadata is what people say about an entry or about content: one record for each, by the natural key. On an entry
// it belongs to the device that has the entry; on content, which many devices may have, it is everybody's.
type UserMetadata struct {
	sdk.Hybrid
	Entry     sdk.Ref         `starling:"entry_id,ref=entry,owner,key" doc:"the entry it is about, whose device alone writes it; none: it is about content"`
	Content   *string         `starling:"content_hash,key" doc:"the content it is about, as METHOD:HEX, and everybody writes it; none: it is about an entry"`
	Notes     string          `starling:"notes" doc:"free text"`
	Favourite bool            `starling:"favourite" doc:"whether people want to find it at once; none is no"`
	Hidden    bool            `starling:"hidden" doc:"whether programs should leave it out of what they show; none is no"`
	Rating    *int64          `starling:"rating" doc:"from 0 to 5; none: nobody rated it"`
	Extra     json.RawMessage `starling:"extra" doc:"a JSON object, for what programs want to keep beside"`
}

func main() { rpc.Serve(model()) }

func model() sdk.Model[UserMetadata] {
	return sdk.Model[UserMetadata]{
		Name:     "user_metadata",
		Version:  1,
		Doc:      "what people note about an entry or about content",
		Validate: validate,
	}
}

const maxRating = 5

func validate(m *UserMetadata) error {
	switch {
	case m.Entry.IsZero() && m.Content == nil:
		return sdk.Errorf(sdk.CodeInvalid, "it is about nothing; give entry_id or content_hash")
	case !m.Entry.IsZero() && m.Content != nil:
		return sdk.Errorf(sdk.CodeInvalid, "it is about an entry and about content; give one of entry_id and content_hash, and write two records for both")
	case m.Content != nil && !namesMethod(*m.Content):
		return sdk.Errorf(sdk.CodeInvalid, "content_hash: %q does not say how it was made; write METHOD:HEX, as in %q", *m.Content, "sha256:e3b0c442...")
	case m.Rating != nil && (*m.Rating < 0 || *m.Rating > maxRating):
		return sdk.Errorf(sdk.CodeInvalid, "rating: %d is not from 0 to %d; null takes a rating back", *m.Rating, maxRating)
	case m.Extra != nil && !isObject(m.Extra):
		return sdk.Errorf(sdk.CodeInvalid, `extra: want a JSON object, such as {"place": "home"}; null empties it`)
	}
	return nil
}

// namesMethod reports whether text is METHOD:HEX, as the plugin entry has it of content_hash: what an entry can not hold
// would be about nothing. Other spellings of one hash would be other records.
func namesMethod(text string) bool {
	method, digits, found := strings.Cut(text, ":")
	_, err := hex.DecodeString(digits)
	return found && method != "" && digits != "" && err == nil && digits == strings.ToLower(digits) &&
		strings.Trim(method, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func isObject(text json.RawMessage) bool {
	var object map[string]json.RawMessage
	return json.Unmarshal(text, &object) == nil && object != nil
}
