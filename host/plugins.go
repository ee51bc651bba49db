package main

import (
	"context"
	"encoding/json"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/config"
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
	log      hclog.Logger
}

// PluginUp implements supervisor.Observer.
func (p *plugins) PluginUp(ctx context.Context, instance *supervisor.Instance) error {
	for _, m := range instance.Models {
		if _, err := p.registry.Add(ctx, m.Server); err != nil {
			return err
		}
	}
	if len(instance.Models) > 0 {
		p.network.modelsChanged()
	}
	for _, m := range instance.Models {
		if src, ok := m.Server.(sdk.Source); ok && m.Description.Source {
			p.sources.Set(m.Description.Model, src)
		}
	}
	if instance.Transport != nil {
		p.network.attach(ctx, instance.Name, instance.Transport)
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

// specs are the plugins that the configuration names. A transport's plugin goes by the transport's name.
func specs(c *config.Config) []supervisor.Spec {
	var all []supervisor.Spec
	for _, m := range c.Models {
		all = append(all, supervisor.Spec{
			Name: string(m.Name), Path: m.Path, SHA256: m.SHA256, Models: []sdk.ModelName{m.Name}, Config: map[sdk.ModelName]json.RawMessage{m.Name: m.Config},
		})
	}
	for _, t := range c.Transports {
		all = append(all, supervisor.Spec{
			Name: t.Name, Path: t.Path, SHA256: t.SHA256, Transport: t.Kind, Listen: t.Listen, Config: map[sdk.ModelName]json.RawMessage{"": t.Config},
		})
	}
	return all
}
