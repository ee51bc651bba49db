package disk

import (
	"strings"
	"unicode/utf8"
)

// Escape returns name as text that every database takes: a byte that is not valid UTF-8 becomes \xHH, and so does a
// backslash that could be read as the start of such an escape. Every other name is returned as it is.
// Unescape(Escape(name)) == name, so two different names never become one.
func Escape(name string) string {
	if utf8.ValidString(name) && !strings.Contains(name, `\x`) && !strings.Contains(name, "\x00") {
		return name
	}
	var b strings.Builder
	for i := 0; i < len(name); {
		r, size := utf8.DecodeRuneInString(name[i:])
		switch {
		case r == utf8.RuneError && size == 1, r == 0, isEscape(name[i:]):
			const digits = "0123456789abcdef"
			b.WriteString(`\x`)
			b.WriteByte(digits[name[i]>>4])
			b.WriteByte(digits[name[i]&15])
			i++
		default:
			b.WriteString(name[i : i+size])
			i += size
		}
	}
	return b.String()
}

// Unescape returns the name that Escape was given.
func Unescape(text string) string {
	if !strings.Contains(text, `\x`) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		if isEscape(text[i:]) {
			b.WriteByte(digit(text[i+2])<<4 | digit(text[i+3]))
			i += 4
			continue
		}
		b.WriteByte(text[i])
		i++
	}
	return b.String()
}

// isEscape reports whether s begins with \xHH.
func isEscape(s string) bool {
	return len(s) >= 4 && s[0] == '\\' && s[1] == 'x' && digit(s[2]) < 16 && digit(s[3]) < 16
}

func digit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}
