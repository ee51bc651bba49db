package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/hcl/v2"

	"github.com/starling-sync/starling/sdk"
)

// Diagnostic is one mistake: what is wrong and what to write instead, in lower-case plain words.
type Diagnostic struct {
	Range   Range
	Message string
}

func (d Diagnostic) String() string { return d.Range.String() + ": " + d.Message }

// Diagnostics is every mistake of a configuration, in the order of its files. It is never empty.
type Diagnostics []Diagnostic

// Error returns one line a mistake.
func (d Diagnostics) Error() string {
	lines := make([]string, len(d))
	for i, one := range d {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// unplaced returns the mistakes alone, as one error.
func (d Diagnostics) unplaced() error {
	messages := make([]string, len(d))
	for i := range d {
		messages[i] = d[i].Message
	}
	return sdk.Errorf(sdk.CodeInvalid, "%s", strings.Join(messages, "; "))
}

// Unwrap makes sdk.CodeOf answer CodeInvalid.
func (d Diagnostics) Unwrap() error { return sdk.Errorf(sdk.CodeInvalid, "%s", d.Error()) }

// inOrder returns d sorted by place, one of each.
func (d Diagnostics) inOrder(files []string) Diagnostics {
	slices.SortStableFunc(d, func(a, b Diagnostic) int {
		return cmp.Or(
			cmp.Compare(slices.Index(files, a.Range.File), slices.Index(files, b.Range.File)),
			cmp.Compare(a.Range.StartLine, b.Range.StartLine),
			cmp.Compare(a.Range.StartColumn, b.Range.StartColumn),
		)
	})
	return slices.Compact(d)
}

// InOrder returns d sorted by file and place, one of each.
func (d Diagnostics) InOrder() Diagnostics {
	var files []string
	for _, each := range d {
		files = append(files, each.Range.File)
	}
	slices.Sort(files)
	return d.inOrder(files)
}

// at returns r as a Range of the file that the operator named; of the first one, where r lies in none.
func (p *parser) at(r hcl.Range) Range {
	return Range{
		File: p.fileOf(r).Name, StartLine: r.Start.Line, StartColumn: r.Start.Column,
		EndLine: r.End.Line, EndColumn: r.End.Column,
	}
}

func (p *parser) failf(r hcl.Range, format string, args ...any) {
	p.found = append(p.found, Diagnostic{Range: p.at(r), Message: fmt.Sprintf(format, args...)})
}

// missingf reports what is not there. It stays silent where there are syntax errors, which may have hidden it.
func (p *parser) missingf(r hcl.Range, format string, args ...any) {
	if !slices.ContainsFunc(p.files, func(f *file) bool { return len(f.broken) > 0 }) {
		p.failf(r, format, args...)
	}
}

// syntaxErrors reports the first syntax error of each line of f, and nothing after one that swallows what follows.
func (p *parser) syntaxErrors(f *file, diags hcl.Diagnostics) {
	lines := map[int]bool{}
	for _, d := range diags {
		if d.Subject == nil {
			d.Subject = &hcl.Range{Filename: f.Name, Start: hcl.InitialPos, End: hcl.InitialPos}
		}
		start := d.Subject.Start
		f.broken = append(f.broken, start)
		if lines[start.Line] || start.Line > f.cut.Line {
			continue
		}
		lines[start.Line] = true
		if swallows(d.Summary) {
			f.cut = start
		}
		p.failf(*d.Subject, "%s", p.plain(d))
	}
}

func swallows(summary string) bool {
	for _, prefix := range []string{"Unterminated", "Unclosed", "Invalid multi-line string"} {
		if strings.HasPrefix(summary, prefix) {
			return true
		}
	}
	return false
}

// withoutEcho drops what a syntax error may have caused: mistakes on its line, and all after one that swallows.
func (p *parser) withoutEcho(found Diagnostics, syntax int) Diagnostics {
	kept := slices.Clone(found[:syntax])
	for _, d := range found[syntax:] {
		f := p.named(d.Range.File)
		echo := d.Range.StartLine >= f.cut.Line ||
			slices.ContainsFunc(f.broken, func(b hcl.Pos) bool { return b.Line == d.Range.StartLine })
		if !echo {
			kept = append(kept, d)
		}
	}
	return kept
}

// plain says in plain words what the HCL library says of a syntax or an expression.
func (p *parser) plain(d *hcl.Diagnostic) string {
	text := p.text(*d.Subject)
	switch d.Summary {
	case "Attribute redefined":
		if _, first, ok := strings.Cut(d.Detail, "already set at "); ok {
			first, _, _ = strings.Cut(first, ". ")
			return fmt.Sprintf("%q is given twice, first at %s; keep one", text, first)
		}
	case "Invalid multi-line string", "Unterminated template string", "Unterminated string literal":
		return "the text that begins here has no closing quote on its line"
	case "Unclosed configuration block", "Unclosed configuration body":
		return `the block that begins here is never closed; add a "}"`
	case "Argument or block definition required":
		if len(d.Subject.SliceBytes(p.fileOf(*d.Subject).Content)) > 0 && identifier(text) {
			return fmt.Sprintf("want a value or a block after %q; write %s = ... or %s { ... }", text, text, text)
		}
		return fmt.Sprintf("%q does not belong here; want a name, then = and a value, or a block", text)
	case "Invalid block definition":
		if strings.Contains(d.Detail, "starting on the same line") {
			word := p.fileOf(*d.Subject).firstWord(d.Subject.Start.Line)
			return fmt.Sprintf("%s lacks an equals sign before its value (%s = ...), or a { on this line if it is a block", word, word)
		}
	case "Invalid character":
		if text == "'" {
			return `write text in "double quotes"`
		}
	case "Argument definition required":
		end := strings.IndexFunc(text, func(r rune) bool { return r == ' ' || r == '{' || r == '"' })
		return oneLine(text[:max(end, 0)], p.fileOf(*d.Subject).firstWord(d.Subject.Start.Line))
	case "Invalid single-argument block definition":
		return `a block on one line takes one value at most; put each value, and the "}", on a line of its own`
	case "Missing newline after block definition", "Missing newline after argument":
		return "want a new line here"
	case "Invalid expression", "Missing expression":
		return "want a value here, such as \"text\", 5 or [\"a\", \"b\"]"
	case "Missing item separator":
		return `want a comma, or the closing "]"`
	case "Variables not allowed", "Unknown variable":
		return fmt.Sprintf("%s is not a value; write \"%s\" in quotes", text, text)
	case "Error in function call":
		if _, why, ok := strings.Cut(d.Detail, " failed: "); ok {
			return strings.TrimSuffix(why, ".")
		}
	case "Call to unknown function":
		name, _, _ := strings.Cut(text, "(")
		return fmt.Sprintf("there is no function %q%s", name, didYouMean(name, []string{"env", "file", "secretfile"}))
	case "Not enough function arguments", "Too many function arguments":
		if _, name, _ := strings.Cut(d.Detail, `"`); !strings.HasPrefix(name, "env") {
			name, _, _ = strings.Cut(name, `"`)
			return fmt.Sprintf(`%s takes the path of a file: %s("./token")`, name, name)
		}
		return `env takes a name and, if you like, a default: env("NAME", "default")`
	}
	return generic(d)
}

// oneLine says what is wrong with a block that stands on the line of the block around it, which is of the type that the line
// begins with.
func oneLine(name, around string) string {
	var known []string
	for _, s := range shapes() {
		if s.name == around {
			known = s.blocks
			if slices.Contains(s.arguments, name) && !slices.Contains(known, name) {
				return fmt.Sprintf("%q takes a value; write %s = ...", name, name)
			}
			if !slices.Contains(known, name) {
				if hint := didYouMean(name, slices.Concat(known, s.arguments)); hint != "" {
					return fmt.Sprintf("unsupported block %q%s", name, hint)
				}
				return fmt.Sprintf("unsupported block %q%s", name, knownHere(known, fmt.Sprintf(" in %q", around)))
			}
		}
	}
	alone := fmt.Sprintf("the block %q can not share a line with the block around it; give it a line of its own", name)
	if name == "config" || known == nil { // a plugin's own, which can be an argument
		alone += fmt.Sprintf(", or write %s = { ... }", name)
	}
	return alone
}

func generic(d *hcl.Diagnostic) string {
	detail := strings.TrimSuffix(lowerFirst(d.Detail), ".")
	if detail == "" {
		return lowerFirst(d.Summary)
	}
	return lowerFirst(d.Summary) + ": " + detail
}

func lowerFirst(s string) string {
	if len(s) > 1 && s[1] >= 'A' && s[1] <= 'Z' {
		return s // an acronym
	}
	return strings.ToLower(s[:min(1, len(s))]) + s[min(1, len(s)):]
}

func identifier(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if (c < 'a' || c > 'z') && s[i] != '_' && (i == 0 || s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return s != ""
}

// text returns the first line of the source at r.
func (p *parser) text(r hcl.Range) string {
	src := p.fileOf(r).Content
	if !r.CanSliceBytes(src) {
		return ""
	}
	line, _, _ := strings.Cut(string(r.SliceBytes(src)), "\n")
	return strings.TrimRight(line, "\r")
}

// firstWord returns what line (from 1) begins with.
func (f *file) firstWord(line int) string {
	lines := strings.Split(string(f.Content), "\n")
	if line > len(lines) {
		return "this"
	}
	words := strings.Fields(lines[line-1])
	if len(words) == 0 {
		return "this"
	}
	return words[0]
}

// didYouMean returns `; did you mean "listen"?` if one of names is close to given, else "".
func didYouMean(given string, names []string) string {
	best, distance := "", 3
	for _, name := range names {
		if d := levenshtein.Distance(given, name, nil); d < min(distance, len(name)) {
			best, distance = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}
