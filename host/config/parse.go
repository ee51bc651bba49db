package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// environment is what the file's meaning depends on besides its content.
type environment struct {
	lookup     func(name string) (string, bool)
	executable func() (string, error)
}

func ownEnvironment() environment {
	return environment{lookup: os.LookupEnv, executable: os.Executable}
}

type parser struct {
	env   environment
	files []*file // one at least
	found Diagnostics

	exposed []string // see Config
}

// lookAt notes a file that holds a secret if others can read it. Windows has no such bits.
func (p *parser) lookAt(secret string) {
	info, err := os.Stat(secret)
	if err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o004 != 0 && !slices.Contains(p.exposed, secret) {
		p.exposed = append(p.exposed, secret)
	}
}

// file is one of the files that make a configuration.
type file struct {
	Source
	base   string // absolute folder of the file
	eval   *hcl.EvalContext
	broken []hcl.Pos // where syntax errors begin
	cut    hcl.Pos   // from here on nothing can be trusted
}

// fileOf returns the file that r lies in; the first one for a place in none.
func (p *parser) fileOf(r hcl.Range) *file { return p.named(r.Filename) }

func (p *parser) named(name string) *file {
	for _, f := range p.files {
		if f.Name == name {
			return f
		}
	}
	return p.files[0]
}

// shape is what one type of block may hold.
type shape struct {
	name      string
	labels    []string // an example of each label, for messages
	arguments []string
	blocks    []string
}

// header returns how a block of this shape begins, by example.
func (s shape) header() string {
	header := s.name
	for _, label := range s.labels {
		header += " " + strconv.Quote(label)
	}
	return header
}

// section is one block whose labels, arguments and blocks have been checked for their names.
type section struct {
	*parser
	block  *hclsyntax.Block
	labels []string
}

func parse(sources []Source, env environment) (*Config, error) {
	c, err := parseAs(sources, env, (*parser).document)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// parseAs reads of a configuration what document does. With Diagnostics it returns what could be read beside the mistakes, if
// there is none in the syntax.
func parseAs(sources []Source, env environment, document func(*parser, *Config, *hclsyntax.Body)) (*Config, error) {
	p := &parser{env: env}
	config, all := new(Config), new(hclsyntax.Body)
	all.Attributes = make(hclsyntax.Attributes)
	for _, source := range sources {
		config.Files = append(config.Files, source.Name)
		f, err := newFile(source, env, p.lookAt)
		if err != nil {
			return nil, Diagnostics{{Range: Range{File: source.Name}, Message: err.Error()}}
		}
		p.files = append(p.files, f)
		if at, deep := f.tooDeep(); deep {
			return nil, Diagnostics{{Range: p.at(at), Message: "this is nested too deeply; a configuration is simpler"}}
		}
		parsed, diags := hclsyntax.ParseConfig(f.Content, f.Name, hcl.InitialPos)
		p.syntaxErrors(f, diags)
		if parsed != nil {
			if body, ok := parsed.Body.(*hclsyntax.Body); ok {
				p.merge(all, body)
			}
		}
	}
	syntax := len(p.found)
	document(p, config, all)
	if syntax > 0 {
		p.found = p.withoutEcho(p.found, syntax)
	}
	switch {
	case syntax > 0:
		return nil, p.found.inOrder(config.Files)
	case len(p.found) > 0:
		return config, p.found.inOrder(config.Files)
	}
	config.Exposed = p.exposed
	return config, nil
}

func newFile(source Source, env environment, secretRead func(path string)) (*file, error) {
	if len(source.Content) > MaxFileBytes {
		return nil, errors.New("the file is over 64 KiB; a configuration is smaller")
	}
	absolute, err := filepath.Abs(source.Name)
	if err != nil {
		return nil, fmt.Errorf("the folder of the file can not be found: %w", err)
	}
	base := filepath.Dir(absolute)
	return &file{Source: source, base: base, eval: functions(env, base, secretRead), cut: hcl.Pos{Line: 1 << 30}}, nil
}

// merge adds what one file holds to what the files before it hold.
func (p *parser) merge(all, body *hclsyntax.Body) {
	all.Blocks = append(all.Blocks, body.Blocks...)
	for name, attribute := range body.Attributes {
		if first, twice := all.Attributes[name]; twice {
			p.failf(attribute.NameRange, "%q is given twice, first at %s; keep one", name, p.place(first.NameRange))
			continue
		}
		all.Attributes[name] = attribute
	}
}

// The limits of nesting and of the operators on one line. The HCL library descends once for each, and a program does not
// survive running out of stack.
const (
	maxDepth     = 32
	maxOperators = 200
)

// tooDeep returns where the source goes beyond these limits.
func (f *file) tooDeep() (hcl.Range, bool) {
	tokens, _ := hclsyntax.LexConfig(f.Content, f.Name, hcl.InitialPos) // its diagnostics come again with the parser's
	depth, operators := 0, 0
	inside := 0 // of brackets in which a line end does not end an expression
	for _, token := range tokens {
		switch token.Type {
		case hclsyntax.TokenOParen, hclsyntax.TokenOBrack, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			inside++
		case hclsyntax.TokenCParen, hclsyntax.TokenCBrack, hclsyntax.TokenTemplateSeqEnd:
			inside = max(0, inside-1)
		}
		switch token.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOParen, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc,
			hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			depth++
		case hclsyntax.TokenOBrack:
			depth++
			operators++ // also an index: a[0][0]...
		case hclsyntax.TokenCBrace, hclsyntax.TokenCParen, hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc,
			hclsyntax.TokenTemplateSeqEnd, hclsyntax.TokenCBrack:
			depth = max(0, depth-1)
		case hclsyntax.TokenNewline:
			if inside == 0 {
				operators = 0
			}
		case hclsyntax.TokenIdent, hclsyntax.TokenQuotedLit, hclsyntax.TokenStringLit, hclsyntax.TokenNumberLit,
			hclsyntax.TokenComma, hclsyntax.TokenEqual, hclsyntax.TokenComment, hclsyntax.TokenEOF:
		default:
			operators++
		}
		if depth > maxDepth || operators > maxOperators {
			return token.Range, true
		}
	}
	return hcl.Range{}, false
}

// names checks that body holds only what its shape allows. where ends the message, such as ` in "sync"`.
func (p *parser) names(body *hclsyntax.Body, s shape, where string) {
	for name, attribute := range body.Attributes {
		if slices.Contains(s.arguments, name) {
			continue
		}
		if slices.Contains(s.blocks, name) {
			p.failf(attribute.NameRange, "%q is a block; write %s { ... }", name, header(name))
			continue
		}
		hint := didYouMean(name, slices.Concat(s.arguments, s.blocks))
		if hint == "" {
			hint = knownHere(s.arguments, where)
		}
		p.failf(attribute.NameRange, "unsupported argument %q%s", name, hint)
	}
	for _, block := range body.Blocks {
		if slices.Contains(s.blocks, block.Type) {
			continue
		}
		if slices.Contains(s.arguments, block.Type) {
			p.failf(block.TypeRange, "%q takes a value; write %s = ...", block.Type, block.Type)
			continue
		}
		if where != "" && p.swallowed(block) {
			continue
		}
		hint := didYouMean(block.Type, slices.Concat(s.blocks, s.arguments))
		if hint == "" {
			hint = knownHere(s.blocks, where)
		}
		p.failf(block.TypeRange, "unsupported block %q%s", block.Type, hint)
	}
}

// swallowed reports a block that belongs to no other one and lies in one all the same, since that did not end where it was to: a
// syntax error before it says so.
func (p *parser) swallowed(block *hclsyntax.Block) bool {
	return slices.ContainsFunc(shapes(), func(s shape) bool { return s.name == block.Type }) &&
		slices.ContainsFunc(p.fileOf(block.TypeRange).broken, func(at hcl.Pos) bool { return at.Byte < block.TypeRange.Start.Byte })
}

func knownHere(names []string, where string) string {
	if len(names) == 0 {
		return where + "; remove it"
	}
	return where + "; known here: " + strings.Join(names, ", ")
}

// header returns how a block of the given type begins.
func header(name string) string {
	for _, s := range shapes() {
		if s.name == name {
			return s.header()
		}
	}
	return name
}

// section checks the labels and names of block against s. A label that is missing is "".
func (p *parser) section(block *hclsyntax.Block, s shape) section {
	result := section{parser: p, block: block, labels: make([]string, len(s.labels))}
	copy(result.labels, block.Labels)
	switch given, want := len(block.Labels), len(s.labels); {
	case given < want:
		p.failf(block.TypeRange, "%q needs %s; write %s { ... }", block.Type, plural(want, "name"), header(block.Type))
	case given > want && want == 0:
		p.failf(block.LabelRanges[0], "%q takes no name; remove %q", block.Type, block.Labels[0])
	case given > want:
		p.failf(block.LabelRanges[want], "%q takes %s; remove %q", block.Type, plural(want, "name"), block.Labels[want])
	}
	p.names(block.Body, s, " in \""+block.Type+"\"")
	return result
}

func plural(n int, noun string) string {
	if n == 1 {
		return "one " + noun
	}
	return "two " + noun + "s"
}

// one returns the only block of a type, and reports the others.
func (p *parser) one(body *hclsyntax.Body, name string) *hclsyntax.Block {
	var first *hclsyntax.Block
	for _, block := range body.Blocks {
		switch {
		case block.Type != name:
		case first == nil:
			first = block
		default:
			p.failf(block.DefRange(), "%q is given twice, first at %s; keep one", name, p.place(first.DefRange()))
		}
	}
	return first
}

// place names a line for a message about another.
func (p *parser) place(r hcl.Range) string { return p.at(r).String() }

// whole is the range of a block's header, which stands for all of it.
func (s section) whole() hcl.Range { return s.block.DefRange() }

// label returns the range of label i, or of the header where it is missing.
func (s section) label(i int) hcl.Range {
	if i < len(s.block.LabelRanges) {
		return s.block.LabelRanges[i]
	}
	return s.whole()
}

// pluginDir returns the folder of plugins beside the executable.
func (p *parser) pluginDir() (string, error) {
	executable, err := p.env.executable()
	if err != nil {
		return "", err
	}
	if executable == "" {
		return "", errors.New("the path of this program is unknown")
	}
	return filepath.Join(filepath.Dir(executable), "plugins"), nil
}

// transportPrefix begins the names of transports' binaries in plugin_dir.
const transportPrefix = "transport-"

// binary returns the path of the plugin called name in dir.
func binary(dir, name string) string {
	if runtime.GOOS == "windows" {
		name += exe
	}
	return filepath.Join(dir, name)
}

// exe ends the names of programs on Windows.
const exe = ".exe"

// plainName returns what binary was given for a file of this name.
func plainName(file string) string {
	if runtime.GOOS == "windows" {
		return strings.TrimSuffix(file, exe)
	}
	return file
}
