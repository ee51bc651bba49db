package control

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// strictJSON implements connect.Codec for requests that people and scripts write as JSON. In place of connect's own, which passes
// over members that it does not know: a misspelt one would be a call that does nothing, or something else, and says nothing.
type strictJSON struct{ name string }

// Name implements connect.Codec.
func (c strictJSON) Name() string { return c.name }

// Marshal implements connect.Codec.
func (c strictJSON) Marshal(message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", message)
	}
	return protojson.Marshal(m)
}

// Unmarshal implements connect.Codec.
func (c strictJSON) Unmarshal(data []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", message)
	}
	if len(data) == 0 {
		return errors.New("the body is empty; a request without members is {}")
	}
	if err := protojson.Unmarshal(data, m); err != nil {
		return fmt.Errorf("%w; %s", err, members(m.ProtoReflect().Descriptor()))
	}
	return nil
}

// members names what a request, and the messages in it, may hold.
func members(d protoreflect.MessageDescriptor) string {
	var said []string
	var add func(protoreflect.MessageDescriptor)
	seen := map[protoreflect.FullName]bool{}
	add = func(d protoreflect.MessageDescriptor) {
		if seen[d.FullName()] {
			return
		}
		seen[d.FullName()] = true
		var names []string
		var within []protoreflect.MessageDescriptor
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			names = append(names, f.JSONName())
			if f.Message() != nil {
				within = append(within, f.Message())
			}
		}
		if names == nil {
			names = []string{"nothing"}
		}
		said = append(said, fmt.Sprintf("%s takes %s", d.Name(), strings.Join(names, ", ")))
		for _, m := range slices.Compact(within) {
			add(m)
		}
	}
	add(d)
	return strings.Join(said, "; ")
}
