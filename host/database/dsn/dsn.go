// Package dsn reads what says where a PostgreSQL database is, and refuses what would be unsafe or unclear.
//
// A connection string may hold a password: nothing here puts any of it into an error.
package dsn

import (
	"net/url"
	"os"
	"strings"

	"github.com/lib/pq"

	"github.com/starling-sync/starling/sdk"
)

// DefaultSchema is the schema that is used where none is named.
const DefaultSchema = "starling"

// CheckSchema refuses names that the schema of a device should not have.
func CheckSchema(name string) error {
	for i, c := range name {
		if c != '_' && (c < 'a' || c > 'z') && (i == 0 || c < '0' || c > '9') {
			return sdk.Errorf(sdk.CodeInvalid, "the schema %q has a name of other than a to z, 0 to 9 and _; write for example %q", name, DefaultSchema)
		}
	}
	switch {
	case name == "" || len(name) > 63:
		return sdk.Errorf(sdk.CodeInvalid, "a schema's name has 1 to 63 characters; write for example %q", DefaultSchema)
	case strings.HasPrefix(name, "pg_") || name == "information_schema" || name == "public":
		return sdk.Errorf(sdk.CodeInvalid, "the schema %q is for others, and this device needs one of its own; write for example %q", name, DefaultSchema)
	}
	return nil
}

// Parse reads a connection string, a URL or pairs of name and value, which must name sslmode.
func Parse(text string) (pq.Config, error) {
	if strings.TrimSpace(text) == "" {
		return pq.Config{}, sdk.Errorf(sdk.CodeInvalid, "the dsn is empty; write for example postgres://user:password@host:5432/database?sslmode=verify-full")
	}
	mode, ok := sslMode(text)
	if !ok {
		return pq.Config{}, errUnreadable()
	}
	switch mode {
	case "":
		return pq.Config{}, sdk.Errorf(sdk.CodeInvalid, "the dsn does not say sslmode; add ?sslmode=verify-full to it (&sslmode=verify-full after other parameters), "+
			"or sslmode=disable where the server is on this machine")
	case "disable", "require", "verify-ca", "verify-full":
	default:
		return pq.Config{}, sdk.Errorf(sdk.CodeInvalid, "the dsn's sslmode is none of verify-full, verify-ca, require and disable; with another nobody knows whether a connection is encrypted")
	}
	config, err := pq.NewConfig(text)
	if err != nil { // HAZARD: its text may hold a part of the password
		return pq.Config{}, errUnreadable()
	}
	return config, nil
}

// CheckFiles refuses files for TLS that a connection string names and that are not there: with some of them the driver would go
// on, and check or show no certificate.
func CheckFiles(config *pq.Config) error {
	if config.SSLInline || config.SSLMode == pq.SSLModeDisable {
		return nil
	}
	for _, named := range []struct{ by, file string }{{"sslrootcert", config.SSLRootCert}, {"sslcert", config.SSLCert}, {"sslkey", config.SSLKey}} {
		if named.file == "" || named.file == "system" && named.by == "sslrootcert" {
			continue
		}
		if _, err := os.Stat(named.file); err != nil {
			return sdk.Errorf(sdk.CodeInvalid, "the file %s for TLS can not be read (%s of the dsn): %w", named.file, named.by, err)
		}
	}
	return nil
}

func errUnreadable() error {
	return sdk.Errorf(sdk.CodeInvalid, "the dsn can not be read, and is not shown, since it may hold a password; write postgres://user:password@host:5432/database?sslmode=verify-full, "+
		"with special characters of the password percent-encoded, or host=... dbname=... user=... password=... sslmode=...")
}

// sslMode returns what a connection string says of sslmode, and whether it can be read.
func sslMode(text string) (mode string, ok bool) {
	if strings.HasPrefix(text, "postgres://") || strings.HasPrefix(text, "postgresql://") {
		parsed, err := url.Parse(text)
		if err != nil || misread(parsed) {
			return "", false
		}
		return parsed.Query().Get("sslmode"), true
	}
	for rest := text; ; {
		rest = strings.TrimLeft(rest, blanks)
		if rest == "" {
			return mode, true
		}
		var name, value string
		if name, rest, ok = strings.Cut(rest, "="); !ok {
			return "", false
		}
		if value, rest, ok = cutValue(strings.TrimLeft(rest, blanks)); !ok {
			return "", false
		}
		if strings.TrimSpace(name) == "sslmode" {
			mode = value
		}
	}
}

// misread reports that a part of a password has become that of something else, which messages show: a / or ? that is not
// percent-encoded ends the host.
func misread(parsed *url.URL) bool {
	if strings.ContainsAny(strings.TrimPrefix(parsed.EscapedPath(), "/"), "/@") {
		return true
	}
	for name := range parsed.Query() {
		if strings.ContainsAny(name, "/@:") {
			return true
		}
	}
	return false
}

const blanks = " \t\r\n"

// cutValue reads a value of a pair: up to a blank, or in single quotes; a backslash takes the next character as it is.
func cutValue(text string) (value, rest string, ok bool) {
	inQuotes := strings.HasPrefix(text, "'")
	text = strings.TrimPrefix(text, "'")
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text):
			i++
			out.WriteByte(text[i])
		case inQuotes && c == '\'':
			return out.String(), text[i+1:], true
		case !inQuotes && strings.IndexByte(blanks, c) >= 0:
			return out.String(), text[i:], true
		default:
			out.WriteByte(c)
		}
	}
	return out.String(), "", !inQuotes
}
