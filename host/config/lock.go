package config

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/starling-sync/starling/sdk"
)

// LockName is the name of the lock file, which says what the checksums of the plugins' binaries must be. It lies beside
// the first file of a configuration, or in the folder that is given as one, and is none of its files.
const LockName = "plugins.lock.hcl"

// Lock is what a lock file holds: SHA-256 in hexadecimal by the plugin's name and the platform, such as "linux/amd64". A
// plugin that it does not name may be any build.
type Lock map[string]map[string]string

// Platform is what a lock file calls the machine that this program runs on.
func Platform() string { return runtime.GOOS + "/" + runtime.GOARCH }

// LockPath returns where the lock file of a configuration lies, as Load takes that.
func LockPath(path string) string {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return filepath.Join(path, LockName)
	}
	return filepath.Join(filepath.Dir(path), LockName)
}

// ReadLock reads a lock file; one that is not there is empty. Mistakes come as Diagnostics.
func ReadLock(path string) (Lock, error) {
	l, err := readLock(path)
	if err != nil {
		return nil, err
	}
	lock := Lock{}
	for name, at := range l.plugins {
		lock[name] = at.sums
	}
	return lock, nil
}

// Write replaces the file at path, so that it is the old one or the new one whenever the machine stops.
func (l Lock) Write(path string) error {
	file := hclwrite.NewEmptyFile()
	file.Body().AppendUnstructuredTokens(hclwrite.Tokens{{
		Type:  hclsyntax.TokenComment,
		Bytes: []byte("# What the checksums of the plugins' binaries must be, by platform. Written by: starling plugin lock\n"),
	}})
	for _, name := range slices.Sorted(maps.Keys(l)) {
		if len(l[name]) == 0 {
			continue
		}
		sums := map[string]cty.Value{}
		for platform, sum := range l[name] {
			sums[platform] = cty.StringVal(sum)
		}
		file.Body().AppendNewline()
		file.Body().AppendNewBlock("plugin", []string{name}).Body().SetAttributeValue("sha256", cty.MapVal(sums))
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "."+LockName+"-*")
	if err != nil {
		return sdk.Errorf(sdk.CodeUnavailable, "write %s: %w", path, err)
	}
	defer func() { _ = os.Remove(temp.Name()) }() // gone already if it was moved
	_, err = file.WriteTo(temp)
	if err = errors.Join(err, temp.Chmod(0o644), temp.Sync(), temp.Close()); err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return sdk.Errorf(sdk.CodeUnavailable, "write %s: %w", path, err)
	}
	return nil
}

// locked is a lock file with the places in it.
type locked struct {
	*parser
	plugins map[string]lockedPlugin
}

type lockedPlugin struct {
	sums map[string]string
	at   hcl.Range
}

func readLock(path string) (locked, error) {
	l := locked{plugins: map[string]lockedPlugin{}}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	source, err := read(path)
	if err != nil {
		return l, err
	}
	f, err := newFile(source, environment{}, nil)
	if err != nil {
		return l, Diagnostics{{Range: Range{File: path}, Message: err.Error()}}
	}
	l.parser = &parser{files: []*file{f}}
	if at, deep := f.tooDeep(); deep {
		return l, Diagnostics{{Range: l.at(at), Message: "this is nested too deeply; a lock file is simpler"}}
	}
	parsed, diags := hclsyntax.ParseConfig(f.Content, f.Name, hcl.InitialPos)
	l.syntaxErrors(f, diags)
	if len(l.found) > 0 {
		return l, l.found.inOrder([]string{path})
	}
	if body, ok := parsed.Body.(*hclsyntax.Body); ok {
		l.names(body, shape{name: LockName, blocks: []string{"plugin"}}, "")
		for _, b := range body.Blocks {
			if b.Type == "plugin" {
				l.plugin(l.section(b, shape{name: "plugin", labels: []string{"tag"}, arguments: []string{"sha256"}}))
			}
		}
	}
	if len(l.found) > 0 {
		return l, l.found.inOrder([]string{path})
	}
	return l, nil
}

// plugin takes in one block.
func (l locked) plugin(s section) {
	name, at := s.labels[0], s.whole()
	if first, twice := l.plugins[name]; twice {
		l.failf(at, "plugin %q is given twice, first at %s; keep one", name, l.place(first.at))
		return
	}
	l.plugins[name] = lockedPlugin{at: at}
	attribute := s.block.Body.Attributes["sha256"]
	if attribute == nil {
		l.failf(at, `plugin %q has no sha256; write sha256 = { %q = "..." }, or run: starling plugin lock`, name, Platform())
		return
	}
	at = attribute.Expr.Range()
	value, diags := attribute.Expr.Value(nil)
	if diags.HasErrors() || value.IsNull() || !value.CanIterateElements() || !value.Type().IsObjectType() {
		l.failf(at, `sha256: want a checksum for each platform, such as { %q = "..." }`, Platform())
		return
	}
	sums := map[string]string{}
	for platform, sum := range value.AsValueMap() {
		if sum.Type() != cty.String || sum.IsNull() || !regexp.MustCompile(`^[0-9a-fA-F]{64}$`).MatchString(sum.AsString()) {
			l.failf(at, "sha256: of %s is not a checksum; want 64 hexadecimal digits, as sha256sum prints them", platform)
			continue
		}
		sums[platform] = strings.ToLower(sum.AsString())
	}
	l.plugins[name] = lockedPlugin{sums, at}
}

// lock has the plugins of c be what the lock file at path says.
func (c *Config) lock(path string) error {
	l, err := readLock(path)
	if err != nil || len(l.plugins) == 0 {
		return err
	}
	pin := func(name string, sum *string, from *Range) {
		plugin, known := l.plugins[name]
		want := plugin.sums[Platform()]
		switch {
		case !known:
		case want == "":
			l.failf(plugin.at, "plugin %q has no checksum for %s; run: starling plugin lock %s", name, Platform(), name)
		case *sum != "" && *sum != want:
			l.failf(plugin.at, "plugin %q has the SHA-256 %s here, and %s at %s; remove one of them", name, want, *sum, from)
		case *sum == "":
			*sum, *from = want, l.at(plugin.at)
		}
	}
	for i := range c.Models {
		pin(string(c.Models[i].Name), &c.Models[i].SHA256, &c.Models[i].SHA256Range)
	}
	for i := range c.Transports {
		pin(c.Transports[i].Name, &c.Transports[i].SHA256, &c.Transports[i].SHA256Range)
	}
	if len(l.found) > 0 {
		return l.found.inOrder([]string{path})
	}
	return nil
}

// OnlyPlugins reads what a configuration says of the device and its plugins, whatever its lock file says. It evaluates no other
// block, so that who locks plugins needs no secret of the store, and other mistakes in those are left to who runs the host.
func OnlyPlugins(paths ...string) (*Config, error) {
	return unlocked((*parser).onlyPlugins, paths)
}

// unlocked reads a configuration as document does, whatever its lock file says.
func unlocked(document func(*parser, *Config, *hclsyntax.Body), paths []string) (*Config, error) {
	sources, err := Read(paths...)
	if err != nil {
		return nil, err
	}
	c, err := parseAs(sources, ownEnvironment(), document)
	if err != nil {
		return nil, err
	}
	c.Paths = paths
	return c, nil
}

// Binaries returns where the plugins' binaries lie, by the plugins' names.
func (c *Config) Binaries() map[string]string {
	paths := map[string]string{}
	for _, p := range plugins(c) {
		paths[p.name] = p.path
	}
	return paths
}
