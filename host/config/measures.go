package config

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/zclconf/go-cty/cty"

	"github.com/starling-sync/starling/sdk"
)

// duration returns the argument called name, between least and most; def if it is not there.
func (s section) duration(name string, def, least, most time.Duration) time.Duration {
	return s.durationOrZero(name, "", def, least, most)
}

// durationOrZero is duration, or 0, which means what zero says; "": 0 is none.
func (s section) durationOrZero(name, zero string, def, least, most time.Duration) time.Duration {
	v, ok := s.value(name)
	if !ok {
		return def
	}
	if v.cty.Type() == cty.Number {
		likely := v.source + "s"
		if zero != "" && v.source == "0" {
			likely = "0"
		}
		s.failf(v.at, "%s: %s is not a duration; write %q", name, v.source, likely)
		return def
	}
	text, ok := v.string()
	if !ok {
		return def
	}
	d, err := sdk.ParseDuration(text)
	switch {
	case err != nil:
		s.failf(v.at, "%s: %q is not a duration; write %q", name, text, sdk.LikelyDuration(text, def))
		return def
	case d == 0 && zero != "":
		return 0
	case d < least || d > most:
		s.failf(v.at, "%s: %q is out of range; want %s to %s%s", name, text, short(least), short(most), orZero(zero))
		return def
	}
	return d
}

func orZero(meaning string) string {
	if meaning == "" {
		return ""
	}
	return fmt.Sprintf(", or \"0\": %s", meaning)
}

func short(d time.Duration) string { return sdk.FormatDuration(d) }

// size returns the argument called name in bytes, between least and most; def if it is not there.
func (s section) size(name string, def, least, most int) int {
	return int(s.sizeOrZero(name, "", int64(def), int64(least), int64(most)))
}

// sizeOrZero is size, or 0, which means what zero says; "": 0 is none.
func (s section) sizeOrZero(name, zero string, def, least, most int64) int64 {
	v, ok := s.value(name)
	if !ok {
		return def
	}
	if v.cty.Type() == cty.Number {
		likely := compact(def)
		if zero != "" && v.source == "0" {
			likely = "0"
		}
		s.failf(v.at, "%s: %s has no unit; write %q", name, v.source, likely)
		return def
	}
	text, ok := v.string()
	if !ok {
		return def
	}
	n, err := humanize.ParseBytes(text)
	unit := strings.ToLower(strings.TrimLeft(text, "0123456789., "))
	switch {
	case err == nil && n == 0 && zero != "":
		return 0
	case err == nil && n > 0 && unit == "":
		s.failf(v.at, "%s: %q has no unit; write %q", name, text, compact(int64(min(n, math.MaxInt64)))) //nolint:gosec // just bounded
		return def
	case err == nil && unit != "" && !slices.Contains(sizeUnits, unit):
		s.failf(v.at, "%s: %q: a size has one of the units B, KiB, MiB, GiB and TiB; write %q", name, text, likelySize(text, unit, n))
		return def
	case err != nil:
		s.failf(v.at, "%s: %q is not a size; write %q", name, text, compact(def))
		return def
	case n < uint64(least) || n > uint64(most): //nolint:gosec // both are positive constants
		s.failf(v.at, "%s: %q is out of range; want %s to %s%s", name, text, compact(least), compact(most), orZero(zero))
		return def
	}
	return int64(n) //nolint:gosec // at most most
}

// sizeUnits are those of a size, in lower case: of 1024 each, so that a size is shown as it was written.
var sizeUnits = []string{"b", "kib", "mib", "gib", "tib"}

// likelySize returns what may be meant by n bytes written with a unit that is none of sizeUnits: "256KB" is meant to be "256KiB".
func likelySize(text, unit string, n uint64) string {
	if i := slices.Index([]string{"k", "m", "g", "t"}, unit[:1]); i >= 0 {
		return strings.TrimSpace(text[:len(text)-len(unit)]) + []string{"KiB", "MiB", "GiB", "TiB"}[i]
	}
	return strconv.FormatUint(n, 10) + "B"
}

// compact writes a size as the file does: "256KiB".
func compact[N int | int64](n N) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for n%1024 == 0 && n > 0 && len(units) > 1 {
		n, units = n/1024, units[1:]
	}
	return strconv.FormatInt(int64(n), 10) + units[0]
}

// count returns the argument called name, a whole number between least and most; def if it is not there.
func (s section) count(name string, def, least, most int) int {
	v, ok := s.value(name)
	if !ok {
		return def
	}
	if v.cty.Type() != cty.Number {
		s.failf(v.at, "%s: want a number, got %s; write %d", name, kind(v.cty), likelyCount(v, def))
		return def
	}
	n, accuracy := v.cty.AsBigFloat().Int64()
	if accuracy != big.Exact || n < int64(least) || n > int64(most) {
		s.failf(v.at, "%s: %s is out of range; want a whole number from %d to %d", name, v.source, least, most)
		return def
	}
	return int(n)
}

// likelyCount returns the number in a text, since "8192" is easily written for 8192.
func likelyCount(v value, def int) int {
	if v.cty.Type() == cty.String {
		if n, err := strconv.Atoi(strings.TrimSpace(v.cty.AsString())); err == nil && n > 0 {
			return n
		}
	}
	return def
}
