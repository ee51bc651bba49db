package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

// DevOptions says which plugin is being developed.
type DevOptions struct {
	Dir     string // of its source, a Go main package
	Program string // path of the starling binary
	Out     io.Writer
	// Describe starts the plugin at path, asks what it serves, and ends it.
	Describe func(ctx context.Context, path string) (models []sdk.ModelName, transport string, err error)
}

// Dev runs two paired devices over loopback with the plugin in DevOptions.Dir, built from source; builds it anew and swaps it
// in on both whenever a file of it changes; and prints the changes that the devices apply. It blocks until ctx ends, and
// leaves nothing behind. A build that fails, or that the devices do not let in, is said and costs nothing.
func Dev(ctx context.Context, o DevOptions) error {
	source, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	if info, err := os.Stat(source); err != nil || !info.IsDir() {
		return fmt.Errorf("%s is not a folder; name the one of the plugin's main package: starling dev DIR", o.Dir)
	}
	if err := buildable(ctx, source); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "starling-dev-")
	if err != nil {
		return fmt.Errorf("make a folder for the devices: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is temporary
	b := &bench{DevOptions: o, source: source, dir: dir}
	following, cancel := context.WithCancel(ctx)
	b.following = following
	defer b.stop()
	defer cancel()
	watcher, err := b.watchSource()
	if err != nil {
		return err
	}
	defer watcher.Close() //nolint:errcheck // only read
	if err := b.run(ctx, watcher); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// buildable returns why no edit of the files in dir would make a plugin of it: go is missing, or it is no folder of a program
// in a module. What does not compile is no such reason.
func buildable(ctx context.Context, dir string) error {
	ask := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // fixed commands
		cmd.Dir = dir
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	module, err := ask("env", "GOMOD")
	if errors.Is(err, exec.ErrNotFound) {
		return sdk.Errorf(sdk.CodeNotFound, "there is no go command, which builds the plugin; install Go 1.26, and have it in PATH")
	}
	if err != nil {
		return sdk.Errorf(sdk.CodeUnavailable, "go env GOMOD in %s: %w", dir, err)
	}
	if module == "" || module == os.DevNull {
		return sdk.Errorf(sdk.CodeInvalid, "%s is in no Go module: there is no go.mod in it, nor in a folder above it; name the folder of a plugin, such as starling plugin new model NAME makes, or write one there with: go mod init", dir)
	}
	sources, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(sources) == 0 {
		return sdk.Errorf(sdk.CodeInvalid, "there are no Go files in %s; name the folder that holds the plugin's main.go", dir)
	}
	if name, err := ask("list", "-e", "-find", "-f", "{{.Name}}", "."); err == nil && name != "" && name != "main" {
		return sdk.Errorf(sdk.CodeInvalid, "%s holds package %s, which is no program; name the folder of the plugin's package main", dir, name)
	}
	return nil
}

// bench is one run of Dev.
type bench struct {
	DevOptions
	source, dir string
	builds      int
	built       [sha256.Size]byte // the last build that the devices were given
	first       string            // its path, which their configuration names
	embeds      []string          // the folders of files that the plugin's packages embed
	models      []sdk.ModelName   // that the plugin serves
	plugin      string            // as the devices call it
	transport   string            // that the plugin serves; empty: none
	devices     []*device
	names       map[string]string // of devices, by id

	following context.Context //nolint:containedctx // of Dev: of what prints
	printing  sync.Mutex
	watches   sync.WaitGroup
}

func (b *bench) say(format string, args ...any) {
	b.printing.Lock()
	defer b.printing.Unlock()
	fmt.Fprintf(b.Out, format+"\n", args...) //nolint:errcheck // a closed terminal ends it by its signal
}

func (b *bench) stop() {
	for _, d := range b.devices {
		d.stop()
	}
	b.watches.Wait()
}

func (b *bench) run(ctx context.Context, changes *fsnotify.Watcher) error {
	path, sum, err := b.firstBuild(ctx, changes)
	if err != nil {
		return err
	}
	if err := b.begin(ctx, path); err != nil {
		return err
	}
	b.first, b.built = path, sum
	b.say("edit the files of %s, and it is built and swapped in; Ctrl-C ends both devices and removes %s", b.source, b.dir)
	for b.changed(ctx, changes) {
		path, sum, err := b.build(ctx)
		if err != nil {
			continue
		}
		if sum == b.built {
			b.say("it is the build that they run")
		} else {
			b.swap(ctx, path)
			b.built = sum
		}
		if path != b.first { // the devices have copies
			if err := os.RemoveAll(filepath.Dir(path)); err != nil {
				b.say("a build is left: %s", err)
			}
		}
	}
	return ctx.Err()
}

// firstBuild builds until that works, and finds out what the plugin serves.
func (b *bench) firstBuild(ctx context.Context, changes *fsnotify.Watcher) (path string, sum [sha256.Size]byte, err error) {
	for {
		path, sum, err = b.build(ctx)
		if err == nil {
			if b.models, b.transport, err = b.Describe(ctx, path); err == nil {
				return path, sum, nil
			}
			b.say("it does not start as a plugin: %s", err)
		}
		if !b.changed(ctx, changes) {
			return "", sum, ctx.Err()
		}
	}
}

// build builds the plugin and returns the binary's path and checksum. Why it fails is said.
func (b *bench) build(ctx context.Context) (path string, sum [sha256.Size]byte, err error) {
	began := time.Now()
	b.builds++
	path = filepath.Join(b.dir, fmt.Sprintf("build-%d", b.builds), filepath.Base(b.source))
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, ".") //nolint:gosec // a fixed command
	cmd.Dir = b.source
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return "", sum, ctx.Err()
	}
	b.embeds = embedded(ctx, b.source)
	if err != nil {
		if len(out) == 0 {
			out = []byte(err.Error())
		}
		b.say("it does not build:\n%s", bytes.TrimSpace(out))
		return "", sum, err
	}
	text, err := os.ReadFile(path) //nolint:gosec // what was built
	if err != nil {
		b.say("it can not be read: %s", err)
		return "", sum, err
	}
	b.say("built %s   %s", filepath.Base(b.source), seconds(time.Since(began)))
	return path, sha256.Sum256(text), nil
}

// embedded returns the folders of the files that the program in dir embeds; none, if that can not be known.
func embedded(ctx context.Context, dir string) (folders []string) {
	const files = `{{if not .Standard}}{{range .EmbedFiles}}{{$.Dir}}/{{.}}{{"\n"}}{{end}}{{end}}`
	cmd := exec.CommandContext(ctx, "go", "list", "-e", "-deps", "-f", files, ".") //nolint:gosec // a fixed command
	cmd.Dir = dir
	out, _ := cmd.Output()
	for file := range strings.Lines(string(out)) {
		if folder := filepath.Dir(strings.TrimSpace(file)); folder != "." && !slices.Contains(folders, folder) {
			folders = append(folders, folder)
		}
	}
	return folders
}

// begin makes the two devices, pairs them, and follows what they apply.
func (b *bench) begin(ctx context.Context, path string) error {
	began := time.Now()
	b.names = map[string]string{}
	for i, name := range []string{"alice", "bob"} {
		extra := []string{"--library", "dev"}
		if i > 0 {
			extra = []string{"--join"}
		}
		d, err := create(ctx, b.Program, b.dir, name, extra...)
		if err != nil {
			return err
		}
		b.devices = append(b.devices, d)
		if err := b.configure(d, path); err != nil {
			return err
		}
		if err := d.start(ctx); err != nil {
			return fmt.Errorf("%w; its log:\n%s", err, tailOf(d.log()))
		}
		status, err := d.Status(ctx)
		if err != nil {
			return err
		}
		b.names[status.DeviceID.String()] = name
		for _, p := range status.Plugins {
			if p.Name == b.plugin && p.State != "running" {
				return fmt.Errorf("plugin %s is %s on %s: %s", p.Name, p.State, name, p.Reason)
			}
		}
	}
	invitation, err := b.devices[0].Invite(ctx)
	if err != nil {
		return err
	}
	if _, err := b.devices[1].Join(ctx, invitation.Code); err != nil {
		return err
	}
	for _, d := range b.devices {
		watch, err := d.Watch(ctx, b.models...)
		if err != nil {
			return err
		}
		b.watches.Go(func() { b.follow(ctx, d, watch) })
		log, err := os.Open(d.log())
		if err != nil {
			return err
		}
		b.watches.Go(func() { b.followLog(d.name, log) })
	}
	b.say("alice and bob run with it, paired over 127.0.0.1   %s", seconds(time.Since(began)))
	b.suggest()
	return nil
}

func (b *bench) suggest() {
	for _, d := range b.devices {
		b.say("  %s --config %s status", b.Program, d.config())
	}
	for _, d := range b.devices {
		b.say("  the whole log of %s: %s", d.name, d.log())
	}
	for _, m := range b.models[:min(1, len(b.models))] {
		b.say("  %s --config %s put %s '{...}'", b.Program, b.devices[0].config(), m)
	}
}

// configure has the device run the plugin at path.
func (b *bench) configure(d *device, path string) error {
	text, err := os.ReadFile(d.config())
	if err != nil {
		return err
	}
	file, diags := hclwrite.ParseConfig(text, d.config(), hcl.InitialPos)
	if diags.HasErrors() {
		return diags
	}
	body := file.Body()
	var block *hclwrite.Block
	if b.transport != "" {
		b.plugin = "lan"
		for _, each := range body.Blocks() {
			if each.Type() == "transport" {
				each.SetLabels([]string{b.transport, b.plugin})
				block = each
			}
		}
	} else {
		b.plugin = string(b.models[0])
		for _, each := range body.Blocks() {
			if each.Type() == "model" && slices.ContainsFunc(b.models, func(m sdk.ModelName) bool { return each.Labels()[0] == string(m) }) {
				b.plugin, block = each.Labels()[0], each
			}
		}
	}
	if block != nil && len(block.Body().Attributes())+len(block.Body().Blocks()) == 0 { // on one line, which has no room
		body.RemoveBlock(block)
		block = nil
	}
	if block == nil {
		body.AppendNewline()
		block = body.AppendNewBlock("model", []string{b.plugin})
	}
	block.Body().SetAttributeValue("path", cty.StringVal(path))
	return os.WriteFile(d.config(), file.Bytes(), 0o600)
}

// swap puts the build at path in place on both devices, as starling plugin swap does, but does not watch it: who develops
// means to change what it decides.
func (b *bench) swap(ctx context.Context, path string) {
	var both sync.WaitGroup
	var unfit atomic.Bool // a device has what this build can not serve, such as a field that it lacks
	for _, d := range b.devices {
		both.Go(func() {
			began := time.Now()
			err := d.SwapPlugin(ctx, control.PluginSwap{Name: b.plugin, Path: path}, func(control.Step) {})
			if err != nil && ctx.Err() == nil {
				b.say("%s: %s", d.name, err)
				if sdk.CodeOf(err) == sdk.CodeUnsupported {
					unfit.Store(true)
				}
			} else if err == nil {
				b.say("%s runs it   %s", d.name, seconds(time.Since(began)))
			}
		})
	}
	both.Wait()
	if unfit.Load() {
		b.say("to go on with this build, leave with Ctrl-C and start dev anew: its devices are made for it, and new ones have nothing of earlier builds")
	}
}

// follow prints what a device applies until ctx ends or the device does.
func (b *bench) follow(ctx context.Context, d *device, watch *control.Watch) {
	defer watch.Close()
	for {
		event, err := watch.Next()
		if err != nil {
			if ctx.Err() == nil {
				b.say("%s: %s", d.name, err)
			}
			return
		}
		b.say("%-6s %s", d.name, b.describe(event))
	}
}

// describe says in a line what a device has applied.
func (b *bench) describe(event json.RawMessage) string {
	var e map[string]json.RawMessage
	if json.Unmarshal(event, &e) != nil {
		return string(event)
	}
	word := func(key string) (s string) {
		_ = json.Unmarshal(e[key], &s) // none is as good
		return s
	}
	if word("_event") == "missed" {
		return "some changes were too fast to show"
	}
	from := "written here"
	if string(e["_local"]) != "true" {
		from = "from " + b.names[word("_origin")]
	}
	line := fmt.Sprintf("%-6s %s %s   %s", word("_event"), word("_model"), word("id"), from)
	for key := range e {
		if key == "id" || strings.HasPrefix(key, "_") {
			delete(e, key)
		}
	}
	if fields, err := json.Marshal(e); err == nil && len(e) > 0 {
		line += "   " + string(fields)
	}
	return line
}

// settle is how long the files must rest before they are built: an editor writes several.
const settle = 150 * time.Millisecond

// changed returns true when a file of the plugin has changed and all have rested for a moment; false when ctx ends.
func (b *bench) changed(ctx context.Context, changes *fsnotify.Watcher) bool {
	var rest <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return false
		case event, open := <-changes.Events:
			if !open {
				return false
			}
			if info, err := os.Stat(event.Name); err == nil && info.IsDir() {
				_ = addFolders(changes, event.Name) // what can not be watched is not built anew by itself
			}
			if b.counts(event) {
				rest = time.After(settle)
			}
		case err := <-changes.Errors:
			b.say("changes of files may be missed: %s", err)
			rest = time.After(settle)
		case <-rest:
			return true
		}
	}
}

// counts reports whether a file is one that a build may read: Go reads it, or it lies where files are embedded. Others, such as a
// log that grows there, are none. Hidden files and backups are the editor's own.
func (b *bench) counts(event fsnotify.Event) bool {
	name := filepath.Base(event.Name)
	if event.Has(fsnotify.Chmod) || strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || strings.HasSuffix(name, "_test.go") {
		return false
	}
	switch filepath.Ext(name) {
	case ".go", ".mod", ".sum", ".work", ".s", ".c", ".h":
		return true
	}
	return slices.Contains(b.embeds, filepath.Dir(event.Name))
}

func (b *bench) watchSource() (*fsnotify.Watcher, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", b.source, err)
	}
	if err := addFolders(watcher, b.source); err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", b.source, err), watcher.Close())
	}
	return watcher, nil
}

// addFolders watches a folder and those in it, hidden ones and testdata left out.
func addFolders(watcher *fsnotify.Watcher, root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || name == "testdata") {
			return filepath.SkipDir
		}
		return watcher.Add(path)
	})
}

// tailOf returns the last lines of a log.
func tailOf(path string) string {
	text, err := os.ReadFile(path) //nolint:gosec // a log of the devices
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-8):], []byte("\n")))
}
