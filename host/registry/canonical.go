package registry

import (
	"encoding/binary"
	"hash"
	"slices"
	"strings"

	"github.com/starling-sync/starling/sdk"
)

// canonical writes records of one model in the form that digests are made of, one after another.
type canonical struct {
	m      *model
	order  []int    // indexes of the fields, by name
	packed [][]byte // their names, in the order of the model
	buf    []byte   // the record at hand, after 4 bytes for its length
}

func newCanonical(m *model) canonical {
	c := canonical{m: m, order: make([]int, len(m.names)), packed: make([][]byte, len(m.names))}
	for i, name := range m.names {
		c.order[i], c.packed[i] = i, sdk.AppendValue(nil, name)
	}
	slices.SortFunc(c.order, func(a, b int) int { return strings.Compare(m.names[a], m.names[b]) })
	return c
}

// writeTo adds the record at hand, with its length, to sum.
func (c *canonical) writeTo(sum hash.Hash) {
	binary.BigEndian.PutUint32(c.buf, uint32(len(c.buf)-4)) //nolint:gosec // a record is bounded
	sum.Write(c.buf)
}

// record makes rec the record at hand.
func (c *canonical) record(rec *record) error {
	if c.m.shared {
		c.shared(rec.state)
		return nil
	}
	extras, _ := rec.args[c.m.width-1].([]byte)
	if err := c.owned(rec.id[:], sdk.Version{Stamp: rec.stamp, Device: rec.origin}, rec.values(), extras); err != nil {
		return damaged(c.m, rec.id, err)
	}
	return nil
}

// unreadable makes a record the one at hand that is stored and can not be read: equal to no other.
func (c *canonical) unreadable(id sdk.RecordID) {
	c.buf = append(c.buf[:0], 0, 0, 0, 0)
	c.buf = append(sdk.AppendValue(c.buf, id), "unreadable"...)
}

func (c *canonical) begin(id []byte, v sdk.Version) {
	c.buf = append(c.buf[:0], 0, 0, 0, 0)
	c.buf = sdk.AppendValue(c.buf, sdk.RecordID(id))
	c.version(v)
}

func (c *canonical) version(v sdk.Version) {
	c.buf = binary.BigEndian.AppendUint64(c.buf, uint64(v.Stamp))
	c.buf = append(c.buf, v.Device[:]...)
}

func (c *canonical) shared(state *sdk.Record) {
	c.begin(state.ID[:], state.Inserted)
	for i := range state.Fields {
		f := &state.Fields[i]
		c.buf = sdk.AppendValue(c.buf, f.Name)
		c.version(f.Version)
		c.buf = sdk.AppendValue(c.buf, f.Value)
		if f.State != nil {
			c.buf = sdk.AppendValue(c.buf, f.State)
		}
	}
}

// owned takes the fields of a device-owned record in their stored form, in the order of the model.
func (c *canonical) owned(id []byte, v sdk.Version, values []any, raw []byte) error {
	c.begin(id, v)
	if len(raw) == 0 {
		for _, i := range c.order {
			c.field(i, values[i])
		}
		return nil
	}
	extras, err := unpackExtras(raw)
	if err != nil {
		return err
	}
	at := 0
	for _, x := range extras {
		for ; at < len(c.order) && c.m.names[c.order[at]] < x.name; at++ {
			c.field(c.order[at], values[c.order[at]])
		}
		value, _, err := readUntyped(x.value)
		if err != nil {
			return err
		}
		c.buf = sdk.AppendValue(c.buf, x.name)
		c.buf = sdk.AppendValue(c.buf, value)
	}
	for ; at < len(c.order); at++ {
		c.field(c.order[at], values[c.order[at]])
	}
	return nil
}

func (c *canonical) field(i int, arg any) {
	if arg != nil {
		c.buf = append(c.buf, c.packed[i]...)
		c.buf = appendArg(c.buf, c.m.types[i], arg)
	}
}
