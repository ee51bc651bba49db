package sdk

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

const day = 24 * time.Hour

var daysFirst = regexp.MustCompile(`^(\d{1,6})d(.*)$`)

// ParseDuration reads a duration as Go writes them, which may begin with whole days: "90d", "1d12h".
func ParseDuration(text string) (time.Duration, error) {
	parts := daysFirst.FindStringSubmatch(text)
	if parts == nil {
		return time.ParseDuration(text)
	}
	days, err := strconv.Atoi(parts[1])
	if err != nil || int64(days) > math.MaxInt64/int64(day)-1 {
		return 0, fmt.Errorf("%s days are too many", parts[1])
	}
	if parts[2] == "" {
		return time.Duration(days) * day, nil
	}
	rest, err := time.ParseDuration(parts[2])
	if err != nil || rest < 0 || rest >= day {
		return 0, fmt.Errorf("%q is not part of a day", parts[2])
	}
	return time.Duration(days)*day + rest, nil
}

// FormatDuration writes d as a person would: "1m", not "1m0s"; "90d", not "2160h". ParseDuration reads it.
func FormatDuration(d time.Duration) string {
	if d >= 2*day && d%day == 0 {
		return strconv.Itoa(int(d/day)) + "d"
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// LikelyDuration guesses what duration text was meant to be, for an error; otherwise, if it can not.
func LikelyDuration(text string, otherwise time.Duration) string {
	parts := regexp.MustCompile(`^\s*(\d{1,9}(?:\.\d{1,9})?)\s*([a-zA-Z]*)\s*$`).FindStringSubmatch(text)
	if parts == nil {
		return FormatDuration(otherwise)
	}
	unit := strings.ToLower(parts[2])
	whole, err := strconv.Atoi(parts[1])
	switch {
	case unit == "ms" || strings.HasPrefix(unit, "milli"):
		return parts[1] + "ms"
	case unit == "m" || strings.HasPrefix(unit, "min"):
		return parts[1] + "m"
	case strings.HasPrefix(unit, "h"):
		return parts[1] + "h"
	case strings.HasPrefix(unit, "d") && err == nil && whole < 1e6:
		return parts[1] + "d"
	case strings.HasPrefix(unit, "w") && err == nil && whole < 1e5:
		return strconv.Itoa(7*whole) + "d"
	case unit == "" || strings.HasPrefix(unit, "s"):
		return parts[1] + "s"
	}
	return FormatDuration(otherwise)
}

// Size is a number of bytes. As a setting it is written with a unit: "64MiB", "1GB".
type Size int64

// ParseSize reads a number of bytes with a unit; 0 needs none.
func ParseSize(text string) (Size, error) {
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size", text)
	}
	return Size(n), nil //nolint:gosec // it fits
}

// String writes s as ParseSize reads it, in the greatest unit that leaves a whole number: "256KiB".
func (s Size) String() string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for s != 0 && s%1024 == 0 && len(units) > 1 {
		s, units = s/1024, units[1:]
	}
	return strconv.FormatInt(int64(s), 10) + units[0]
}
