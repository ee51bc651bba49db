// Package scaffold writes the Go module that a plugin's author begins with: a model or a transport that builds, passes
// the conformance suite and runs.
//
// It promises that the module is there whole or not at all, and that nothing is overwritten. It leaves to its caller
// which Starling the module builds against: a published version, or a checkout.
package scaffold

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"golang.org/x/mod/module"

	"github.com/starling-sync/starling/sdk"
)

// Kind is what a plugin serves.
type Kind string

// The kinds of plugins, which are also the names of the folders of their templates.
const (
	Model     Kind = "model"
	Transport Kind = "transport"
)

// Plugin says what to write.
type Plugin struct {
	Kind   Kind
	Name   string // of the model, or the kind of the transport
	Dir    string // the folder to make; nothing may be there
	Module string // path of the Go module; empty: example.com/NAME
	SDK    SDK
}

//go:embed templates
var templates embed.FS

// Write writes the module to p.Dir. The note, if not empty, says in a sentence for people what is left to do: the module
// is whole, but `go mod tidy` could not be run in it.
func Write(ctx context.Context, p Plugin) (note string, err error) {
	if err := p.Check(); err != nil {
		return "", err
	}
	if err := p.SDK.check(); err != nil {
		return "", err
	}
	if p.Module == "" {
		p.Module = "example.com/" + p.Name
	}
	dir, err := filepath.Abs(p.Dir)
	if err != nil {
		return "", sdk.Errorf(sdk.CodeInvalid, "%s: %w", p.Dir, err)
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil { //nolint:gosec // the author's source
		return "", sdk.Errorf(sdk.CodeInvalid, "make the folder %s: %w", parent, err)
	}
	draft, err := os.MkdirTemp(parent, ".starling-new-")
	if err != nil {
		return "", sdk.Errorf(sdk.CodeInvalid, "make a folder in %s: %w", parent, err)
	}
	defer func() { _ = os.RemoveAll(draft) }() // moved away if all went well
	if err := p.render(draft); err != nil {
		return "", err
	}
	if err := p.SDK.require(draft, dir, p.Module); err != nil {
		return "", err
	}
	note = tidy(ctx, draft)
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := os.Chmod(draft, 0o755); err != nil { //nolint:gosec // the author's source; MkdirTemp is private
		return "", err
	}
	if err := vacant(dir); err != nil { // since check, somebody else may have made it
		return "", err
	}
	if err := os.Rename(draft, dir); err != nil {
		return "", sdk.Errorf(sdk.CodeInvalid, "make the folder %s: %w", dir, err)
	}
	return note, nil
}

// Check returns why p can not be written, whatever it builds against.
func (p *Plugin) Check() error {
	if p.Kind != Model && p.Kind != Transport {
		return sdk.Errorf(sdk.CodeInvalid, "a plugin is a %s or a %s, not a %q", Model, Transport, p.Kind)
	}
	if err := sdk.ModelName(p.Name).Check(); err != nil {
		return sdk.Errorf(sdk.CodeInvalid, "%s %q: %w", p.Kind, p.Name, err)
	}
	if err := p.checkTaken(); err != nil {
		return err
	}
	if p.Module != "" {
		if err := module.CheckImportPath(p.Module); err != nil {
			return sdk.Errorf(sdk.CodeInvalid, "%q is not the path of a Go module, such as github.com/you/%s: %w", p.Module, p.Name, err)
		}
	}
	return vacant(p.Dir)
}

// Taken are the names that plugins of Starling itself have.
func Taken() map[Kind][]string {
	return map[Kind][]string{
		Model:     {"album", "album_item", "device", "entry", "location", "tag", "tagging", "user_metadata", "volume"},
		Transport: {"nats", "tcp"},
	}
}

// checkTaken refuses a name that means something already: a device could not run both, and peers would take the records, or the
// connections, of one for those of the other.
func (p *Plugin) checkTaken() error {
	if p.Kind == Model {
		if err := sdk.ModelName(p.Name).CheckServed(); err != nil {
			return err
		}
	}
	if slices.Contains(Taken()[p.Kind], p.Name) {
		return sdk.Errorf(sdk.CodeInvalid, "there is a %s %q that comes with Starling, and other devices would take yours for it; name it otherwise, such as my_%[2]s", p.Kind, p.Name)
	}
	if p.Kind != Model {
		return nil
	}
	d := sdk.Description{Model: sdk.ModelName(p.Name), Version: 1, Ownership: sdk.SharedByAll, Fields: []sdk.Field{{Name: "name", Type: sdk.Text}}}
	return d.Check()
}

func vacant(dir string) error {
	switch _, err := os.Lstat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return sdk.Errorf(sdk.CodeInvalid, "%s: %w", dir, err)
	}
	return sdk.Errorf(sdk.CodeInvalid, "%s is there already and is not overwritten; name another folder", dir)
}

// render writes the files of the templates to dir. The files of "both" go with either kind.
func (p *Plugin) render(dir string) error {
	for _, set := range []string{"both", string(p.Kind)} {
		names, err := fs.ReadDir(templates, path.Join("templates", set))
		if err != nil {
			return fmt.Errorf("read the templates: %w", err)
		}
		for _, name := range names {
			content, err := p.file(path.Join("templates", set, name.Name()))
			if err != nil {
				return err
			}
			file := strings.TrimSuffix(name.Name(), ".tmpl")
			if file == "gitignore" { // a name with a dot would not be embedded
				file = ".gitignore"
			}
			if err := os.WriteFile(filepath.Join(dir, file), content, 0o644); err != nil { //nolint:gosec // the author's source
				return sdk.Errorf(sdk.CodeInvalid, "write %s: %w", file, err)
			}
		}
	}
	return nil
}

// file fills in one template. Their delimiters are << and >>: Taskfiles use the others themselves.
func (p *Plugin) file(name string) ([]byte, error) {
	text, err := templates.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the template %s: %w", name, err)
	}
	t, err := template.New(path.Base(name)).Delims("<<", ">>").Option("missingkey=error").Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("read the template %s: %w", name, err)
	}
	var out bytes.Buffer
	err = t.Execute(&out, map[string]any{
		"Kind": p.Kind, "Name": p.Name, "Type": typeName(p.Name), "Module": p.Module, "Title": strings.ReplaceAll(p.Name, "_", " "),
	})
	if err != nil {
		return nil, fmt.Errorf("fill in the template %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// typeName returns the name of the Go type for a record of the model: line_item gives LineItem.
func typeName(model string) string {
	var name strings.Builder
	for word := range strings.SplitSeq(model, "_") {
		if word != "" {
			name.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return name.String()
}

// tidyTime is how long go mod tidy may take: without a network it can hang.
const tidyTime = time.Minute

// tidy completes go.mod and go.sum in dir, and returns what is left to do if it can not.
func tidy(ctx context.Context, dir string) (note string) {
	ctx, cancel := context.WithTimeout(ctx, tidyTime)
	defer cancel()
	goTool, err := exec.LookPath("go")
	if err != nil {
		return "Go is not there: install it (https://go.dev/dl), then run in the new folder: go mod tidy"
	}
	cmd := exec.CommandContext(ctx, goTool, "mod", "tidy") //nolint:gosec // go
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		out = []byte("it did not end within " + tidyTime.String())
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Sprintf("go mod tidy could not be run (%s); once it can, run it in the new folder", lines[len(lines)-1])
	}
	return ""
}
