package config

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Change is a difference between two configurations of a device, in the terms of a host that runs.
type Change struct {
	Kind   ChangeKind
	Plugin string // the name of the plugin that it concerns, as in Model.Name or Transport.Name; empty: none
	What   string // such as `model "tag": path`, for people
}

// ChangeKind says what a running host does about a change.
type ChangeKind string

// The kinds of changes.
const (
	PluginRemoved ChangeKind = "removed"
	PluginChanged ChangeKind = "changed" // its process is replaced
	PluginAdded   ChangeKind = "added"
	AddressesOnly ChangeKind = "advertised" // where peers reach a transport; its process stays
	LogLevel      ChangeKind = "the host tells this much from now on, plugins from their next start on"
	NeedsRestart  ChangeKind = "needs a restart"
)

// Diff returns what differs between the configuration that a host runs with and another one: first what is removed, then
// what changes, what is added, and what only a restart changes. Where a plugin is found (plugin_dir, a relative path) counts
// by the path that it comes to, and a moved block is no change.
func Diff(running, next *Config) []Change {
	var all []Change
	add := func(kind ChangeKind, plugin, format string, args ...any) {
		all = append(all, Change{kind, plugin, fmt.Sprintf(format, args...)})
	}
	old, now := plugins(running), plugins(next)
	for _, p := range old {
		if q := find(now, p.name); q == nil || q.label != p.label {
			add(PluginRemoved, p.name, "%s", p.label)
		}
	}
	for _, p := range old {
		q := find(now, p.name)
		if q == nil || q.label != p.label {
			continue
		}
		if changed := p.changes(q); len(changed) > 0 {
			add(PluginChanged, p.name, "%s: %s", p.label, strings.Join(changed, ", "))
		}
		if !slices.Equal(p.advertise, q.advertise) {
			add(AddressesOnly, "", "%s: advertise", p.label)
		}
	}
	for _, q := range now {
		if p := find(old, q.name); p == nil || p.label != q.label {
			add(PluginAdded, q.name, "%s", q.label)
		}
	}
	if running.Log.Level != next.Log.Level {
		add(LogLevel, "", "log: level %s", next.Log.Level)
	}
	for _, what := range needRestart(running, next) {
		add(NeedsRestart, "", "%s", what)
	}
	return all
}

// WithRestartOf returns next as a host can have it without a restart: what needs one is as in running.
func WithRestartOf(running, next *Config) *Config {
	merged := *next
	merged.Library, merged.Device, merged.Store, merged.Sync, merged.Telemetry = running.Library, running.Device, running.Store, running.Sync, running.Telemetry
	merged.Log.File, merged.Log.Format = running.Log.File, running.Log.Format
	return &merged
}

// needRestart names what differs that a host reads only at its start.
func needRestart(a, b *Config) []string {
	var names []string
	for _, each := range []struct {
		name string
		a, b any
	}{
		{"library", [2]any{a.Library.Name, a.Library.Join}, [2]any{b.Library.Name, b.Library.Join}},
		{"device: name", a.Device.Name, b.Device.Name},
		{"device: data_dir", a.Device.DataDir, b.Device.DataDir},
		{"store", withoutRange(a.Store), withoutRange(b.Store)},
		{"sync", withoutRange(a.Sync), withoutRange(b.Sync)},
		{"log: file", a.Log.File, b.Log.File},
		{"log: format", a.Log.Format, b.Log.Format},
		{"telemetry", withoutRange(a.Telemetry), withoutRange(b.Telemetry)},
	} {
		if !reflect.DeepEqual(each.a, each.b) {
			names = append(names, each.name)
		}
	}
	return names
}

// withoutRange returns block without the places in the file: where it stands does not matter.
func withoutRange[T any](block T) T {
	v := reflect.ValueOf(&block).Elem()
	for i := range v.NumField() {
		if v.Field(i).Type() == reflect.TypeFor[Range]() {
			v.Field(i).SetZero()
		}
	}
	return block
}

// plugin is a model or a transport block.
type plugin struct {
	name, label          string
	path, sha256, listen string
	attach               string
	config               []byte
	advertise            []string
}

func plugins(c *Config) []plugin {
	var all []plugin
	for _, m := range c.Models {
		all = append(all, plugin{name: string(m.Name), label: fmt.Sprintf("model %q", m.Name), path: m.Path, sha256: m.SHA256, attach: m.Attach, config: m.Config})
	}
	for _, t := range c.Transports {
		all = append(all, plugin{
			name: t.Name, label: fmt.Sprintf("transport %q %q", t.Kind, t.Name), path: t.Path, sha256: t.SHA256, attach: t.Attach, listen: t.Listen, config: t.Config, advertise: t.Advertise,
		})
	}
	return all
}

func find(all []plugin, name string) *plugin {
	for i := range all {
		if all[i].name == name {
			return &all[i]
		}
	}
	return nil
}

// shown shows the value of an argument: a checksum by its beginning.
func shown(name, value string) string {
	if name == "sha256" && len(value) > sumShown {
		return value[:sumShown]
	}
	return cmp.Or(value, "none")
}

// sumShown is how much of a checksum is shown, as in plugin list.
const sumShown = 12

// changes names the arguments of p that differ in q.
func (p *plugin) changes(q *plugin) []string {
	var names []string
	for _, each := range []struct{ name, a, b string }{{"path", p.path, q.path}, {"sha256", p.sha256, q.sha256}, {"listen", p.listen, q.listen}, {"attach", p.attach, q.attach}} {
		if each.a != each.b {
			names = append(names, fmt.Sprintf("%s %s -> %s", each.name, shown(each.name, each.a), shown(each.name, each.b)))
		}
	}
	if !bytes.Equal(p.config, q.config) {
		names = append(names, "config")
	}
	return names
}
