package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

// Described is what a plugin says of itself.
type Described struct {
	Plugin    string // the name of its block, or the path of its binary
	Version   string // of its build; may be empty
	Models    []sdk.Description
	Transport string // empty: it serves none
	// Settings are what the config blocks of its models may hold, and that of its transport under "". One that is not there
	// is one of which it does not say.
	Settings map[sdk.ModelName][]sdk.Setting
	// Build is the one that was asked, which is the one that the device's host starts; zero if there is none.
	Build control.Build
	// Unsure is why it is not known which build the host starts: what lies at its path was asked. nil: it is known.
	Unsure error
	// Err is why it can not be used as it is configured. If that is about its config block it is Diagnostics, and what it
	// said of itself is there.
	Err error
}

// settingsOf returns what the block called name may hold; nil: nobody says.
func (d *Described) settingsOf(name string) []sdk.Setting {
	if d.Transport != "" {
		return d.Settings[""]
	}
	return d.Settings[sdk.ModelName(name)]
}

// pluginMistakes returns which plugins of c are not there and, if it is to ask them, what is wrong with what each is given;
// nil: nothing.
func (a *app) pluginMistakes(ctx context.Context, c *config.Config, ask bool) error {
	absent, elsewhere := c.Absent()
	var described []Described
	if ask {
		described = a.Describe(ctx, c)
		a.sayBuilds(c, described)
		for _, d := range described {
			if d.Build.SHA256 != "" { // its copy in the store is enough to start it
				delete(absent, d.Plugin)
			}
		}
	} else {
		for _, folder := range elsewhere {
			name := relative(folder)
			if folder == c.PluginDir {
				name = "plugin_dir"
			}
			fmt.Fprintf(a.Err, "%s is not on this machine, so it was not checked that its plugins are there\n", name)
		}
	}
	found := config.Diagnostics(slices.Collect(maps.Values(absent)))
	for _, d := range described {
		if _, known := absent[d.Plugin]; known {
			continue
		}
		if these, ok := errors.AsType[config.Diagnostics](d.Err); ok {
			found = append(found, these...)
		} else if d.Err != nil {
			found = append(found, config.Diagnostic{Range: pathRange(c, d.Plugin), Message: d.Err.Error()})
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(found) == 0 {
		return nil
	}
	return found.InOrder()
}

// sayBuilds says on standard error which builds were asked that do not lie at their plugins' paths.
func (a *app) sayBuilds(c *config.Config, described []Described) {
	binaries, unsure := c.Binaries(), false
	for _, d := range described {
		path := binaries[d.Plugin]
		if d.Unsure != nil && !unsure {
			unsure = true // once for all
			fmt.Fprintf(a.Err, "which builds the host starts is not known: %s; what lies at the plugins' paths was looked at; run this as the user that the host runs as\n", plain(d.Unsure.Error()))
		}
		if sum, err := checksum(path); d.Build.SHA256 != "" && (err != nil || sum != d.Build.SHA256) {
			fmt.Fprintf(a.Err, "%s: looked at was %s, taken from %s, which is what the host starts; what lies at %s is not used\n",
				plain(d.Plugin), buildName(d.Build.Version, d.Build.SHA256), relative(d.Build.Path), relative(path))
		}
	}
}

// pathRange is where the file says which binary a plugin is.
func pathRange(c *config.Config, plugin string) config.Range {
	for i := range c.Models {
		if string(c.Models[i].Name) == plugin {
			return c.Models[i].PathRange
		}
	}
	for i := range c.Transports {
		if c.Transports[i].Name == plugin {
			return c.Transports[i].PathRange
		}
	}
	return config.Range{}
}

// declared asks every plugin of c which settings it has, and says on standard error whom it could not ask.
func (a *app) declared(ctx context.Context, c *config.Config) config.Declared {
	all := config.Declared{}
	for _, d := range a.Describe(ctx, c) {
		if settings := d.settingsOf(d.Plugin); settings != nil {
			all[d.Plugin] = settings
		}
		if _, about := errors.AsType[config.Diagnostics](d.Err); d.Err != nil && !about {
			fmt.Fprintf(a.Err, "note: plugin %s could not be asked which of its settings are secret, so that values from env are not shown: %s\n", plain(d.Plugin), plain(d.Err.Error()))
		}
	}
	return all
}

func (a *app) pluginDescribeCommand() *cobra.Command {
	return a.reads(&cobra.Command{
		Use:   "describe NAME",
		Short: "Show what a plugin serves: its models' fields, and which settings it takes, with their defaults",
		Long: "Show what a plugin serves: the fields of its models, and which settings its config block takes, with their defaults. NAME is\n" +
			"that of a model or transport block, or the path of a binary. The plugin is started for as long as it takes to ask it.\n" +
			"With --json each line is a field or a setting, as its \"what\" says.",
		Example: "  starling plugin describe location\n  starling plugin describe ./invoice",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.describe(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.printDescribed(d)
		},
	})
}

// describe asks the plugin that name means.
func (a *app) describe(ctx context.Context, name string) (*Described, error) {
	if strings.ContainsRune(name, os.PathSeparator) || strings.Contains(name, "/") {
		d := a.DescribeBinary(ctx, name)
		return &d, d.Err
	}
	c, err := a.load()
	if err != nil {
		return nil, err
	}
	var names []string
	one := *c
	one.Models, one.Transports = nil, nil
	for i := range c.Models {
		names = append(names, string(c.Models[i].Name))
		if string(c.Models[i].Name) == name {
			one.Models = c.Models[i : i+1]
		}
	}
	for i := range c.Transports {
		names = append(names, c.Transports[i].Name)
		if c.Transports[i].Name == name {
			one.Transports = c.Transports[i : i+1]
		}
	}
	if of := transportsOf(c, name); len(one.Models)+len(one.Transports) == 0 && len(of) > 0 {
		if name, err = a.ofKind(name, of); err != nil {
			return nil, err
		}
		one.Transports = slices.DeleteFunc(slices.Clone(c.Transports), func(t config.Transport) bool { return t.Name != name })
	}
	all := a.Describe(ctx, &one)
	if len(all) == 0 {
		return nil, sdk.Errorf(sdk.CodeNotFound, "there is no plugin %q in %s; there are: %s (for a binary write its path, as ./%s)", name, a.config(), strings.Join(names, ", "), name)
	}
	if _, about := errors.AsType[config.Diagnostics](all[0].Err); all[0].Err != nil && !about {
		return nil, all[0].Err
	}
	return &all[0], nil
}

// describedField is a field of a model for programs.
type describedField struct {
	Plugin   string `json:"plugin"`
	Of       string `json:"of"`   // the model
	What     string `json:"what"` // field
	Name     string `json:"name"`
	Type     string `json:"type"`  // of a set: of its elements
	Merge    string `json:"merge"` // empty: two writes of it never meet
	Required bool   `json:"required"`
	Key      bool   `json:"key"`
	Ref      string `json:"ref"` // the model referred to; empty: any, or it is no reference
	Weak     bool   `json:"weak"`
	Owner    bool   `json:"owner"`
	Index    bool   `json:"index"`
	Doc      string `json:"doc"`
}

// describedSetting is a setting for programs.
type describedSetting struct {
	Plugin   string `json:"plugin"`
	Of       string `json:"of"`   // the model, or the transport
	What     string `json:"what"` // setting
	Name     string `json:"name"`
	Type     string `json:"type"`
	Required bool   `json:"required"`
	Default  string `json:"default"`
	Secret   bool   `json:"secret"`
	Doc      string `json:"doc"`
}

func (a *app) printDescribed(d *Described) error {
	for i := range d.Models {
		m := &d.Models[i]
		name := "model " + string(m.Model)
		if !a.json {
			if err := a.printf("%s\n", plain(strings.TrimRight(fmt.Sprintf("%s   version %d, %s: %s", name, m.Version, m.Ownership, m.Doc), " :"))); err != nil {
				return err
			}
		}
		if err := a.printFields(d.Plugin, name, m); err != nil {
			return err
		}
		if err := a.printSettings(d, name, m.Model); err != nil {
			return err
		}
	}
	if d.Transport == "" {
		return nil
	}
	name := "transport " + d.Transport
	if !a.json {
		if err := a.printf("%s\n", plain(name)); err != nil {
			return err
		}
	}
	return a.printSettings(d, name, "")
}

// printFields prints the fields of a model.
func (a *app) printFields(plugin, of string, m *sdk.Description) error {
	table := newTable(io.Discard)
	if !a.json && len(m.Fields) > 0 {
		table = newTable(a.Out, "  FIELD", "TYPE", "MERGE", "REFERS TO", "OPTIONS", "MEANING")
	}
	for i := range m.Fields {
		f := &m.Fields[i]
		if !a.json {
			table.row("  "+f.Name, string(f.Type), orNothing(mergeOf(m, f)), refersTo(f), orNothing(optionsOf(f)), orNothing(f.Doc))
		} else if err := a.object(describedField{
			Plugin: plugin, Of: of, What: "field", Name: f.Name, Type: string(f.Type), Merge: mergeOf(m, f), Required: f.Required, Key: f.Key,
			Ref: string(f.Ref), Weak: f.Weak, Owner: f.Owner, Index: f.Index, Doc: f.Doc,
		}); err != nil {
			return err
		}
	}
	return printed(table.flush())
}

// mergeOf returns how two writes of a field merge; "" where there are none: it has one writer, or never changes.
func mergeOf(m *sdk.Description, f *sdk.Field) string {
	if m.Ownership == sdk.DeviceOwned || f.Key {
		return ""
	}
	return string(cmp.Or(f.Merge, sdk.LWW))
}

func refersTo(f *sdk.Field) string {
	switch {
	case f.Type != sdk.UUID:
		return nothing
	case f.Ref == "":
		return "any record"
	case f.Weak:
		return string(f.Ref) + ", weak"
	}
	return string(f.Ref)
}

func optionsOf(f *sdk.Field) string {
	var all []string
	for _, o := range []struct {
		set  bool
		name string
	}{{f.Key, "key"}, {f.Owner, "owner"}, {f.Required, "required"}, {f.Index, "index"}} {
		if o.set {
			all = append(all, o.name)
		}
	}
	return strings.Join(all, ", ")
}

// printSettings prints the settings that a model takes, or the transport under "".
func (a *app) printSettings(d *Described, of string, model sdk.ModelName) error {
	settings, says := d.Settings[model]
	switch {
	case a.json:
		for _, s := range settings {
			if err := a.object(describedSetting{d.Plugin, of, "setting", s.Name, string(s.Type), s.Required, s.Default, s.Secret, s.Doc}); err != nil {
				return err
			}
		}
		return nil
	case !says:
		return a.printf("  it does not say which settings it takes\n")
	case len(settings) == 0:
		return a.printf("  it takes no settings\n")
	}
	table := newTable(a.Out, "  SETTING", "TYPE", "DEFAULT", "MEANING")
	for _, s := range settings {
		table.row("  "+s.Name, string(s.Type), defaultOf(&s), orNothing(s.Doc))
	}
	return printed(table.flush())
}

// defaultOf says what counts where a setting is left out.
func defaultOf(s *sdk.Setting) string {
	switch {
	case s.Required:
		return "must be given"
	case s.Secret:
		return "none (secret)"
	}
	return orNothing(s.Default)
}
