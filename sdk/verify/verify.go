// Package verify runs the conformance suite against a built plugin of any language, as the process that a host would start:
// the laws of the process itself, which are here, and the laws of models and transports, which are those of sdk/sdktest.
//
// It promises that a law which is broken is named by its id, that each is checked on a process of its own, so that a plugin
// which dies of one is still asked about the others, and that no process is left behind. It leaves to each plugin's own
// tests what its records mean.
package verify

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// Options say how to check a plugin. The zero value will do for one that takes what is in its fields' types.
type Options struct {
	// Config is the config block, a JSON object, of the model that the plugin serves first, or of its transport if it serves
	// no model. Empty: none.
	Config json.RawMessage
	// Records are examples that the models accept from a writer, JSON objects: the laws build their histories from the values
	// of their fields. Each is for the models that have all of its fields.
	Records []json.RawMessage
	// Listen is where a transport listens; empty: "127.0.0.1:0".
	Listen string
	// Patience is how long to wait for what should happen at once; 0: 30 s. It decides nothing but when to give up.
	Patience time.Duration
	// Only are the ids of the laws to check; empty: all that are about the plugin.
	Only []string
	// Env are variables that the process gets too, as KEY=VALUE.
	Env []string
	// Log gets what the process logs; nil: nobody does.
	Log hclog.Logger
}

// Report is what came of all checks of a plugin.
type Report struct {
	Plugin    string           `json:"plugin"`    // path of the binary
	Version   string           `json:"version"`   // of its build, as it says
	Models    []sdk.ModelName  `json:"models"`    // that it serves
	Transport string           `json:"transport"` // empty: it serves none
	Kept      int              `json:"kept"`
	Broken    int              `json:"broken"`
	Skipped   int              `json:"skipped"`
	Results   []sdktest.Result `json:"-"`
}

// Plugin checks the plugin at path and gives each result to each as it comes. seed repeats the random histories of an
// earlier run; 0 draws new ones. An error means that the checks could not be made: that path is no file, that an option is
// wrong, or that ctx has ended. A plugin that does not start breaks PLUGIN-001, and one that refuses o.Config PLUGIN-005: nothing
// else is checked then, for it would say the same again.
func Plugin(ctx context.Context, path string, o Options, seed uint64, each func(sdktest.Result)) (Report, error) {
	dir, err := os.MkdirTemp("", "starling-verify-")
	if err != nil {
		return Report{}, sdk.Errorf(sdk.CodeUnavailable, "make a folder for a copy of the plugin: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s, checks, err := suite(ctx, path, dir, o)
	if err != nil {
		return Report{}, err
	}
	r := Report{Plugin: path, Version: s.info.Version, Transport: s.info.Transport, Models: []sdk.ModelName{}}
	for i := range s.info.Models {
		r.Models = append(r.Models, s.info.Models[i].Model)
	}
	err = sdktest.Run(ctx, checks, seed, func(result sdktest.Result) {
		switch result.Status {
		case sdktest.Kept:
			r.Kept++
		case sdktest.Broken:
			r.Broken++
		case sdktest.Skipped:
			r.Skipped++
		}
		r.Results = append(r.Results, result)
		each(result)
	})
	return r, err
}

// Test checks the plugin at path, one law a subtest: what `starling plugin verify` does.
func Test(t *testing.T, path string, o Options) {
	t.Helper()
	_, checks, err := suite(t.Context(), path, t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	sdktest.Test(t, checks)
}

// Laws returns the laws of plugin processes. Those of models and transports are sdktest's.
func Laws() []sdktest.Law {
	laws := processLaws()
	out := make([]sdktest.Law, len(laws))
	for i := range laws {
		out[i] = laws[i].Law
	}
	return out
}

// subject is the plugin that is checked.
type subject struct {
	Options
	path     string // that it goes by
	copy     string // that is run
	info     rpc.Info
	startErr error // why it does not start; then info is empty
	blockErr error // why it does not take the config block that the checks are to use
	judges   []int // the targets that can judge a config block without taking it
}

// suite returns the checks of the plugin at path. It is run from a copy in dir.
func suite(ctx context.Context, path, dir string, o Options) (*subject, []sdktest.Check, error) {
	if o.Patience == 0 {
		o.Patience = 30 * time.Second
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	s := &subject{Options: o, path: path, copy: path}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil, nil, sdk.Errorf(sdk.CodeInvalid, "%s is a folder; name the plugin's binary in it, or build one there first", path)
	}
	if err := s.takeCopy(dir); err != nil {
		return nil, nil, err
	}
	if err := s.ask(ctx); err != nil {
		return nil, nil, err
	}
	if err := s.knowsOnly(); err != nil {
		return nil, nil, err
	}
	blocking := s.blocking()
	var checks []sdktest.Check
	for _, law := range processLaws() {
		if law.about(s) && (blocking == "" || law.ID == blocking) {
			checks = append(checks, sdktest.Check{Law: law.Law, Run: func(t sdktest.T) { law.check(s, t) }})
		}
	}
	if blocking != "" {
		return s, checks, nil
	}
	examples, err := s.examples()
	if err != nil {
		return nil, nil, err
	}
	for i := range s.info.Models {
		more, err := s.modelChecks(ctx, i, examples[i])
		if err != nil {
			return nil, nil, err
		}
		checks = append(checks, more...)
	}
	if s.info.Transport != "" {
		checks = append(checks, s.transportChecks()...)
	}
	return s, s.chosen(checks), nil
}

// The laws that all others need.
const (
	handshakeLaw = "PLUGIN-001"
	configLaw    = "PLUGIN-005"
)

// blocking is the law whose breach keeps all others from being checked; empty: none is known to be broken.
func (s *subject) blocking() string {
	switch {
	case s.startErr != nil:
		return handshakeLaw
	case s.blockErr != nil:
		return configLaw
	}
	return ""
}

// knowsOnly returns an error if one of Only is no law.
func (s *subject) knowsOnly() error {
	known := allLaws()
	for _, id := range s.Only {
		if !slices.ContainsFunc(known, func(l sdktest.Law) bool { return l.ID == id }) {
			return sdk.Errorf(sdk.CodeInvalid, "there is no law %q; docs/conformance.md lists them", id)
		}
	}
	return nil
}

func allLaws() []sdktest.Law {
	return slices.Concat(Laws(), sdktest.ModelLaws(), sdktest.TransportLaws())
}

// chosen returns the checks of the laws in Only. One that is not about the plugin is skipped, and says so.
func (s *subject) chosen(checks []sdktest.Check) []sdktest.Check {
	if len(s.Only) == 0 {
		return checks
	}
	var chosen []sdktest.Check
	for _, law := range allLaws() {
		if !slices.Contains(s.Only, law.ID) {
			continue
		}
		before := len(chosen)
		for _, c := range checks {
			if c.ID == law.ID {
				chosen = append(chosen, c)
			}
		}
		if len(chosen) == before {
			chosen = append(chosen, sdktest.Check{Law: law, Run: func(t sdktest.T) { t.Skip(s.notAbout(law.ID)) }})
		}
	}
	return chosen
}

// notAbout says why a law is not about the plugin.
func (s *subject) notAbout(id string) string {
	switch models := s.servesModels(); {
	case strings.HasPrefix(id, "TRANSPORT-"):
		return "it is about transports, and the plugin serves none"
	case strings.HasPrefix(id, "MODEL-") && models:
		return "it is about models of another ownership, or with other fields, than those that the plugin serves"
	case strings.HasPrefix(id, "MODEL-"):
		return "it is about models, and the plugin serves none"
	}
	return "it is about what the plugin does not serve or declare"
}

// takeCopy copies the plugin to dir: a host runs a copy too, in a folder where nothing lies beside it. What is no program is
// left where it is, for PLUGIN-001 to say so.
func (s *subject) takeCopy(dir string) error {
	info, err := os.Stat(s.path)
	if err != nil || !info.Mode().IsRegular() || runtime.GOOS != "windows" && info.Mode().Perm()&0o111 == 0 {
		return nil //nolint:nilerr // as above
	}
	content, err := os.ReadFile(s.path)
	if err != nil {
		return sdk.Errorf(sdk.CodeInvalid, "copy the plugin: %w", err)
	}
	s.copy = filepath.Join(dir, filepath.Base(s.path))
	if err := os.WriteFile(s.copy, content, 0o500); err != nil { //nolint:gosec // it is run
		return sdk.Errorf(sdk.CodeUnavailable, "copy the plugin: %w", err)
	}
	return nil
}

// ask starts the plugin once, to see what it serves. That it does not start is for PLUGIN-001 to say.
func (s *subject) ask(ctx context.Context) error {
	p, err := rpc.Start(ctx, s.command())
	if sdk.CodeOf(err) == sdk.CodeNotFound {
		return sdk.Errorf(sdk.CodeNotFound, "there is no plugin binary at %s; build it first", s.path)
	}
	if err == nil {
		defer p.Kill()
		asking, cancel := context.WithTimeout(ctx, s.Patience)
		defer cancel()
		if s.info, err = p.Client().Info(asking); err == nil {
			s.judges = s.asksJudges(asking, p)
			s.blockErr = s.tryConfig(asking, p)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.startErr = err
	return nil
}

// tryConfig returns what is wrong with the config block that the checks are to use: all laws would be broken by it.
func (s *subject) tryConfig(ctx context.Context, p *rpc.Process) error {
	for _, target := range s.targets() {
		given := string(s.config(target)) != "{}"
		declared, says := s.info.Settings[s.modelName(target)]
		if says {
			if _, err := sdk.ParseSettings(declared, s.config(target)); err != nil {
				return sdk.Errorf(sdk.CodeInvalid, "%s does not take the config block %s: %w; give it another with --config", s.targetName(target), s.config(target), err)
			}
		}
		if !given {
			continue // that it does not take an empty one is for a law to say
		}
		if err := s.configurable(p, target).Configure(ctx, s.config(target)); err != nil && sdk.CodeOf(err) != sdk.CodeUnavailable {
			return sdk.Errorf(sdk.CodeInvalid, "%s does not take the config block %s: %w; give it another with --config", s.targetName(target), s.config(target), err)
		}
	}
	return nil
}

// modelName is the key of a target in Info.Settings.
func (s *subject) modelName(target int) sdk.ModelName {
	if target < 0 {
		return ""
	}
	return s.info.Models[target].Model
}

func (s *subject) command() rpc.Command {
	return rpc.Command{
		Name: filepath.Base(s.path), Path: s.copy, Origin: s.path, Env: s.Env, Log: s.Log, CallTimeout: s.Patience, Timeout: min(s.Patience, 15*time.Second),
	}
}

// examples returns, for each model, the values that Records have of its fields.
func (s *subject) examples() ([][]sdktest.ModelOption, error) {
	values := make([]map[string][]any, len(s.info.Models))
	for i := range values {
		values[i] = map[string][]any{}
	}
	for _, record := range s.Records {
		taken := false
		var why error
		for i := range s.info.Models {
			names, of, err := sdk.DecodeJSON(s.info.Models[i], record)
			if err != nil {
				why = err
				continue
			}
			taken = true
			for n, name := range names {
				if !slices.ContainsFunc(values[i][name], func(v any) bool { return equal(v, of[n]) }) {
					values[i][name] = append(values[i][name], of[n])
				}
			}
		}
		if !taken && s.startErr == nil {
			return nil, sdk.Errorf(sdk.CodeInvalid, "the example %s is of no model of this plugin: %w", record, why)
		}
	}
	options := make([][]sdktest.ModelOption, len(values))
	for i := range values {
		for name, of := range values[i] {
			options[i] = append(options[i], sdktest.FieldValues(name, of...))
		}
	}
	return options, nil
}

func equal(a, b any) bool { return slices.Equal(sdk.AppendValue(nil, a), sdk.AppendValue(nil, b)) }

// config returns the config block of the target: the index of a model, or -1 for the transport.
func (s *subject) config(target int) json.RawMessage {
	if len(s.Config) > 0 && (target == 0 || target < 0 && len(s.info.Models) == 0) {
		return s.Config
	}
	return json.RawMessage("{}")
}

// configurable returns the target of p.
func (s *subject) configurable(p *rpc.Process, target int) sdk.Configurable {
	if target < 0 {
		return p.Client().Transport(s.info.Transport).(sdk.Configurable) //nolint:forcetypeassert // the client's always are
	}
	return p.Client().Model(s.info.Models[target]).(sdk.Configurable) //nolint:forcetypeassert // as above
}

// targets returns what takes a config block.
func (s *subject) targets() []int {
	var targets []int
	for i := range s.info.Models {
		targets = append(targets, i)
	}
	if s.info.Transport != "" {
		targets = append(targets, -1)
	}
	return targets
}

func (s *subject) targetName(target int) string {
	if target < 0 {
		return "transport " + s.info.Transport
	}
	return "model " + string(s.info.Models[target].Model)
}

// start starts the plugin for one law, which fails if the process is gone before the law ends; then it is killed.
func (s *subject) start(t sdktest.T, sockets ...rpc.Socket) *rpc.Process {
	t.Helper()
	if s.startErr != nil {
		t.Skipf("it does not start: see PLUGIN-001")
	}
	c := s.command()
	c.Sockets = sockets
	p, err := rpc.Start(t.Context(), c)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(p.Kill)
	return p
}

// lastWords is how long to wait for the end of a process that does not answer any more.
const lastWords = 2 * time.Second

// lives fails the law if the process has ended, with what it said last.
func lives(t sdktest.T, p *rpc.Process) {
	t.Helper()
	if t.Failed() { // perhaps because the process is about to end
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), lastWords)
		defer cancel()
		if _, err := p.Client().Health(ctx); err != nil {
			select {
			case <-p.Done():
			case <-ctx.Done():
			}
		}
	}
	select {
	case <-p.Done():
		t.Errorf("the process ended: %s", p.Reason())
	default:
	}
}

// started is start with the target configured, and with a look after the law whether the process still lives.
func (s *subject) started(t sdktest.T, target int, sockets ...rpc.Socket) *rpc.Process {
	t.Helper()
	p := s.start(t, sockets...)
	t.Cleanup(func() { lives(t, p) })
	ctx, cancel := context.WithTimeout(t.Context(), s.Patience)
	defer cancel()
	if err := s.configurable(p, target).Configure(ctx, s.config(target)); err != nil {
		t.Fatalf("configure the %s: %v", s.targetName(target), err)
	}
	return p
}

// model is the model of the process that the law under way has.
type model struct {
	desc sdk.Description
	mu   sync.Mutex
	now  sdk.ModelServer
}

func (m *model) set(server sdk.ModelServer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = server
}

func (m *model) server() sdk.ModelServer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// Describe implements sdk.ModelServer.
func (m *model) Describe(context.Context) (sdk.Description, error) { return m.desc, nil }

// ApplyStateChange implements sdk.ModelServer.
func (m *model) ApplyStateChange(ctx context.Context, in sdk.StateChanges) (sdk.StateResult, error) {
	return m.server().ApplyStateChange(ctx, in)
}

// ApplySharedChange implements sdk.ModelServer.
func (m *model) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	return m.server().ApplySharedChange(ctx, in)
}

func (s *subject) modelChecks(ctx context.Context, target int, options []sdktest.ModelOption) ([]sdktest.Check, error) {
	m := &model{desc: s.info.Models[target]}
	checks, err := sdktest.ModelChecks(ctx, m, options...)
	if err != nil {
		return nil, err
	}
	for i := range checks {
		law := checks[i].Run
		checks[i].Run = func(t sdktest.T) {
			m.set(s.started(t, target).Client().Model(m.desc))
			law(t)
		}
		if len(s.info.Models) > 1 {
			checks[i].Of = string(m.desc.Model)
		}
	}
	return checks, nil
}

func (s *subject) transportChecks() []sdktest.Check {
	var mu sync.Mutex
	pid := 0 // of the process that the law under way has
	checks := sdktest.TransportChecks(func(t sdktest.T) sdk.Transport {
		p := s.started(t, -1)
		mu.Lock()
		defer mu.Unlock()
		pid = p.PID()
		return p.Client().Transport(s.info.Transport)
	}, sdktest.ListenAt(s.Listen), sdktest.Patience(s.Patience), sdktest.Descriptors(func() (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return sdktest.OpenDescriptors(pid)
	}))
	for i := range checks {
		if checks[i].Name == "HostSocket" { // a process takes it over at its start or not at all
			checks[i].Run = s.hostSocket
		}
	}
	return checks
}
