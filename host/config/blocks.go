package config

import (
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/starling-sync/starling/host/database/dsn"
	"github.com/starling-sync/starling/sdk"
)

// shapes returns the blocks of the file. plugin_dir is the only argument beside them.
func shapes() []shape {
	plugin := []string{"path", "sha256", "attach", "config"}
	return []shape{
		{name: "library", labels: []string{"home"}, arguments: []string{"join"}},
		{name: "device", labels: []string{"alice"}, arguments: []string{"data_dir"}},
		{name: "store", labels: []string{"sqlite"}, arguments: []string{"durability", "dsn", "schema"}},
		{name: "model", labels: []string{"entry"}, arguments: plugin, blocks: []string{"config"}},
		{
			name: "transport", labels: []string{"tcp", "lan"},
			arguments: append([]string{"listen", "advertise"}, plugin...), blocks: []string{"config"},
		},
		{
			name: "sync", arguments: []string{"heartbeat", "max_clock_drift", "page_bytes", "window_bytes", "audit"},
			blocks: []string{"retention", "limits"},
		},
		{name: "log", arguments: []string{"level", "format", "file"}},
		{name: "telemetry", arguments: []string{"prometheus"}},
	}
}

func (p *parser) document(c *Config, body *hclsyntax.Body) {
	known := map[string]shape{}
	for _, s := range shapes() {
		known[s.name] = s
	}
	start := hcl.Range{Start: hcl.InitialPos, End: hcl.InitialPos} // of the first file
	if b := p.one(body, "library"); b != nil {
		c.Library = p.library(b, known["library"])
	} else {
		p.missingf(start, `the library is missing; write library "home" {}, or library { join = true } to wait for an invitation`)
	}
	p.onlyDevice(c, body)
	c.Store = Store{Kind: "sqlite", Durability: Full}
	if b := p.one(body, "store"); b != nil {
		c.Store = p.store(p.section(b, known["store"]))
	} else {
		p.missingf(start, `the store is missing; write store "sqlite" {}, or store "postgres" { dsn = env("DATABASE_URL") }`)
	}
	c.Sync = p.sync(p.one(body, "sync"), known["sync"])
	c.Log = p.log(p.one(body, "log"), known["log"])
	c.Telemetry = p.telemetry(p.one(body, "telemetry"), known["telemetry"])
	p.allPlugins(c, body)
}

// onlyPlugins reads the device's block and which plugins it has alone.
func (p *parser) onlyPlugins(c *Config, body *hclsyntax.Body) {
	p.onlyDevice(c, body)
	p.allPlugins(c, body)
}

// allPlugins reads which plugins there are. A block that there can not be is a mistake: it may be meant to be a plugin's.
func (p *parser) allPlugins(c *Config, body *hclsyntax.Body) {
	root := shape{arguments: []string{"plugin_dir"}}
	known := map[string]shape{}
	for _, s := range shapes() {
		root.blocks = append(root.blocks, s.name)
		known[s.name] = s
	}
	p.names(body, root, "")
	c.PluginDir = p.plugins(body)
	p.models(c, body, known["model"])
	p.transports(c, body, known["transport"])
}

// onlyDevice reads the device's block alone.
func (p *parser) onlyDevice(c *Config, body *hclsyntax.Body) {
	b := p.one(body, "device")
	if b == nil {
		p.missingf(hcl.Range{Start: hcl.InitialPos, End: hcl.InitialPos}, `the device is missing; write device "alice" { data_dir = "./data" }`)
		return
	}
	shape := shapes()[slices.IndexFunc(shapes(), func(s shape) bool { return s.name == "device" })]
	c.Device = p.device(p.section(b, shape))
}

// library reads `library "home" {}` or `library { join = true }`.
func (p *parser) library(b *hclsyntax.Block, s shape) Library {
	if len(b.Labels) == 0 {
		s.labels = nil
	}
	sec := p.section(b, s)
	join := sec.flag("join")
	result := Library{Join: join, Range: p.at(sec.whole())}
	switch {
	case len(b.Labels) > 0 && join:
		p.failf(sec.label(0), `a device that waits for an invitation takes the library's name from it; write library { join = true }`)
	case len(b.Labels) > 0:
		result.Name = p.name(sec.label(0), "library", b.Labels[0])
	case !join:
		p.missingf(sec.whole(), `the library needs a name; write library "home" {}, or library { join = true } to wait for an invitation`)
	}
	return result
}

// name checks a name that people give: not blank, at most 64 bytes, no control characters.
func (p *parser) name(at hcl.Range, what, name string) string {
	switch {
	case strings.TrimSpace(name) == "":
		p.failf(at, "the name of the %s is empty", what)
	case len(name) > 64:
		p.failf(at, "the name of the %s is over 64 bytes; shorten it", what)
	case strings.ContainsFunc(name, control):
		p.failf(at, "the name of the %s holds a control character; remove it", what)
	}
	return name
}

func (p *parser) device(s section) Device {
	result := Device{Range: p.at(s.whole())}
	if len(s.block.Labels) > 0 {
		result.Name = p.name(s.label(0), "device", s.labels[0])
	}
	dir, at := s.text("data_dir", "")
	result.DataDirRange = p.at(at)
	if _, given := s.block.Body.Attributes["data_dir"]; !given {
		p.missingf(at, `the device has no data_dir; write data_dir = "./data"`)
	}
	result.DataDir = absolute(p.fileOf(at).base, dir)
	return result
}

func (p *parser) store(s section) Store {
	result := Store{Kind: "sqlite", Durability: Full, Range: p.at(s.whole())}
	others := []string{"dsn", "schema"}
	switch kind := s.labels[0]; kind {
	case "sqlite", "":
		result.Durability = Durability(s.choice("durability", string(Full), string(Normal)))
	case "postgres":
		result.Kind, others = kind, []string{"durability"}
		p.postgres(s, &result)
	default:
		p.failf(s.label(0), `the store %q is unknown here; write store "sqlite" {}, or store "postgres" { dsn = env("DATABASE_URL") }`, kind)
		return result
	}
	for _, name := range others {
		if a, given := s.block.Body.Attributes[name]; given {
			p.failf(a.NameRange, "%s is no setting of the store %q; remove it", name, result.Kind)
		}
	}
	return result
}

// postgres reads where a database is. The dsn may be a secret, and is treated as one.
func (p *parser) postgres(s section, result *Store) {
	v, ok := s.value("dsn")
	switch _, given := s.block.Body.Attributes["dsn"]; {
	case !given:
		p.missingf(s.whole(), `the store has no dsn; write dsn = env("DATABASE_URL"), or dsn = secretfile("database-url")`)
	case !ok:
	case v.cty.Type() != cty.String:
		p.failf(v.at, "dsn: want text in quotes, got %s", kind(v.cty))
	default:
		result.DSN = v.cty.AsString()
		if result.DSN == hidden {
			p.failf(v.at, `dsn: %s stands for what config show hides; write dsn = env("DATABASE_URL"), or dsn = secretfile("database-url")`, hidden)
		} else if _, err := dsn.Parse(result.DSN); err != nil {
			p.failf(v.at, "%s", err)
		}
	}
	schema, at := s.text("schema", dsn.DefaultSchema)
	if err := dsn.CheckSchema(schema); err != nil && schema != "" {
		p.failf(at, "%s", err)
	}
	result.Schema = schema
}

func (p *parser) log(b *hclsyntax.Block, shape shape) Log {
	if b == nil {
		return Log{Level: "info", Format: "text"}
	}
	s := p.section(b, shape)
	result := Log{
		Level:  s.choice("level", "info", "trace", "debug", "warn", "error"),
		Format: s.choice("format", "text", "json"),
		Range:  p.at(s.whole()),
	}
	if file, at := s.text("file", ""); file != "" {
		result.File = absolute(p.fileOf(at).base, file)
	}
	return result
}

func (p *parser) telemetry(b *hclsyntax.Block, shape shape) Telemetry {
	if b == nil {
		return Telemetry{}
	}
	s := p.section(b, shape)
	address, at := s.text("prometheus", "")
	if address != "" {
		p.scraped(address, at)
	}
	return Telemetry{Prometheus: address, Range: p.at(s.whole()), PrometheusRange: p.at(at)}
}

// scraped checks an address at which this device is asked for its metrics.
func (p *parser) scraped(address string, at hcl.Range) {
	host, port, why := splitAddress(address)
	switch {
	case why == "has no host":
		p.failf(at, "prometheus: %q has no host; write %q", address, net.JoinHostPort(host, port))
	case why != "":
		p.failf(at, "prometheus: %q %s; write %q", address, why, net.JoinHostPort(host, "9464"))
	case port == "0":
		p.failf(at, "prometheus: port 0 is another port at each start, where nobody looks; write one such as %q", net.JoinHostPort(host, "9464"))
	}
}

// plugins returns the folder that plugin_dir names, or the one beside the executable.
func (p *parser) plugins(body *hclsyntax.Body) string {
	s := section{parser: p, block: &hclsyntax.Block{Body: body}}
	if _, given := body.Attributes["plugin_dir"]; given {
		dir, at := s.text("plugin_dir", "")
		return absolute(p.fileOf(at).base, dir)
	}
	dir, err := p.pluginDir()
	if err != nil {
		p.missingf(hcl.Range{Start: hcl.InitialPos, End: hcl.InitialPos}, `plugin_dir can not be guessed (%s); write plugin_dir = "/path/to/plugins"`, err)
	}
	return dir
}

func (p *parser) models(c *Config, body *hclsyntax.Body, shape shape) {
	word := regexp.MustCompile(`^[a-z][a-z0-9_]{0,47}$`)
	first := map[string]hcl.Range{}
	for _, b := range body.Blocks {
		if b.Type != shape.name {
			continue
		}
		s := p.section(b, shape)
		name := s.labels[0]
		at, twice := first[name]
		switch {
		case len(b.Labels) == 0:
		case !word.MatchString(name):
			p.failf(s.label(0), "%q is not a model's name; want lower-case letters, digits and _, a letter first, at most 48", name)
		case sdk.ModelName(name).CheckServed() != nil:
			p.failf(s.label(0), "%v", sdk.ModelName(name).CheckServed())
		case twice:
			p.failf(s.whole(), "model %q is given twice, first at %s; keep one", name, p.place(at))
		}
		if !twice {
			first[name] = s.whole()
		}
		m := Model{Name: sdk.ModelName(name), Range: p.at(s.whole())}
		m.Path, m.PathRange = s.plugin(c.PluginDir, name)
		m.SHA256, m.SHA256Range = s.digest()
		m.Attach = s.attach()
		m.Config, m.Block = s.object()
		c.Models = append(c.Models, m)
	}
}

// plugin returns the path of the block's plugin: the path argument, or the binary called name in dir.
func (s section) plugin(dir, name string) (string, Range) {
	if path, at := s.text("path", ""); path != "" {
		return absolute(s.fileOf(at).base, path), s.at(at)
	}
	return binary(dir, name), s.at(s.whole())
}

func (s section) attach() string {
	file, at := s.text("attach", "")
	if file == "" {
		return ""
	}
	return absolute(s.fileOf(at).base, file)
}

func (s section) digest() (string, Range) {
	text, at := s.text("sha256", "")
	if text == "" {
		return "", Range{}
	}
	if !regexp.MustCompile(`^[0-9a-fA-F]{64}$`).MatchString(text) {
		s.failf(at, "sha256: %q is not a checksum; want 64 hexadecimal digits, as sha256sum prints them", text)
	}
	return strings.ToLower(text), s.at(at)
}

func (p *parser) transports(c *Config, body *hclsyntax.Body, shape shape) {
	word := regexp.MustCompile(`^[a-z][a-z0-9_-]{0,47}$`)
	names, addresses := map[string]hcl.Range{}, map[string]hcl.Range{}
	for _, b := range body.Blocks {
		if b.Type != shape.name {
			continue
		}
		s := p.section(b, shape)
		for i, label := range b.Labels[:min(2, len(b.Labels))] {
			if !word.MatchString(label) {
				p.failf(s.label(i), "%q is not a transport's %s; want lower-case letters, digits, - and _, a letter first, at most 48", label, []string{"kind", "name"}[i])
			}
		}
		t := p.transport(s)
		t.Path, t.PathRange = s.plugin(c.PluginDir, transportPrefix+t.Kind)
		if at, twice := names[t.Name]; twice && t.Name != "" {
			p.failf(s.whole(), "transport %q is given twice, first at %s; names differ also between kinds", t.Name, p.place(at))
		} else {
			names[t.Name] = s.whole()
		}
		if t.Listen != "" && !strings.HasSuffix(t.Listen, ":0") {
			address := t.Kind + " " + t.Listen
			if at, twice := addresses[address]; twice {
				v, _ := s.value("listen")
				p.failf(v.at, "listen: %q is taken by the transport at %s; use another", t.Listen, p.place(at))
			} else {
				addresses[address] = s.whole()
			}
		}
		c.Transports = append(c.Transports, t)
	}
}

func (p *parser) transport(s section) Transport {
	t := Transport{Kind: s.labels[0], Name: s.labels[1], Range: p.at(s.whole())}
	listen, at := s.text("listen", "")
	t.Listen, t.ListenRange = listen, p.at(at)
	advertise, ranges := s.texts("advertise")
	t.Advertise = advertise
	t.SHA256, t.SHA256Range = s.digest()
	t.Attach = s.attach()
	t.Config, t.Block = s.object()
	if t.Kind == "nats" {
		p.natsNames(at, listen, ranges, advertise)
	}
	if t.Kind != "tcp" {
		return t // only the plugin knows what its addresses look like
	}
	if listen != "" {
		if host, port, why := splitAddress(listen); why != "" {
			p.failf(at, "listen: %q %s; write %q", listen, why, net.JoinHostPort(host, port))
		} else if port == "0" {
			p.failf(at, "listen: port 0 is another port at each start, where no peer finds this device; write one such as %q", net.JoinHostPort(host, "7420"))
		}
	}
	for i, address := range advertise {
		host, port, why := splitAddress(address)
		ip := net.ParseIP(host)
		switch {
		case why != "":
			p.failf(ranges[i], "advertise: %q %s; write %q", address, why, net.JoinHostPort(host, port))
		case host == "" || ip != nil && ip.IsUnspecified() || port == "0":
			p.failf(ranges[i], "advertise: %q is no address that a peer can dial; write one such as \"192.0.2.7:7420\"", address)
		}
	}
	return t
}

// splitAddress splits host:port. If it can not, why says so, and host and port are a likely correction.
func splitAddress(address string) (host, port, why string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		if _, err := strconv.ParseUint(address, 10, 16); err == nil {
			return "127.0.0.1", address, "has no host"
		}
		return strings.Trim(address, "[]:"), "7420", "has no port"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return host, "7420", "has no port between 0 and 65535"
	}
	return host, port, ""
}

// natsNames checks what a NATS transport listens as, which its plugin is told only when it has to listen: names that become part
// of a subject.
func (p *parser) natsNames(at hcl.Range, listen string, ranges []hcl.Range, advertise []string) {
	check := func(at hcl.Range, argument, name string) {
		for token := range strings.SplitSeq(name, ".") {
			if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("*>:", r) }) {
				p.failf(at, "%s: %q is no name on NATS; want no host:port, but letters, digits, - and _, with single dots between if need be, such as \"alice\"", argument, name)
				return
			}
		}
	}
	if listen != "" {
		check(at, "listen", listen)
	}
	for i, name := range advertise {
		check(ranges[i], "advertise", name)
	}
}
