package sdk

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

func checkText(t Type, v string) error {
	return textFault(strings.IndexByte(v, 0), t == JSON && !json.Valid([]byte(v)))
}

func checkTextBytes(t Type, v []byte) error {
	return textFault(bytes.IndexByte(v, 0), t == JSON && !json.Valid(v))
}

func textFault(nul int, notJSON bool) error {
	switch {
	case nul >= 0:
		return Errorf(CodeInvalid, "text holds a NUL at byte %d", nul)
	case notJSON:
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
