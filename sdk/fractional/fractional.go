// Package fractional makes positions: texts between which there is always room for another one, so that one item of an
// ordered list moves without the others being written.
//
// It promises that a position made between two others sorts between them by its bytes, as text does in Go and in SQLite
// (elsewhere under a collation such as "C"); and that two devices which insert at the same place, without having heard of
// one another, get different positions (but for a chance of one in fourteen million). A list that only grows at one end has
// positions of eight characters, or a few more after millions of items; one that is split at the same place again and
// again has positions that grow by a character every four times. It leaves to others what is ordered.
package fractional

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
)

const (
	digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" // in the order of their bytes
	base   = len(digits)
	block  = 4 // digits that count as one number where a list grows at an end
	random = 4 // digits that keep two writers apart
)

// MaxBytes is the length of the longest position. Only who splits the same place thousands of times comes near.
const MaxBytes = 1024

// ErrOrder says that the two positions to go between are equal or in the wrong order.
var ErrOrder = errors.New("there is no position between the two: the first does not sort before the second")

// Between returns a position after a and before b. An empty a stands for the beginning of the list, an empty b for its
// end, so that Between("", "") begins one. It may be called at once. Its error says which of the two is no position, that
// a does not sort before b (ErrOrder), or that the new position would be longer than MaxBytes: then the list's items need
// new ones.
func Between(a, b string) (string, error) { return between(a, b, rand.IntN) }

// Check returns why position is none. The empty text is none.
func Check(position string) error {
	switch {
	case position == "":
		return errors.New("a position is not empty")
	case len(position) > MaxBytes:
		return fmt.Errorf("a position of %d bytes; at most %d are allowed", len(position), MaxBytes)
	case strings.Trim(position, digits) != "" || strings.IndexFunc(position, func(r rune) bool { return value(r) < 0 }) >= 0:
		return fmt.Errorf("%q is not a position: it has digits and letters of ASCII alone", position)
	case position[len(position)-1] == digits[0]: // nothing would fit before "0", nor between "V" and "V0"
		return fmt.Errorf("%q is not a position: it ends in 0", position)
	}
	return nil
}

func value(r rune) int { return strings.IndexRune(digits, r) }

// between is Between; pick returns a number from 0 to less than n.
func between(a, b string, pick func(n int) int) (string, error) {
	for _, position := range []string{a, b} {
		if position == "" {
			continue
		}
		if err := Check(position); err != nil {
			return "", err
		}
	}
	if b != "" && a >= b {
		return "", fmt.Errorf("%w (%q, %q)", ErrOrder, a, b)
	}
	var made []byte
	switch {
	case a == "" && b == "":
		made = append(made, digits[base/2], digits[0], digits[0], digits[0])
	case b == "":
		made = after(a)
	case a == "":
		made = before(b)
	default:
		made = middle(a, b)
	}
	// What was made is no beginning of b, so whatever follows it stays before b.
	for range random - 1 {
		made = append(made, digits[pick(base)])
	}
	made = append(made, digits[1+pick(base-1)])
	if len(made) > MaxBytes {
		return "", fmt.Errorf("between %q and %q a position would have %d bytes; give the list's items new positions", a, b, len(made))
	}
	return string(made), nil
}

// at returns the digit i of position as a number; what is not written is 0.
func at(position string, i int) int {
	if i >= len(position) {
		return 0
	}
	return strings.IndexByte(digits, position[i])
}

// number returns the block that begins with digit i.
func number(position string, i int) (n int) {
	for k := range block {
		n = n*base + at(position, i+k)
	}
	return n
}

func appendNumber(dst []byte, n int) []byte {
	var text [block]byte
	for k := block - 1; k >= 0; k-- {
		text[k] = digits[n%base]
		n /= base
	}
	return append(dst, text[:]...)
}

const lastNumber = base*base*base*base - 1

// after returns what sorts after a: its first block that can grow, grown by one.
func after(a string) []byte {
	for i := 0; ; i += block {
		if n := number(a, i); n < lastNumber {
			return appendNumber(upTo(a, i), n+1)
		}
	}
}

// before returns what sorts before b, which does not end in 0, and is no beginning of it.
func before(b string) []byte {
	for i := 0; ; i += block {
		switch n := number(b, i); n {
		case 0:
		case 1:
			return append(appendNumber(upTo(b, i), 0), digits[base/2], digits[0], digits[0], digits[0])
		default:
			return appendNumber(upTo(b, i), n-1)
		}
	}
}

// upTo returns the first n digits of position.
func upTo(position string, n int) []byte {
	made := make([]byte, 0, n+2*block+random)
	for i := range n {
		made = append(made, digits[at(position, i)])
	}
	return made
}

// middle returns what sorts after a and before b, and is no beginning of b.
func middle(a, b string) []byte {
	var made []byte
	i := 0
	for ; at(a, i) == at(b, i); i++ {
		made = append(made, digits[at(a, i)])
	}
	if low, high := at(a, i), at(b, i); high-low > 1 {
		return append(made, digits[(low+high)/2])
	}
	made = append(made, digits[at(a, i)])
	for i++; at(a, i) == base-1; i++ { // nothing above is left but to go on after the digits of a
		made = append(made, digits[base-1])
	}
	return append(made, digits[(at(a, i)+base+1)/2])
}
