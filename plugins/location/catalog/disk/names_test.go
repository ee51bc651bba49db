package disk

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestEscape(t *testing.T) {
	for _, test := range []struct{ name, want string }{
		{"plain.txt", "plain.txt"},
		{"gr\u00fc\u00dfe\n", "gr\u00fc\u00dfe\n"},
		{"\xff", `\xff`},
		{"caf\xe9.txt", `caf\xe9.txt`},
		{`back\slash`, `back\slash`},
		{`\xff`, `\x5cxff`},
		{`\x\xff`, `\x\x5cxff`},
		{`\xzz`, `\xzz`},
		{"\\x4\xff", `\x4\xff`},
	} {
		if got := Escape(test.name); got != test.want {
			t.Errorf("Escape(%q) = %q, want %q", test.name, got, test.want)
		}
		if got := Unescape(Escape(test.name)); got != test.name {
			t.Errorf("Unescape(Escape(%q)) = %q", test.name, got)
		}
	}
}

func TestEscape_RoundTrip(t *testing.T) {
	piece := rapid.SampledFrom([]string{`\`, "x", "f", "4", "\xff", "\xc3", "\u00e9", "a", `\x5c`, "\x00"})
	rapid.Check(t, func(t *rapid.T) {
		name := strings.Join(rapid.SliceOf(piece).Draw(t, "pieces"), "")
		text := Escape(name)
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			t.Fatalf("Escape(%q) = %q, which a database refuses", name, text)
		}
		if got := Unescape(text); got != name {
			t.Fatalf("Unescape(%q) = %q, want %q", text, got, name)
		}
	})
}
