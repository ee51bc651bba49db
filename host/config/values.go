package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// secret marks all that is made of what secretfile returned, which is its text. It goes to a plugin's config and nowhere else.
type secret struct{ text string }

// fromEnv marks all that is made of a variable of the environment, which may be a secret, as only a plugin can tell.
type fromEnv struct{ text string }

// hidden stands for a secret wherever a configuration is shown.
const hidden = "(secret)"

// functions returns what an expression in a file of the folder base may call.
// secretRead is called with the path of each file that secretfile reads; it may be nil where nothing is evaluated.
func functions(env environment, base string, secretRead func(path string)) *hcl.EvalContext {
	read := func(did func(path string), mark func(string) cty.Value) function.Function {
		return function.New(&function.Spec{
			Params: []function.Parameter{{Name: "path", Type: cty.String}},
			Type:   function.StaticReturnType(cty.String),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				path := absolute(base, args[0].AsString())
				did(path)
				content, err := readText(path)
				if err != nil {
					return cty.NilVal, fmt.Errorf("%s: %w", args[0].AsString(), err)
				}
				return mark(content), nil
			},
		})
	}
	return &hcl.EvalContext{Functions: map[string]function.Function{
		"env": function.New(&function.Spec{
			Params:   []function.Parameter{{Name: "name", Type: cty.String}},
			VarParam: &function.Parameter{Name: "default", Type: cty.String},
			Type:     function.StaticReturnType(cty.String),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				name := args[0].AsString()
				if len(args) > 2 {
					return cty.NilVal, fmt.Errorf(`env takes a name and at most one default: env(%q, "default")`, name)
				}
				if value, ok := env.lookup(name); ok {
					return cty.StringVal(value).Mark(fromEnv{value}), nil
				}
				if len(args) == 2 {
					return args[1], nil
				}
				return cty.NilVal, fmt.Errorf(`the environment variable %s is not set; set it, or give a default: env(%q, "default")`, name, name)
			},
		}),
		"file":       read(func(string) {}, cty.StringVal),
		"secretfile": read(secretRead, func(text string) cty.Value { return cty.StringVal(text).Mark(secret{text}) }),
	}}
}

// readText returns what the file at path holds, without the line end at its end.
func readText(path string) (string, error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return "", fmt.Errorf("cannot be read: %w", reason(err))
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, MaxFileBytes+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("cannot be read: %w", reason(err))
	case len(content) > MaxFileBytes:
		return "", errors.New("is over 64 KiB; a value is smaller")
	case !utf8.Valid(content):
		return "", errors.New("is not UTF-8 text")
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r"), nil
}

// value is the value of one argument.
type value struct {
	section
	name   string
	at     hcl.Range // of the expression
	cty    cty.Value
	marked cty.Value // the same, with what of it is secret
	source string    // as written, shortened
}

// value evaluates the argument called name. It returns false if there is none, or none that can be used.
func (s section) value(name string) (value, bool) {
	attribute, ok := s.block.Body.Attributes[name]
	if !ok || s.damaged(attribute.SrcRange) {
		return value{}, false
	}
	result, diags := attribute.Expr.Value(s.fileOf(attribute.SrcRange).eval)
	at := attribute.Expr.Range()
	for _, d := range diags {
		if d.Subject == nil {
			d.Subject = &at
		}
		s.failf(*d.Subject, "%s: %s", name, s.plain(d))
	}
	if diags.HasErrors() {
		return value{}, false
	}
	marked := result
	result, _ = result.UnmarkDeep()
	if result.IsNull() || !result.IsWhollyKnown() {
		s.failf(at, "%s has no value; give it one, or remove the line", name)
		return value{}, false
	}
	return value{section: s, name: name, at: at, cty: result, marked: marked, source: s.parser.text(at)}, true
}

func (p *parser) damaged(r hcl.Range) bool {
	for _, b := range p.fileOf(r).broken {
		if r.Start.Byte <= b.Byte && b.Byte <= r.End.Byte {
			return true
		}
	}
	return false
}

func kind(v cty.Value) string {
	switch t := v.Type(); {
	case t == cty.String:
		return "text"
	case t == cty.Number:
		return "a number"
	case t == cty.Bool:
		return "true or false"
	case t.IsTupleType() || t.IsListType() || t.IsSetType():
		return "a list"
	}
	return "an object"
}

// string returns the value as text.
func (v value) string() (string, bool) {
	if v.cty.Type() != cty.String {
		hint := ""
		if v.cty.Type() == cty.Number {
			hint = fmt.Sprintf("; write %q", v.source)
		}
		v.failf(v.at, "%s: want text in quotes, got %s%s", v.name, kind(v.cty), hint)
		return "", false
	}
	if len(secretsIn(v.marked)) > 0 {
		v.failf(v.at, "%s: a secret can be given to a plugin only, in its config block, and to the store, as its dsn; write the value here, or read it with file", v.name)
		return "", false
	}
	text := v.cty.AsString()
	if strings.ContainsFunc(text, control) {
		v.failf(v.at, "%s: the text holds a control character; remove it", v.name)
		return "", false
	}
	return text, true
}

func control(r rune) bool { return r < 0x20 || r == 0x7f }

// text returns the argument called name, def if it is not there. Empty text is a mistake.
func (s section) text(name, def string) (text string, at hcl.Range) {
	v, ok := s.value(name)
	if !ok {
		return def, s.whole()
	}
	text, ok = v.string()
	if ok && strings.TrimSpace(text) == "" {
		s.failf(v.at, "%s is empty; give it a value, or remove the line", name)
	}
	return text, v.at
}

// choice returns the argument called name, which must be one of choices; the first if it is not there.
func (s section) choice(name string, choices ...string) string {
	v, ok := s.value(name)
	if !ok {
		return choices[0]
	}
	text, ok := v.string()
	if !ok {
		return choices[0]
	}
	for _, c := range choices {
		if text == c {
			return text
		}
	}
	hint := didYouMean(strings.ToLower(text), choices)
	s.failf(v.at, "%s: %q is not one of %s%s", name, text, strings.Join(choices, ", "), hint)
	return choices[0]
}

// flag returns the argument called name; false if it is not there.
func (s section) flag(name string) bool {
	v, ok := s.value(name)
	if !ok {
		return false
	}
	if v.cty.Type() != cty.Bool {
		s.failf(v.at, "%s: want true or false, got %s", name, kind(v.cty))
		return false
	}
	return v.cty.True()
}

// texts returns the argument called name, a list of text, with the range of each item.
func (s section) texts(name string) (texts []string, at []hcl.Range) {
	v, ok := s.value(name)
	if !ok {
		return nil, nil
	}
	if kind(v.cty) != "a list" {
		s.failf(v.at, "%s: want a list, got %s; write [%s]", name, kind(v.cty), v.source)
		return nil, nil
	}
	items, _ := s.block.Body.Attributes[name].Expr.(*hclsyntax.TupleConsExpr)
	for i, item := range v.cty.AsValueSlice() {
		one := v
		one.cty = item
		if items != nil && i < len(items.Exprs) {
			one.at = items.Exprs[i].Range()
			one.source = s.parser.text(one.at)
		}
		if item.IsNull() {
			s.failf(one.at, "%s: an item has no value", name)
			continue
		}
		if text, ok := one.string(); ok {
			texts, at = append(texts, text), append(at, one.at)
		}
	}
	return texts, at
}
