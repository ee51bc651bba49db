package config

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"text/template"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/starling-sync/starling/host/database/dsn"
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
	Schema    string // of it; empty: "starling"
}

// databaseVariable is the variable of the environment that the dsn is read from.
const databaseVariable = "DATABASE_URL"

//go:embed config.hcl.tmpl
var source string

// Write writes a commented config.hcl for s to w. The file loads without errors, or Write returns the mistakes that
// loading it would find (an address without a port, a name that is too long), without places in a file that is not there,
// and writes nothing.
func Write(w io.Writer, s Settings) error {
	content, err := render(s)
	if err != nil {
		return err
	}
	if _, set := os.LookupEnv(databaseVariable); s.Postgres && !set {
		return sdk.Errorf(sdk.CodeInvalid, "the environment variable %s, which says where the database is, is not set; set it, for example to postgres://user:password@host:5432/database?sslmode=verify-full", databaseVariable)
	}
	_, err = Parse(Source{"config.hcl", content})
	if mistakes, ok := errors.AsType[Diagnostics](err); ok {
		return mistakes.unplaced()
	}
	if err != nil {
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
	if s.Schema == "" {
		s.Schema = dsn.DefaultSchema
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
