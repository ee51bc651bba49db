// Package hlc is Starling's clock: hybrid logical clock readings (Stamp) and the device's one source of them (Clock).
//
// It promises that a device's stamps strictly increase, across restarts and whatever the wall clock does, and that
// a stamp drawn after another device's stamp was observed is greater than it. It leaves to its callers to store the
// high-water mark in the transaction that uses it, and to break ties between devices (by device id).
//
// Source: Kulkarni et al., "Logical Physical Clocks and Consistent Snapshots in Globally Distributed Databases", 2014.
package hlc

import (
	"fmt"
	"time"
)

// Stamp is one reading: 48 bits of Unix milliseconds, then a 16-bit counter. Stamps sort as numbers, as their
// fixed-width text, and as non-negative 64-bit integers in a database. The zero Stamp is before every reading.
type Stamp uint64

const (
	counterBits = 16
	counterMask = 1<<counterBits - 1

	// MaxStamp is the greatest stamp that a signed 64-bit column holds (the year 6429).
	MaxStamp Stamp = 1<<63 - 1
)

// New returns the stamp of millis (Unix milliseconds, 0 <= millis < 1<<47) and counter.
func New(millis int64, counter uint16) Stamp {
	return Stamp(uint64(millis)<<counterBits | uint64(counter)) //nolint:gosec // the range is the contract
}

// Millis returns the Unix milliseconds of s.
func (s Stamp) Millis() int64 { return int64(s >> counterBits) } //nolint:gosec // 48 bits

// Counter returns the counter of s.
func (s Stamp) Counter() uint16 { return uint16(s & counterMask) }

// Time returns the wall-clock part of s, in UTC.
func (s Stamp) Time() time.Time { return time.UnixMilli(s.Millis()).UTC() }

// String returns s as 16 lower-case hexadecimal digits, which sort as stamps do.
func (s Stamp) String() string { return fmt.Sprintf("%016x", uint64(s)) }

// Parse reads what String wrote: exactly 16 lower-case hexadecimal digits, at most MaxStamp.
func Parse(text string) (Stamp, error) {
	if len(text) != 16 {
		return 0, fmt.Errorf("stamp %q: want 16 hexadecimal digits, got %d characters", text, len(text))
	}
	var s Stamp
	for i := range len(text) {
		c := text[i]
		switch {
		case '0' <= c && c <= '9':
			s = s<<4 | Stamp(c-'0')
		case 'a' <= c && c <= 'f':
			s = s<<4 | Stamp(c-'a'+10)
		default:
			return 0, fmt.Errorf("stamp %q: character %d is not a lower-case hexadecimal digit", text, i+1)
		}
	}
	if s > MaxStamp {
		return 0, fmt.Errorf("stamp %q: beyond the greatest stamp %s", text, MaxStamp)
	}
	return s, nil
}
