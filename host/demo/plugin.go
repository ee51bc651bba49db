package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// plugin is a plugin of the user's own, as it says of itself.
type plugin struct {
	path      string        // absolute
	model     sdk.ModelName // whose records are written
	serves    string        // for people
	models    []sdk.Description
	transport string // its kind; empty: it serves none
}

// ask starts the plugin at path, only to see what it serves.
func ask(ctx context.Context, path string) (plugin, error) {
	p := plugin{}
	var err error
	if p.path, err = filepath.Abs(path); err != nil {
		return p, err
	}
	process, err := rpc.Start(ctx, rpc.Command{Name: filepath.Base(path), Path: p.path, Log: hclog.NewNullLogger()})
	if err != nil {
		return p, err
	}
	defer process.Kill()
	info, err := process.Client().Info(ctx)
	if err != nil {
		return p, fmt.Errorf("ask %s what it serves: %w", path, err)
	}
	p.models, p.transport = info.Models, info.Transport
	var serves []string
	for i := range p.models {
		serves = append(serves, "model "+string(p.models[i].Model))
	}
	p.model = "tag" // which every device has
	if len(p.models) > 0 {
		p.model = p.models[0].Model
	}
	if p.transport != "" {
		serves = append(serves, "transport "+p.transport)
	}
	p.serves = strings.Join(serves, " and ")
	return p, nil
}

// configure has a device use the plugin: for the model that it serves first, and as its only transport.
func (p *plugin) configure(body *hclwrite.Body) {
	path := cty.StringVal(p.path)
	if len(p.models) > 0 {
		name := string(p.models[0].Model)
		isIt := func(b *hclwrite.Block) bool { return b.Type() == "model" && slices.Equal(b.Labels(), []string{name}) }
		var block *hclwrite.Block
		if i := slices.IndexFunc(body.Blocks(), isIt); i >= 0 {
			block = body.Blocks()[i]
			if len(block.Body().Attributes()) == 0 && len(block.Body().Blocks()) == 0 { // it may stand on one line
				block.Body().Clear()
				block.Body().AppendNewline()
			}
		} else {
			body.AppendNewline()
			block = body.AppendNewBlock("model", []string{name})
		}
		block.Body().SetAttributeValue("path", path)
	}
	for _, block := range body.Blocks() {
		if block.Type() == "transport" && p.transport != "" {
			block.SetLabels([]string{p.transport, "lan"})
			block.Body().SetAttributeValue("path", path)
		}
	}
}

func (s *show) beginWithPlugin(ctx context.Context) (err error) {
	began := time.Now()
	for _, each := range []struct {
		name  string
		extra []string
		d     **device
	}{{"alice", []string{"--library", "demo"}, &s.alice}, {"bob", []string{"--join"}, &s.bob}} {
		if *each.d, err = create(ctx, s.Program, s.dir, each.name, each.extra...); err != nil {
			return err
		}
		if err := (*each.d).edit(s.own.configure); err != nil {
			return err
		}
		if err := (*each.d).start(ctx); err != nil {
			return err
		}
	}
	for _, d := range []*device{s.alice, s.bob} {
		if err := d.runs(ctx, s.own.path); err != nil {
			return err
		}
	}
	s.say(fmt.Sprintf("alice and bob run, each with %s from %s", s.own.serves, filepath.Base(s.own.path)), "%s", seconds(time.Since(began)))
	return nil
}

// runs waits until the plugin at path runs, and fails where it is given up.
func (d *device) runs(ctx context.Context, path string) error {
	return d.until(ctx, func() (bool, error) {
		plugins, err := d.Plugins(ctx)
		if err != nil {
			return false, err
		}
		for _, p := range plugins {
			if p.Path == path && p.PID == 0 && p.Reason != "" {
				return false, fmt.Errorf("%s does not run on %s: %s", path, d.name, p.Reason)
			}
			if p.Path == path && p.PID != 0 && p.State == "running" {
				return true, nil
			}
		}
		return false, nil
	})
}

// example is a record that one may write.
func (s *show) example() string {
	if len(s.Put) > 0 {
		return s.Put[0]
	}
	if s.own.model == "tag" {
		return `{"name":"hello"}`
	}
	return "{...}"
}

// sync has alice write, and shows what arrives at bob.
func (s *show) sync(ctx context.Context) error {
	puts := s.Put
	if len(puts) == 0 && s.own.model == "tag" {
		puts = []string{s.example()}
	}
	if len(puts) == 0 {
		s.say("no record is written; --put JSON writes one", "the model has: %s", s.own.fields())
	}
	for _, object := range puts {
		began := time.Now()
		id, err := s.alice.put(ctx, s.own.model, sdk.RecordID{}, object)
		if err != nil {
			return err
		}
		digest, err := s.equal(ctx)
		if err != nil {
			return err
		}
		took := time.Since(began)
		record, err := s.bob.Get(ctx, s.own.model, id)
		if err != nil {
			return fmt.Errorf("bob does not show %s %s: %w", s.own.model, id, err)
		}
		if record, err = withoutClocks(record); err != nil {
			return fmt.Errorf("bob shows %s %s as %q: %w", s.own.model, id, record, err)
		}
		s.say(fmt.Sprintf("alice puts %s %s", s.own.model, object), "bob has it after %d ms   equal digests %s", took.Milliseconds(), digest)
		fmt.Fprintf(s.Out, "  at bob: %s\n", record) //nolint:errcheck // as in say
	}
	return nil
}

// withoutClocks leaves out of a record what its author did not write, in the order of its fields.
func withoutClocks(record json.RawMessage) (json.RawMessage, error) {
	end := bytes.LastIndex(record, []byte(`,"_clocks":`))
	if end < 0 {
		return record, nil
	}
	short := append(slices.Clone(record[:end]), '}')
	if !json.Valid(short) {
		return record, fmt.Errorf("its clocks are not its last field")
	}
	return short, nil
}

func (p *plugin) fields() string {
	var names []string
	for _, f := range p.models[0].Fields {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}
