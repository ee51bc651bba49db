// Command location serves the location model and catalogues the folder of every location of its device: it reads the
// folder, watches it, and yields entries.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"path"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/starling-sync/starling/plugins/location/catalog"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

func main() { rpc.Serve(model()) }

// model is what this plugin serves.
func model() sdk.Model[catalog.Location] {
	var options catalog.Options // set by Configure, which is called before Run
	return sdk.Model[catalog.Location]{
		Name:     "location",
		Version:  2,
		Doc:      "a folder that its device catalogues",
		Validate: validate,
		Config: func(_ context.Context, config json.RawMessage) error {
			var err error
			options, err = parseOptions(config)
			return err
		},
		Source: func(ctx context.Context, host sdk.SourceHost) error {
			return catalog.Run(ctx, host, options)
		},
	}
}

// parseOptions reads the config block:
//
//	{ ignore = [".git"], rescan = "10m", hash = true, hash_whole = "64MiB", hash_rate = "32MiB" }
func parseOptions(config json.RawMessage) (catalog.Options, error) {
	var settings struct {
		Ignore    []string `json:"ignore"`
		Rescan    string   `json:"rescan"`
		Hash      bool     `json:"hash"`
		HashWhole string   `json:"hash_whole"`
		HashRate  string   `json:"hash_rate"`
	}
	decoder := json.NewDecoder(bytes.NewReader(config))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&settings); err != nil {
		return catalog.Options{}, sdk.Errorf(sdk.CodeInvalid,
			"the location model takes ignore (a list of patterns), rescan (a duration such as %q), hash (true or false), hash_whole and hash_rate (sizes such as %q): %w", "10m", "64MiB", err)
	}
	options := catalog.Options{Ignore: settings.Ignore, Hash: settings.Hash}
	if settings.Rescan != "" {
		d, err := time.ParseDuration(settings.Rescan)
		if err != nil || d <= 0 {
			return catalog.Options{}, sdk.Errorf(sdk.CodeInvalid, "rescan: %q is not a duration; write %q", settings.Rescan, "10m")
		}
		options.Rescan = d
	}
	var err error
	if options.HashWhole, err = parseSize("hash_whole", settings.HashWhole); err != nil {
		return catalog.Options{}, err
	}
	if options.HashWhole == 0 && settings.HashWhole != "" {
		options.HashWhole = 1 // nothing is read in full but what is too small to be sampled
	}
	if options.HashRate, err = parseSize("hash_rate", settings.HashRate); err != nil {
		return catalog.Options{}, err
	}
	if options.HashRate == 0 && settings.HashRate != "" {
		options.HashRate = -1 // without limit
	}
	return options, options.Check()
}

// parseSize reads a number of bytes; 0 if text is empty.
func parseSize(name, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64 {
		return 0, sdk.Errorf(sdk.CodeInvalid, "%s: %q is not a size; write %q", name, text, "64MiB")
	}
	return int64(n), nil //nolint:gosec // it fits
}

// validate is pure: whether the folder is there is for the source to find out, again and again.
func validate(l *catalog.Location) error {
	switch {
	case !absolute(l.Path):
		return sdk.Errorf(sdk.CodeInvalid, "path: %q is not absolute; give the whole path, from the root", l.Path)
	case strings.HasPrefix(l.Path, "/") && path.Clean(l.Path) != l.Path:
		return sdk.Errorf(sdk.CodeInvalid, "path: %q is not in its shortest form; write %q", l.Path, path.Clean(l.Path))
	}
	return nil
}

// absolute accepts the forms of every system, since a location is validated the same everywhere.
func absolute(p string) bool {
	drive := len(p) > 2 && p[1] == ':' && (p[2] == '\\' || p[2] == '/')
	return strings.HasPrefix(p, "/") || strings.HasPrefix(p, `\\`) || drive
}
