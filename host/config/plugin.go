package config

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/starling-sync/starling/sdk"
)

// Block is a plugin's config block as the file has it: where its settings stand, and which of them are secret. Only the
// plugin knows what may be in it.
type Block struct {
	Range Range // of the block's header; of the whole model or transport where it has no block

	given []given   // by name
	whole cty.Value // with marks
}

// given is a setting of a block.
type given struct {
	name       string
	at, valued Range     // of the name, and of the value
	value      cty.Value // with marks
}

// object returns a plugin's configuration as a JSON object: the block `config { ... }` or the argument `config = { ... }`.
func (s section) object() (json.RawMessage, Block) {
	none := Block{Range: s.at(s.whole()), whole: cty.EmptyObjectVal}
	block := s.one(s.block.Body, "config")
	v, given := s.value("config")
	switch {
	case block != nil && given:
		s.failf(v.at, "config is given twice, also at %s; keep one", s.place(block.DefRange()))
	case given && !v.cty.Type().IsObjectType():
		s.failf(v.at, "config: want an object, got %s; write config = { ... }", kind(v.cty))
	case given:
		return s.encode(v.at, s.configObject(v))
	case block != nil:
		return s.encode(block.DefRange(), s.configBlock(block))
	}
	return json.RawMessage("{}"), none
}

// configBlock reads `config { ... }`.
func (s section) configBlock(block *hclsyntax.Block) Block {
	inner := section{parser: s.parser, block: block}
	for _, label := range block.LabelRanges {
		s.failf(label, "config takes no name; remove it")
	}
	for _, nested := range block.Body.Blocks {
		s.failf(nested.TypeRange, "config holds values only; write %s = { ... }", nested.Type)
	}
	b := Block{Range: s.at(block.DefRange())}
	members := map[string]cty.Value{}
	for _, name := range slices.Sorted(maps.Keys(block.Body.Attributes)) {
		if v, ok := inner.value(name); ok {
			members[name] = v.marked
			b.given = append(b.given, given{name: name, at: s.at(block.Body.Attributes[name].NameRange), valued: s.at(v.at), value: v.marked})
		}
	}
	b.whole = cty.ObjectVal(members)
	return b
}

// configObject reads `config = { ... }`. Where the members have no place of their own, theirs is the argument's.
func (s section) configObject(v value) Block {
	b := Block{Range: s.at(v.at), whole: v.marked}
	places := map[string]hclsyntax.ObjectConsItem{}
	if object, ok := s.block.Body.Attributes["config"].Expr.(*hclsyntax.ObjectConsExpr); ok {
		for _, item := range object.Items {
			if name, diags := item.KeyExpr.Value(s.fileOf(v.at).eval); !diags.HasErrors() && name.Type() == cty.String && name.IsKnown() && !name.IsNull() {
				name, _ = name.Unmark()
				places[name.AsString()] = item
			}
		}
	}
	members, marks := v.marked.Unmark()
	for _, name := range slices.Sorted(maps.Keys(members.Type().AttributeTypes())) {
		g := given{name: name, at: b.Range, valued: b.Range, value: members.GetAttr(name).WithMarks(marks)}
		if item, ok := places[name]; ok {
			g.at, g.valued = s.at(item.KeyExpr.Range()), s.at(item.ValueExpr.Range())
		}
		b.given = append(b.given, g)
	}
	return b
}

func (s section) encode(at hcl.Range, b Block) (json.RawMessage, Block) {
	open, _ := b.whole.UnmarkDeep()
	config, err := ctyjson.Marshal(open, open.Type())
	if err != nil {
		s.failf(at, "config can not be passed on as JSON: %s", err)
		return json.RawMessage("{}"), b
	}
	return config, b
}

// declaration returns what is declared of a setting; nil: nothing is.
func declaration(declared []sdk.Setting, name string) *sdk.Setting {
	for i := range declared {
		if declared[i].Name == name {
			return &declared[i]
		}
	}
	return nil
}

// Check returns every mistake in the block, by what its plugin declares that it may hold; nil: there is none, or the plugin
// does not say.
func (b *Block) Check(declared []sdk.Setting) error {
	if declared == nil {
		return nil
	}
	var found Diagnostics
	for i := range b.given {
		g := &b.given[i]
		setting := declaration(declared, g.name)
		if setting == nil {
			name := g.name
			if b.whole.IsMarked() {
				name = hidden
			}
			found = append(found, Diagnostic{g.at, sdk.UnknownSetting(name, declared).Message})
			continue
		}
		if err := g.check(*setting); err != nil {
			found = append(found, Diagnostic{g.valued, err.Error()})
		}
	}
	for i := range declared {
		missing := declared[i].Required && !slices.ContainsFunc(b.given, func(g given) bool { return g.name == declared[i].Name })
		if !missing {
			continue
		}
		_, err := sdk.ParseSettings(declared[i:i+1], nil)
		found = append(found, Diagnostic{b.Range, err.Error()})
	}
	return found.orNil()
}

func (d Diagnostics) orNil() error {
	if len(d) == 0 {
		return nil
	}
	return d
}

func (g *given) check(setting sdk.Setting) error {
	setting.Secret = setting.Secret || len(secretsIn(g.value)) > 0
	open, _ := g.value.UnmarkDeep()
	value, err := ctyjson.Marshal(open, open.Type())
	if err != nil {
		return err
	}
	block, err := json.Marshal(map[string]json.RawMessage{g.name: value})
	if err != nil {
		return err
	}
	_, err = sdk.ParseSettings([]sdk.Setting{setting}, block)
	return err
}

// Locate gives a plugin's refusal of the block its place in the file: that of each setting that it names, else the block's.
func (b *Block) Locate(refusal error) Diagnostics {
	var found Diagnostics
	for _, about := range sdk.SettingErrors(refusal) {
		at := b.Range
		for i := range b.given {
			if b.given[i].name == about.Setting {
				at = b.given[i].valued
			}
		}
		found = append(found, Diagnostic{at, about.Message})
	}
	if len(found) == 0 {
		found = append(found, Diagnostic{b.Range, refusal.Error()})
	}
	return found
}

// Secrets returns the values that nobody may read: what came from secretfile, what is declared to be secret, and what came
// from env, unless it is declared and not secret.
func (b *Block) Secrets(declared []sdk.Setting) []string {
	secrets := secretsIn(b.whole)
	for i := range b.given {
		g := &b.given[i]
		setting := declaration(declared, g.name)
		if setting == nil {
			secrets = append(secrets, marked[fromEnv](g.value)...)
		} else if setting.Secret {
			secrets = append(secrets, textsIn(g.value)...)
			secrets = append(secrets, marked[fromEnv](g.value)...)
		}
	}
	slices.Sort(secrets)
	return slices.Compact(secrets)
}

// shown returns the block for people, with what counts for the declared settings that it leaves out.
func (b *Block) shown(declared []sdk.Setting) cty.Value {
	if b.whole.IsMarked() { // which settings there are is a secret
		return cty.StringVal(hidden)
	}
	members := map[string]cty.Value{}
	for i := range b.given {
		g := &b.given[i]
		setting := declaration(declared, g.name)
		if setting != nil && setting.Secret {
			members[g.name] = cty.StringVal(hidden)
			continue
		}
		members[g.name] = without(g.value, setting == nil)
	}
	for i := range declared {
		if _, given := members[declared[i].Name]; !given && declared[i].Default != "" {
			members[declared[i].Name] = defaultOf(&declared[i])
		}
	}
	return cty.ObjectVal(members)
}

// defaultOf returns the default of a setting as it would stand in a file.
func defaultOf(s *sdk.Setting) cty.Value {
	text := cty.StringVal(s.Default)
	switch s.Type {
	case sdk.TextSetting, sdk.DurationSetting, sdk.SizeSetting:
		return text
	}
	as, err := ctyjson.ImpliedType([]byte(s.Default))
	if err != nil {
		return text
	}
	value, err := ctyjson.Unmarshal([]byte(s.Default), as)
	if err != nil {
		return text
	}
	return value
}

// without returns v without what came from secretfile and, if it says so, from env.
func without(v cty.Value, env bool) cty.Value {
	open, err := cty.Transform(v, func(_ cty.Path, part cty.Value) (cty.Value, error) {
		for mark := range part.Marks() {
			_, secret := mark.(secret)
			_, fromEnv := mark.(fromEnv)
			if secret || fromEnv && env {
				return cty.StringVal(hidden), nil
			}
		}
		part, _ = part.Unmark()
		return part, nil
	})
	if err != nil {
		return cty.StringVal(hidden)
	}
	open, _ = open.UnmarkDeep()
	return open
}

// secretsIn returns what of v is made of what secretfile returned, and what that was.
func secretsIn(v cty.Value) []string { return marked[secret](v) }

// marked returns the texts of v that have a mark of a kind, and the texts of the marks.
func marked[Mark secret | fromEnv](v cty.Value) []string {
	var texts []string
	_ = cty.Walk(v, func(_ cty.Path, part cty.Value) (bool, error) {
		for mark := range part.Marks() {
			m, ok := mark.(Mark)
			if !ok {
				continue
			}
			texts = append(texts, textOf(m))
			texts = append(texts, textsIn(part)...)
		}
		return true, nil
	})
	return texts
}

func textOf(mark any) string {
	switch m := mark.(type) {
	case secret:
		return m.text
	case fromEnv:
		return m.text
	}
	return ""
}

// textsIn returns all text in v, and its numbers as text.
func textsIn(v cty.Value) []string {
	v, _ = v.UnmarkDeep()
	var texts []string
	_ = cty.Walk(v, func(_ cty.Path, part cty.Value) (bool, error) {
		switch {
		case part.IsNull() || !part.IsKnown():
		case part.Type() == cty.String:
			texts = append(texts, part.AsString())
		case part.Type() == cty.Number:
			texts = append(texts, part.AsBigFloat().Text('f', -1))
		}
		return true, nil
	})
	return texts
}
