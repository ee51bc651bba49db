package sdk

import (
	"encoding/json"
	"slices"
	"strings"
)

func checkText(t Type, v string) error {
	if i := strings.IndexByte(v, 0); i >= 0 {
		return Errorf(CodeInvalid, "text holds a NUL at byte %d", i)
	}
	if t == JSON && !json.Valid([]byte(v)) {
		return Errorf(CodeInvalid, "text is not one JSON value")
	}
	return nil
}

func checkType(t Type, v any, allowed ...Type) error {
	if !slices.Contains(allowed, t) {
		return Errorf(CodeInvalid, "want %s, got %T", t, v)
	}
	return nil
}
