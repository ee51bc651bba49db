package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// Blocks is where a plugin's config blocks stand in the configuration file. Declared, in its methods, is what the plugin says
// that each may hold; a block that is not in it is one of which the plugin does not say.
type Blocks interface {
	// Check returns every mistake in the blocks, each with its place.
	Check(declared map[sdk.ModelName][]sdk.Setting) error
	// Locate gives the plugin's refusal of a block its place.
	Locate(model sdk.ModelName, refusal error) error
	// Secrets returns the values in the blocks that nobody may read. declared is nil until the plugin has said.
	Secrets(declared map[sdk.ModelName][]sdk.Setting) []string
}

// ConfigError says that a plugin can not be used as it is configured, and nothing else is wrong with it. Unwrap gives what
// Blocks said.
type ConfigError struct{ cause error }

// Error returns one line, as a reason is shown.
func (e *ConfigError) Error() string { return strings.ReplaceAll(e.cause.Error(), "\n", "; ") }

// Unwrap returns the mistakes.
func (e *ConfigError) Unwrap() error { return e.cause }

// introduction is a process that has said what it is and has been configured.
type introduction struct {
	info      rpc.Info
	models    []sdk.ModelServer // parallel to info.Models
	transport sdk.Transport     // nil if it serves none
}

// introduce asks a process what it serves, checks that this is what spec expects, checks the config blocks against what it
// says that they may hold, and hands them over. What it has been told is returned with the error.
func introduce(ctx context.Context, spec *Spec, path string, client *rpc.Client, redact *rpc.Redactor) (in introduction, err error) {
	if in.info, err = client.Info(ctx); err != nil {
		return in, err
	}
	for i := range in.info.Models {
		if err := in.info.Models[i].Model.CheckServed(); err != nil {
			return in, fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := spec.expects(path, in.info); err != nil {
		return in, err
	}
	for model, declared := range in.info.Settings {
		if err := sdk.CheckSettings(declared); err != nil {
			return in, sdk.Errorf(sdk.CodeInvalid, "what the plugin declares of the settings of %s can not be used: %w", spec.target(model), err)
		}
	}
	if spec.Blocks != nil {
		redact.Hide(spec.Blocks.Secrets(in.info.Settings))
		if err := spec.Blocks.Check(in.info.Settings); err != nil {
			return in, &ConfigError{err}
		}
	}
	for _, d := range in.info.Models {
		m := client.Model(d)
		if err := spec.configure(ctx, m, d.Model); err != nil {
			return in, err
		}
		in.models = append(in.models, m)
	}
	if in.info.Transport != "" {
		in.transport = client.Transport(in.info.Transport)
		if err := spec.configure(ctx, in.transport, ""); err != nil {
			return in, err
		}
	}
	return in, nil
}

// redactor knows the secrets in the blocks, as long as the plugin has not said which settings are.
func (s *Spec) redactor() *rpc.Redactor {
	r := new(rpc.Redactor)
	if s.Blocks != nil {
		r.Hide(s.Blocks.Secrets(nil))
	}
	return r
}

// secrets returns, in order, what of the blocks is not to be shown, declared being what the plugin says of its settings.
func (s *Spec) secrets(declared map[sdk.ModelName][]sdk.Setting) []string {
	if s.Blocks == nil {
		return nil
	}
	return slices.Sorted(slices.Values(s.Blocks.Secrets(declared)))
}

// target names what a block is for.
func (s *Spec) target(model sdk.ModelName) string {
	if model == "" {
		return "transport " + s.Transport
	}
	return "model " + string(model)
}

func (s *Spec) configure(ctx context.Context, target any, model sdk.ModelName) error {
	c, ok := target.(sdk.Configurable)
	if !ok {
		return nil
	}
	err := c.Configure(ctx, s.Config[model])
	switch {
	case err == nil:
		return nil
	case s.Blocks != nil && permanent(err):
		return &ConfigError{s.Blocks.Locate(model, err)}
	}
	return sdk.Errorf(sdk.CodeOf(err), "configure %s: %w", s.target(model), err)
}

// describing begins the names of folders for the copies of plugins that are described.
const describing = "describe-"

// describeTime is how long a plugin may take to start and to answer.
const describeTime = 30 * time.Second

// Describe starts a plugin just long enough to be asked what it is and to be handed its config blocks: from a copy in a
// folder of its own within dir (empty: the system's for temporary files), like a host, but without a socket and without
// anything to do. A ConfigError is about its blocks; what it said of itself is returned with it. It blocks until the process
// is gone.
func Describe(ctx context.Context, spec Spec, dir string, log hclog.Logger) (rpc.Info, error) {
	store, err := os.MkdirTemp(dir, describing)
	if err != nil {
		return rpc.Info{}, sdk.Errorf(sdk.CodeUnavailable, "make a folder for a copy of the plugin: %w", err)
	}
	defer func() { _ = os.RemoveAll(store) }()
	bin, err := stageAs(store, &spec, spec.Path, spec.SHA256)
	if err != nil {
		return rpc.Info{}, err
	}
	return describe(ctx, spec, bin, log)
}

// describe is Describe of a build in a store.
func describe(ctx context.Context, spec Spec, bin binary, log hclog.Logger) (rpc.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, describeTime)
	defer cancel()
	redact := spec.redactor()
	p, err := rpc.Start(ctx, rpc.Command{Name: spec.Name, Path: bin.path, Origin: bin.origin, Dir: spec.Dir, Env: spec.Env, Log: log, Redact: redact})
	if err != nil {
		return rpc.Info{}, err
	}
	defer p.Kill()
	in, err := introduce(ctx, &spec, bin.origin, p.Client(), redact)
	return in.info, err
}

// Try is Describe of a plugin as spec would have it run: where only its configuration changes that is the build in use.
func (s *Supervisor) Try(ctx context.Context, spec Spec) error {
	s.mu.Lock()
	k := s.find(spec.Name)
	s.mu.Unlock()
	paused := false
	if k != nil {
		k.mu.Lock()
		was, now := k.spec, k.current
		paused = k.paused != ""
		var bin binary // of now
		if now != nil {
			bin = now.bin
		}
		k.mu.Unlock()
		if now != nil && now.process.Debugged() && spec.Attach != "" { // it may be stopped: what it has declared must do
			if spec.Blocks == nil {
				return nil
			}
			if err := spec.Blocks.Check(now.info.Settings); err != nil {
				return &ConfigError{err}
			}
			if known, err := tryAttached(ctx, spec, now); known {
				return err
			}
			return s.tryBinary(ctx, spec, now.info.Settings)
		}
		if now != nil && was.Path == spec.Path && was.SHA256 == spec.SHA256 && bin.intact() {
			_, err := describe(ctx, spec, bin, hclog.NewNullLogger())
			return err
		}
	}
	if err := os.MkdirAll(s.options.RuntimeDir, 0o700); err != nil {
		return sdk.Errorf(sdk.CodeUnavailable, "%s: %w", filepath.Base(s.options.RuntimeDir), err)
	}
	if paused {
		_, _, _, err := DescribeNext(ctx, spec, s.options.StoreDir, s.options.RuntimeDir, hclog.NewNullLogger())
		return err
	}
	_, err := Describe(ctx, spec, s.options.RuntimeDir, hclog.NewNullLogger())
	return err
}

// tryAttached has a process that is under a debugger judge its blocks, of which it takes none. It is not known what it says if it is
// stopped, or can not judge them.
func tryAttached(ctx context.Context, spec Spec, g *generation) (known bool, wrong error) {
	ctx, cancel := context.WithTimeout(ctx, debugPatience)
	defer cancel()
	targets := make([]sdk.ModelName, 0, len(g.info.Models)+1)
	for _, d := range g.info.Models {
		targets = append(targets, d.Model)
	}
	if g.info.Transport != "" {
		targets = append(targets, "")
	}
	redact := new(rpc.Redactor) // that of its process knows the secrets of the blocks in use
	redact.Hide(spec.secrets(g.info.Settings))
	known = true
	for _, target := range targets {
		judged, err := g.process.Client().CheckConfig(ctx, target, spec.Config[target])
		if permanent(err) {
			return true, &ConfigError{spec.Blocks.Locate(target, redact.Error(err))}
		}
		known = known && judged && err == nil
	}
	return known, nil
}

// tryBinary has the binary at the configured path judge a block for a process of it that is under a debugger and can not say itself:
// it is stopped, or would take for good what it is given. What the binary says counts where it declares the same settings; a binary that
// is not there, or is of other source, is no mistake of the block.
func (s *Supervisor) tryBinary(ctx context.Context, spec Spec, declared map[sdk.ModelName][]sdk.Setting) error {
	info, err := Describe(ctx, spec, s.options.RuntimeDir, hclog.NewNullLogger())
	if wrong, ok := errors.AsType[*ConfigError](err); ok && reflect.DeepEqual(info.Settings, declared) {
		return wrong
	}
	return nil
}
