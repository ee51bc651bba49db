package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"reflect"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/host/source"
	"github.com/starling-sync/starling/host/supervisor"
	"github.com/starling-sync/starling/sdk"
)

// plugins takes plugins into use as the supervisor brings them up, and out of use as they go.
type plugins struct {
	registry *registry.Registry
	network  *network
	sources  *source.Runner
	self     *self
	log      hclog.Logger
	fault    func(*supervisor.Instance, error) // tells the supervisor that an instance does not do its work

	trials   trials
	watching sync.WaitGroup // the goroutines that watch transports on trial
}

// PluginUp implements supervisor.Observer.
func (p *plugins) PluginUp(ctx context.Context, instance *supervisor.Instance) error {
	for _, m := range instance.Models {
		add := func() error { _, err := p.registry.Add(ctx, m.Server); return err }
		if err := p.network.pages.DB.Patiently(ctx, add); err != nil { // a store that is away is no fault of the plugin's
			return err
		}
	}
	if len(instance.Models) > 0 {
		p.network.modelsChanged()
	}
	for _, m := range instance.Models {
		if m.Source != nil {
			p.sources.Set(m.Description.Model, m.Source)
		}
		if m.Description.Model == deviceModel {
			p.self.say(ctx)
		}
	}
	if instance.Transport != nil {
		p.network.attach(ctx, instance.Name, instance.Transport, instance.Address)
	}
	return nil
}

// PluginCheck implements supervisor.Observer: the tables must be able to serve what the new one describes, and a connected
// device that writes a model must be able to write what it asks for.
func (p *plugins) PluginCheck(_ context.Context, _, to *supervisor.Instance) error {
	for _, m := range to.Models {
		desc := m.Description
		if err := p.registry.Check(desc); err != nil {
			return err
		}
		old, known := p.registry.Description(desc.Model)
		if !known || desc.Ownership != sdk.SharedByAll {
			continue
		}
		for _, f := range desc.Fields {
			if _, known := old.Field(f.Name); known || !f.Required {
				continue
			}
			for _, peer := range p.network.peers() {
				if version, serves := versionAt(&peer, desc.Model); serves && version < desc.Version {
					return sdk.Errorf(sdk.CodeUnavailable, "version %d of model %q requires the field %q, which %s can not write: it is connected and serves version %d; swap the plugin there first, or do not require the field",
						desc.Version, desc.Model, f.Name, peer.Name, version)
				}
			}
		}
	}
	return nil
}

func versionAt(peer *peersync.PeerStatus, model sdk.ModelName) (version uint32, serves bool) {
	for _, m := range peer.Models {
		if m.Model == model && peer.Via != "" {
			return m.Version, true
		}
	}
	return 0, false
}

// PluginSwitch implements supervisor.Observer. The calls of the models have been switched already. A schema is raised only
// when there is no way back (PluginSettled), and so is the source of its rows.
func (p *plugins) PluginSwitch(ctx context.Context, from, to *supervisor.Instance) error {
	if to.Transport != nil {
		before := p.network.roundTrips(to.Name)
		if err := p.network.replace(ctx, to.Name, to.Transport, to.Address); err != nil {
			return err
		}
		if len(before) > 0 {
			ctx = p.trials.begin(ctx, to.Name)
			p.watching.Go(func() {
				if why := p.network.proved(ctx, to.Name, before); why != nil {
					p.fault(to, why)
				}
			})
		}
	}
	for _, m := range to.Models {
		desc := m.Description
		was := versionOf(from, desc.Model)
		if desc.Version > was {
			continue
		}
		if desc.Version < was { // back: what the newer one failed on waits
			if _, err := p.registry.Add(ctx, m.Server); err != nil {
				return err
			}
			continue // the source never left
		}
		if m.Source != nil {
			p.sources.Set(desc.Model, m.Source)
		}
	}
	return nil
}

func versionOf(p *supervisor.Instance, model sdk.ModelName) uint32 {
	for _, m := range p.Models {
		if m.Description.Model == model {
			return m.Description.Version
		}
	}
	return 0
}

// PluginSettled implements supervisor.Observer.
func (p *plugins) PluginSettled(ctx context.Context, instance *supervisor.Instance) error {
	p.trials.end(instance.Name)
	changed := false
	for _, m := range instance.Models {
		if old, known := p.registry.Description(m.Description.Model); known && reflect.DeepEqual(old, m.Description) {
			continue
		}
		if _, err := p.registry.Add(ctx, m.Server); err != nil {
			return err
		}
		changed = true
	}
	if !changed {
		return nil
	}
	p.network.modelsChanged()
	for _, m := range instance.Models {
		if m.Source != nil {
			p.sources.Set(m.Description.Model, m.Source)
		}
	}
	return nil
}

// PluginDown implements supervisor.Observer.
func (p *plugins) PluginDown(instance *supervisor.Instance, reason error) {
	if reason != nil {
		p.log.Warn("plugin is gone", "plugin", instance.Name, "reason", reason)
	}
	for _, m := range instance.Models {
		if m.Description.Source {
			p.sources.Remove(m.Description.Model)
		}
		p.registry.Remove(m.Description.Model)
	}
	if len(instance.Models) > 0 {
		p.network.modelsChanged()
	}
	if instance.Transport != nil {
		p.network.detach(instance.Name)
	}
}

// specs are the plugins that the configuration names. A transport's plugin goes by the transport's name. Only a TCP
// transport listens on a socket of the host's; what the address of another means its plugin knows.
func specs(c *config.Config) []supervisor.Spec {
	var all []supervisor.Spec
	for i := range c.Models {
		m := &c.Models[i]
		all = append(all, supervisor.Spec{
			Name: string(m.Name), Dir: filepath.Dir(m.Range.File), Path: m.Path, PathAt: m.Remedy(), SHA256: m.SHA256, SHA256At: m.SHA256Range.String(), Attach: m.Attach, Models: []sdk.ModelName{m.Name}, Config: map[sdk.ModelName]json.RawMessage{m.Name: m.Config},
			Blocks: blocks{m.Name: &m.Block},
		})
	}
	for i := range c.Transports {
		t := &c.Transports[i]
		spec := supervisor.Spec{
			Name: t.Name, Dir: filepath.Dir(t.Range.File), Path: t.Path, PathAt: t.Remedy(), SHA256: t.SHA256, SHA256At: t.SHA256Range.String(), Attach: t.Attach, Transport: t.Kind, Address: t.Listen, Config: map[sdk.ModelName]json.RawMessage{"": t.Config},
			Blocks: blocks{"": &t.Block},
		}
		if t.Kind == "tcp" {
			spec.Listen = t.Listen
		}
		all = append(all, spec)
	}
	return all
}
