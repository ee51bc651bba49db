// Command location serves the location model and catalogues the folder of every location of its device: it reads the
// folder, watches it, and yields entries.
package main

import (
	"context"
	"path"
	"strings"
	"time"

	"github.com/starling-sync/starling/plugins/location/catalog"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

func main() {
	metrics := new(sdk.Metrics)
	rpc.Serve(model(metrics), metrics)
}

// model is what this plugin serves; what it counts is in set.
func model(set *sdk.Metrics) sdk.Model[catalog.Location] {
	metrics := catalog.NewMetrics(set)
	s := defaults() // until Configure, which is called before Run
	return sdk.Model[catalog.Location]{
		Name:     "location",
		Version:  2,
		Doc:      "a folder that its device catalogues",
		Validate: validate,
		Config:   sdk.Settings(s),
		Source: func(ctx context.Context, host sdk.SourceHost) error {
			options := s.options()
			options.Metrics = metrics
			return catalog.Run(ctx, host, options)
		},
	}
}

// settings are the config block:
//
//	{ ignore = [".git"], rescan = "10m", hash = true, hash_whole = "64MiB", hash_rate = "32MiB" }
type settings struct {
	Ignore    []string      `starling:"ignore" doc:"patterns of names, or with a slash of paths below the location, that are left out"`
	Rescan    time.Duration `starling:"rescan" doc:"how often to read again what can not be watched; at least 1s"`
	Hash      bool          `starling:"hash" doc:"find out what files hold, while nothing else is to do"`
	HashWhole sdk.Size      `starling:"hash_whole" doc:"the largest file that is read in full for that; of others, samples are"`
	HashRate  sdk.Size      `starling:"hash_rate" doc:"how much is read for that in a second, at most; 0 is without limit"`
}

func defaults() *settings {
	return &settings{Rescan: 10 * time.Minute, HashWhole: 64 << 20, HashRate: 32 << 20}
}

// Check says why the settings make no sense.
func (s *settings) Check() error {
	if s.Rescan < time.Second {
		return sdk.BadSetting("rescan", "%q is too short; write at least %q", sdk.FormatDuration(s.Rescan), "1s")
	}
	return s.options().Check()
}

// options are the settings in the terms of the catalogue, in which zero stands for the default.
func (s *settings) options() catalog.Options {
	o := catalog.Options{Ignore: s.Ignore, Rescan: s.Rescan, Hash: s.Hash, HashWhole: int64(s.HashWhole), HashRate: int64(s.HashRate)}
	if o.HashWhole == 0 {
		o.HashWhole = 1 // nothing is read in full but what is too small to be sampled
	}
	if o.HashRate == 0 {
		o.HashRate = -1 // without limit
	}
	return o
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
