package dsn_test

import (
	"strings"
	"testing"

	"github.com/starling-sync/starling/host/database/dsn"
	"github.com/starling-sync/starling/sdk"
)

const password = "s3cr%74" // as it is written; the password is s3crt

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"postgres://u:" + password + "@h:5432/d?sslmode=verify-full":            "",
		"postgresql://u:" + password + "@h/d?connect_timeout=5&sslmode=disable": "",
		"host=h dbname=d user=u password='it is \\' s3cr%74' sslmode = require": "",
		"postgres://u@/d?host=%2Frun%2Fpostgresql&sslmode=disable":              "",
		"":                                  "is empty",
		"postgres://u:" + password + "@h/d": "does not say sslmode",
		"postgres://u:" + password + "@h/d?sslmode=prefer":       "none of",
		"host=h password='sslmode=disable s3cr%74'":              "does not say sslmode",
		"host=h password='s3cr%74":                               "can not be read",
		"host=h s3cr%74":                                         "can not be read",
		"postgres://u:s3cr%74/#x@h/d?sslmode=disable":            "can not be read",
		"postgres://u:12/s3cr%74@h/d?sslmode=disable":            "can not be read",
		"postgres://u:12/s3cr%74@h?sslmode=disable":              "can not be read",
		"postgres://u:12?s3cr%74@h/d&sslmode=disable":            "can not be read",
		"postgres://u:12?s3cr%74@h/d?a=b&sslmode=disable":        "can not be read",
		"postgres://u@h/a%2Fb%40c?sslmode=disable":               "",
		"postgres://u:" + password + "@h:port/d?sslmode=disable": "can not be read",
	} {
		config, err := dsn.Parse(text)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want == "" && config.SSLMode == "":
			t.Errorf("%s: no sslmode was read", text)
		case want != "" && (sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want %q", text, err, want)
		case err != nil && strings.Contains(err.Error(), "s3cr"):
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestCheckSchema(t *testing.T) {
	for name, good := range map[string]bool{
		"starling": true, "_a1": true, strings.Repeat("a", 63): true,
		"": false, "1a": false, "A": false, `a"b`: false, "pg_a": false, "public": false, "information_schema": false, strings.Repeat("a", 64): false,
	} {
		if err := dsn.CheckSchema(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}
