package config

import (
	"io"
	"os"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/starling-sync/starling/sdk"
)

// Declared is what plugins declare that their config blocks may hold, by Model.Name or Transport.Name. A plugin that is not
// there does not say.
type Declared map[string][]sdk.Setting

// Show writes c to w as one file with every setting, also those that no file gives, and without secrets: what came from
// secretfile, what the plugin declares to be one, and what came from env and that no plugin declares to be none. Loading what
// it writes gives c again, but for the secrets.
func Show(w io.Writer, c *Config, declared Declared) error {
	file := hclwrite.NewEmptyFile()
	b := body{file.Body()}
	if c.Library.Join {
		b.block("library").flag("join", true)
	} else {
		b.block("library", c.Library.Name)
	}
	b.block("device", c.Device.Name).text("data_dir", c.Device.DataDir)
	store := b.block("store", c.Store.Kind)
	if c.Store.Kind == "postgres" {
		store.text("dsn", hidden)
		store.text("schema", c.Store.Schema)
	} else {
		store.text("durability", string(c.Store.Durability))
	}
	b.AppendNewline()
	b.text("plugin_dir", c.PluginDir)
	for i := range c.Models {
		m := &c.Models[i]
		b.block("model", string(m.Name)).plugin(m.Path, m.SHA256, m.Attach, m.Block.shown(declared[string(m.Name)]))
	}
	for i := range c.Transports {
		t := &c.Transports[i]
		block := b.block("transport", t.Kind, t.Name)
		block.text("listen", t.Listen)
		block.texts("advertise", t.Advertise)
		block.plugin(t.Path, t.SHA256, t.Attach, t.Block.shown(declared[t.Name]))
	}
	b.block("sync").sync(&c.Sync)
	log := b.block("log")
	log.text("level", c.Log.Level)
	log.text("format", c.Log.Format)
	log.text("file", c.Log.File)
	if c.Telemetry.Prometheus != "" {
		b.block("telemetry").text("prometheus", c.Telemetry.Prometheus)
	}
	if _, err := file.WriteTo(w); err != nil {
		return sdk.Errorf(sdk.CodeInternal, "write the configuration: %w", err)
	}
	return nil
}

// body writes settings. Those that have no value are left out.
type body struct{ *hclwrite.Body }

func (b body) block(name string, labels ...string) body {
	if len(b.Attributes())+len(b.Blocks()) > 0 {
		b.AppendNewline()
	}
	return body{b.AppendNewBlock(name, labels).Body()}
}

func (b body) flag(name string, value bool) { b.SetAttributeValue(name, cty.BoolVal(value)) }

func (b body) text(name, value string) {
	if value != "" {
		b.SetAttributeValue(name, cty.StringVal(value))
	}
}

func (b body) texts(name string, values []string) {
	if len(values) == 0 {
		return
	}
	list := make([]cty.Value, len(values))
	for i := range values {
		list[i] = cty.StringVal(values[i])
	}
	b.SetAttributeValue(name, cty.TupleVal(list))
}

func (b body) plugin(path, sha256, attach string, value cty.Value) {
	b.text("path", path)
	b.text("sha256", sha256)
	b.text("attach", attach)
	if !value.CanIterateElements() || value.LengthInt() > 0 { // "(secret)", where which settings there are is one
		b.SetAttributeValue("config", value)
	}
}

func (b body) time(name string, value time.Duration) { b.text(name, short(value)) }
func (b body) size(name string, value int64)         { b.text(name, compact(value)) }
func (b body) count(name string, value int) {
	b.SetAttributeValue(name, cty.NumberIntVal(int64(value)))
}

func (b body) sync(s *Sync) {
	b.time("heartbeat", s.Heartbeat)
	b.time("max_clock_drift", s.MaxClockDrift)
	b.size("page_bytes", int64(s.PageBytes))
	b.size("window_bytes", int64(s.WindowBytes))
	b.time("audit", s.Audit)
	retention := b.block("retention")
	retention.time("age", s.Retention.Age)
	retention.size("bytes", s.Retention.Bytes)
	retention.time("conflicts", s.Retention.Conflicts)
	limits, l := b.block("limits"), &s.Limits
	limits.size("frame_bytes", int64(l.FrameBytes))
	limits.size("decoded_bytes", int64(l.DecodedBytes))
	limits.size("max_page_bytes", int64(l.MaxPageBytes))
	limits.count("batches", l.Batches)
	limits.count("columns", l.Columns)
	limits.count("marks", l.Marks)
	limits.count("heads", l.Heads)
	limits.count("epochs", l.Epochs)
	limits.count("origins", l.Origins)
	limits.count("ranges", l.Ranges)
	limits.count("models", l.Models)
	limits.size("text_bytes", int64(l.TextBytes))
	limits.size("members_bytes", int64(l.MembersBytes))
	limits.time("handshake_time", l.HandshakeTime)
	limits.time("send_time", l.SendTime)
	limits.time("stall_time", l.StallTime)
	limits.time("retry_min", l.RetryMin)
	limits.time("retry_max", l.RetryMax)
	limits.time("dial_time", l.DialTime)
	limits.time("request_time", l.RequestTime)
	limits.count("waiting_records", l.WaitingRecords)
}

// Format returns content in the usual layout; name is for messages. What can not be read as HCL is an error, Diagnostics.
func Format(name string, content []byte) ([]byte, error) {
	f, err := newFile(Source{name, content}, environment{lookup: os.LookupEnv, executable: os.Executable}, nil)
	if err != nil {
		return nil, Diagnostics{{Range: Range{File: name}, Message: err.Error()}}
	}
	p := &parser{files: []*file{f}}
	if at, deep := f.tooDeep(); deep {
		return nil, Diagnostics{{Range: p.at(at), Message: "this is nested too deeply; a configuration is simpler"}}
	}
	_, diags := hclsyntax.ParseConfig(content, name, hcl.InitialPos)
	p.syntaxErrors(f, diags)
	if len(p.found) > 0 {
		return nil, p.found.inOrder([]string{name})
	}
	return hclwrite.Format(content), nil
}
