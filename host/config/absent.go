package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Remedy says what of the file to correct where no binary lies at the model's Path.
func (m *Model) Remedy() string {
	return remedy(fmt.Sprintf("model %q", m.Name), m.Range, m.PathRange)
}

// Remedy is as Model's.
func (t *Transport) Remedy() string {
	return remedy(fmt.Sprintf("transport %q %q", t.Kind, t.Name), t.Range, t.PathRange)
}

func remedy(label string, block, path Range) string {
	if path == block {
		return fmt.Sprintf("plugin_dir, or the name of %s at %s, or give that a path", label, block)
	}
	return fmt.Sprintf("path of %s at %s", label, path)
}

// Absent returns a mistake for each plugin at whose Path there is nothing, by the plugins' names. It looks at this machine's
// files and starts nothing. Not among them are plugins that have an Attach, whose binary may be yet to be built, those at which it
// may not look, as where another user runs the host, and those whose folder is not here: the file may be for another machine.
// elsewhere has these folders, each once, in their order.
func (c *Config) Absent() (found map[string]Diagnostic, elsewhere []string) {
	found = map[string]Diagnostic{}
	look := func(name, label, path, attach, prefix string, block, at Range) {
		if attach != "" || there(path) {
			return
		}
		folder, mend := filepath.Dir(path), "; build it, or correct path"
		if at == block {
			folder, mend = c.PluginDir, "; build it, correct the name or plugin_dir, or give a path"
		} else {
			prefix = ""
		}
		if !there(folder) {
			elsewhere = append(elsewhere, folder)
			return
		}
		found[name] = Diagnostic{at, fmt.Sprintf("%s: there is no plugin binary at %s%s", label, path, cmp.Or(near(path, prefix), mend))}
	}
	for i := range c.Models {
		m := &c.Models[i]
		look(string(m.Name), fmt.Sprintf("model %q", m.Name), m.Path, m.Attach, "", m.Range, m.PathRange)
	}
	for i := range c.Transports {
		t := &c.Transports[i]
		look(t.Name, fmt.Sprintf("transport %q %q", t.Kind, t.Name), t.Path, t.Attach, transportPrefix, t.Range, t.PathRange)
	}
	slices.Sort(elsewhere)
	return found, slices.Compact(elsewhere)
}

// there reports whether there is something at path, or this user can not tell.
func there(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// near asks whether one of the files beside path is meant, by what follows prefix in their names; empty: none is close.
func near(path, prefix string) string {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return ""
	}
	var names []string
	for _, e := range entries {
		name, ours := strings.CutPrefix(plainName(e.Name()), prefix)
		if ours && !e.IsDir() && (prefix != "" || !strings.HasPrefix(name, transportPrefix)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return didYouMean(strings.TrimPrefix(plainName(filepath.Base(path)), prefix), names)
}
