// Command location serves the location model and catalogues the folder of every location of its device: it reads the
// folder, watches it, and yields entries.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path"
	"strings"
	"time"

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
		Version:  1,
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

// parseOptions reads the config block: { ignore = [".git"], rescan = "10m" }.
func parseOptions(config json.RawMessage) (catalog.Options, error) {
	settings := struct {
		Ignore []string `json:"ignore"`
		Rescan string   `json:"rescan"`
	}{}
	decoder := json.NewDecoder(bytes.NewReader(config))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&settings); err != nil {
		return catalog.Options{}, sdk.Errorf(sdk.CodeInvalid, "the location model takes ignore (a list of patterns) and rescan (a duration such as %q): %w", "10m", err)
	}
	options := catalog.Options{Ignore: settings.Ignore}
	if settings.Rescan != "" {
		d, err := time.ParseDuration(settings.Rescan)
		if err != nil || d <= 0 {
			return catalog.Options{}, sdk.Errorf(sdk.CodeInvalid, "rescan: %q is not a duration; write %q", settings.Rescan, "10m")
		}
		options.Rescan = d
	}
	return options, options.Check()
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
