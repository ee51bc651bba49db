package config

import (
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"text/template"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/starling-sync/starling/sdk"
)

// Settings is what differs between the files of freshly made devices.
type Settings struct {
	Library   string // name of the library that the device founds; empty: it waits for an invitation
	Device    string // name of the device
	DataDir   string // empty: "./data"
	Listen    string // host:port of the tcp transport; empty: "127.0.0.1:7420"
	PluginDir string // empty: the folder plugins beside the program
	Postgres  bool   // records are kept in the database that DATABASE_URL names, rather than in SQLite
}

//go:embed config.hcl.tmpl
var source string

// Write writes a commented config.hcl for s to w. The file loads without errors, or Write returns the Diagnostics that
// loading it would give (an address without a port, a name that is too long) and writes nothing.
func Write(w io.Writer, s Settings) error {
	content, err := render(s)
	if err != nil {
		return err
	}
	if _, err := Parse(Source{"config.hcl", content}); err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return sdk.Errorf(sdk.CodeInternal, "write config.hcl: %w", err)
	}
	return nil
}

func render(s Settings) ([]byte, error) {
	if s.DataDir == "" {
		s.DataDir = "./data"
	}
	if s.Listen == "" {
		s.Listen = "127.0.0.1:7420"
	}
	t, err := template.New("config.hcl").Funcs(template.FuncMap{"quote": quote, "short": short, "size": size}).Parse(source)
	if err != nil {
		return nil, fmt.Errorf("read the template of config.hcl: %w", err)
	}
	var out bytes.Buffer
	err = t.Execute(&out, struct {
		Settings
		Sync Sync // the defaults
	}{s, DefaultSync()})
	if err != nil {
		return nil, fmt.Errorf("fill in the template of config.hcl: %w", err)
	}
	return out.Bytes(), nil
}

// size returns a number of bytes as the file writes it.
func size(bytes any) (string, error) {
	switch n := bytes.(type) {
	case int:
		return compact(n), nil
	case int64:
		return compact(n), nil
	}
	return "", fmt.Errorf("%v is no number of bytes", bytes)
}

// quote returns text as the file's syntax quotes it.
func quote(text string) string {
	return string(hclwrite.TokensForValue(cty.StringVal(text)).Bytes())
}
