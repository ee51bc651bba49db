package sdk

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

func checkText(t Type, v string) error {
	return textFault(utf8.ValidString(v), strings.IndexByte(v, 0), t != JSON || json.Valid([]byte(v)))
}

func checkTextBytes(t Type, v []byte) error {
	return textFault(utf8.Valid(v), bytes.IndexByte(v, 0), t != JSON || json.Valid(v))
}

func textFault(isUTF8 bool, nul int, isJSON bool) error {
	switch {
	case !isUTF8:
		return Errorf(CodeInvalid, "text is not valid UTF-8")
	case nul >= 0:
		return Errorf(CodeInvalid, "text holds a NUL at byte %d", nul)
	case !isJSON:
		return Errorf(CodeInvalid, "text is not one JSON value")
	}
	return nil
}

func checkFloat(v float64) error {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return Errorf(CodeInvalid, "a float must be finite, got %v", v)
	}
	return nil
}

func checkType(t Type, v any, allowed ...Type) error {
	if !slices.Contains(allowed, t) {
		return Errorf(CodeInvalid, "want %s, got %T", t, v)
	}
	return nil
}
