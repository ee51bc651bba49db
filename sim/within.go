package main

import (
	"fmt"
	"slices"

	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// within checks a shared record of which so much was forgiven that not every choice can be tried of what is left of it: it
// holds all that must be there, and nothing that nobody wrote.
func (w *world) within(d *device, k key, row registry.Row, here bool) *fault {
	var must, may []*change // may: must among them
	for _, c := range w.ledger.records[k] {
		if d.covers(c) {
			must = append(must, c)
		}
		if d.covers(c) || c.forgiven {
			may = append(may, c)
		}
	}
	if !here {
		return nil // it may have been deleted
	}
	if !slices.ContainsFunc(may, func(c *change) bool { return c.kind == sdk.Insert && c.version() == row.Inserted }) {
		return &fault{"merge", fmt.Sprintf("nobody inserted it at %s", row.Inserted)}
	}
	for i := range row.Fields {
		f := &row.Fields[i]
		var err error
		if inParts(k.model, f.Name) {
			err = partsWithin(k, f, must, may)
		} else {
			err = valueWithin(k, f, must, may)
		}
		if err != nil {
			return &fault{"merge", fmt.Sprintf("%s of %s: %v", f.Name, f.Version, err)}
		}
	}
	return nil
}

// valueWithin checks that a value is one that was written, and that nothing beats it which must be there.
func valueWithin(k key, f *sdk.FieldState, must, may []*change) error {
	have := field{string(sdk.AppendValue(nil, f.Value)), f.Version}
	if !f.Version.IsZero() && !slices.ContainsFunc(may, func(c *change) bool { return c.version() == f.Version && c.fields[f.Name] == have.value }) {
		return fmt.Errorf("nobody wrote %v", f.Value)
	}
	for _, c := range must {
		if value, ok := c.fields[f.Name]; ok && beats(mergeOf(k.model, f.Name), field{value, c.version()}, have) {
			return fmt.Errorf("%v stands, and that of %s beats it", f.Value, c.version())
		}
	}
	return nil
}

// partsWithin checks the same of the parts of a set or a counter.
func partsWithin(k key, f *sdk.FieldState, must, may []*change) error {
	list, err := f.Parts()
	if err == nil && len(list) > 0 {
		err = f.CheckParts(mergeOf(k.model, f.Name))
	}
	if err != nil {
		return err
	}
	for i := range list {
		p := &list[i]
		if !slices.ContainsFunc(may, func(c *change) bool { return c.wrote(f.Name, p) }) {
			return fmt.Errorf("nobody wrote the part %+v", *p)
		}
	}
	for _, c := range must {
		does, ok := c.does[f.Name]
		if !ok {
			continue
		}
		for e := range does.adds {
			if !slices.ContainsFunc(list, func(p sdk.FieldPart) bool {
				return p.Element == e && p.Version.Device == c.stream.Origin && p.Version.Stamp >= c.stamp
			}) {
				return fmt.Errorf("%q of %s is not there, nor removed", e, c.version())
			}
		}
		for by, stamp := range does.removes {
			if slices.ContainsFunc(list, func(p sdk.FieldPart) bool {
				return p.Element == by.element && p.Version.Device == by.device && !p.Removed && p.Version.Stamp <= stamp
			}) {
				return fmt.Errorf("%q is there, and %s removed that very add", by.element, c.version())
			}
		}
		if does.part != (sdk.PartID{}) && !slices.ContainsFunc(list, func(p sdk.FieldPart) bool {
			return p.Part == does.part && max(p.Total, -p.Total) >= max(does.total, -does.total)
		}) {
			return fmt.Errorf("what %s added does not count", c.version())
		}
	}
	return nil
}

// wrote reports whether a change made a part of a set or a counter what it is.
func (c *change) wrote(column string, p *sdk.FieldPart) bool {
	does, ok := c.does[column]
	switch element, isText := p.Element.(string); {
	case !ok:
		return false
	case !isText:
		return c.version() == p.Version && does.part == p.Part && does.total == p.Total
	case p.Removed:
		return does.removes[adder{element, p.Version.Device}] == p.Version.Stamp
	default:
		return c.version() == p.Version && does.adds[element]
	}
}
